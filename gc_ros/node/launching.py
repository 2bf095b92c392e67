# SPDX-License-Identifier: Apache-2.0
"""What the launch files share: arguments, the node with its parameters, the Fast DDS profile.

Describing only: nothing here starts a process, opens a file or asks the network while a launch file is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from launch.actions import DeclareLaunchArgument, RegisterEventHandler, SetEnvironmentVariable
from launch.event_handlers import OnProcessExit
from launch.substitutions import (
    EnvironmentVariable,
    LaunchConfiguration,
    PathJoinSubstitution,
    PythonExpression,
)
from launch_ros.actions import LifecycleNode
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

from gc_ros.node.parameters import BY_NAME

PACKAGE, NODE = "glimpse_clouds", "activity_recognition"
PROFILE = "FASTRTPS_DEFAULT_PROFILES_FILE"  # read by Fast DDS when a participant is made


def share(*parts: str) -> PathJoinSubstitution:
    """A file of the installed package."""
    return PathJoinSubstitution([FindPackageShare(PACKAGE), *parts])


def switch(name: str, default: bool, description: str) -> DeclareLaunchArgument:
    """An argument that is true or false."""
    return DeclareLaunchArgument(
        name,
        default_value="true" if default else "false",
        choices=["true", "false"],
        description=description,
    )


def node_arguments() -> list[DeclareLaunchArgument]:
    """Arguments of every launch file that starts the node."""
    transports = list(BY_NAME["image_transport"].choices)
    return [
        DeclareLaunchArgument(
            "bundle",
            default_value=share("bundles", "people"),
            description="Bundle directory (trt-build export). The default is a demonstration on synthetic people.",
        ),
        DeclareLaunchArgument(
            "image_transport",
            default_value=transports[0],
            choices=transports,
            description="Take sensor_msgs/Image on the topic, or CompressedImage on the topic/compressed.",
        ),
        DeclareLaunchArgument(
            "namespace", default_value="", description="Namespace of the node and its topics."
        ),
        DeclareLaunchArgument(
            "params_file",
            default_value=share("config", "activity.yaml"),
            description="Parameters of the node; those that are arguments here come from the arguments instead.",
        ),
        DeclareLaunchArgument(
            "log_level",
            default_value="info",
            choices=["debug", "info", "warn", "error", "fatal"],
            description="Least severity that is logged.",
        ),
        DeclareLaunchArgument(
            "fastdds_profile",
            default_value=EnvironmentVariable(PROFILE, default_value=[share("config", "fastdds.xml")]),
            description="Fast DDS profile with shared memory large enough for images; the camera needs it too.",
        ),
    ]


def live_arguments() -> list[DeclareLaunchArgument]:
    """Arguments for a node that runs until it is stopped."""
    return [
        switch("use_sim_time", False, "Follow /clock (simulation, ros2 bag play --clock)."),
        switch("respawn", True, "Start the node again when it dies or, with exit_on_failure, gives up."),
        switch("build_only", False, "Build the engine for this machine, then end; nothing is respawned."),
    ]


def fast_dds() -> SetEnvironmentVariable:
    """The profile, for every process that follows."""
    return SetEnvironmentVariable(PROFILE, LaunchConfiguration("fastdds_profile"))


def activity_node(
    parameters: Mapping[str, Any], remappings: Iterable[tuple[Any, Any]], **options: Any
) -> LifecycleNode:
    """The node with the arguments of `node_arguments`; parameters: beside those, options: of the launch action."""
    return LifecycleNode(
        package=PACKAGE,
        executable="activity_node",
        name=NODE,
        namespace=LaunchConfiguration("namespace"),
        output="screen",
        emulate_tty=True,
        parameters=[
            LaunchConfiguration("params_file"),
            {
                # Typed: a bundle called 7 or true is a string all the same.
                "bundle": ParameterValue(LaunchConfiguration("bundle"), value_type=str),
                "image_transport": ParameterValue(LaunchConfiguration("image_transport"), value_type=str),
                **parameters,
            },
        ],
        remappings=list(remappings),
        arguments=["--ros-args", "--log-level", LaunchConfiguration("log_level")],
        **options,
    )


def boolean(name: str) -> ParameterValue:
    """A switch as the value of a parameter."""
    return ParameterValue(LaunchConfiguration(name), value_type=bool)


def live_node(parameters: Mapping[str, Any], remappings: Iterable[tuple[Any, Any]]) -> list[Any]:
    """The node with the arguments of `node_arguments` and `live_arguments`, as entities of a description."""
    live = {"use_sim_time": boolean("use_sim_time"), "build_only": boolean("build_only")}
    respawn = ["'", LaunchConfiguration("respawn"), "' == 'true' and '"]
    respawn += [LaunchConfiguration("build_only"), "' == 'false'"]
    node = activity_node(
        {**live, **parameters}, remappings, respawn=PythonExpression(respawn), respawn_delay=2.0
    )

    def gone(event: Any, context: Any) -> None:
        if LaunchConfiguration("build_only").perform(context) == "true":
            check("the build", event, context)

    return [RegisterEventHandler(OnProcessExit(target_action=node, on_exit=gone)), node]


def check(who: str, event: Any, context: Any) -> None:
    """Called when a process has ended: what it raises ends the launch with exit code 1."""
    if event.returncode and not context.is_shutdown:
        raise RuntimeError(f"{who} ended with exit code {event.returncode}")
