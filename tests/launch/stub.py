# SPDX-License-Identifier: Apache-2.0
"""As much of launch and launch_ros as the launch files use, for where the real ones cannot be installed.

Constructors take what the real ones take and nothing else, so a misspelt option is an error here too. `Run` does with
a launch file what `ros2 launch` does up to starting processes: these it notes, with the command, the environment and
the parameters; a test says how each of them ends, and learns whether it would be started again.

As seen in the real one (launch 3.7.1, launch_ros 0.28.0): the arguments of a launch file that is included in a group
are gone once the group has been visited (`grouped`); a second Shutdown is an error; what a handler raises ends the
launch as a failure; ShutdownProcess keeps a process that has ended from being started again.
"""

from __future__ import annotations

import contextlib
import os
import runpy
import sys
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import yaml

ROOT = Path(__file__).resolve().parents[2]
used: set[str] = set()  # names of all launch configurations asked for since `Run` began


class Substitution:
    def perform(self, context: Context) -> str:
        raise NotImplementedError


class TextSubstitution(Substitution):
    def __init__(self, *, text: str) -> None:
        self.text = text

    def perform(self, context: Context) -> str:
        return self.text


class LaunchConfiguration(Substitution):
    def __init__(self, variable_name: str, *, default: Any = None) -> None:
        self.name, self.default = variable_name, default
        used.add(variable_name)

    def perform(self, context: Context) -> str:
        if self.name not in context.launch_configurations and self.default is None:
            raise RuntimeError(f"launch configuration '{self.name}' does not exist")
        return context.launch_configurations.get(self.name) or text(context, self.default or "")


class EnvironmentVariable(Substitution):
    def __init__(self, name: str, *, default_value: Any = None) -> None:
        self.name, self.default = name, default_value

    def perform(self, context: Context) -> str:
        if self.name in context.environment:
            return context.environment[self.name]
        assert self.default is not None, f"environment variable {self.name} does not exist"
        return text(context, self.default)


class PathJoinSubstitution(Substitution):
    def __init__(self, substitutions: list[Any]) -> None:
        self.parts = substitutions

    def perform(self, context: Context) -> str:
        return os.path.join(*(text(context, part) for part in self.parts))


class FindPackageShare(Substitution):
    def __init__(self, package: Any) -> None:
        self.package = package

    def perform(self, context: Context) -> str:
        assert text(context, self.package) == "glimpse_clouds", self.package
        return str(ROOT)  # launch, config and bundles lie there as they do under share/glimpse_clouds


class ExecutableInPackage(Substitution):
    def __init__(self, executable: Any, package: Any) -> None:
        self.executable, self.package = executable, package

    def perform(self, context: Context) -> str:
        path = Path(
            FindPackageShare(self.package).perform(context), "scripts", text(context, self.executable)
        )
        assert os.access(path, os.X_OK), f"executable {path.name} not found on the libexec directory"
        return str(path)


def text(context: Context, value: Any) -> str:
    """As launch.utilities.normalize_to_list_of_substitutions and perform_substitutions together."""
    if isinstance(value, str):
        return value
    if isinstance(value, Substitution):
        return value.perform(context)
    assert isinstance(value, list | tuple), f"neither text nor substitution: {value!r}"
    return "".join(text(context, part) for part in value)


def typed(context: Context, value: Any, kind: Any) -> Any:
    """As perform_typed_substitution: the text read by YAML's rules, and of that type or an error."""
    if not isinstance(value, Substitution):
        return value
    performed = text(context, value)
    if kind is str:
        return performed
    read = yaml.safe_load(performed)
    if typing.get_origin(kind) is list:
        (item,) = typing.get_args(kind)
        if isinstance(read, list) and read and all(type(part) is item for part in read):
            return read
    elif type(read) is kind or (kind is float and type(read) is int):
        return kind(read)
    raise ValueError(f"cannot convert {performed!r} to {kind}")


class ParameterValue:
    def __init__(self, value: Any, *, value_type: Any = None) -> None:
        self.value, self.value_type = value, value_type

    def evaluate(self, context: Context) -> Any:
        return typed(context, self.value, self.value_type)


class Action:
    def execute(self, context: Context) -> list[Action]:
        raise NotImplementedError


class DeclareLaunchArgument(Action):
    def __init__(
        self, name: str, *, default_value: Any = None, description: str | None = None, choices: Any = None
    ) -> None:
        self.name, self.default, self.description, self.choices = name, default_value, description, choices
        if choices is not None and isinstance(default_value, str) and default_value not in choices:
            raise RuntimeError(f'Provided default_value "{default_value}" is not in provided choices')

    def execute(self, context: Context) -> list[Action]:
        values = context.launch_configurations
        if self.name not in values:
            if self.default is None:
                raise RuntimeError(f'Required launch argument "{self.name}" was not provided.')
            values[self.name] = text(context, self.default)
        if self.choices is not None and values[self.name] not in self.choices:
            raise RuntimeError(f'Argument "{self.name}" provided value "{values[self.name]}" is not valid.')
        return []


class OpaqueFunction(Action):
    def __init__(self, *, function: Any, args: Any = (), kwargs: Any = None) -> None:
        self.call = lambda context: function(context, *args, **(kwargs or {}))

    def execute(self, context: Context) -> list[Action]:
        return list(self.call(context) or [])


class AnyLaunchDescriptionSource:
    def __init__(self, launch_file_path: Any) -> None:
        self.path = launch_file_path


class IncludeLaunchDescription(Action):
    """Notes what would be included, and with which launch configurations."""

    def __init__(
        self, launch_description_source: AnyLaunchDescriptionSource, *, launch_arguments: Any = ()
    ) -> None:
        self.source, self.arguments = launch_description_source, launch_arguments

    def execute(self, context: Context) -> list[Action]:
        given = {text(context, name): text(context, value) for name, value in self.arguments}
        context.included.append((text(context, self.source.path), {**context.launch_configurations, **given}))
        return []


class GroupAction(Action):
    def __init__(self, actions: list[Action], *, scoped: bool = True, forwarding: bool = True) -> None:
        self.actions, self.scoped, self.forwarding = actions, scoped, forwarding

    def execute(self, context: Context) -> list[Action]:
        assert self.scoped, "what is declared inside would reach everything after it"
        kept = context.launch_configurations
        context.launch_configurations = dict(kept) if self.forwarding else {}
        for action in self.actions:
            assert not action.execute(context), "the stub includes no actions"
        context.launch_configurations = kept
        return []


class Shutdown(Action):
    def __init__(self, *, reason: str = "reason not given") -> None:
        self.reason = reason

    def execute(self, context: Context) -> list[Action]:
        if context.is_shutdown:  # launch_ros ends its own node a second time
            raise RuntimeError("Cannot shutdown a ROS adapter that is not running")
        context.is_shutdown, context.reason = True, self.reason
        return []


class LogInfo(Action):
    def __init__(self, *, msg: Any) -> None:
        self.msg = msg

    def execute(self, context: Context) -> list[Action]:
        context.logged.append(text(context, self.msg))
        return []


class ShutdownProcess:
    def __init__(self, *, process_matcher: Any) -> None:
        self.process_matcher = process_matcher


def matches_action(target_action: Any) -> Any:
    return lambda action: action is target_action


class EmitEvent(Action):
    def __init__(self, *, event: ShutdownProcess) -> None:
        self.event = event

    def execute(self, context: Context) -> list[Action]:
        for process in context.processes:
            if self.event.process_matcher(process.action):
                process.respawn = False
        return []


class ExecuteProcess(Action):
    def __init__(
        self, *, cmd: Any, output: str = "log", respawn: Any = False, respawn_delay: float | None = None,
        emulate_tty: bool = False, name: Any = None, additional_env: Any = None, on_exit: Any = None,
    ) -> None:  # fmt: skip
        self.cmd, self.respawn, self.additional_env = cmd, respawn, additional_env or {}
        assert on_exit is None, "the stub knows RegisterEventHandler(OnProcessExit(...)) alone"

    def execute(self, context: Context) -> list[Action]:
        command = [text(context, part) for part in self.cmd]
        respawn = typed(context, self.respawn, bool)
        added = {text(context, name): text(context, value) for name, value in self.additional_env.items()}
        context.processes.append(Process(self, command, {**context.environment, **added}, respawn))
        return []


class LifecycleNode(ExecuteProcess):
    def __init__(
        self, *, package: Any, executable: Any, name: str, namespace: Any, parameters: Any = (),
        remappings: Any = (), arguments: Any = (), **options: Any,
    ) -> None:  # fmt: skip
        super().__init__(cmd=[ExecutableInPackage(executable, package), *arguments], **options)
        self.name, self.namespace, self.parameters, self.remappings = name, namespace, parameters, remappings

    def execute(self, context: Context) -> list[Action]:
        super().execute(context)
        process = context.processes[-1]
        namespace = text(context, self.namespace)
        if not namespace.startswith("/"):
            namespace = (
                f"{context.launch_configurations.get('ros_namespace', '')}/{namespace}".rstrip("/") or "/"
            )
        process.command += ["--ros-args", "-r", f"__node:={self.name}", "-r", f"__ns:={namespace}"]
        for item in self.parameters:
            if isinstance(item, dict):
                values = {key: self._value(context, value) for key, value in item.items()}
                process.parameters.update(values)
                file = context.folder / f"launch_params_{len(list(context.folder.iterdir()))}"
                file.write_text(yaml.safe_dump({"/**": {"ros__parameters": values}}))
                process.command += ["--params-file", str(file)]
            elif Path(text(context, item)).is_file():  # the real one warns and starts the node without it
                process.command += ["--params-file", text(context, item)]
        for source, target in self.remappings:
            process.remappings[text(context, source)] = text(context, target)
            process.command += ["-r", f"{text(context, source)}:={text(context, target)}"]
        return []

    def _value(self, context: Context, value: Any) -> Any:
        assert isinstance(value, ParameterValue | bool | int | float), f"say the type of {value!r}"
        return value.evaluate(context) if isinstance(value, ParameterValue) else value


class OnProcessExit:
    def __init__(self, *, target_action: Any = None, on_exit: Any) -> None:
        self.target, self.on_exit = target_action, on_exit


class RegisterEventHandler(Action):
    def __init__(self, event_handler: OnProcessExit) -> None:
        self.handler = event_handler

    def execute(self, context: Context) -> list[Action]:
        context.handlers.append(self.handler)
        return []


class LaunchDescription:
    def __init__(self, initial_entities: list[Action]) -> None:
        self.entities = initial_entities


class Process:
    """A process that would have been started."""

    def __init__(self, action: Any, command: list[str], environment: dict[str, str], respawn: bool) -> None:
        self.action, self.command, self.environment, self.respawn = action, command, environment, respawn
        self.parameters: dict[str, Any] = {}
        self.remappings: dict[str, str] = {}

    @property
    def words(self) -> list[str]:
        """Name of the program and its arguments."""
        return [Path(self.command[0]).name, *self.command[1:]]


@dataclass
class Exit:
    """The event of a process that ended."""

    action: Any
    returncode: int


class Context:
    def __init__(self, folder: Path, arguments: dict[str, str], environment: dict[str, str]) -> None:
        self.folder, self.environment = folder, environment
        self.launch_configurations = dict(arguments)
        self.processes: list[Process] = []
        self.handlers: list[OnProcessExit] = []
        self.included: list[tuple[str, dict[str, str]]] = []
        self.is_shutdown, self.reason = False, ""
        self.logged: list[str] = []


MODULES: dict[str, tuple[Any, ...]] = {
    "launch": (LaunchDescription,),
    "launch.actions": (
        DeclareLaunchArgument, EmitEvent, ExecuteProcess, GroupAction, IncludeLaunchDescription, LogInfo,
        OpaqueFunction, RegisterEventHandler, Shutdown,
    ),
    "launch.event_handlers": (OnProcessExit,),
    "launch.events": (matches_action,),
    "launch.events.process": (ShutdownProcess,),
    "launch.launch_description_sources": (AnyLaunchDescriptionSource,),
    "launch.substitutions": (
        EnvironmentVariable, LaunchConfiguration, PathJoinSubstitution, TextSubstitution,
    ),
    "launch_ros": (),
    "launch_ros.actions": (LifecycleNode,),
    "launch_ros.parameter_descriptions": (ParameterValue,),
    "launch_ros.substitutions": (ExecutableInPackage, FindPackageShare),
}  # fmt: skip


@contextlib.contextmanager
def installed() -> Iterator[None]:
    """These modules in place of the real ones."""
    modules = {name: types.ModuleType(name) for name in MODULES}
    for name, members in MODULES.items():
        for member in members:
            setattr(modules[name], member.__name__, member)
    with mock.patch.dict(sys.modules, modules):
        sys.modules.pop("gc_ros.node.launching", None)
        yield


class Run:
    """A launch file with arguments, run until the processes it starts at once.

    grouped: included as nav2 includes others, in a GroupAction with PushRosNamespace("robot1").
    """

    def __init__(
        self,
        path: Path,
        folder: Path,
        environment: dict[str, str] | None = None,
        *,
        grouped: bool = False,
        **arguments: str,
    ) -> None:
        used.clear()
        with installed():
            self.description = runpy.run_path(str(path))["generate_launch_description"]()
        self.declared = [e for e in self.description.entities if isinstance(e, DeclareLaunchArgument)]
        self.context = Context(folder, arguments, dict(environment or {}))
        if grouped:
            self.context.launch_configurations["ros_namespace"] = "/robot1"
        with installed():
            self._visit(self.description.entities)
        if grouped:
            self.context.launch_configurations.clear()

    def _visit(self, entities: list[Action]) -> None:
        for entity in entities:
            self._visit(entity.execute(self.context))

    @property
    def processes(self) -> list[Process]:
        return self.context.processes

    def end(self, process: Process, code: int = 0) -> bool:
        """The process has ended: what is registered for that happens. Whether it is started again."""
        for handler in list(self.context.handlers):
            if handler.target is process.action:
                with installed():
                    self._visit(list(handler.on_exit(Exit(process.action, code), self.context) or []))
        return process.respawn and not self.context.is_shutdown
