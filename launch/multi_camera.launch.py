# SPDX-License-Identifier: Apache-2.0
"""One node, one engine and one batch for several cameras; each has its own window, state and topics.

ros2 launch glimpse_clouds multi_camera.launch.py cameras:=front,left bundle:=$HOME/bundles/mine \\
  images:=/front/image_raw,/left/image_raw

Results come on /activity_recognition/front/activity and so on. --show-args lists all arguments.
"""

from typing import List  # noqa: UP035  (launch_ros compares with this very type)

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import TextSubstitution
from launch_ros.parameter_descriptions import ParameterValue

from gc_ros.node.launching import argument, live_arguments, live_node, node_arguments
from gc_ros.node.parameters import BY_NAME


def generate_launch_description():
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "cameras", default_value="front,left", description="Names of the cameras, comma-separated."
            ),
            DeclareLaunchArgument(
                "images",
                default_value="",
                description="Their topics in the same order, comma-separated, without /compressed; "
                "empty: CAMERA/image in the node's namespace.",
            ),
            *node_arguments(),
            *live_arguments(),
            OpaqueFunction(function=_node),
        ]
    )


def _node(context):
    """The names are known only now; each remapping needs one."""
    cameras = _list(argument(context, "cameras"))
    images = _list(argument(context, "images")) or [f"{name}/image" for name in cameras]
    reason = BY_NAME["cameras"].refuse(cameras)
    if reason:
        raise RuntimeError(reason)
    if len(images) != len(cameras):
        raise RuntimeError(f"images: {len(images)} topics for {len(cameras)} cameras; give one for each")
    remappings = []
    for name, image in zip(cameras, images):  # noqa: B905  (of equal length by now)
        remappings += [(f"{name}/image", image), (f"{name}/image/compressed", f"{image}/compressed")]
    names = ParameterValue(TextSubstitution(text=str(cameras)), value_type=List[str])  # noqa: UP006
    return live_node(context, {"cameras": names}, remappings)


def _list(text):
    return [part.strip() for part in text.split(",") if part.strip()]
