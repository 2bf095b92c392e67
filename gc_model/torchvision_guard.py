# SPDX-License-Identifier: Apache-2.0
"""Import this before timm, Lightning or torchmetrics: torchvision then imports even where its operators cannot load.

All three import torchvision for parts that are not used here. A torchvision built for CUDA beside a torch built for
the CPU has no operators, and fails while it describes them. Declaring the missing names is enough for the import;
calling one still raises.

Pins cannot prevent the mixture: the same version of torch is a CPU build in one package index and a CUDA build in
another, timm requires torchvision, and pip does not compare builds. Every module that imports one of the three imports
this first; the __init__ of their package cannot, since options and their errors need no torch.
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
