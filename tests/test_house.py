# SPDX-License-Identifier: Apache-2.0
"""The order of the house, held by a walk over every import: at the top of a file, inside functions, for types only.

One direction between the packages, trt_build <- gc_ros <- gc_model, and one between the rooms of each; torch in
gc_model alone, ROS in gc_ros/node alone, no circle, no file that is too long to read in one sitting.
"""

from __future__ import annotations

import ast
import functools
import graphlib
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
# A package may import the packages before it, and a room (a folder or a module right below the package) the rooms of
# its own row and of the rows before it, but for the pairs of SEPARATE, which share a row and nothing else.
FLOORS: dict[str, tuple[frozenset[str], ...]] = {
    "trt_build": (
        frozenset({"errors", "command", "heap", "bundle", "preprocess", "engine", "tolerances"})
        | frozenset(
            {
                "footage",
                "files",
                "pool",
                "readout",
                "untrusted",
                "references",
                "integrity",
                "install",
                "tensors",
                "classes",
                "labels",
            }
        ),
        frozenset({"graphs"}),
        frozenset({"engines"}),
        frozenset({"verify", "bench"}),
        frozenset({"cli"}),
    ),
    "gc_ros": (
        frozenset({"stamps"}),
        frozenset({"media"}),
        frozenset({"recognition"}),
        frozenset({"evaluation", "node"}),
        frozenset({"teach", "watchers"}),
        frozenset({"cli", "commands", "security"}),
    ),
    "gc_model": (
        frozenset({"torchvision_guard"}),
        frozenset({"paper"}),
        frozenset({"data"}),
        frozenset({"training"}),
        frozenset({"export"}),
        frozenset({"evaluation"}),
        frozenset({"clip_commands", "commands", "cli"}),
    ),
}
SEPARATE = ({"gc_ros.evaluation", "gc_ros.node"}, {"trt_build.verify", "trt_build.bench"})
# The painter of synthetic people uses the lower packages, no other room of gc_model; only the command line uses it.
ALONE = "gc_model.synth"
COMMAND_LINES = {"cli.py", "commands.py"}
TORCH = {"torch", "torchvision", "torchmetrics", "timm", "lightning", "pytorch_lightning"}
# cv_bridge is not among them: it is optional, imported where an image of a rare encoding is decoded, from a bag too.
ROS = re.compile(r"rclpy|rcl_\w+|\w+_msgs|\w+_interfaces|std_srvs|launch|launch_ros|glimpse_clouds|ament_\w+")
LINES = 350


class Import(NamedTuple):
    name: str  # dotted
    line: int
    lazy: bool  # inside a function


@functools.cache  # the trees of the tests below differ in one file each
def read(text: str, package: str) -> tuple[Import, ...]:
    """Every import in a source file; package is the dotted name that a relative import starts from.

    `from a import b` is given as a.b, whether b is a module or not. A module that is named by a string counts as
    imported by the call that gets the string: import_module, __import__, `errors.need` and whatever wraps them.
    """
    found: list[Import] = []

    def absolute(name: str, level: int) -> str:
        parts = package.split(".")[: len(package.split(".")) - level + 1] if level else []
        return ".".join([*parts, *filter(None, [name])])

    def visit(node: ast.AST, lazy: bool) -> None:
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{absolute(node.module or '', node.level)}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            word, called = node.args[0].value, ast.unparse(node.func).split(".")[-1]
            if isinstance(word, str) and re.fullmatch(r"\.*\w+(\.\w+)*", word):
                ours = word.split(".")[0] in FLOORS and "." in word
                if ours or called in {"import_module", "__import__", "need"}:
                    dots = len(word) - len(word.lstrip("."))
                    names = [absolute(word.lstrip("."), dots)]
        found.extend(Import(name, node.lineno, lazy) for name in names)
        inside = lazy or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for child in ast.iter_child_nodes(node):
            visit(child, inside)

    visit(ast.parse(text), False)
    return tuple(found)


def modules_of(root: Path) -> dict[str, Path]:
    """Dotted name -> file, for the three packages below root."""
    found = {}
    for path in sorted(path for package in FLOORS for path in (root / package).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def room(module: str) -> str:
    """`package.room`, or the package's own name for its __init__.py."""
    return ".".join(module.split(".")[:2])


def floor(module: str) -> int | None:
    """Index of its row, -1 for the package itself, None where the house has no place for it."""
    package, _, name = room(module).partition(".")
    if not name:
        return -1
    return next((index for index, row in enumerate(FLOORS[package]) if name in row), None)


def complaint(source: str, path: Path, target: str, lazy: bool) -> str | None:
    """What is wrong with `source`, in file path, importing our module `target`; None where nothing is."""
    order = list(FLOORS)
    here, there = source.split(".")[0], target.split(".")[0]
    if here != there:
        if order.index(there) < order.index(here):
            return None
        if path.name not in COMMAND_LINES:
            return f"imports {target}, which is above it"
        return None if lazy else f"imports {target}, which is above it, outside of a function"
    if room(source) == room(target):
        return None
    if room(source) == ALONE and "." in target:
        return f"imports {target}: {ALONE} stands alone"
    if room(target) == ALONE:
        return None if path.name in COMMAND_LINES else f"imports {target}: {ALONE} stands alone"
    if {room(source), room(target)} in SEPARATE:
        return f"imports {target}, a room of the same floor"
    low, high = floor(target), floor(source)
    if low is not None and high is not None and low > high:
        return f"imports {target}, which is above it"
    return None


def circles(edges: dict[str, set[str]]) -> Iterator[str]:
    """Each circle of imports once; edges are taken out until none is left."""
    while True:
        try:
            graphlib.TopologicalSorter(edges).prepare()
            return
        except graphlib.CycleError as error:
            ring = list(reversed(error.args[1]))
            edges[ring[0]].discard(ring[1])
            start = ring.index(min(ring))
            yield "circle: " + " -> ".join([*ring[start:-1], *ring[:start], ring[start]])


def broken(root: Path) -> list[str]:
    """What breaks the order of the packages below root, one line each, empty where all is well."""
    modules, found = modules_of(root), []
    edges: dict[str, set[str]] = {name: set() for name in modules}
    for source, path in modules.items():
        file, text = path.relative_to(root).as_posix(), path.read_text()
        if floor(source) is None and room(source) != ALONE:
            found.append(f"{file}: {room(source)} has no place in the house")
        if (length := len(text.splitlines())) > LINES:
            found.append(f"{file}: {length} lines, more than {LINES}")
        for name, line, lazy in read(
            text, source if path.name == "__init__.py" else source.rpartition(".")[0]
        ):
            top = name.split(".")[0]
            if top in TORCH and not source.startswith("gc_model"):
                found.append(f"{file}:{line}: {top} below gc_model")
            if ROS.fullmatch(top) and room(source) != "gc_ros.node":
                found.append(f"{file}:{line}: {top} outside of gc_ros/node")
            # The module itself, and the packages around it, which Python imports on the way.
            parents = [name.rsplit(".", count)[0] for count in range(name.count(".") + 1)]
            targets = [parent for parent in parents if parent in modules]
            edges[source].update(target for target in targets if not f"{source}.".startswith(f"{target}."))
            if targets and (wrong := complaint(source, path, targets[0], lazy)):
                found.append(f"{file}:{line}: {wrong}")
    return [*dict.fromkeys(found), *circles(edges)]


def test_every_import_keeps_the_order_of_the_house() -> None:
    assert broken(ROOT) == []


def test_the_walk_sees_the_whole_house() -> None:
    modules = modules_of(ROOT)
    for package in FLOORS:
        assert sum(name.startswith(f"{package}.") for name in modules) > 20
    seen = {
        (name, found.name, found.lazy)
        for name in ("gc_ros.cli", "trt_build.cli")
        for found in read(modules[name].read_text(), name.split(".")[0])
    }
    assert ("gc_ros.cli", "trt_build.errors.GlimpseError", False) in seen
    assert ("gc_ros.cli", "gc_ros.node.process", True) in seen  # named by a string
    assert any(
        name == "trt_build.cli" and found.startswith("gc_model.") and lazy for name, found, lazy in seen
    )


@pytest.fixture
def house(tmp_path: Path) -> Callable[..., list[str]]:
    """house({path: text}): the complaints that files with these texts add to those of a copy of this tree."""
    for package in FLOORS:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))

    def plant(files: dict[str, str]) -> list[str]:
        before = set(broken(tmp_path))
        for file, text in files.items():
            path = tmp_path / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text((path.read_text() if path.exists() else "") + text)
        return [line for line in broken(tmp_path) if line not in before]

    return plant


UPWARD = "trt_build/graphs/planted.py:1: imports gc_ros.media.clips, which is above it"


@pytest.mark.parametrize(
    ("file", "text", "expected"),
    [
        # Between the packages, in every way to write it.
        ("trt_build/graphs/planted.py", "import gc_ros.media.clips\n", UPWARD),
        ("trt_build/graphs/planted.py", "from gc_ros.media import clips\n", UPWARD),
        ("trt_build/graphs/planted.py", "from gc_ros.media.clips import anything\n", UPWARD),
        ("trt_build/graphs/planted.py", "import_module('gc_ros.media.clips')\n", UPWARD),
        ("trt_build/graphs/planted.py", "need('gc_ros.media.clips', 'no remedy')\n", UPWARD),
        ("trt_build/graphs/planted.py", "f = lambda: __import__('gc_ros.media.clips')\n", UPWARD),
        (
            "trt_build/graphs/planted.py",
            "def f():\n    import gc_ros.media.clips as c\n",
            UPWARD.replace(":1:", ":2:"),
        ),
        (
            "gc_ros/node/planted.py",
            "class C:\n    async def f(self):\n        from gc_model.paper import presets\n",
            "gc_ros/node/planted.py:3: imports gc_model.paper.presets, which is above it",
        ),
        (
            "gc_ros/evaluation/planted/commands.py",
            "import gc_model\n",
            "gc_ros/evaluation/planted/commands.py:1: imports gc_model, which is above it, outside of a function",
        ),
        # Between the rooms of one package.
        (
            "trt_build/graphs/planted.py",
            "from ..engines import open\n",
            "trt_build/graphs/planted.py:1: imports trt_build.engines.open, which is above it",
        ),
        (
            "trt_build/engines/planted.py",
            "from trt_build.verify import x\n",
            "trt_build/engines/planted.py:1: imports trt_build.verify, which is above it",
        ),
        (
            "gc_ros/media/planted.py",
            "from gc_ros import recognition\n",
            "gc_ros/media/planted.py:1: imports gc_ros.recognition, which is above it",
        ),
        (
            "gc_ros/node/planted.py",
            "import gc_ros.evaluation.sources\n",
            "gc_ros/node/planted.py:1: imports gc_ros.evaluation.sources, a room of the same floor",
        ),
        (
            "gc_model/paper/planted.py",
            "from gc_model.training.train import train\n",
            "gc_model/paper/planted.py:1: imports gc_model.training.train, which is above it",
        ),
        (
            "gc_model/evaluation/planted.py",
            "def f():\n    from gc_model.cli import app\n",
            "gc_model/evaluation/planted.py:2: imports gc_model.cli, which is above it",
        ),
        (
            "gc_model/synth/planted.py",
            "from gc_model.data import sampling\n",
            "gc_model/synth/planted.py:1: imports gc_model.data.sampling: gc_model.synth stands alone",
        ),
        (
            "gc_model/data/planted.py",
            "import gc_model.synth.body\n",
            "gc_model/data/planted.py:1: imports gc_model.synth.body: gc_model.synth stands alone",
        ),
        # Libraries.
        (
            "gc_ros/recognition/planted.py",
            "def f():\n    import torch.nn\n",
            "gc_ros/recognition/planted.py:2: torch below gc_model",
        ),
        (
            "trt_build/engines/planted.py",
            "from timm import x\n",
            "trt_build/engines/planted.py:1: timm below gc_model",
        ),
        (
            "gc_ros/planted/__init__.py",
            "need('lightning', '')",
            "gc_ros/planted/__init__.py:1: lightning below gc_model",
        ),
        (
            "gc_ros/recognition/planted.py",
            "from sensor_msgs.msg import Image\n",
            "gc_ros/recognition/planted.py:1: sensor_msgs outside of gc_ros/node",
        ),
        (
            "gc_ros/evaluation/planted.py",
            "def f():\n    import rclpy\n",
            "gc_ros/evaluation/planted.py:2: rclpy outside of gc_ros/node",
        ),
        # Files.
        ("gc_ros/utils.py", "\n", "gc_ros/utils.py: gc_ros.utils has no place in the house"),
        ("gc_model/paper/planted.py", "x = 1\n" * 351, "gc_model/paper/planted.py: 351 lines, more than 350"),
    ],
)
def test_a_line_that_breaks_the_order_is_found(
    house: Callable[..., list[str]], file: str, text: str, expected: str
) -> None:
    assert expected in house({file: text})


@pytest.mark.parametrize(
    "first",
    ["import gc_model.paper.b\n", "def f():\n    from gc_model.paper import b\n", "from .b import x\n"],
)
def test_a_circle_is_found_where_one_half_is_lazy(house: Callable[..., list[str]], first: str) -> None:
    files = {
        "gc_model/paper/a.py": first,
        "gc_model/paper/b.py": "def f():\n    from gc_model.paper.a import y\n",
    }
    assert house(files) == ["circle: gc_model.paper.a -> gc_model.paper.b -> gc_model.paper.a"]


def test_a_circle_through_the_init_file_of_a_folder_is_found(house: Callable[..., list[str]]) -> None:
    files = {
        "gc_model/data/planted/__init__.py": "from gc_model.data.planted.inner import x\n",
        "gc_model/data/planted/inner.py": "import gc_model.data.outer\n",
        "gc_model/data/outer.py": "from gc_model.data.planted.other import y\n",
        "gc_model/data/planted/other.py": "y = 1\n",
    }
    (line,) = house(files)
    assert line.startswith("circle: gc_model.data.outer -> gc_model.data.planted ->")


def test_what_the_house_allows_is_not_complained_of(house: Callable[..., list[str]]) -> None:
    files = {
        "trt_build/graphs/commands.py": "def f():\n    from gc_model.export import onnx\n",
        "trt_build/graphs/planted.py": "from trt_build.bundle import LoadedBundle\nfrom trt_build import errors\n",
        "gc_ros/node/planted.py": "import rclpy\nfrom gc_ros.recognition import recognizer\nimport trt_build\n",
        "gc_model/data/planted.py": "import torch\nfrom gc_ros.media.clips import x\nfrom . import sampling\n",
        "gc_model/data/__init__.py": "from gc_model.data.planted import x\n",
    }
    assert house(files) == []


def test_the_tests_follow_the_folders() -> None:
    for package in FLOORS:
        for folder in [path for path in (ROOT / "tests" / package).rglob("*") if path.is_dir()]:
            if folder.name != "__pycache__":
                assert (ROOT / folder.relative_to(ROOT / "tests")).is_dir(), folder
