# SPDX-License-Identifier: Apache-2.0
"""The paper's tables on one's own data: a run for each row, split and seed, and one table of all of them.

OUT/cache/                        decoded frames, shared
OUT/stage1/KEY-CLIPS.safetensors  trunks after stage 1, shared by rows with the same first stage of the same clips
OUT/ROW/SPLIT-SEED/               a run directory with report.json; with its report a run counts as done
OUT/table.json, table.md          rewritten after every run
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import shlex
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gc_model.data.clip import LabelledClip, files_of, labels_of
from gc_model.data.datasets import index
from gc_model.data.own import all_mixed_in
from gc_model.evaluation.evaluate import EvaluateOptions, clips_to_judge, evaluate
from gc_model.evaluation.rows import NUCLA, ROWS
from gc_model.training.gathering import of_classes
from gc_model.training.options import TrainOptions
from gc_model.training.processes import is_first, wait_for
from gc_model.training.train import train
from gc_ros.media.clips import clean
from trt_build.errors import DataError
from trt_build.files import write_atomically

DEFAULT = "clouds"


# Options that change nothing before stage 2: rows that differ in these alone share their first stage.
_LATER = {
    "model", "attention", "metric_init", "metric_trainable", "encoding", "glimpses", "workers", "glimpse_weight",
    "separation", "freeze_stages2", "classifiers_alone", "epochs2", "epochs3", "stream_chunks", "head_lr_factor",
    "global_head",
}  # fmt: skip


def ablate(
    base: TrainOptions,
    out: Path,
    *,
    rows: Sequence[str] = (),
    splits: Sequence[str] = ("",),
    seeds: Sequence[int] = (0,),
    test_subjects: Sequence[str] | None = None,
    progress: bool = True,
    tell: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Train and judge the runs that are missing below `out`; return the table. base: the options that all rows share.

    Of several processes (`devices`, `nodes`), each of which is started by the same command, all train; the first alone
    judges and writes, and the others return an empty table.

    rows: names of `ROWS`, none for all. splits: names of the data set's. test_subjects: the people to test on, for data
    without splits. tell: called with a line after every run. Raises DataError for unknown rows, clips that cannot be
    trained on or judged, or an `out` begun with other options.
    """
    rows = list(rows) or list(ROWS)
    if unknown := [r for r in rows if r not in ROWS]:
        raise DataError(f'unknown row "{unknown[0]}": choose from {", ".join(ROWS)}')
    if min(seeds, default=0) < 0:
        raise DataError(f"a seed of {min(seeds)} is not possible; give 0 or more")
    base, first = _apart(base, test_subjects), is_first(base.devices, base.nodes)
    judged = {split: _judging(base, out, split, test_subjects) for split in splits}
    files: dict[str, str] = {}
    if first:
        files = _check(base, out, {"subjects": list(test_subjects)} if test_subjects else {}, judged)
    for row, split, seed in itertools.product(rows, splits, seeds):
        run = out / row / f"{split or 'test'}-{seed}"
        if (run / "report.json").is_file():
            continue
        options = base.model_copy(
            update=ROWS[row].changes | {"protocol": split, "seed": seed, "preset": base.preset}
        )
        if not first:
            _train(options, run, out, progress)
            # Not ahead into the next run: its collectives time out before the first has judged this one.
            wait_for(run / "report.json")
            continue
        found = _run(options, judged[split], run, out, progress, files[split])
        tell(f"{row} {split} seed {seed}: {100 * found['accuracy']:.1f} %, {found['minutes']} min")
        table(out, base.layout)
    return table(out, base.layout) if first else {}


def _apart(base: TrainOptions, test_subjects: Sequence[str] | None) -> TrainOptions:
    """The options with nobody to train on who is tested.

    Clips of which nobody said who is in them are left out: it may be one who is tested. Raises DataError where the
    options name one who is, or nobody is left.
    """
    if not test_subjects:
        return base
    tested = {clean(name) for name in test_subjects}
    if base.subjects is not None:
        if both := sorted({clean(name) for name in base.subjects} & tested):
            raise DataError(f"{', '.join(both)} would be trained on and tested: leave them out of either")
        return base
    subjects = [clip.subject for clip in index(base.layout, base.data)]
    if unknown := subjects.count(""):
        logging.getLogger(__name__).warning(
            "%d clips without a subject are neither trained on nor tested", unknown
        )
    others = sorted({*subjects} - tested - {""})
    if not others:
        raise DataError(
            f"{base.data}: of nobody but {', '.join(sorted(tested))} there are clips that name the subject, so nobody "
            "is left to train on: name fewer people to test on"
        )
    return base.model_copy(update={"subjects": others})


def _judging(
    base: TrainOptions, out: Path, split: str, test_subjects: Sequence[str] | None
) -> EvaluateOptions:
    """How the runs of a split are judged: on what they were trained for, people alone and classes included."""
    classes = None if base.classes is None else [*base.classes, *base.idle_classes]
    return EvaluateOptions(
        base.data,
        layout=base.layout,
        split=split,
        subjects=test_subjects,
        classes=classes,
        boxes=base.boxes,
        cache=out / "cache",
    )


def _run(
    options: TrainOptions, judging: EvaluateOptions, run: Path, out: Path, progress: bool, files: str
) -> dict[str, Any]:
    """Train and judge one run, write its report and return it. files: see `files_of`, of all its clips."""
    began = time.monotonic()
    _train(options, run, out, progress)
    found = evaluate(run, judging, progress=progress)
    found |= {"minutes": round((time.monotonic() - began) / 60, 2), "files": files}
    write_atomically(run / "report.json", json.dumps(found))
    # Checkpoints of a finished run: many runs would fill the disk.
    for part in ("stage1", "stage2", "stage3"):
        for file in (run / part).glob("*.ckpt"):
            file.unlink()
    return found


def _train(options: TrainOptions, run: Path, out: Path, progress: bool) -> None:
    first_stage = out / "stage1" / f"{_first_stage(options)}.safetensors"
    resume = (run / "options.json").is_file()
    train(options, run, resume=resume, progress=progress, shared_cache=out / "cache", first_stage=first_stage)


def _first_stage(options: TrainOptions) -> str:
    """A name for a first stage: a digest of all that it depends on but the clips, which training adds.

    Networks with a trunk of their own share only with one another. So do those that keep the first stage's classifier,
    where the others have no first stage.
    """
    values = options.model_dump(mode="json", exclude=_LATER)
    trunk = options.model if options.model in ("c3d", "frame_lstm") else ""
    keeps = options.head_alone and (options.model == "global" or bool(options.global_head))
    return hashlib.sha256(json.dumps([values, trunk, keeps], sort_keys=True).encode()).hexdigest()[:16]


def _check(
    base: TrainOptions, out: Path, test: dict[str, Any], judged: Mapping[str, EvaluateOptions]
) -> dict[str, str]:
    """Begin `out`, or see that it was begun with the same; what it refuses leaves no trace. Raises DataError.

    Returns a digest of the clips of each split. Runs that are done were made of these.
    """
    path = out / "ablation.json"
    asked = {"options": base.model_dump(mode="json"), "test": test}
    if begun := path.is_file():
        with _undamaged(path):
            before = json.loads(path.read_text())
            # Through the options of today: what was begun before an option existed has its default.
            before["options"] = TrainOptions.model_validate(before["options"]).model_dump(mode="json")
        # Where no run came so far as to note its options, nothing was made of them; what is cached goes by contents.
        begun = before == asked
        if not begun and any(out.glob("*/*/options.json")):
            raise DataError(
                f"{out} was begun with other options or test people: repeat those, or choose another --out"
            )
    elif out.exists() and any(out.iterdir()):
        raise DataError(f"{out} holds something else: choose another --out")
    files = {split: files_of(_clips(base, split, judging)) for split, judging in judged.items()}
    if begun:
        _check_done(out, files)
        return files
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"{out} cannot be written ({error.strerror or error}): choose another --out"
        ) from None
    write_atomically(path, json.dumps(asked, indent=1))
    return files


def _check_done(out: Path, files: Mapping[str, str]) -> None:
    """Raise DataError where runs of these splits that are done were made of other clips: they stand in one table."""
    other = []
    for split, now in files.items():
        for path in sorted(out.glob(f"*/{split or 'test'}-*/report.json")):
            with _undamaged(path):
                # Runs of earlier versions did not note it.
                if ({"files": now} | json.loads(path.read_text()))["files"] != now:
                    other.append(str(path.parent))
    if other:
        raise DataError(
            f"the clips, or their files, changed since runs of {out} were made: delete {shlex.join(other)} to make "
            "them again, or choose another --out"
        )


def _clips(base: TrainOptions, split: str, judging: EvaluateOptions) -> list[LabelledClip]:
    """All clips of the runs of a split. Raises DataError for what one would end with after its training, or before."""
    trained = index(
        base.layout, base.data, split, part="train", subjects=base.subjects, joints=base.joints, boxes=base.boxes,
        margin=base.person_margin,
    )  # fmt: skip
    margin = base.person_margin if base.boxes is not None else None
    trained += [clip for mixed_in in all_mixed_in(base.also, margin) for clip in mixed_in]
    of_classes(trained, base)
    tested = clips_to_judge(judging, base.person_margin)
    if strange := sorted({*labels_of(tested)} - {*labels_of(trained)}):
        raise DataError(
            f'{base.data}: only those who are tested do "{strange[0]}", so no run can learn it: name other people to '
            "test on, or the classes to learn with --set classes=a,b"
        )
    return [*trained, *tested]


@contextmanager
def _undamaged(path: Path) -> Iterator[None]:
    """Raises DataError for a file of a run that is not what was written."""
    try:
        yield
    except (ValueError, TypeError, LookupError) as error:
        raise DataError(
            f"{path} is damaged ({' '.join(str(error).split())[:160]}): delete it to repeat its part, or choose "
            "another --out"
        ) from None


def table(out: Path, layout: str) -> dict[str, Any]:
    """The table of all reports below `out`, in the order of the paper's; also written to table.json and table.md."""
    lines: list[dict[str, Any]] = []
    splits: list[str] = []
    for name, row in ROWS.items():
        results: dict[str, list[float]] = {}
        minutes = 0.0
        clips: dict[str, int] = {}
        for path in sorted((out / name).glob("*/report.json")):
            key = path.parent.name.rpartition("-")[0]
            with _undamaged(path):
                report = json.loads(path.read_text())
                results.setdefault(key, []).append(100 * report["accuracy"])
                clips[key], minutes = report["clips"], minutes + report["minutes"]
        if not results:
            continue
        splits += [p for p in results if p not in splits]
        ours = {
            p: {
                "mean": round(statistics.mean(v), 2),
                "spread": round(statistics.stdev(v), 2) if len(v) > 1 else None,
                "seeds": len(v),
                "clips": clips[p],
            }
            for p, v in results.items()
        }
        paper = {p: figure for p in results if (figure := _paper(name, layout, p)) is not None}
        lines.append(
            {"row": name, "title": row.title, "paper": paper, "ours": ours, "minutes": round(minutes, 1)}
        )
    result = {"protocols": splits, "rows": lines}
    write_atomically(out / "table.json", json.dumps(result, indent=1))
    write_atomically(out / "table.md", markdown(result))
    return result


def _paper(row: str, layout: str, split: str) -> str | None:
    """The paper's figure for the data set and split that it was measured on; None for any other."""
    if layout == "nucla":
        figure = NUCLA.get(row, {}).get(split)
        return None if figure is None else f"{figure}"
    which = {"cross-subject": 0, "cross-view": 1}.get(split.replace("_", "-"))
    found = ROWS[row]
    if which is None:
        return None
    if found.relative is not None:
        return f"{found.relative:+.1f} to the full model"
    return None if found.paper is None else f"{found.paper[which]}"


def markdown(result: dict[str, Any]) -> str:
    """The table as GitHub draws it: accuracy in %, mean ± standard deviation over seeds."""
    head = ["row"]
    for p in result["protocols"]:
        head += [f"paper {p}", f"ours {p}"]
    lines = ["| " + " | ".join([*head, "min"]) + " |", "|---" * (len(head) + 1) + "|"]
    for line in result["rows"]:
        cells = [line["title"]]
        for p in result["protocols"]:
            cells.append(line["paper"].get(p, "–"))
            ours = line["ours"].get(p)
            spread = "" if ours is None or ours["spread"] is None else f" ± {ours['spread']:.1f}"
            cells.append("" if ours is None else f"{ours['mean']:.1f}{spread} ({ours['seeds']})")
        lines.append("| " + " | ".join([*cells, f"{line['minutes']:g}"]) + " |")
    return "\n".join(lines) + "\n"
