# SPDX-License-Identifier: Apache-2.0
"""The node on a live camera.

ros2 launch glimpse_clouds activity.launch.py image:=/camera/image_raw bundle:=$HOME/bundles/mine

ros2 launch glimpse_clouds activity.launch.py --show-args
"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction

from gc_ros.node.launching import argument, live_arguments, live_node, node_arguments


def generate_launch_description():
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "image", default_value="image", description="Camera topic, without /compressed."
            ),
            *node_arguments(),
            *live_arguments(),
            OpaqueFunction(function=_node),
        ]
    )


def _node(context):
    image = argument(context, "image")
    return live_node(context, {}, [("image", image), ("image/compressed", f"{image}/compressed")])
