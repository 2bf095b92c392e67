# SPDX-License-Identifier: Apache-2.0
"""people.launch.py: what it hands to the node, and how it starts the detector of another package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.launch.stub import ROOT, Run


def run(tmp_path: Path, **arguments: Any) -> Run:
    return Run(ROOT / "launch" / "people.launch.py", tmp_path, **arguments)


def test_people_and_their_topic_reach_the_node(tmp_path: Path) -> None:
    arguments = {"image": "/cam/image_raw", "people": "yolo", "detections": "/yolo/tracking"}
    (node,) = run(tmp_path, **arguments, max_people="6").processes
    assert node.parameters["people"] == "yolo" and node.parameters["max_people"] == 6
    assert node.remappings["people"] == "/yolo/tracking" and node.remappings["image"] == "/cam/image_raw"
    (node,) = run(tmp_path).processes
    assert node.parameters["people"] == "detections" and "max_people" not in node.parameters


@pytest.mark.parametrize("grouped", [False, True])
def test_the_detector_gets_its_own_arguments_and_none_of_ours(tmp_path: Path, grouped: bool) -> None:
    file = tmp_path / "detector.launch.py"
    file.write_text("")
    launched = run(
        tmp_path, detector=str(file), detector_args="image:=/cam model:='my model.onnx'", device="cuda",
        grouped=grouped,
    )  # fmt: skip
    assert launched.context.included == [(str(file), {"image": "/cam", "model": "my model.onnx"})]
    (node,) = launched.processes
    assert node.parameters["device"] == "cuda"


def test_a_detector_of_a_package_is_found_in_its_share(tmp_path: Path) -> None:
    launched = run(tmp_path, detector="glimpse_clouds/bag.launch.py", detector_args="bag:=p3")
    assert launched.context.included == [(str(ROOT / "launch" / "bag.launch.py"), {"bag": "p3"})]
    built = run(tmp_path, detector="glimpse_clouds/bag.launch.py", detector_args="bag:=p3", build_only="true")
    assert not built.context.included, "a detector would not end with the build"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"detector": "glimpse_clouds/none.launch.py"}, "there is no launch file"),
        ({"detector": "glimpse_clouds/bag.launch.py", "detector_args": "bag=p3"}, "write NAME:=VALUE"),
        ({"detector_args": "bag:=p3"}, "the launch file they are for"),
        ({"detector": "/no/such/yolo.launch.py"}, 'Argument "detector" is "/no/such/yolo.launch.py"'),
        ({"detector": "yolo.launch.py"}, "there is no launch file yolo.launch.py"),
        ({"detector": "no_such_package/yolo.launch.py"}, 'no package "no_such_package"'),
        ({"detector": "glimpse_clouds/bag.launch.py", "detector_args": "bag:=it's"}, "close the quotes"),
        ({"max_people": "0"}, "integer from 1 to 64"),
        ({"max_people": "many"}, "integer from 1 to 64"),
        ({"people": ""}, "not valid"),
    ],
)
def test_a_chain_that_cannot_be_started_is_refused(
    tmp_path: Path, arguments: dict[str, str], reason: str
) -> None:
    with pytest.raises(RuntimeError, match=reason):
        run(tmp_path, **arguments)
