# SPDX-License-Identifier: Apache-2.0
"""Message packages that PyPI lacks, made by ROS's own generators from the published definitions.

Tests send them over DDS as a robot does. They lie in a prefix of the tests' own and are importable for as long as a
test uses them.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
_CMAKE = """cmake_minimum_required(VERSION 3.16)
project({package})
find_package(ament_cmake REQUIRED)
find_package(rosidl_default_generators REQUIRED)
{find}
rosidl_generate_interfaces({package} {files} DEPENDENCIES {needs})
ament_package()
"""
_PACKAGE = """<package format="3"><name>{package}</name><version>0.0.0</version><description>For tests.</description>
<maintainer email="nobody@example.com">nobody</maintainer><license>Apache-2.0</license>
<buildtool_depend>ament_cmake</buildtool_depend><buildtool_depend>rosidl_default_generators</buildtool_depend>
{needs}<exec_depend>rosidl_default_runtime</exec_depend>
<member_of_group>rosidl_interface_packages</member_of_group>
<export><build_type>ament_cmake</build_type></export></package>
"""


def build(package: str, messages: Mapping[str, str], needs: tuple[str, ...], folder: Path) -> Path:
    """Make a package of messages (name: definition) that need those of other packages; its prefix in `folder`.

    Skips where there is no compiler; takes seconds on two cores.
    """
    if not (shutil.which("cmake") and shutil.which("c++")):
        pytest.skip("making message packages needs cmake and a C++ compiler")
    source, made, prefix = (folder / package / name for name in ("source", "build", "prefix"))
    (source / "msg").mkdir(parents=True)
    for name, definition in messages.items():
        (source / "msg" / f"{name}.msg").write_text(definition)
    (source / "CMakeLists.txt").write_text(
        _CMAKE.format(
            package=package,
            find="\n".join(f"find_package({name} REQUIRED)" for name in needs),
            files=" ".join(f"msg/{name}.msg" for name in messages),
            needs=" ".join(needs),
        )
    )
    tags = "".join(f"<depend>{name}</depend>" for name in needs)
    (source / "package.xml").write_text(_PACKAGE.format(package=package, needs=tags))
    ros = os.environ.get("AMENT_PREFIX_PATH") or sys.prefix
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "AMENT_PREFIX_PATH": ros, "CMAKE_PREFIX_PATH": ros, "PATH": path}
    libraries = ";".join(f"{one}/lib" for one in (prefix, *ros.split(os.pathsep)))
    options = [
        "-DCMAKE_BUILD_TYPE=Debug",
        "-DBUILD_TESTING=OFF",
        f"-DCMAKE_INSTALL_PREFIX={prefix}",
        f"-DCMAKE_INSTALL_RPATH={libraries}",
        f"-DPython3_EXECUTABLE={sys.executable}",
        "-DPython3_FIND_VIRTUALENV=ONLY",
        f"-DCMAKE_PROJECT_INCLUDE={ROOT / 'cmake' / 'drop_missing_include_dirs.cmake'}",
    ]
    for command in (["-S", source, "-B", made, *options], ["--build", made], ["--install", made]):
        done = subprocess.run(["cmake", *command], env=env, capture_output=True, text=True)
        assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return prefix


@contextlib.contextmanager
def importable(prefix: Path) -> Iterator[None]:
    """Make the package below a prefix importable by this process, as a sourced workspace would."""
    (modules,) = prefix.glob("lib/python3*/*-packages")
    # rcl asks for them by name alone, and finds what the process holds already.
    for library in sorted(prefix.glob("lib/*_c.so")):
        ctypes.CDLL(str(library))
    names = [path.name for path in modules.iterdir() if (path / "msg").is_dir()]
    sys.path.insert(0, str(modules))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(str(modules))
        for loaded in [name for name in sys.modules if name.split(".")[0] in names]:
            del sys.modules[loaded]


def installed(package: str) -> bool:
    """Whether the real package is there, which is then what a test uses."""
    return find_spec(package) is not None
