# SPDX-License-Identifier: Apache-2.0
"""The SROS2 policy lists what the node uses, no more and no less; nothing that comes over a topic is a path."""

from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from gc_ros.media.images import MAX_PIXELS, Refusal, decode
from gc_ros.node.security import Names, as_policy, main, names
from trt_build.bundle import load_bundle
from trt_build.errors import BundleError, DataError

ROOT = Path(__file__).resolve().parents[3]
POLICY = ROOT / "config" / "sros2.policy.xml"


def rules(text: str) -> tuple[Names, Any]:
    """The names that a policy file allows, and its profile."""
    root = ElementTree.fromstring(text.split("?>", 1)[1])
    (profile,) = root.findall("enclaves/enclave/profiles/profile")
    found: dict[str, tuple[str, ...]] = {}
    for group in profile:
        ((rule, verdict),) = group.attrib.items()
        assert verdict == "ALLOW"
        found[rule] = tuple(str(entry.text) for entry in group)
    return Names(**found), profile


def test_the_shipped_policy_is_what_the_table_writes_and_has_no_wildcard() -> None:
    text = POLICY.read_text()
    assert text == as_policy(names())
    allowed, profile = rules(text)
    assert allowed == names()
    assert profile.attrib == {"ns": "/", "node": "activity_recognition"}
    for name in (*allowed.publish, *allowed.subscribe, *allowed.reply):
        assert re.fullmatch(r"(/[A-Za-z_][A-Za-z0-9_]*)+", name)


def test_namespace_cameras_and_remapping_give_the_names_of_that_robot() -> None:
    allowed = names(["front", "left"], namespace="robot", remap={"front/image": "/f/image_raw"})
    assert allowed.subscribe == (
        "/clock",
        "/f/image_raw", "/f/image_raw/compressed", "/f/image_raw/ffmpeg", "/f/image_raw/foxglove",
        "/robot/left/image", "/robot/left/image/compressed", "/robot/left/image/ffmpeg", "/robot/left/image/foxglove",
    )  # fmt: skip
    assert "/robot/activity_recognition/left/debug/image" in allowed.publish
    assert "/robot/activity_recognition/label_info" in allowed.publish and "/rosout" in allowed.publish
    assert not any(name.startswith("/robot/activity_recognition/activity") for name in allowed.publish)
    assert all(name.startswith("/robot/activity_recognition/") for name in allowed.reply)
    with pytest.raises(DataError, match="no image topic imag to remap"):
        names(remap={"imag": "/x"})


def test_the_command_writes_a_policy_and_refuses_names_that_cannot_be(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--cameras", "front", "--namespace", "robot"]) == 0
    text = capsys.readouterr().out
    assert (
        rules(text)[0] == names(["front"], namespace="robot") and 'path="/robot/activity_recognition"' in text
    )
    for wrong in (
        ["--cameras", "a b"],
        ["--remap", "image"],
        ["--remap", "imag:=/x"],
        ["--namespace", "a-b"],
    ):
        with pytest.raises(SystemExit) as ended:
            main(wrong)
        assert ended.value.code == 2 and len(capsys.readouterr().err.strip().splitlines()[-1]) < 200


def test_a_bundle_is_refused_by_its_hash_before_a_byte_of_it_is_parsed(
    make_bundle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = make_bundle()
    graph = bundle.path / "window.onnx"
    graph.write_bytes(graph.read_bytes() + b"\0")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # would raise as soon as a runtime were asked
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(BundleError, match=r"window\.onnx was changed after export"):
        load_bundle(bundle.path)


@pytest.mark.parametrize("name", ["../evil.onnx", "/etc/passwd", "a/../../b", "a\\b", "bundle.json"])
def test_a_bundle_reaches_no_file_outside_itself(name: str, make_bundle: Any) -> None:
    path = make_bundle().path / "bundle.json"
    path.write_text(path.read_text().replace('"window.onnx":', f'"{name}":'.replace("\\", "\\\\")))
    with pytest.raises(BundleError, match="not a file name inside a bundle"):
        load_bundle(path.parent)


class Message:
    """An image message of any content."""

    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)


def test_sizes_beyond_the_limit_are_refused_before_memory_is_taken_for_them() -> None:
    side = 1 << 20
    assert side * side > MAX_PIXELS
    raw = decode(
        Message(width=side, height=side, step=side * 3, encoding="bgr8", data=b"x" * 99, is_bigendian=0)
    )
    # A PNG that promises a million by a million pixels in a hundred bytes.
    header = b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR" + side.to_bytes(4, "big") * 2 + b"\x08\x02\0\0\0"
    png = decode(Message(format="png", data=header + b"\0" * 60 + b"IEND\xaeB`\x82"), compressed=True)
    for refused in (raw, png):
        assert isinstance(refused, Refusal) and "above the limit" in refused.reason


def test_no_field_of_our_messages_or_of_an_image_becomes_a_path_or_a_module() -> None:
    """What comes from a topic goes through the modules below; none of them opens, imports or runs anything by name."""
    recognition = ("intake", "sampler", "recognizer", "turns", "batch", "smoothing", "overlay")
    node = ("camera", "results", "inference", "graph", "foxglove")
    names = [
        "media/images",
        *(f"node/{name}" for name in node),
        *(f"recognition/{name}" for name in recognition),
    ]
    for name in names:
        text = (ROOT / "gc_ros" / f"{name}.py").read_text()
        found = re.findall(
            r"\b(open|eval|exec|import_module|__import__|Path|system|Popen|load_bundle)\(", text
        )
        assert not found, f"gc_ros/{name}.py: {found}"
