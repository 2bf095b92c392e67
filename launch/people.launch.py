# SPDX-License-Identifier: Apache-2.0
"""The node on a live camera with each person recognised alone, and the detector that finds them, if it is wanted.

ros2 launch glimpse_clouds people.launch.py image:=/camera/image_raw people:=yolo detections:=/yolo/tracking \\
  detector:=yolo_bringup/yolo.launch.py detector_args:="input_image_topic:=/camera/image_raw"

The detector is a launch file of another package with arguments of its own; without one, it runs already. docs/people.md
shows the chain from start to end. --show-args lists all arguments.
"""

import shlex
from pathlib import Path

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, GroupAction, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import AnyLaunchDescriptionSource
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

from gc_ros.node.launching import argument, live_arguments, live_node, node_arguments, truth
from gc_ros.node.parameters import BY_NAME


def generate_launch_description():
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "image", default_value="image", description="Camera topic, without /compressed."
            ),
            DeclareLaunchArgument(
                "people",
                default_value="detections",
                choices=[name for name in BY_NAME["people"].choices if name],
                description=BY_NAME["people"].description.split(" Empty:")[0]
                + " detections: vision_msgs; yolo: yolo_msgs; hri: hri_msgs (REP-155).",
            ),
            DeclareLaunchArgument(
                "detections",
                default_value="people",
                description="Topic of the tracked detections, as /yolo/tracking; not read with people:=hri.",
            ),
            DeclareLaunchArgument(
                "max_people",
                default_value="",
                description="How many people are recognised at the same time. Empty: as in params_file.",
            ),
            DeclareLaunchArgument(
                "detector",
                default_value="",
                description="Launch file that starts the detector, as PACKAGE/FILE or a path. Empty: none is started.",
            ),
            DeclareLaunchArgument(
                "detector_args",
                default_value="",
                description="Arguments of that launch file, as NAME:=VALUE with spaces between them.",
            ),
            *node_arguments(),
            *live_arguments(),
            OpaqueFunction(function=_chain),
        ]
    )


def _chain(context):
    image, detections = argument(context, "image"), argument(context, "detections")
    parameters = {"people": ParameterValue(argument(context, "people"), value_type=str)}
    most = argument(context, "max_people")
    if most:
        if not most.isdecimal() or BY_NAME["max_people"].refuse(int(most)):
            raise RuntimeError(f'Argument "max_people" is "{most}"; it must be {BY_NAME["max_people"].legal}')
        parameters["max_people"] = int(most)
    remappings = [("image", image), ("image/compressed", f"{image}/compressed"), ("people", detections)]
    # A build needs no detections, and a detector would not end with it.
    detector = [] if truth(context, "build_only") else _detector(context)
    return [*detector, *live_node(context, parameters, remappings)]


def _detector(context):
    given = argument(context, "detector")
    try:
        words = shlex.split(argument(context, "detector_args"))
    except ValueError as error:
        raise RuntimeError(
            f'Argument "detector_args" is {argument(context, "detector_args")!r}: {error}; close the quotes'
        ) from None
    pairs = [word.partition(":=") for word in words]
    wrong = [name for name, sign, _ in pairs if not (name and sign)]
    if wrong:
        raise RuntimeError(
            f'Argument "detector_args" has "{wrong[0]}"; write NAME:=VALUE with spaces between them'
        )
    if not given:
        if pairs:
            raise RuntimeError('Argument "detector_args" needs "detector": the launch file they are for')
        return []
    file = Path(given)
    package, _, name = given.partition("/")
    if not file.is_file() and package and name:
        try:
            file = Path(FindPackageShare(package).perform(context), "launch", name)
        except Exception:
            raise RuntimeError(
                f'Argument "detector" is "{given}"; there is no such file and no package "{package}"; '
                "give a launch file, or PACKAGE/FILE of a package that is installed"
            ) from None
    if not file.is_file():
        raise RuntimeError(f'Argument "detector" is "{given}"; there is no launch file {file}')
    include = IncludeLaunchDescription(
        AnyLaunchDescriptionSource(str(file)), launch_arguments=[(name, value) for name, _, value in pairs]
    )
    # Its arguments have names of ours (namespace, device, ...) and must not take our values.
    return [GroupAction([include], scoped=True, forwarding=False)]
