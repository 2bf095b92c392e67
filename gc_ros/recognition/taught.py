# SPDX-License-Identifier: Apache-2.0
"""What a robot was taught: activities shown to it, kept as the features of their windows, never as pictures.

A `Taught` is a value: teaching, forgetting, renaming and merging give another one. `judge` says whether what was shown
is enough to tell the activity from the others. The files are `taught_file`'s, the decision `discriminant`'s.
"""

from __future__ import annotations

import math
import shlex
import unicodedata
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gc_ros.media.kinds import plain
from gc_ros.recognition.discriminant import Discriminant
from gc_ros.recognition.space import Examples, Space
from trt_build.bundle import LoadedBundle
from trt_build.classes import read_classes
from trt_build.errors import BundleError, DataError
from trt_build.labels import IDLE_LABELS, MAX_LABEL_LENGTH, printable
from trt_build.readout import POOLED

MAX_ACTIVITIES, MAX_WINDOWS = 64, 128  # taught to one bundle; kept of one activity
_JOINERS = "\u200c\u200d"  # of letters, in scripts that need them
NONE = "none"  # what is none of the activities, where it is forgotten by name
_NOTHING = ("unknown", NONE, *IDLE_LABELS)
FEW, SCATTERED, CLOSE = 3, 0.6, 0.1


@dataclass(frozen=True)
class Taught:
    """Activities taught to one model, in the order in which they were.

    model_id: of the bundle. none: what is none of them. Raises DataError where more is taught than fits.
    """

    model_id: str
    activities: Mapping[str, Examples] = field(default_factory=dict)
    none: Examples | None = None

    def __post_init__(self) -> None:
        if len(self.activities) > MAX_ACTIVITIES:
            raise DataError(f"{MAX_ACTIVITIES} activities are taught already; forget one: gc-ros forget NAME")

    def check(self, model_id: str, folder: Path | None = None) -> None:
        """Raise DataError unless the bundle in use has the model that it was taught to. folder: where it lies."""
        if self.model_id != model_id:
            raise DataError(
                f"{folder or 'this'} was taught to {self.model_id}, but the bundle is {model_id}: use the bundle that "
                "it was taught to; or move it away, or name another folder, and teach again"
            )

    def taught(self, name: str, examples: Examples) -> Taught:
        """With an activity, or more examples of one that is there."""
        name = self.like(name) or name
        before = self.activities.get(name)
        return replace(self, activities={**self.activities, name: _joined(before, examples)})

    def with_none(self, examples: Examples) -> Taught:
        """With more examples of what is none of the activities."""
        return replace(self, none=_joined(self.none, examples))

    def forgotten(self, name: str) -> Taught:
        """Without an activity; for `NONE`, without what is none of them. Raises DataError where it was not shown."""
        name = self.holds(name) or self.spelled(name)
        if name == NONE:
            return replace(self, none=None)
        return replace(self, activities={n: e for n, e in self.activities.items() if n != name})

    def renamed(self, old: str, new: str) -> Taught:
        """With another name for an activity. Raises DataError where `old` was not taught, or `new` was."""
        old = self.spelled(old)
        if (same := self.like(new)) not in (None, old) or new == old:
            raise DataError(f'"{same}" is taught already; forget it first, or choose another name')
        return replace(self, activities={new if n == old else n: e for n, e in self.activities.items()})

    def merged(self, other: Taught) -> Taught:
        """What either was taught; of an activity that both know, the examples of both. Raises DataError.

        Merging again changes nothing, and the order of merging changes no examples.
        """
        if other.model_id != self.model_id:
            raise DataError(
                f"taught to {other.model_id}, this is {self.model_id}; "
                "only what the same model was taught can be merged"
            )
        result = self if other.none is None else self.with_none(other.none)
        for name, examples in other.activities.items():
            result = result.taught(name, examples)
        return result

    def spelled(self, name: str) -> str:
        """The name of an activity as it was taught, of one that looks the same. Raises DataError where none was."""
        found = self.like(name)
        if found is None:
            known = ", ".join(self.activities) or "nothing"
            raise DataError(f'"{name}" was not taught; taught is: {known}')
        return found

    def holds(self, name: str) -> str | None:
        """What of all this a name means: an activity as it was taught, or `NONE`; None where it means nothing."""
        return self.like(name) or (NONE if self.none is not None and plain(name) == NONE else None)

    def like(self, name: str) -> str | None:
        """The name of an activity as it was taught, of one that looks the same; None where none was."""
        return alike(name, self.activities)


def _looks(name: str) -> str:
    return unicodedata.normalize("NFC", name).strip()


def alike(name: str, known: Collection[str]) -> str | None:
    """Which of some names looks the same as a name, best itself; None where none does."""
    return name if name in known else next((own for own in known if _looks(own) == _looks(name)), None)


def check_name(name: str, bundle: LoadedBundle) -> str:
    """The name in Unicode form NFC, without spaces around it or anything invisible: what looks alike is one name.

    Raises DataError for one that no taught activity may have.
    """
    name = sound_name(name)
    if own := [label for label in bundle.info.labels if plain(label) == plain(name)]:
        raise DataError(
            f'"{own[0]}" is an activity of {bundle.info.model_id} itself; choose another name, or train with more clips'
        )
    return name


def sound_name(name: str) -> str:
    """As `check_name`, whatever the bundle's own activities are."""
    name = _looks(name)
    try:
        printable(name, "the name")
    except ValueError as error:
        raise DataError(f"{error}") from None
    if unseen := next((c for c in name if unicodedata.category(c) == "Cf" and c not in _JOINERS), ""):
        raise DataError(f"the name {name[:40]!a} holds an invisible character, {unseen!a}; leave it out")
    if name.strip(_JOINERS) != name:
        raise DataError(f"the name {name[:40]!a} begins or ends with an invisible character; leave it out")
    if not name or len(name) > MAX_LABEL_LENGTH:
        raise DataError(f"an activity needs a name of 1 to {MAX_LABEL_LENGTH} characters")
    if plain(name) in _NOTHING:
        raise DataError(
            f'"{name}" is what results and tables say of no activity; choose another name, or show such clips as none '
            "of the activities"
        )
    return name


def check_widths(taught: Taught, bundle: LoadedBundle, folder: Path | None = None) -> None:
    """Raise DataError unless all examples have as many features as the bundle's windows. folder: where they lie."""
    width = POOLED * bundle.info.embedding
    there = "" if folder is None else f"{folder}: "
    for name, examples in [*taught.activities.items(), (NONE, taught.none)]:
        if examples is None or examples.features.shape[1] == width:
            continue
        raise DataError(
            f"{there}the examples of {name!r} have {examples.features.shape[1]} features, which do not fit "
            f"{bundle.info.model_id} with {width}; forget it: {forgetting(name, bundle, folder)}; or move the folder "
            "away and teach again"
        )


def check_taught(taught: Taught, bundle: LoadedBundle, folder: Path | None = None) -> None:
    """Raise DataError unless what was taught can be used with a bundle. folder: where it lies."""
    taught.check(bundle.info.model_id, folder)
    check_widths(taught, bundle, folder)
    own = {plain(label): label for label in bundle.info.labels}
    for name in taught.activities:
        if plain(name) in own:
            there = "what was taught" if folder is None else str(folder)
            raise DataError(
                f'"{name}" of {there} is an activity of the bundle itself, "{own[plain(name)]}"; forget it: '
                f"{forgetting(name, bundle, folder)}; or give it another name: "
                f"{_command('taught', bundle, folder, f'--rename={name}=NEW')}"
            )


def forgetting(name: str, bundle: LoadedBundle, folder: Path | None) -> str:
    """The command that forgets an activity, to be typed."""
    return _command("forget", bundle, folder, *(["--"] if name.startswith("-") else []), name)


def _command(command: str, bundle: LoadedBundle, folder: Path | None, *more: str) -> str:
    there = [] if folder is None else ["--taught", str(folder)]
    return shlex.join(["gc-ros", command, "-b", str(bundle.path), *there, *more])


def examples_of(windows: Mapping[int, NDArray[np.float32]] | list[NDArray[np.float32]]) -> Examples:
    """Examples from the features (n_i, F) of each clip's windows. Raises DataError where an engine gives no such."""
    clips = list(windows.values()) if isinstance(windows, Mapping) else list(windows)
    features = np.concatenate(clips).astype(np.float32)
    numbers = np.repeat(np.arange(len(clips)), [len(c) for c in clips])
    examples = Examples(features, numbers.astype(np.int64))
    if not examples.sound:
        raise DataError(
            "the engine's embedding is not finite, or far too large; check the engine with: trt-build verify"
        )
    return examples


def space_of(bundle: LoadedBundle) -> Space:
    """What the bundle's classes say about its features. Raises BundleError where it cannot be taught."""
    if not bundle.info.embedding:
        raise BundleError(
            f"{bundle.path}: this bundle cannot be taught: its graphs have no embedding, which older exports lack; "
            "export its run again: trt-build export RUN --out BUNDLE --clips DATA"
        )
    classes = read_classes(bundle)
    if classes is None:
        raise BundleError(
            f"{bundle.path}: this bundle cannot be taught: it was exported without the clips of its training; export "
            "its run again: trt-build export RUN --out BUNDLE --clips DATA"
        )
    return Space(classes)


class Lessons:
    """What a recogniser needs to know of a `Taught`: its labels, and how a window's scores come about.

    space: of the bundle, made once. folder: where it lies. Raises DataError where it was taught to another model, or
    its features do not fit.
    """

    def __init__(
        self, bundle: LoadedBundle, space: Space, taught: Taught, folder: Path | None = None
    ) -> None:
        info = bundle.info
        check_taught(taught, bundle, folder)
        self.names = tuple(taught.activities)
        self.labels = [*info.labels, *self.names]
        self.discriminant = (
            Discriminant(
                space,
                self.names,
                list(taught.activities.values()),
                taught.none,
                [info.labels.index(label) for label in info.idle],
            )
            if self.names
            else None
        )

    def apply(
        self, scores: NDArray[np.float64], features: NDArray[np.float32] | None
    ) -> tuple[NDArray[np.float64], bool]:
        """Scores (K + J,) of a window and whether it is unknown, from the network's own (K,) and its features."""
        if self.discriminant is None or features is None:
            return scores, False
        return self.discriminant.scores(scores, features)

    def remarks(self, name: str, taught: Taught) -> list[str]:
        """What is doubtful about a taught activity, in sentences; empty where nothing is."""
        d, j, found = self.discriminant, self.names.index(name), []
        assert d is not None
        clips, row = taught.activities[name].count, d.K + j
        if clips < FEW:
            found.append(
                f"too few: {clips} clip{'s' if clips > 1 else ''}; show it {FEW} to 5 times, by several people"
            )
        against = {label: d.rows.chance_against(k, row) for k, label in enumerate(self.labels[: d.K])}
        for i, other in enumerate(self.names):
            if i != j:
                against[other] = math.erfc(d.rows.distance(row, d.K + i) / 2 / math.sqrt(2)) / 2
        rival = max(against, key=lambda label: against[label])
        if against[rival] > CLOSE:
            found.append(f"too close to {rival}: {against[rival]:.0%} of its windows would be taken for this")
        if d.won[j] < SCATTERED:
            found.append(
                f"too scattered: of windows of clips left out, {d.won[j]:.0%} are recognised; show it more often, "
                "or teach it as two activities"
            )
        return found


def _joined(before: Examples | None, examples: Examples) -> Examples:
    return examples.thinned(MAX_WINDOWS) if before is None else before.joined(examples, MAX_WINDOWS)
