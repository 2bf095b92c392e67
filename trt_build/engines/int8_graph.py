# SPDX-License-Identifier: Apache-2.0
"""The INT8 graph of a bundle in the form that this processor multiplies fastest.

Bundles hold weights as UINT8 around 128, which every processor multiplies exactly (`trt_build.graphs.qdq`). Those with
VNNI or AMX have an instruction for UINT8 by INT8 that adds without saturating, and ONNX Runtime and OpenVINO use it for
INT8 weights alone. There the same weights are written around zero while the engine is opened; every product and every
result stays the same. It needs `onnx`.
"""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from pathlib import Path

# As Linux names them. AVX-512 or AVX2 alone have no such instruction.
_EXACT = {"avx512_vnni", "avx_vnni", "amx_int8"}
CPUINFO = Path("/proc/cpuinfo")
SIGNED = ", signed weights"  # what an engine's description says


def int8_graph(path: Path) -> Path | bytes:
    """What to open for the INT8 graph at `path`: the file, or, serialised, the same with INT8 weights.

    The file where the processor saturates, and without `onnx`.
    """
    if multiplies_signed():
        # Without `onnx`; or what is wrong with the file, which whoever opens it says.
        with suppress(Exception):
            import onnx

            from trt_build.graphs.qdq import sign_weights

            model = onnx.load(path)
            if sign_weights(model.graph):
                return bytes(model.SerializeToString())
    return path


@cache
def multiplies_signed() -> bool:
    """Whether this processor adds products of UINT8 and INT8 without saturating; False where Linux does not say so."""
    try:
        text = CPUINFO.read_text(errors="replace")
    except OSError:
        return False
    flags = next((line for line in text.splitlines() if line.startswith("flags")), "")
    return not _EXACT.isdisjoint(flags.partition(":")[2].split())
