# SPDX-License-Identifier: Apache-2.0
"""What the launch files share: arguments, the node with its parameters, the Fast DDS profile.

A launch file declares its arguments and reads them in one OpaqueFunction, while it is visited. Nothing may be read
later: a launch file that is included in a group has its arguments in the scope of that group, and when a process ends
the scope is gone. An exit handler that asks for an argument then takes the whole launch down.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from launch.actions import DeclareLaunchArgument, EmitEvent, LogInfo, RegisterEventHandler
from launch.event_handlers import OnProcessExit
from launch.events import matches_action
from launch.events.process import ShutdownProcess
from launch.substitutions import EnvironmentVariable, LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import LifecycleNode
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

from gc_ros.media.transports import TRANSPORTS
from gc_ros.node.parameters import BY_NAME

PACKAGE, NODE = "glimpse_clouds", "activity_recognition"
# Fast DDS reads one of them when a participant is made: the first until 2.14, the second since.
PROFILES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
WRONG_USE = 2  # exit code of the node; starting it again would end the same way
_SPELLINGS = {
    "true": True,
    "1": True,
    "yes": True,
    "on": True,
    "false": False,
    "0": False,
    "no": False,
    "off": False,
}
# What an evaluation must have as the node has it.
JUDGED = ("backend", "device", "mode", "precision", "taught")
# Parameters that are arguments too, and left to the parameter file where they are not given.
_PASSED_ON = ("autostart", *JUDGED)


def share(*parts: str) -> PathJoinSubstitution:
    """A file of the installed package."""
    return PathJoinSubstitution([FindPackageShare(PACKAGE), *parts])


def switch(name: str, default: bool, description: str) -> DeclareLaunchArgument:
    """An argument that is true or false, in any usual spelling; `truth` reads it."""
    return DeclareLaunchArgument(
        name, default_value="true" if default else "false", description=f"{description} true or false."
    )


def node_arguments() -> list[DeclareLaunchArgument]:
    """Arguments of every launch file that starts the node."""
    transports = list(BY_NAME["image_transport"].choices)
    passed_on = []
    for name in _PASSED_ON:
        choices = BY_NAME[name].choices
        # The launch system compares with choices letter by letter; a switch has more spellings than it knows.
        limited = {"choices": ["", *choices]} if choices else {}
        # What empty means to the node; here it means that nothing is passed on.
        text = BY_NAME[name].description.replace(" Empty: ", " Empty in params_file: ")
        text += " Empty: as in params_file."
        passed_on.append(DeclareLaunchArgument(name, default_value="", description=text, **limited))
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
            description="How images come, "
            + "; ".join(f"{t.name}: {t.short_type}" for t in TRANSPORTS)
            + "; "
            "all but raw on the topic with the name of the transport behind it, as TOPIC/compressed.",
        ),
        *passed_on,
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
            default_value=EnvironmentVariable(
                PROFILES[1],
                default_value=[
                    EnvironmentVariable(PROFILES[0], default_value=[share("config", "fastdds.xml")])
                ],
            ),
            description="Fast DDS profile with shared memory large enough for images; the camera needs it too.",
        ),
    ]


def live_arguments() -> list[DeclareLaunchArgument]:
    """Arguments for a node that runs until it is stopped."""
    return [
        switch("use_sim_time", False, "Follow /clock (simulation, ros2 bag play --clock):"),
        switch("respawn", True, "Start the node again when it dies or, with exit_on_failure, gives up:"),
        switch("build_only", False, "Build the engine for this machine, then end; nothing is respawned:"),
    ]


def argument(context: Any, name: str) -> str:
    """The value of an argument. Only while the launch file is visited."""
    return str(LaunchConfiguration(name).perform(context))


def truth(context: Any, name: str) -> bool:
    """The value of a switch. Only while the launch file is visited; RuntimeError for what is neither."""
    value = argument(context, name)
    if value.strip().lower() not in _SPELLINGS:
        raise RuntimeError(f'Argument "{name}" is "{value}"; it must be true or false')
    return _SPELLINGS[value.strip().lower()]


def profile(context: Any) -> dict[str, str]:
    """The environment that gives a process, and no other, the Fast DDS profile."""
    return dict.fromkeys(PROFILES, argument(context, "fastdds_profile"))


def activity_node(
    context: Any, parameters: Mapping[str, Any], remappings: Iterable[tuple[str, str]], **options: Any
) -> LifecycleNode:
    """The node with the arguments of `node_arguments`; parameters: in addition, options: of the launch action."""
    params_file = argument(context, "params_file")
    if not Path(params_file).is_file():  # launch would start the node without it
        raise RuntimeError(f"no parameter file {params_file}; give params_file:= an existing one")
    given: dict[str, Any] = {}
    for name in _PASSED_ON:
        if argument(context, name):
            is_switch = isinstance(BY_NAME[name].default, bool)
            given[name] = truth(context, name) if is_switch else _string(argument(context, name))
    return LifecycleNode(
        package=PACKAGE,
        executable="activity_node",
        name=NODE,
        namespace=argument(context, "namespace"),
        output="screen",
        emulate_tty=True,
        additional_env=profile(context),
        parameters=[
            params_file,
            {
                "bundle": _string(argument(context, "bundle")),
                "image_transport": _string(argument(context, "image_transport")),
                **given,
                **parameters,
            },
        ],
        remappings=list(remappings),
        arguments=["--ros-args", "--log-level", argument(context, "log_level")],
        **options,
    )


def _string(value: str) -> ParameterValue:
    # Typed: a bundle called 7 or true is a string all the same.
    return ParameterValue(value, value_type=str)


def live_node(
    context: Any, parameters: Mapping[str, Any], remappings: Iterable[tuple[str, str]]
) -> list[Any]:
    """The node with the arguments of `node_arguments` and `live_arguments`, as entities of a description."""
    build_only = truth(context, "build_only")
    respawn = truth(context, "respawn") and not build_only
    live = {"use_sim_time": truth(context, "use_sim_time"), "build_only": build_only}
    node = activity_node(context, {**live, **parameters}, remappings, respawn=respawn, respawn_delay=2.0)

    def gone(event: Any, context: Any) -> list[Any] | None:
        if not respawn:
            check("the build" if build_only else "the node", event, context)
        elif event.returncode == WRONG_USE and not context.is_shutdown:
            return [
                LogInfo(msg=f"{NODE} was started wrongly, as it says above; it is not started again"),
                EmitEvent(event=ShutdownProcess(process_matcher=matches_action(node))),
            ]
        return None

    return [RegisterEventHandler(OnProcessExit(target_action=node, on_exit=gone)), node]


def check(who: str, event: Any, context: Any, remark: str = "") -> None:
    """Called when a process has ended: what it raises ends the launch with exit code 1."""
    if event.returncode and not context.is_shutdown:
        raise RuntimeError(f"{who} ended with exit code {event.returncode}{remark}")
