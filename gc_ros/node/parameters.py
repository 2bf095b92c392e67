# SPDX-License-Identifier: Apache-2.0
"""The node's parameters, once: defaults, ranges, descriptions and run-time behaviour.

The node declares them from this table; config/activity.yaml and docs/parameters.md are written from it by

    python -m gc_ros.node.parameters yaml     > config/activity.yaml
    python -m gc_ros.node.parameters markdown > docs/parameters.md

and a test holds them equal. No ROS import.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import Any

from gc_ros.media import people_topics
from gc_ros.media.transports import TRANSPORTS
from gc_ros.node.parameter import CHANGE_MEANS, Parameter, Value
from gc_ros.recognition.smoothing import Smoothing

_SMOOTHING = Smoothing()

PARAMETERS: tuple[Parameter, ...] = (
    Parameter(
        "autostart",
        True,
        "Configure and activate on start; false: wait for a lifecycle manager.",
        "never",
    ),
    Parameter(
        "bundle",
        "",
        "Path of the bundle directory (trt-build export). The node does not configure without it.",
        "unconfigured",
    ),
    Parameter(
        "bundle_sha256",
        "",
        "What the sha256 of the bundle's bundle.json must be (trt-build info shows it); with another the node does not "
        "configure. Empty: any.",
        "unconfigured",
        form=("([0-9a-fA-F]{64})?", "64 hexadecimal digits or empty"),
    ),
    Parameter(
        "taught",
        "",
        "Folder of what the bundle was taught (`~/teach`, gc-ros teach). Empty: BUNDLE.taught beside it; none: teach "
        "nothing, know nothing taught.",
        "unconfigured",
    ),
    Parameter(
        "keep_clips",
        False,
        "Keep small clips of what is shown to `~/teach` beside what is taught, to train on. They show people.",
        "at once",
    ),
    Parameter(
        "cameras",
        ("",),
        "Names of the cameras. Each has topics of its own (front: front/image, ~/front/activity), a window and a "
        'state; one engine runs them as one batch. [""]: one camera, topics without a name.',
        "unconfigured",
    ),
    Parameter(
        "mode",
        "auto",
        "How frames become results: window computes all frames of a window for each, step one new frame with carried "
        "state; auto: the bundle's default.",
        "unconfigured",
        choices=("auto", "window", "step"),
    ),
    Parameter(
        "backend",
        "auto",
        "What runs the engine; auto: the best that is installed.",
        "unconfigured",
        choices=("auto", "onnxruntime", "openvino", "tensorrt", "tensorrt_rtx"),
    ),
    Parameter(
        "precision",
        "auto",
        "Arithmetic of the engine; auto: the backend's own choice. bf16: openvino; int8: after trt-build quantize.",
        "unconfigured",
        choices=("auto", "fp32", "fp16", "bf16", "int8"),
    ),
    Parameter(
        "engine_policy",
        "rebuild",
        "What to do where no TensorRT engine in the bundle fits this GPU, version, graph and precision. rebuild: build "
        "it while configuring, which takes minutes; refuse: do not configure, say what to run.",
        "unconfigured",
        choices=("rebuild", "refuse"),
    ),
    Parameter(
        "build_only",
        False,
        "Open the engine that these parameters ask for, build it where it is missing, and exit: 0, or 3 on failure.",
        "never",
    ),
    Parameter("device", "cpu", "Where the engine runs: cpu, cuda or cuda:N.", "unconfigured"),
    Parameter(
        "threads", 0, "CPU threads of one engine run; 0: the backend's own choice.", "unconfigured", 0, 256
    ),
    Parameter(
        "image_transport",
        "raw",
        "; ".join(f"{t.name}: {t.short_type} on `image{t.suffix}`" for t in TRANSPORTS) + ".",
        "unconfigured",
        choices=tuple(t.name for t in TRANSPORTS),
    ),
    Parameter(
        "people",
        "",
        "How detected people come, so that each is recognised alone. Empty: nobody is, the picture has one label; "
        + "; ".join(f"{f.name}: {f.short_type} on `{f.topic}`" for f in people_topics.FAMILIES)
        + ".",
        "unconfigured",
        choices=("", *people_topics.BY_NAME),
    ),
    Parameter(
        "max_people",
        4,
        "How many people of a camera are recognised at the same time, each in a row of the engine's batch beside the "
        "picture. Further ones are left out and named in /diagnostics. With onnxruntime on a CPU a row costs time only "
        "while somebody is in it, elsewhere always.",
        "unconfigured",
        1,
        64,
    ),
    Parameter(
        "person_classes",
        ",".join(people_topics.PERSON),
        "Classes of detections that are people, comma-separated, in any case; one without a class is too. Empty: all.",
        "at once",
    ),
    Parameter(
        "people_max_age_s",
        0.5,
        "How far, by stamps, the detections of a person may lie from an image without one of its own; for as long an "
        "image waits for detections. Seconds.",
        "unconfigured",
        0.01,
        10.0,
    ),
    Parameter(
        "person_margin",
        -1.0,
        "Share of the longer side of a person's box by which the region that is recognised is wider on each side. "
        "-1: that of the bundle's training, 0.15 where it saw whole pictures.",
        "unconfigured",
        -1.0,
        1.0,
    ),
    Parameter(
        "person_timeout_s",
        1.0,
        "A person who is not detected for so long has gone: window, state and place are given up. Seconds, by stamps.",
        "unconfigured",
        0.1,
        60.0,
    ),
    Parameter(
        "marker_fov_deg",
        60.0,
        "Horizontal field of view of the cameras in degrees: how large `~/markers` draws the picture in front of them.",
        "at once",
        1.0,
        170.0,
    ),
    Parameter(
        "decode_budget",
        0.75,
        "Part of one processor that decoding the compressed images or the video of a camera may take; beyond it this "
        "camera loses images, and no other does. 1: no limit.",
        *("at once", 0.01, 1.0),
    ),
    Parameter(
        "max_frame_gap_s",
        0.0,
        "A longer step between two image stamps is a break: the window starts again. Seconds; 0: three sampling "
        "periods of the model, at least 0.5.",
        "unconfigured",
        0.0,
        60.0,
    ),
    Parameter(
        "stride",
        1,
        "Sampled frames from one result to the next. A step model that starts again every window has one a window.",
        "unconfigured",
        1,
        1000,
    ),
    Parameter("top_k", 5, "How many of the best labels a message carries.", "at once", 1, 1000),
    Parameter(
        "unknown_threshold",
        -1.0,
        "Below this score the status is unknown, but for taught activities, whose examples set limits of their own. "
        "0: never; -1: the bundle's own threshold.",
        "at once",
        -1.0,
        1.0,
    ),
    Parameter(
        "max_age_s",
        5.0,
        "A result older than this, from the newest frame's stamp to publication, has the status late. Seconds; 0: "
        "never (bags played with their recorded stamps).",
        "at once",
        0.0,
        3600.0,
    ),
    Parameter(
        "smoothing_tau_s",
        _SMOOTHING.tau_s,
        "Time constant of the smoothing of the scores that events are made from. Seconds; 0: none. A change of this or "
        "of the three below resets nothing; the new values hold from the next result on.",
        "at once",
        0.0,
        60.0,
    ),
    Parameter(
        "onset_threshold",
        _SMOOTHING.onset,
        "Smoothed score at which an activity begins.",
        "at once",
        0.0,
        1.0,
    ),
    Parameter(
        "offset_threshold",
        _SMOOTHING.offset,
        "Smoothed score below which an activity ends, if no other begins before; not above onset_threshold.",
        "at once",
        0.0,
        1.0,
    ),
    Parameter(
        "min_duration_s",
        _SMOOTHING.min_duration_s,
        "An activity is announced, and ends the one before, once it has lasted this long. Seconds.",
        "at once",
        0.0,
        60.0,
    ),
    Parameter(
        "stall_timeout_s",
        2.0,
        "Without an image for this long the camera counts as stalled and the window is cleared. Seconds, steady clock.",
        "at once",
        0.1,
        600.0,
    ),
    Parameter(
        "inference_timeout_s",
        10.0,
        "An engine run that takes longer counts as hanging: the node deactivates. Seconds, steady clock.",
        "at once",
        0.1,
        600.0,
    ),
    Parameter(
        "max_failures",
        3,
        "After so many failed engine runs in a row the node deactivates.",
        "at once",
        1,
        1000,
    ),
    Parameter(
        "exit_on_failure",
        False,
        "Exit with code 3 when the engine has failed or autostart cannot configure, so that a supervisor can respawn.",
        "at once",
    ),
)
BY_NAME: dict[str, Parameter] = {parameter.name: parameter for parameter in PARAMETERS}


def refuse_all(changes: Mapping[str, object], current: Mapping[str, Any], *, configured: bool) -> str | None:
    """Why these changes together are refused, or None. `current` holds the present values; nothing is applied."""
    for name, value in changes.items():
        parameter = BY_NAME.get(name)
        if parameter is None:
            continue
        reason = parameter.refuse(value)
        if reason:
            return reason
        if parameter.change == "unconfigured" and configured and not _same(value, current.get(name)):
            return f"{name} can change only while the node is unconfigured: deactivate and clean up first"
    after = {**current, **changes}
    if after.get("offset_threshold", 0.0) > after.get("onset_threshold", 1.0):
        return f"offset_threshold {after['offset_threshold']:g} is above onset_threshold {after['onset_threshold']:g}"
    if after.get("people_max_age_s", 0.0) > after.get("person_timeout_s", math.inf):
        return (
            f"people_max_age_s {after['people_max_age_s']:g} is above person_timeout_s "
            f"{after['person_timeout_s']:g}: a box would count for longer than its person is there"
        )
    return None


def _same(a: Any, b: Any) -> bool:
    return list(a) == list(b) if isinstance(a, list | tuple) and isinstance(b, list | tuple) else bool(a == b)


def as_yaml() -> str:
    """The content of config/activity.yaml."""
    lines = [
        "# SPDX-License-Identifier: Apache-2.0",
        "# Parameters of the node activity_recognition with their defaults.",
        "# Written by: python -m gc_ros.node.parameters yaml",
        "/**:",
        "  ros__parameters:",
    ]
    for p in PARAMETERS:
        lines += [f"    # {p.description}", f"    # {p.legal}; {CHANGE_MEANS[p.change]}."]
        lines.append(f"    {p.name}: {_literal(p.default)}")
    return "\n".join(lines) + "\n"


def as_markdown() -> str:
    """The content of docs/parameters.md."""
    lines = [
        "# Parameters of `activity_recognition`",
        "",
        "Written by `python -m gc_ros.node.parameters markdown`. An illegal value is refused with a reason and the old",
        "value kept; several set together are checked together by `set_parameters_atomically`, one by one otherwise.",
        "",
        "| parameter | default | legal values | changes | meaning |",
        "|---|---|---|---|---|",
    ]
    for p in PARAMETERS:
        cells = (f"`{p.name}`", f"`{_literal(p.default)}`", p.legal, CHANGE_MEANS[p.change], p.description)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _literal(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return "[" + ", ".join(_literal(item) for item in value) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value)


if __name__ == "__main__":
    print({"yaml": as_yaml, "markdown": as_markdown}[sys.argv[1]](), end="")
