# SPDX-License-Identifier: Apache-2.0
"""Play a bag into the node, evaluate the bag, end.

ros2 launch glimpse_clouds bag.launch.py bag:=p3 bundle:=$HOME/bundles/mine out:=report

The node runs as on the robot, for Foxglove to watch; then the same recogniser goes through the bag frame by frame
and writes the report. What the evaluation needs is checked before the bag plays. Ends with exit code 1 when the node,
the player or the evaluation fails.
"""

from launch import LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    OpaqueFunction,
    RegisterEventHandler,
    Shutdown,
)
from launch.event_handlers import OnProcessExit
from launch_ros.substitutions import ExecutableInPackage

from gc_ros.media.transports import BY_NAME
from gc_ros.node.launching import (
    JUDGED,
    PACKAGE,
    activity_node,
    argument,
    check,
    node_arguments,
    profile,
    switch,
    truth,
)


def generate_launch_description():
    return LaunchDescription(
        [
            DeclareLaunchArgument("bag", description="Bag directory, .mcap, .db3 or ROS 1 .bag."),
            DeclareLaunchArgument(
                "topic", default_value="/image", description="Image topic of the bag, without /compressed."
            ),
            DeclareLaunchArgument("rate", default_value="1.0", description="Speed: 2.0 plays twice as fast."),
            DeclareLaunchArgument(
                "stamps",
                default_value="bag",
                choices=["bag", "now"],
                description="Header stamps as recorded, or shifted to the time of playing.",
            ),
            switch("evaluate", True, "Evaluate the bag after playing it:"),
            DeclareLaunchArgument(
                "out", default_value="evaluation", description="Directory of the evaluation's report."
            ),
            DeclareLaunchArgument(
                "truth",
                default_value="auto",
                description="Labels: a CSV, topic:/NAME, name, or none; auto: a CSV beside the bag, or its name.",
            ),
            DeclareLaunchArgument(
                "min_accuracy",
                default_value="",
                description="End with exit code 1 below this share of windows, as 0.8; empty: no bound.",
            ),
            *node_arguments(),
            OpaqueFunction(function=_play_and_evaluate),
        ]
    )


def _play_and_evaluate(context):
    bag, topic = argument(context, "bag"), argument(context, "topic")
    suffix = BY_NAME[argument(context, "image_transport")].suffix
    recorded = ["--topic", f"{topic}{suffix}"]
    speed = ["--rate", argument(context, "rate"), "--stamps", argument(context, "stamps")]
    # The node may build its engine first, for minutes; where it ends, so does the launch.
    play = _gc_ros(context, "play", bag, *recorded, *speed, "--wait", "0")
    report = ["--bundle", argument(context, "bundle"), "--out", argument(context, "out")]
    report += ["--truth", argument(context, "truth")]
    for name in JUDGED:
        if argument(context, name) not in ("", "auto"):  # which the evaluation takes by itself
            report += [f"--{name}", argument(context, name)]
    if argument(context, "min_accuracy"):
        report += ["--min-accuracy", argument(context, "min_accuracy")]
    evaluate = ["evaluate", bag, *recorded, *report]
    check_first = _gc_ros(context, *evaluate, "--check") if truth(context, "evaluate") else None
    evaluation = _gc_ros(context, *evaluate)
    node = activity_node(
        context,
        # Recorded stamps are as old as the bag. A failure ends the launch: there is nobody to repair it.
        {"max_age_s": 0.0, "exit_on_failure": True},
        [("image", topic), ("image/compressed", f"{topic}/compressed")],
    )

    def checked(event, context):
        # Its error names the options of the command.
        here = "; its --topic is topic:= with image_transport:= here, its --truth truth:=, its --out out:="
        check("the check of what the evaluation needs", event, context, here)
        return None if context.is_shutdown else [play]

    def played(event, context):
        check("the player", event, context)
        if check_first is None:
            return _end(context, "the bag has been played")
        return None if context.is_shutdown else [evaluation]

    def evaluated(event, context):
        check("the evaluation", event, context)
        return _end(context, "the bag has been evaluated")

    def gone(event, context):
        check("the node", event, context)
        return _end(context, "the node has ended")

    ends = [(node, gone), (play, played)]
    if check_first:
        ends += [(check_first, checked), (evaluation, evaluated)]
    handlers = [RegisterEventHandler(OnProcessExit(target_action=p, on_exit=on_exit)) for p, on_exit in ends]
    return [*handlers, node, check_first or play]


def _end(context, reason):
    # The shutdown ends the other processes, whose handlers come here too: a second one is an error of the launch.
    return None if context.is_shutdown else [Shutdown(reason=reason)]


def _gc_ros(context, *arguments):
    # No launch_ros Node: that would append --ros-args, and these are no nodes with parameters.
    return ExecuteProcess(
        cmd=[ExecutableInPackage(executable="gc-ros", package=PACKAGE), *arguments],
        output="screen",
        additional_env=profile(context),
    )
