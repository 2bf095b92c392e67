# SPDX-License-Identifier: Apache-2.0
"""Names of the Python API of several TensorRT versions: a table beside this file, and the program that writes it.

    python tests/trt_build/engines/tensorrt_names.py      # Python 3.10 or 3.11, pip, binutils, a C compiler; no GPU

The source is NVIDIA's Python bindings on PyPI (about 1.3 MB a version). TensorRT's libraries are not there, so each is
replaced by an empty one that defines the few functions that the bindings import; none is called. The table holds, for
each name, a `+` for every version that has it, in the order of `versions`.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

TABLE = Path(__file__).with_suffix(".json")
# Package, version, and what it stands for.
BINDINGS = [
    ("tensorrt-bindings", "8.6.1"),  # JetPack 6.0 has 8.6.2
    *(
        ("tensorrt-cu12-bindings", version)
        for version in (
            "10.0.1",
            "10.3.0",  # JetPack 6.1 and 6.2
            "10.7.0.post1",
            "10.13.3.9.post1",  # JetPack 7.0
            "10.16.1.11",  # JetPack 7.2
            "11.0.0.114",
            "11.4.0.106",
        )
    ),
    *(("tensorrt-rtx-cu13-bindings", version) for version in ("1.4.0.76", "1.5.0.114", "1.6.1.120", "1.7.1.116")),
]  # fmt: skip
# Classes and enums whose members the table holds: those that this package touches.
CLASSES = (
    "Builder", "BuilderFlag", "ComputeCapability", "CudaGraphStrategy", "EngineInspector",
    "EngineInvalidityDiagnostics", "EngineValidity", "IBuilderConfig", "ICudaEngine", "IExecutionContext",
    "IHostMemory", "ILayer", "ILogger", "INetworkDefinition", "IProgressMonitor", "IRuntimeCache", "IRuntimeConfig",
    "ITensor", "ITimingCache", "LayerInformationFormat", "LayerType", "MemoryPoolType", "NetworkDefinitionCreationFlag",
    "OnnxParser", "ParserError", "ProfilingVerbosity", "Runtime", "TensorIOMode",
)  # fmt: skip


def label(package: str, version: str) -> str:
    """A version as the table calls it: "tensorrt 10.3.0", "tensorrt_rtx 1.4.0.76"."""
    return f"{'tensorrt_rtx' if 'rtx' in package else 'tensorrt'} {version}"


def read_table() -> dict[str, set[str]]:
    """version -> all its names, as "BuilderFlag" and "BuilderFlag.TF32"."""
    table = json.loads(TABLE.read_text(encoding="utf-8"))
    found: dict[str, set[str]] = {version: set() for version in table["versions"]}
    for name, marks in table["names"].items():
        for version, mark in zip(table["versions"], marks, strict=True):
            if mark == "+":
                found[version].add(name)
    return found


def names_of(folder: Path) -> list[str]:
    """All names of the bindings that lie unpacked in `folder`; the import needs a process of its own."""
    (binary,) = folder.glob("*/tensorrt*.so")
    tool = {"capture_output": True, "text": True, "check": True}
    needed = subprocess.run(["readelf", "-d", binary], **tool).stdout  # type: ignore[call-overload]
    undefined = subprocess.run(["nm", "-D", "--undefined-only", binary], **tool).stdout  # type: ignore[call-overload]
    symbols = re.findall(r" U (?!_?Py)(\w+)$", undefined, re.MULTILINE)
    source = folder / "empty.c"
    source.write_text("".join(f"int {symbol}(void) {{ return 0; }}\n" for symbol in symbols))
    for library in re.findall(r"\(NEEDED\).*\[(lib(?:nv|tensorrt)[^]]*)\]", needed):
        empty = folder / library
        command = [
            "cc",
            "-w",
            "-shared",
            "-fPIC",
            "-fno-builtin",
            f"-Wl,-soname,{library}",
            "-o",
            empty,
            source,
        ]
        subprocess.run(command, check=True)  # type: ignore[arg-type]
        ctypes.CDLL(str(empty), mode=ctypes.RTLD_GLOBAL)
    spec = importlib.util.spec_from_file_location(binary.stem, binary)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    names = {name for name in dir(module) if not name.startswith("_")}
    members = {
        f"{name}.{member}"
        for name in names & {*CLASSES}
        for member in dir(getattr(module, name))
        if not member.startswith("_")
    }
    python = next(folder.glob("*/__init__.py")).read_text(encoding="utf-8")
    return sorted(names | members | set(re.findall(r"^def ([a-z]\w*)", python, re.MULTILINE)))


def write_table() -> None:
    """Download all bindings, read them, write the table."""
    found: dict[str, set[str]] = {}
    for package, version in BINDINGS:
        with tempfile.TemporaryDirectory() as temporary:
            wheel = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", temporary]
            subprocess.run([*wheel, f"{package}=={version}"], check=True)
            for path in Path(temporary).glob("*.whl"):
                zipfile.ZipFile(path).extractall(temporary)
            read = [sys.executable, __file__, temporary]
            text = subprocess.run(read, check=True, capture_output=True, text=True).stdout
            found[label(package, version)] = set(json.loads(text))
            print(label(package, version), len(found[label(package, version)]), file=sys.stderr)
    names = {
        name: "".join("+" if name in have else "." for have in found.values())
        for name in sorted(set().union(*found.values()))
    }
    table = {"source": "Python bindings on PyPI: " + ", ".join(dict(BINDINGS)), "versions": list(found)}
    TABLE.write_text(json.dumps(table | {"names": names}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(names_of(Path(sys.argv[1]))))
    else:
        write_table()
