# SPDX-License-Identifier: Apache-2.0
"""`python -m gc_ros.security`, the command that SECURITY.md has always named; see gc_ros.node.security."""

import sys

from gc_ros.node.security import main

if __name__ == "__main__":
    sys.exit(main())
