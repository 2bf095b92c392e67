# SPDX-License-Identifier: Apache-2.0
"""The node on a live camera.

ros2 launch glimpse_clouds activity.launch.py image:=/camera/image_raw bundle:=$HOME/bundles/mine

ros2 launch glimpse_clouds activity.launch.py --show-args
"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, SetEnvironmentVariable
from launch.substitutions import EnvironmentVariable, LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import LifecycleNode
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

PROFILE = "FASTRTPS_DEFAULT_PROFILES_FILE"


def generate_launch_description():
    share = FindPackageShare("glimpse_clouds")
    profile = PathJoinSubstitution([share, "config", "fastdds.xml"])
    arguments = [
        DeclareLaunchArgument(
            "bundle",
            default_value=PathJoinSubstitution([share, "bundles", "people"]),
            description="Bundle directory (trt-build export). The default is a demonstration on synthetic people.",
        ),
        DeclareLaunchArgument(
            "image", default_value="image", description="Camera topic, without /compressed."
        ),
        DeclareLaunchArgument(
            "image_transport",
            default_value="raw",
            choices=["raw", "compressed"],
            description="Take sensor_msgs/Image on IMAGE, or CompressedImage on IMAGE/compressed.",
        ),
        DeclareLaunchArgument(
            "namespace", default_value="", description="Namespace of the node and its topics."
        ),
        DeclareLaunchArgument(
            "params_file",
            default_value=PathJoinSubstitution([share, "config", "activity.yaml"]),
            description="Parameters; bundle, image_transport and use_sim_time come from these arguments instead.",
        ),
        DeclareLaunchArgument(
            "use_sim_time",
            default_value="false",
            choices=["true", "false"],
            description="Follow /clock (simulation, ros2 bag play --clock).",
        ),
        DeclareLaunchArgument(
            "respawn",
            default_value="true",
            choices=["true", "false"],
            description="Start the node again when it dies or, with the parameter exit_on_failure, gives up.",
        ),
        DeclareLaunchArgument(
            "log_level",
            default_value="info",
            choices=["debug", "info", "warn", "error", "fatal"],
            description="Least severity that is logged.",
        ),
        DeclareLaunchArgument(
            "fastdds_profile",
            default_value=EnvironmentVariable(PROFILE, default_value=[profile]),
            description="Fast DDS profile with shared memory large enough for images; the camera needs it too.",
        ),
    ]
    node = LifecycleNode(
        package="glimpse_clouds",
        executable="activity_node",
        name="activity_recognition",
        namespace=LaunchConfiguration("namespace"),
        output="screen",
        emulate_tty=True,
        respawn=LaunchConfiguration("respawn"),
        respawn_delay=2.0,
        parameters=[
            LaunchConfiguration("params_file"),
            {
                "bundle": ParameterValue(LaunchConfiguration("bundle"), value_type=str),
                "image_transport": ParameterValue(LaunchConfiguration("image_transport"), value_type=str),
                "use_sim_time": ParameterValue(LaunchConfiguration("use_sim_time"), value_type=bool),
            },
        ],
        remappings=[
            ("image", LaunchConfiguration("image")),
            ("image/compressed", [LaunchConfiguration("image"), "/compressed"]),
        ],
        arguments=["--ros-args", "--log-level", LaunchConfiguration("log_level")],
    )
    return LaunchDescription(
        [*arguments, SetEnvironmentVariable(PROFILE, LaunchConfiguration("fastdds_profile")), node]
    )
