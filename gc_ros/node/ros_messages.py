# SPDX-License-Identifier: Apache-2.0
"""From the recogniser's plain values to ROS messages, and the one place that imports ROS for the package."""

from __future__ import annotations

import array
import importlib
import os
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from gc_ros.media.detections import Box
from gc_ros.media.people_topics import Family
from gc_ros.media.transports import Transport
from gc_ros.node.diagnostics import Status
from gc_ros.node.parameter import Parameter
from gc_ros.recognition.recognizer import Activity
from gc_ros.recognition.smoothing import ActivityEvent
from gc_ros.recognition.taught import Taught
from gc_ros.stamps import NS
from trt_build.bundle import Bundle
from trt_build.errors import GlimpseError

# ROS 2 installed into this Python environment (wheels): its only variable, set here so that nothing need be sourced.
if "AMENT_PREFIX_PATH" not in os.environ and Path(sys.prefix, "share", "ament_index").is_dir():
    os.environ["AMENT_PREFIX_PATH"] = sys.prefix

try:
    import rclpy  # noqa: F401
    from builtin_interfaces.msg import Time
    from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
    from glimpse_clouds import msg as gc_msg
    from glimpse_clouds import srv as gc_srv  # noqa: F401
    from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
    from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
    from sensor_msgs.msg import CompressedImage, Image
    from std_msgs.msg import Header
except ImportError as error:
    raise GlimpseError(
        f"ROS 2 or the messages of glimpse_clouds cannot be imported ({error}); "
        "source install/setup.bash after colcon build, or run `make env` and . .venv/bin/activate"
    ) from None

_SECONDS = (-(2**31), 2**31 - 1)  # what builtin_interfaces/Time can hold


def latched(depth: int) -> QoSProfile:
    """Reliable, and a late subscriber gets the last `depth` messages."""
    return QoSProfile(
        depth=depth, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
    )


def to_time(stamp_ns: int) -> Time:
    """Stamp of int nanoseconds as builtin_interfaces/Time; the nearest there is where it holds none so far away."""
    low, high = _SECONDS
    stamp_ns = min(max(stamp_ns, low * NS), high * NS + NS - 1)
    return Time(sec=stamp_ns // NS, nanosec=stamp_ns % NS)


def to_ns(stamp: Time) -> int:
    """builtin_interfaces/Time as int nanoseconds."""
    return int(stamp.sec) * NS + int(stamp.nanosec)


def to_header(stamp_ns: int, frame_id: str) -> Header:
    """Header of a stamp in int nanoseconds."""
    return Header(stamp=to_time(stamp_ns), frame_id=frame_id)


def to_activity(
    activity: Activity,
    frame_id: str,
    *,
    late: bool,
    age_s: float,
    decode_s: float,
    queue_s: float,
    refused: int,
    scene: bool = False,
) -> gc_msg.Activity:
    """A result as glimpse_clouds/Activity. refused: images that never reached the recogniser. Times in seconds.

    scene: whether the people in the picture are recognised, too.
    """
    return gc_msg.Activity(
        header=to_header(activity.stamp_ns, frame_id),
        window_start=to_time(activity.window_start_ns),
        window_end=to_time(activity.window_end_ns),
        image_width=activity.width,
        image_height=activity.height,
        **_told(activity, late),
        age_s=age_s,
        decode_s=decode_s,
        preprocess_s=activity.preprocess_s,
        queue_s=queue_s,
        inference_s=activity.inference_s,
        frames_received=activity.frames_received + refused,
        frames_dropped=activity.frames_dropped + refused,
        windows_skipped=activity.windows_skipped,
        model_id=activity.model_id,
        scene=scene,
    )


def _told(activity: Activity, late: bool) -> dict[str, Any]:
    """The fields that a result has in glimpse_clouds/Activity and PersonActivity alike."""
    status = gc_msg.Activity.STATUS_UNKNOWN if activity.status == "unknown" else gc_msg.Activity.STATUS_OK
    return {
        "status": gc_msg.Activity.STATUS_LATE if late or activity.status == "late" else status,
        "label": activity.label,
        "class_index": activity.index,
        "score": activity.score,
        "top_k": [
            gc_msg.ActivityScore(label=label, class_index=i, score=s) for label, i, s in activity.top_k
        ],
        "glimpses": [
            gc_msg.Glimpse(x_min=g.x0, y_min=g.y0, x_max=g.x1, y_max=g.y1, worker_weights=list(g.weights))
            for g in activity.glimpses
        ],
    }


def to_person(
    who: str, box: Box, activity: Activity, on: ActivityEvent | None, *, late: bool, age_s: float
) -> gc_msg.PersonActivity:
    """A result of one person as glimpse_clouds/PersonActivity. on: the onset of the activity that is on, if any."""
    return gc_msg.PersonActivity(
        person_id=who,
        x_min=box.x_min,
        y_min=box.y_min,
        x_max=box.x_max,
        y_max=box.y_max,
        activity="" if on is None else on.label,
        since=to_time(0 if on is None else on.stamp_ns),
        window_start=to_time(activity.window_start_ns),
        window_end=to_time(activity.window_end_ns),
        age_s=age_s,
        inference_s=activity.inference_s,
        **_told(activity, late),
    )


def to_event(
    event: ActivityEvent, decided_ns: int, frame_id: str, model_id: str, person: str = ""
) -> gc_msg.ActivityEvent:
    """An onset or offset as glimpse_clouds/ActivityEvent; decided_ns: stamp of the frame that decided it."""
    kinds = {"onset": gc_msg.ActivityEvent.ONSET, "offset": gc_msg.ActivityEvent.OFFSET}
    return gc_msg.ActivityEvent(
        header=to_header(decided_ns, frame_id),
        kind=kinds[event.kind],
        label=event.label,
        class_index=event.index,
        score=event.score,
        stamp=to_time(event.stamp_ns),
        model_id=model_id,
        person_id=person,
    )


def to_label_info(
    info: Bundle,
    labels: list[str],
    mode: str,
    stamp_ns: int,
    unknown_threshold: float,
    onset: float,
    offset: float,
) -> gc_msg.LabelInfo:
    """What the numbers of Activity mean, as glimpse_clouds/LabelInfo. labels: the bundle's and those taught."""
    return gc_msg.LabelInfo(
        header=to_header(stamp_ns, ""),
        model_id=info.model_id,
        labels=labels,
        mode=mode,
        window_frames=info.T,
        rate_hz=info.rate_hz,
        reset_after=info.reset_after,
        temperature=info.calibration.temperature,
        unknown_threshold=unknown_threshold,
        onset_threshold=onset,
        offset_threshold=offset,
    )


def to_taught(taught: Taught, stamp_ns: int) -> gc_msg.TaughtActivities:
    """What was taught, as glimpse_clouds/TaughtActivities."""
    examples = taught.activities.values()
    return gc_msg.TaughtActivities(
        header=to_header(stamp_ns, ""),
        model_id=taught.model_id,
        names=list(taught.activities),
        clips=[e.count for e in examples],
        windows=[len(e) for e in examples],
    )


def to_image(image: np.ndarray, header: Header, encoding: str) -> Image:
    """uint8 (H, W, 3) as sensor_msgs/Image, encoding rgb8 or bgr8.

    array.array and no ndarray: rclpy takes the former as it is and checks the latter element by element.
    """
    image = np.ascontiguousarray(image)
    height, width = image.shape[:2]
    message = Image(header=header, height=height, width=width, encoding=encoding, step=image.strides[0])
    message.data = array.array("B", image.tobytes())
    return message


def to_compressed(image: np.ndarray, header: Header) -> CompressedImage:
    """uint8 RGB (H, W, 3) as a JPEG sensor_msgs/CompressedImage, named as image_transport does."""
    ok, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    if not ok:
        raise GlimpseError("the overlay cannot be compressed to JPEG")
    message = CompressedImage(header=header, format="bgr8; jpeg compressed bgr8")
    message.data = array.array("B", data.tobytes())
    return message


def message_class(type_name: str) -> Any:
    """The message class of package/msg/Name. Raises ImportError where it is not installed."""
    package, _, name = type_name.split("/")
    return getattr(importlib.import_module(f"{package}.msg"), name)


def message_type(row: Transport | Family) -> Any:
    """The message class of a row of the table of images or of people. Raises GlimpseError that says what to install."""
    try:
        return message_class(row.type_name)
    except ImportError:
        package = row.type_name.split("/")[0]
        people = isinstance(row, Family)
        distribution, debian = os.environ.get("ROS_DISTRO", "$ROS_DISTRO"), package.replace("_", "-")
        remedy = row.source if isinstance(row, Family) else ""
        remedy = remedy or f"type: sudo apt install ros-{distribution}-{debian}"
        raise GlimpseError(
            f"{'people' if people else 'image_transport'} {row.name} needs the messages of {package}, which are not "
            f"installed; {remedy}"
        ) from None


def classification_type() -> Any:
    """The message class vision_msgs/Classification, or None where its package is missing."""
    try:
        from vision_msgs.msg import Classification
    except ImportError:
        return None
    return Classification


def to_classification(activity: Activity, frame_id: str) -> Any:
    """The same result as vision_msgs/Classification, hypotheses best first."""
    from vision_msgs.msg import Classification, ObjectHypothesis

    message = Classification(header=to_header(activity.stamp_ns, frame_id))
    message.results = [ObjectHypothesis(class_id=label, score=float(s)) for label, _, s in activity.top_k]
    return message


def to_diagnostic(name: str, hardware_id: str, status: Status) -> DiagnosticStatus:
    """As diagnostic_msgs/DiagnosticStatus."""
    values = [KeyValue(key=key, value=value) for key, value in status.values.items()]
    return DiagnosticStatus(
        level=bytes([status.level]),
        name=name,
        message=status.message,
        hardware_id=hardware_id,
        values=values,
    )


def to_descriptor(parameter: Parameter) -> ParameterDescriptor:
    """As rcl_interfaces/ParameterDescriptor, with range and description."""
    descriptor = ParameterDescriptor(
        name=parameter.name,
        description=parameter.description,
        additional_constraints=", ".join(parameter.choices),
        read_only=parameter.change == "never",
        # `-p max_age_s:=5` is an integer in YAML; PARAMETERS checks the types of numbers, and takes it.
        dynamic_typing=isinstance(parameter.default, float),
    )
    if parameter.low is None or parameter.high is None:
        return descriptor
    if isinstance(parameter.default, float):
        descriptor.floating_point_range = [
            FloatingPointRange(from_value=parameter.low, to_value=parameter.high)
        ]
    else:
        descriptor.integer_range = [
            IntegerRange(from_value=int(parameter.low), to_value=int(parameter.high), step=1)
        ]
    return descriptor
