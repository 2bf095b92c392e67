# SPDX-License-Identifier: Apache-2.0
"""Twenty thousand images from broken and hostile drivers: nothing raises, the counters add up, memory stays flat."""

from __future__ import annotations

import array
import gc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gc_ros.media.images import ENCODINGS
from gc_ros.node import ros_messages
from tests import toy
from tests.gc_ros.node.harness import running, wait_until

pytestmark = pytest.mark.ros

NAMES = (*ENCODINGS, "16UC1", "32FC1", "rgb16", "jpeg", "", "x" * 300, "bgr8\n", "\0", "émoi")
SIZES = (0, 1, 2, 3, 7, 16, 31, 32, 40, 640, 1 << 16, (1 << 32) - 1)
CODED = [
    cv2.imencode(extension, np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))[
        1
    ].tobytes()
    for extension in (".jpg", ".png")
    for width, height in ((16, 12), (40, 30))
]


def raw_image(seed: bytes) -> SimpleNamespace:
    """Sizes, steps, encodings, lengths, byte order: mostly near to what is right, so that decoders are reached."""
    width, height = SIZES[seed[0] % len(SIZES)], SIZES[seed[1] % len(SIZES)]
    encoding = NAMES[seed[2] % len(NAMES)]
    step, length, flags = seed[3] % 12 - 2, seed[4] % 6 - 2, seed[5]
    depth = (
        3 if encoding in ("bgr8", "rgb8", "8UC3") else 4 if "a8" in encoding else 2 if "16" in encoding else 1
    )
    depth = 2 if encoding.startswith(("yuv", "uyvy")) else depth
    steps = max(width * depth + step, 0) if step < 9 else (1 << 32) - 1
    rows = height * 3 // 2 if encoding.startswith("nv") else height
    size = min(max(steps * rows + length, 0), 60_000) if flags & 6 else 0
    return SimpleNamespace(
        width=width,
        height=height,
        step=steps,
        encoding=encoding,
        is_bigendian=flags & 1,
        data=array.array("B", bytes(size)),
    )


FORMATS = ("bgr8; jpeg compressed bgr8", "png", "", "16UC1; compressedDepth png", "h264")
CUTS = (0, 0, 0, 1, 2, 50, 500)


def compressed_image(seed: bytes) -> SimpleNamespace:
    """JPEG and PNG with bytes changed, cut off, or nothing of the kind at all."""
    which, cut, form = seed[0] % 6, CUTS[seed[1] % len(CUTS)], FORMATS[seed[2] % len(FORMATS)]
    changes = [(seed[i] * 256 + seed[i + 1], seed[i + 2]) for i in range(3, len(seed) - 2, 3)]
    data = bytearray(CODED[which] if which < len(CODED) else b"\xff\xd8\xff" * which * 10)
    for at, value in changes:
        data[at % len(data)] = value
    return SimpleNamespace(format=form, data=array.array("B", bytes(data[: len(data) - cut])))


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


@pytest.mark.parametrize(
    ("transport", "examples"),
    [
        ("raw", 150),
        ("compressed", 150),
        pytest.param("raw", 14_000, marks=pytest.mark.slow),
        pytest.param("compressed", 6_000, marks=pytest.mark.slow),
    ],
)
def test_whatever_arrives_is_taken_or_counted_with_a_reason(
    transport: str, examples: int, tmp_path: Path
) -> None:
    messages: list[Any] = []
    with running(toy.toy_bundle(tmp_path / "bundle").path, image_transport=transport) as (node, _):
        (camera,) = node.node._cameras
        sent = 0

        def send(message: Any) -> None:
            nonlocal sent
            sent += 1
            message.header = ros_messages.to_header(sent * 10_000_000, "camera")
            camera.input._on_image(message)
            assert (camera.input.first_refusal or "").find("unexpected") < 0, camera.input.first_refusal

        @settings(deadline=None, max_examples=examples, suppress_health_check=list(HealthCheck))
        @given(st.binary(min_size=6, max_size=6 if transport == "raw" else 15))
        def fuzz(seed: bytes) -> None:
            message = raw_image(seed) if transport == "raw" else compressed_image(seed)
            send(message)
            if len(messages) < 300:
                messages.append(message)

        fuzz()
        assert sent >= examples * 0.99 and camera.input.received == sent
        counters = camera.recognizer.counters  # the last images may still be in the thread that decodes
        wait_until(
            lambda: camera.input.refused + counters().frames_received == sent, "every image to be counted"
        )
        assert sent > camera.input.refused > sent / 10, "both kinds were among them"
        assert node.node.state == "active" and not node.errors
        sizes = []  # the same images again and again: what grows now is a leak, and not hypothesis' memory
        warm = 4  # rounds until allocator and libraries have what they keep
        for _ in range(warm + 1 + min(examples // 1000, 8)):
            for message in messages:
                send(message)
            gc.collect()
            sizes.append(resident_bytes())
        assert sizes[-1] - sizes[warm - 1] < 4 << 20, sizes
