# SPDX-License-Identifier: Apache-2.0
"""The process around the node: executable `activity_node`, and `gc-ros node`. Memory, signals, exit codes.

0: ended by SIGINT or SIGTERM, in whatever state, within three seconds. 2: wrong use, or no ROS. 3: failure, with
`exit_on_failure`.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any

from trt_build.errors import GlimpseError
from trt_build.heap import keep_freed_memory

USAGE = "usage: activity_node --ros-args -p bundle:=BUNDLE [-r image:=TOPIC] [-p PARAMETER:=VALUE] [--params-file FILE]"


def _end_for_certain(context: Any, ended: threading.Event) -> None:
    """Three seconds after a signal the process is gone, also where a native call of the engine never returns."""
    while not ended.wait(0.2):
        if not context.ok():
            if not ended.wait(2.2):
                os._exit(0)
            return


def _note_signals() -> threading.Event:
    """Handlers that raise nothing; the event is set once a signal has come.

    Python's own handler for SIGINT raises KeyboardInterrupt wherever the main thread is: inside rclpy's native
    conversions it comes out as some RuntimeError. rclpy's handlers, installed by `rclpy.init`, end the context and
    call the ones of before.
    """
    signalled = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: signalled.set())
    return signalled


def main(argv: list[str] | None = None) -> int:
    """Run the node until a signal; returns the exit code. argv: ROS arguments, without the program's name."""
    signalled = _note_signals()
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        from gc_ros.node import ros_messages  # noqa: F401  (finds ROS, or says in one line what is missing)
    except GlimpseError as error:
        print(error, file=sys.stderr)
        return 2
    import rclpy
    from rclpy._rclpy_pybind11 import RCLError
    from rclpy.exceptions import InvalidParameterValueException
    from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
    from rclpy.utilities import remove_ros_args

    from gc_ros.node.lifecycle import NODE_NAME, ActivityRecognition, one_line, spin

    rest = remove_ros_args([NODE_NAME, *arguments])[1:]
    if rest:
        asked = rest[0] in ("-h", "--help")
        print(
            USAGE if asked else f"unknown argument {rest[0]}; {USAGE}",
            file=sys.stdout if asked else sys.stderr,
        )
        return 0 if asked else 2
    keep_freed_memory()
    ended = threading.Event()
    node: ActivityRecognition | None = None
    executor: SingleThreadedExecutor | None = None
    code = 0
    try:
        rclpy.init(args=[NODE_NAME, *arguments])
        context = rclpy.get_default_context()
        threading.Thread(target=_end_for_certain, args=(context, ended), daemon=True).start()
        node = ActivityRecognition()
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        if not signalled.is_set():  # before `init`: the context knows nothing of it
            node.start()
            spin(node, executor)
        code = node.exit_code or 0
    except ExternalShutdownException:
        pass
    except InvalidParameterValueException as error:
        print(f"{NODE_NAME}: {one_line(error)}", file=sys.stderr)
        code = 2
    finally:
        try:
            if executor is not None:
                executor.shutdown(timeout_sec=1.0)
            if node is not None:
                node.close()
            rclpy.try_shutdown()
        except RCLError:  # the context went away under us
            pass
        if not any(thread.name == "inference" for thread in threading.enumerate()):
            ended.set()
    if not ended.is_set():
        os._exit(code)  # an abandoned engine run would crash the interpreter's own end
    return code


if __name__ == "__main__":
    sys.exit(main())
