# SPDX-License-Identifier: Apache-2.0
"""What `make env` installs: every package at the version everything is tested with, and with its hashes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))
from lock_requirements import canonical

ROOT = Path(__file__).resolve().parents[1]
REQUIREMENTS = ROOT / "requirements"
LOCKED = sorted(REQUIREMENTS.glob("locked-*.txt"))


def pins(path: Path) -> dict[str, list[str]]:
    """name==version -> hashes."""
    text = re.sub(r"^#.*\n", "", path.read_text(), flags=re.M).replace("\\\n", " ")
    return {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.strip()}


@pytest.mark.parametrize("path", LOCKED, ids=lambda path: path.name)
def test_every_package_has_a_version_and_hashes(path: Path) -> None:
    found = pins(path)
    assert found
    for package, hashes in found.items():
        assert re.fullmatch(r"[a-z0-9-]+==[\w.]+", package), package
        assert hashes and all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", one) for one in hashes), package
    assert "://" not in path.read_text()


def test_the_locked_versions_are_those_that_everything_is_tested_with() -> None:
    locked = [dict(package.split("==") for package in pins(path)) for path in LOCKED]
    assert [path.stem for path in LOCKED] == ["locked-build", "locked-cuda", "locked-demo", "locked-test"]
    assert sum(map(len, locked)) == len({name for one in locked for name in one}), "in one file each"
    everything = {name: version for one in locked for name, version in one.items()}
    for name in ("constraints.txt", "ros-wheels.txt"):
        for line in (REQUIREMENTS / name).read_text().splitlines():
            package, _, version = line.partition("==")
            if version and not line.startswith("#"):
                assert everything.get(canonical(package), version) == version, line
                assert canonical(package) in everything or name == "constraints.txt", line


def test_what_setup_py_asks_for_is_locked() -> None:
    program = (
        "import runpy, setuptools\n"
        "def show(install_requires, extras_require, **_): print(*install_requires, *extras_require['dev'], sep='\\n')\n"
        "setuptools.setup = show\n"
        f"runpy.run_path({str(ROOT / 'setup.py')!r})"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    wanted = {canonical(re.split(r"[<>=;]", line)[0].strip()) for line in done.stdout.splitlines()}
    locked = {package.split("==")[0] for path in LOCKED for package in pins(path)}
    assert len(wanted) > 20 and not wanted - locked, done.stderr


def test_an_installation_by_hash_installs_nothing_else() -> None:
    script = (ROOT / "scripts" / "environment.py").read_text()
    locked = script[script.index("def pip(self") : script.index("def torch_of_this_machine")]
    assert locked.count("self.pip_install(") == 4 and locked.count("--require-hashes") == 2
    assert '"--no-deps", "--no-build-isolation", "-e"' in locked
