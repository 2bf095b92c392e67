# SPDX-License-Identifier: Apache-2.0
from gc_model.synth.cli import main

if __name__ == "__main__":
    main()
