#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Prepare what the demo or the tests need, then run a command in it. Standard library only.

    python3 scripts/environment.py demo -- python scripts/demo.py
    python3 scripts/environment.py test -- python -m pytest
    python3 scripts/environment.py --ros kilted test -- python -m pytest -m ros

From a bare Debian or Ubuntu: system packages (installed where the user is root, else the one line to type is
printed), a virtual environment, pip packages at pinned versions, ROS 2 from PyPI wheels (Jazzy, or what --ros names,
in an environment of its own), and this package's messages built into the environment. Where a ROS 2 environment is
sourced it is used instead of the wheels.

Each step leaves a stamp made of its inputs, so a second run starts at once and a changed pin or message repeats
only its own step. The environment's directory is hidden (.venv): colcon would take a visible one for a workspace
of many packages.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHONS = ((3, 10), (3, 13))
LOCKED = ((3, 11), (3, 12))  # of which requirements/locked-*.txt hold the hashes
# Distributions whose wheels can be had, and the file of their pins; the first is the default.
WHEELS = {"jazzy": "ros-wheels.txt", "kilted": "ros-wheels-kilted.txt"}
# One command for all requirement files: naming torch keeps pip from replacing it with whatever torchvision asks for.
TORCH = "torch==2.13.0"


class SetupError(Exception):
    """Something is missing that this script cannot supply; the message is the line to type."""


def say(text: str) -> None:
    print(f"[environment] {text}", file=sys.stderr, flush=True)


def run(command: list[str], **kwargs: object) -> None:
    """Run quietly; show the output only when it fails."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **kwargs)  # type: ignore[call-overload]
    if done.returncode:
        print("\n".join(done.stdout.splitlines()[-60:]), file=sys.stderr)
        raise SetupError(f"this command failed ({done.returncode}): {' '.join(command)}")


def sourced_ros() -> str | None:
    """Name of the ROS 2 distribution whose setup file was sourced in this shell, or None."""
    return os.environ.get("ROS_DISTRO") if os.environ.get("AMENT_PREFIX_PATH") else None


def digest(*parts: object) -> str:
    text = hashlib.sha256()
    for part in parts:
        text.update(part.read_bytes() if isinstance(part, Path) and part.is_file() else str(part).encode())
        text.update(b"\0")
    return text.hexdigest()


class Environment:
    """The virtual environment and its stamps. wanted: a ROS 2 distribution, or None for the sourced or default one."""

    def __init__(self, wanted: str | None = None) -> None:
        self.ros = sourced_ros()
        if self.ros and wanted and wanted != self.ros:
            raise SetupError(
                f"ROS 2 {self.ros} is sourced; for the wheels of {wanted} open a shell without it"
            )
        default = next(iter(WHEELS))
        self.wheels = wanted or default
        # With ROS sourced: a directory of its own, because NumPy must then be the distribution's.
        name = f".venv-{self.ros}" if self.ros else ".venv"
        if not self.ros and self.wheels != default:
            name = f".venv-wheels-{self.wheels}"
        self.prefix = Path(os.environ.get("GLIMPSE_VENV", ROOT / name)).resolve()
        self.python = self.prefix / "bin" / "python"
        self.stamps = self.prefix / ".glimpse_stamps"

    @property
    def locked(self) -> bool:
        """Whether the hashes of everything that will be installed are known."""
        usual = not self.ros and self.wheels == next(iter(WHEELS))
        return usual and LOCKED[0] <= sys.version_info[:2] <= LOCKED[1]

    def step(self, name: str, key: str, what: str, action: Callable[[], None]) -> None:
        """Run action unless the stamp says that the same inputs were done before."""
        stamp = self.stamps / name
        if stamp.is_file() and stamp.read_text() == key:
            return
        say(what)
        action()
        self.stamps.mkdir(parents=True, exist_ok=True)
        stamp.write_text(key)

    def prepare(self, level: str) -> None:
        check_python()
        self.remove_other()
        machine = (sys.version, self.prefix)
        self.step("system", digest(*machine), "looking for compiler, cmake, venv", self.system_packages)
        self.step("venv", digest(*machine), f"virtual environment in {self.prefix}", self.create)
        pins = self.pins()
        wants = digest(*machine, ROOT / "setup.py", *pins, TORCH)
        # What `test` installs holds all that `demo` needs.
        if not self.has("pip-test", wants):
            what = (
                "pip packages for the tests, with PyTorch"
                if level == "test"
                else "pip packages, without PyTorch"
            )
            self.step(f"pip-{level}", wants, what, lambda: self.pip(level))
        sources = [
            ROOT / "CMakeLists.txt",
            *sorted([*(ROOT / "msg").glob("*.msg"), *(ROOT / "srv").glob("*.srv")]),
        ]
        messages = digest(
            *machine, *sources, os.environ.get("AMENT_PREFIX_PATH", "") if self.ros else "wheels", *pins
        )
        self.step("messages", messages, "building the messages", self.messages)

    def pins(self) -> list[Path]:
        """The files of versions that this environment is made of."""
        folder = ROOT / "requirements"
        if self.ros:
            return [folder / "constraints-ros.txt"]
        if self.locked:
            return sorted(folder.glob("locked-*.txt"))
        return [folder / "constraints.txt", folder / WHEELS[self.wheels]]

    def has(self, name: str, key: str) -> bool:
        stamp = self.stamps / name
        return stamp.is_file() and stamp.read_text() == key

    def system_packages(self) -> None:
        missing = []
        if not shutil.which("g++"):
            missing.append("g++")
        if not shutil.which("cmake"):
            missing.append("cmake")
        if not shutil.which("make") and not shutil.which("ninja"):
            missing.append("make")
        if subprocess.run([sys.executable, "-c", "import venv, ensurepip"], capture_output=True).returncode:
            missing.append(f"python{sys.version_info.major}.{sys.version_info.minor}-venv")
        if not (Path(sysconfig.get_paths()["include"]) / "Python.h").is_file():
            missing.append(f"python{sys.version_info.major}.{sys.version_info.minor}-dev")
        if not missing:
            return
        line = f"apt-get install -y --no-install-recommends {' '.join(missing)}"
        if os.geteuid() != 0:
            raise SetupError(f"system packages are missing; type: sudo {line}")
        if not shutil.which("apt-get"):
            raise SetupError(
                f"system packages are missing and there is no apt-get; install: {' '.join(missing)}"
            )
        say(line)
        quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        run(["apt-get", "update"], env=quiet)
        run(line.split(), env=quiet)

    def remove_other(self) -> None:
        """Remove an environment of another Python, or whose Python no longer runs; its stamps go with it."""
        if not os.path.lexists(self.python):
            return
        program = "import sys; print('%d.%d' % sys.version_info[:2])"
        try:
            done = subprocess.run([self.python, "-I", "-S", "-c", program], capture_output=True, text=True)
            found = done.stdout.strip()
        except OSError:
            found = ""
        wanted = "{}.{}".format(*sys.version_info[:2])
        if found == wanted:
            return
        told = f"{self.prefix} is of {f'Python {found}' if found else 'a Python that no longer runs'}, not {wanted}"
        if not (self.prefix / "pyvenv.cfg").is_file():
            raise SetupError(f"{told}, and no virtual environment: name another folder with GLIMPSE_VENV")
        say(f"{told}: it is made anew")
        shutil.rmtree(self.prefix)

    def create(self) -> None:
        if self.python.exists():
            return
        run(
            [
                sys.executable,
                "-m",
                "venv",
                *(["--system-site-packages"] if self.ros else []),
                str(self.prefix),
            ]
        )

    def pip(self, level: str) -> None:
        """Where the hashes are known, exactly the files they belong to; else versions by the constraints."""
        if not self.locked:
            self.pip_by_version(level)
            return
        folder = ROOT / "requirements"
        levels = ["demo", "test"] if level == "test" else ["demo"]
        hashed = ["--require-hashes", "--no-deps"]
        self.pip_install(*hashed, "-r", str(folder / "locked-build.txt"))
        if level == "test":
            self.torch_of_this_machine(folder / "locked-test.txt")
        # Packages that come as source are built with what was installed just now, not with what pip would fetch.
        hashed.append("--no-build-isolation")
        for name in levels:
            hashed += ["-r", str(folder / f"locked-{name}.txt")]
        self.pip_install(*hashed)
        if level == "test" and self.wants_cuda():
            self.pip_install("--require-hashes", "--no-deps", "-r", str(folder / "locked-cuda.txt"))
        self.pip_install("--no-deps", "--no-build-isolation", "-e", str(ROOT))

    def torch_of_this_machine(self, locked: Path) -> None:
        """Install PyTorch from PIP_FIND_LINKS if a wheel of a known hash lies there; pip itself prefers an index."""
        found = re.search(r"^torch==(?:.*\\\n)+.*", locked.read_text(), re.M)
        if not found or not os.environ.get("PIP_FIND_LINKS"):
            return
        alone = self.prefix / "torch.txt"
        alone.write_text(found[0] + "\n")
        options = ["--disable-pip-version-check", "--no-index", "--no-deps", "--require-hashes", "-r"]
        # Where there is none, the next step takes the index's.
        subprocess.run([self.python, "-m", "pip", "install", *options, alone], capture_output=True)
        alone.unlink()

    def wants_cuda(self) -> bool:
        """Whether the PyTorch that was installed is a build that needs CUDA's libraries."""
        program = "from importlib.metadata import requires; print(*requires('torch'))"
        return "nvidia" in subprocess.run([self.python, "-c", program], capture_output=True, text=True).stdout

    def pip_install(self, *arguments: str) -> None:
        run([str(self.python), "-m", "pip", "install", "--disable-pip-version-check", *arguments], cwd=ROOT)

    def pip_by_version(self, level: str) -> None:
        extra = "dev" if level == "test" else "onnxruntime"
        requirements = ["-e", f"{ROOT}[{extra}]"]
        if level == "test":
            requirements.append(TORCH)
        constraints, *wheels = map(str, self.pins())
        requirements += ["-c", constraints]
        for path in wheels:
            requirements += ["-r", path]
        self.pip_install(*requirements)

    def messages(self) -> None:
        """Build and install only the messages into the environment's prefix; needs no sourcing afterwards."""
        build = self.prefix / "build" / "glimpse_clouds"
        shutil.rmtree(build, ignore_errors=True)
        options = [
            "-DGLIMPSE_MESSAGES_ONLY=ON",
            "-DCMAKE_BUILD_TYPE=Release",
            "-DBUILD_TESTING=OFF",
            f"-DCMAKE_INSTALL_PREFIX={self.prefix}",
            f"-DCMAKE_INSTALL_RPATH={self.prefix / 'lib'}",
            f"-DPython3_EXECUTABLE={self.python}",
            "-DPython3_FIND_VIRTUALENV=ONLY",
            # needed by the wheels, without effect on a ROS 2 whose include directories all exist
            f"-DCMAKE_PROJECT_INCLUDE={ROOT / 'cmake' / 'drop_missing_include_dirs.cmake'}",
        ]
        env = self.variables()
        run(["cmake", "-S", str(ROOT), "-B", str(build), *options], env=env)
        run(["cmake", "--build", str(build), "--parallel", str(os.cpu_count() or 1)], env=env)
        run(["cmake", "--install", str(build)], env=env)
        shutil.rmtree(build, ignore_errors=True)

    def variables(self) -> dict[str, str]:
        """The process environment with this virtual environment activated."""
        env = dict(os.environ)
        env["VIRTUAL_ENV"] = str(self.prefix)
        env["PATH"] = f"{self.prefix / 'bin'}{os.pathsep}{env.get('PATH', '')}"
        prefixes = [str(self.prefix)]
        if self.ros:
            prefixes += [p for p in env["AMENT_PREFIX_PATH"].split(os.pathsep) if p != str(self.prefix)]
            env["LD_LIBRARY_PATH"] = os.pathsep.join(
                [str(self.prefix / "lib"), *filter(None, [env.get("LD_LIBRARY_PATH", "")])]
            )
        else:
            env.pop("PYTHONPATH", None)
            if env.pop("_ROS_WHEELS_BOOTSTRAP_COMPLETE", None):
                # From inside the wheels of another distribution: their libraries have the same names.
                known = env.get("LD_LIBRARY_PATH", "").split(os.pathsep)
                env["LD_LIBRARY_PATH"] = os.pathsep.join(p for p in known if not p.startswith(sys.prefix))
        env["AMENT_PREFIX_PATH"] = os.pathsep.join(prefixes)
        # colcon derives the one from the other; plain CMake is told.
        env["CMAKE_PREFIX_PATH"] = os.pathsep.join(
            [*prefixes, *filter(None, [env.get("CMAKE_PREFIX_PATH", "")])]
        )
        env.pop("PYTHONHOME", None)
        return env


def check_python() -> None:
    low, high = PYTHONS
    if not low <= sys.version_info[:2] <= high:
        found = ".".join(map(str, sys.version_info[:2]))
        raise SetupError(f"Python 3.10 to 3.13 is needed, this is {found}; type: make PYTHON=python3.11 ...")
    if not sourced_ros() and platform.machine() != "x86_64":
        found = sorted(Path("/opt/ros").glob("*/setup.sh"))
        remedy = f"type: . {found[-1]}" if found else "install ROS 2 (docs.ros.org) and source its setup.sh"
        raise SetupError(f"ROS 2 wheels exist for x86_64 only, this is {platform.machine()}; {remedy}")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "level", choices=["demo", "test"], help="how much to install: test adds PyTorch and the tools"
    )
    parser.add_argument(
        "--ros", choices=WHEELS, help="ROS 2 wheels of this distribution, in an environment of their own"
    )
    parser.add_argument(
        "command", nargs=argparse.REMAINDER, help="-- COMMAND to run inside, from the repository root"
    )
    options = parser.parse_args()
    try:
        environment = Environment(options.ros)
        environment.prepare(options.level)
    except SetupError as error:
        say(str(error))
        return 2
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        say(f"ready: . {environment.prefix}/bin/activate")
        return 0
    variables = environment.variables()
    program = shutil.which(command[0], path=variables["PATH"])
    if not program:
        say(f"no command {command[0]}")
        return 2
    os.chdir(ROOT)
    os.execve(program, [command[0], *command[1:]], variables)


if __name__ == "__main__":
    sys.exit(main())
