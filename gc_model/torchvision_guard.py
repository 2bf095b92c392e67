# SPDX-License-Identifier: Apache-2.0
"""Import this before timm or lightning: it lets torchvision import where its compiled operators cannot load.

Both import torchvision for things we do not use. A torchvision built for CUDA beside a CPU torch has no
operators, and fails while it describes them. Declaring the missing names is enough for the import; calling one
would still raise.
"""

from __future__ import annotations

import re
import sys

import torch

_MISSING = re.compile(r"operator (torchvision::\w+) does not exist")


def _declare_missing_operators() -> None:
    for _ in range(16):
        try:
            import torchvision  # noqa: F401

            return
        except ImportError:
            return  # not there at all: whoever needs it says so
        except RuntimeError as error:
            found = _MISSING.search(str(error))
            if not found:
                raise
            torch.library.define(found[1], "() -> ()")
            for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
                del sys.modules[name]


_declare_missing_operators()
