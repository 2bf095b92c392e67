# SPDX-License-Identifier: Apache-2.0
"""The process around the node: executable `activity_node`, and `gc-ros node`. Memory, signals, exit codes.

0: ended by SIGINT or SIGTERM, in whatever state, within three seconds. 2: wrong use, or no ROS. 3: failure, with
`exit_on_failure`.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from trt_build.errors import GlimpseError
from trt_build.heap import keep_freed_memory

USAGE = "usage: activity_node --ros-args -p bundle:=BUNDLE [-r image:=TOPIC] [-p PARAMETER:=VALUE] [--params-file FILE]"
WRONG_USE = 2
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def _give_up_signals(handler: signal.Handlers) -> None:
    """Raises ValueError outside of the main thread."""
    for number in _SIGNALS:
        signal.signal(number, handler)
    signal.set_wakeup_fd(-1)


def _forget_signals() -> None:
    """In a child that some library forks: a signal to it would go into the pipe, and end this process in its place."""
    with suppress(ValueError):  # not the main thread
        _give_up_signals(signal.SIG_DFL)


def _note_signals(ended: threading.Event) -> threading.Event:
    """An event that is set once a signal has come; 2.4 s later the process is gone, unless `ended` is set.

    Python's own handler for SIGINT raises KeyboardInterrupt wherever the main thread is: inside rclpy's native
    conversions it comes out as some RuntimeError. rclpy's handlers end the context at once, and then nobody can be
    told any more that an activity has ended. The interpreter calls these only between two steps of the main thread, but
    writes to the pipe at once, also where a native call of the engine never returns.
    """
    signalled = threading.Event()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    for number in _SIGNALS:
        signal.signal(number, lambda *_: signalled.set())
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

    def end_for_certain() -> None:
        while not set(os.read(reader, 1)) & set(_SIGNALS):
            pass
        signalled.set()
        if not ended.wait(2.4):
            os._exit(0)

    threading.Thread(target=end_for_certain, daemon=True).start()
    os.register_at_fork(after_in_child=_forget_signals)
    return signalled


def main(argv: list[str] | None = None) -> int:
    """Run the node until a signal; returns the exit code. argv: ROS arguments, without the program's name."""
    ended = threading.Event()
    signalled = _note_signals(ended)
    try:
        return _run(list(sys.argv[1:] if argv is None else argv), signalled, ended)
    finally:
        # The interpreter gives up our handlers before it ends, and a signal would kill it.
        _give_up_signals(signal.SIG_IGN)


def _run(arguments: Sequence[str], signalled: threading.Event, ended: threading.Event) -> int:
    try:
        from gc_ros.node import ros_messages  # noqa: F401  (finds ROS, or says in one line what is missing)
    except GlimpseError as error:
        return _refuse(str(error))
    from rclpy._rclpy_pybind11 import RCLError
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.utilities import get_default_context, try_shutdown

    from gc_ros.node import worker
    from gc_ros.node.lifecycle import NODE_NAME, ActivityRecognition, spin

    try:
        rest = _own_arguments(arguments)
    except GlimpseError as error:
        return _refuse(f"{NODE_NAME}: {error}")
    if rest and rest[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    if rest:
        return _refuse(f"unknown argument {rest[0]}; {USAGE}")
    keep_freed_memory()
    context = get_default_context()
    node: ActivityRecognition | None = None
    executor: SingleThreadedExecutor | None = None
    code = 0
    try:
        node = _make_node(arguments)
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        if not signalled.is_set():
            node.start()
            spin(node, executor, signalled.is_set)
        code = node.exit_code or 0
    except GlimpseError as error:
        code = _refuse(f"{NODE_NAME}: {error}")
    except Exception:
        # What a signal interrupts, or ends with the context, fails in whatever way.
        if not signalled.is_set() and (context.ok() or node is None):
            raise
    finally:
        try:
            if executor is not None:
                executor.shutdown(timeout_sec=1.0)
            if node is not None:
                node.close()
            try_shutdown()
        except RCLError:  # the context went away under us
            pass
        if not any(thread.name in worker.NAMES for thread in threading.enumerate()):
            ended.set()
    if not ended.is_set():
        os._exit(code)  # a native call that still runs would crash the interpreter's own end
    return code


def _own_arguments(arguments: Sequence[str]) -> list[str]:
    """The arguments that are not ROS's. Raises GlimpseError where ROS cannot take the others."""
    from rclpy.utilities import remove_ros_args

    from gc_ros.node import overrides

    path = overrides.missing_file(arguments)
    if path is not None:
        raise GlimpseError(f"there is no parameter file {path}; give --params-file an existing one")
    with _arguments_checked():
        return list(remove_ros_args(["activity_node", *arguments])[1:])


def _make_node(arguments: Sequence[str]) -> Any:
    """The node in the default context. Raises GlimpseError where the arguments are wrong."""
    import rclpy
    from rclpy.signals import SignalHandlerOptions

    from gc_ros.node.lifecycle import NODE_NAME, ActivityRecognition

    with _arguments_checked():
        rclpy.init(args=[NODE_NAME, *arguments], signal_handler_options=SignalHandlerOptions.NO)
        node = ActivityRecognition()
    refused, foreign = node.judge(arguments)
    if refused:
        node.close()
        raise GlimpseError(refused)
    if foreign:
        names = ", ".join(foreign)
        node.get_logger().warning(f"the parameter file has what this node has no parameter for: {names}")
    return node


@contextmanager
def _arguments_checked() -> Iterator[None]:
    """Raises GlimpseError for what rclpy says to arguments that it cannot take."""
    from rclpy._rclpy_pybind11 import RCLInvalidROSArgsError, UnknownROSArgsError
    from rclpy.exceptions import NameValidationException, ParameterException

    wrong = (RCLInvalidROSArgsError, UnknownROSArgsError, NameValidationException, ParameterException)
    try:
        yield
    except wrong as error:
        # rcl appends the lines of its own sources that the error went through.
        raise GlimpseError(re.sub(r",? at \S+:\d+", "", str(error))) from None


def _refuse(reason: str) -> int:
    print(reason, file=sys.stderr)
    return WRONG_USE


if __name__ == "__main__":
    sys.exit(main())
