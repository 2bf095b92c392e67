# SPDX-License-Identifier: Apache-2.0
"""Play a bag into the node, evaluate the bag, end.

ros2 launch glimpse_clouds bag.launch.py bag:=p3 bundle:=$HOME/bundles/mine out:=report

The node runs as on the robot, for Foxglove to watch; then the same recogniser goes through the bag frame by frame
and writes the report. Ends with exit code 1 when the node, the player or the evaluation fails.
"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, ExecuteProcess, RegisterEventHandler, Shutdown
from launch.event_handlers import OnProcessExit
from launch.substitutions import LaunchConfiguration, PythonExpression
from launch_ros.substitutions import ExecutableInPackage

from gc_ros.node.launching import PACKAGE, activity_node, check, fast_dds, node_arguments, switch


def generate_launch_description():
    bag, topic = LaunchConfiguration("bag"), LaunchConfiguration("topic")
    compressed = ["'/compressed' if '", LaunchConfiguration("image_transport"), "' == 'compressed' else ''"]
    recorded = ["--topic", [topic, PythonExpression(compressed)]]
    speed = ["--rate", LaunchConfiguration("rate"), "--stamps", LaunchConfiguration("stamps")]
    play = _gc_ros("play", bag, *recorded, *speed)
    report = ["--bundle", LaunchConfiguration("bundle"), "--out", LaunchConfiguration("out")]
    truth = ["--truth", LaunchConfiguration("truth")]
    node = activity_node(
        # Recorded stamps are as old as the bag. A failure ends the launch: there is nobody to repair it.
        {"max_age_s": 0.0, "exit_on_failure": True},
        [("image", topic), ("image/compressed", [topic, "/compressed"])],
    )

    def played(event, context):
        check("the player", event, context)
        if LaunchConfiguration("evaluate").perform(context) != "true":
            return [Shutdown(reason="the bag has been played")]
        least = LaunchConfiguration("min_accuracy").perform(context)
        bound = ["--min-accuracy", least] if least else []
        evaluate = _gc_ros("evaluate", bag, *recorded, *report, *truth, *bound)
        return [RegisterEventHandler(OnProcessExit(target_action=evaluate, on_exit=evaluated)), evaluate]

    def evaluated(event, context):
        check("the evaluation", event, context)
        return [Shutdown(reason="the bag has been evaluated")]

    def gone(event, context):
        check("the node", event, context)
        return [Shutdown(reason="the node has ended")]

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
            switch("evaluate", True, "Evaluate the bag after playing it."),
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
            fast_dds(),
            RegisterEventHandler(OnProcessExit(target_action=node, on_exit=gone)),
            RegisterEventHandler(OnProcessExit(target_action=play, on_exit=played)),
            node,
            play,
        ]
    )


def _gc_ros(*arguments):
    # No launch_ros Node: that would append --ros-args, and these are no nodes with parameters.
    return ExecuteProcess(
        cmd=[ExecutableInPackage(executable="gc-ros", package=PACKAGE), *arguments], output="screen"
    )
