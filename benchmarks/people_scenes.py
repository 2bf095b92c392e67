# SPDX-License-Identifier: Apache-2.0
"""Who does what among 2 to 4 drawn people: a model trained on people alone, judged on scenes of people it has not seen.

    python benchmarks/people_scenes.py --work DIR [--start RUN] [--online 2] [--out FILE]
    python benchmarks/people_scenes.py --work DIR --bundle BUNDLE          any other bundle, on the same scenes

Draws scenes for training and, of other people, for the test; trains, exports, evaluates each person alone with boxes
that are known. Each command is printed; a step whose result lies in DIR is not done again. `--online` plays so many of
the test scenes over DDS to the real node, image by image, and compares its results with those of the files. `best
whole` is the most that any label of the whole picture can reach: the share of the most common activity in it. At least
90 % of windows shall be right. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
from rig import harness, report

from gc_ros.media import people_topics
from gc_ros.media.detections import boxes_of, read_csv
from gc_ros.media.video import read_video
from gc_ros.stamps import NS
from tests.gc_ros.node.carrier import ROW, found_message
from tests.gc_ros.node.crowd import Detector
from trt_build.bundle import load_bundle

CLASSES = "clap,jump,kick,read,squat,stretch,wave"  # and walk, which those do who cross the picture
GOAL = 0.9
Row = dict[str, Any]
Key = tuple[str, int]  # whom a window is about, and its end
# Of the people as the robot shows them alone; the trunk's last resolution and the head learn.
TRAINING = (
    "window_s=3", "freeze_stages=4", "views=1", "val_fraction=0", "person_share=1", "scale=[0.85,1.1]", "lr=3e-4",
    "head_lr_factor=3",
)  # fmt: skip


def run(*command: object, result: Path) -> None:
    """Run a command unless its result is there."""
    words = [str(word) for word in command]
    if not result.exists():
        print(" ".join(words), file=sys.stderr, flush=True)
        subprocess.run(words, check=True, stdout=sys.stderr)


def make_bundle(o: argparse.Namespace) -> Path:
    """The bundle of a model that has learned the scenes for training."""
    scenes, trained, bundle = o.work / "scenes", o.work / "run", o.work / "bundle"
    draw(scenes, o.scenes, o.subjects, 1, 11)
    settings = [word for setting in TRAINING for word in ("--set", setting)]
    how = ["--data", scenes, "--boxes", scenes / "boxes", "--out", trained, "--threads", o.threads, *settings]
    if o.start is not None:
        learn = ["gc-model", "finetune", o.start, "--epochs", o.epochs]
    else:
        learn = ["gc-model", "train", "--preset", "edge", "--fit", "pad", "--epochs", o.epochs]
    run(*learn, *how, *(["--resume"] if trained.exists() else []), result=trained / "model.safetensors")
    run("trt-build", "export", trained, "--out", bundle, result=bundle)
    return bundle


def draw(out: Path, scenes: int, subjects: int, first: int, seed: int) -> None:
    run(
        "gc-model", "synth", out, "--layout", "scenes", "--scenes", scenes, "--classes", CLASSES,
        "--subjects", subjects, "--first-subject", first, "--seed", seed, "--workers", 1,
        result=out / f"scene_{scenes:04d}.truth.csv",
    )  # fmt: skip


def rows_of(result: Path) -> list[Row]:
    """The windows of people about whom the truth says something."""
    rows = [json.loads(line) for line in (result / "windows.jsonl").read_text().splitlines()]
    return [row for row in rows if row["truth_kind"] == "label" and not row.get("missed")]


def figures(rows: Sequence[Row]) -> dict[str, Any]:
    """Accuracy over windows and people, by class, and the classes taken for each other."""
    together, people = defaultdict(list), defaultdict(list)
    for row in rows:
        together[row["bag"], row["end_ns"]].append(row["truth"])
        people[row["bag"], row["person"]].append(row["label"] == row["truth"])
    alike = [max(Counter(truths).values()) for truths in together.values()]
    wrong = Counter(f"{row['truth']} as {row['label']}" for row in rows if row["label"] != row["truth"])
    classes = sorted({row["truth"] for row in rows})
    right = np.array([row["label"] == row["truth"] for row in rows])
    truth = np.array([row["truth"] for row in rows])
    by_person = [float(np.mean(of)) for of in people.values()]
    return {
        "windows": len(rows),
        "people": len(people),
        "accuracy": round(float(right.mean()), 4),
        "accuracy_of_people": {
            "mean": round(float(np.mean(by_person)), 4),
            "90_percent_right": int(sum(share >= GOAL for share in by_person)),
        },
        "best_whole": round(sum(alike) / len(rows), 4),
        "classes": {name: round(float(right[truth == name].mean()), 3) for name in classes},
        "wrong": dict(wrong.most_common(8)),
    }


def online(bundle: Path, scenes: Sequence[Path], rows: Sequence[Row], mode: str, stride: int) -> Row:
    """The scenes over DDS: how many of the files' results came, and how many of these are the same."""
    people_topics.BY_NAME["detections"] = ROW
    expected: dict[str, dict[Key, Row]] = defaultdict(dict)
    for row in rows:
        expected[row["bag"]][row["person"], row["end_ns"]] = row
    came = same = right = 0
    apart = 0.0
    for scene in scenes:
        of = expected[scene.name]
        for key, result in played(bundle, scene, of, mode, stride).items():
            twin = of[key]
            came += 1
            same += result.label == twin["label"]
            right += result.label == twin["truth"]
            apart = max(apart, abs(result.score - twin["score"]))
    due = sum(len(expected[scene.name]) for scene in scenes)
    return {
        "scenes": len(scenes), "due": due, "came": came, "same_label": same,
        "accuracy": round(right / max(came, 1), 4), "largest_difference_of_scores": apart,
    }  # fmt: skip


def played(bundle: Path, scene: Path, expected: dict[Key, Row], mode: str, stride: int) -> dict[Key, Any]:
    """What a node says of the people of a scene, by (id, end of the window in ns of the video)."""
    recorded = {found.stamp_ns: found for found in read_csv(boxes_of(scene.parent / "boxes", scene.name))}
    frames = list(read_video(scene))
    first_ns, start_ns = frames[0][1], 1000 * NS
    parameters: Row = {"mode": mode, "stride": stride, "max_age_s": 0.0, "stall_timeout_s": 60.0}
    with harness.running(bundle, people="detections", **parameters) as (node, peer):
        detector = Detector(node, peer)
        peer.wait_for_camera()
        for image, stamp_ns in frames:
            t_ns = stamp_ns - first_ns
            # The table is as exact as its digits.
            near = min(recorded, key=lambda known: abs(known - t_ns))
            peer.publish(image, start_ns + t_ns)
            found = recorded[near].people if abs(near - t_ns) < NS // 100 else ()
            detector.send(found_message(type(recorded[near])(start_ns + t_ns, found)))
            wanted = {(who, end_ns) for who, end_ns in expected if end_ns == stamp_ns}
            deadline = time.monotonic() + 10
            while wanted - told(detector, start_ns - first_ns).keys() and time.monotonic() < deadline:
                time.sleep(0.02)
        said = told(detector, start_ns - first_ns)
    return {key: result for key, result in said.items() if key in expected}


def told(detector: Detector, offset_ns: int) -> dict[Key, Any]:
    return {(who, end_ns - offset_ns): result for who, end_ns, result in detector.results()}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="Folder of scenes, run, bundle and results.")
    parser.add_argument("--start", type=Path, help="Run to start from; default: ImageNet's weights.")
    parser.add_argument("--bundle", type=Path, help="Judge this one, train none.")
    parser.add_argument("--scenes", type=int, default=70, help="For training.")
    parser.add_argument("--subjects", type=int, default=40, help="Different people in them.")
    parser.add_argument("--unseen", type=int, default=20, help="Scenes for the test, of twenty other people.")
    parser.add_argument("--epochs", default="3")
    parser.add_argument("--mode", choices=("window", "step"), default="window")
    parser.add_argument("--stride", type=int, default=1)
    parser.add_argument("--online", type=int, default=0, help="Scenes to play over DDS.")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out")
    o = parser.parse_args()
    bundle = o.bundle or make_bundle(o)
    unseen, name = o.work / "unseen", f"result_{load_bundle(bundle).info.model_id}_{o.mode}_{o.stride}"
    draw(unseen, o.unseen, 20, 101, 12)
    result = o.work / name
    run(
        "gc-ros", "evaluate", unseen, "--bundle", bundle, "--people", "auto", "--mode", o.mode, "--stride", o.stride,
        "--jobs", 1, "--predictions", "none", "--out", result, result=result / "summary.json",
    )  # fmt: skip
    rows = rows_of(result)
    found = {"bundle": load_bundle(bundle).info.model_id, "mode": o.mode, "stride": o.stride, **figures(rows)}
    if o.online:
        scenes = sorted(unseen.glob("scene_*.mp4"))[: o.online]
        found["online"] = online(bundle, scenes, rows, o.mode, o.stride)
    report("people_scenes", found, o.out)
    return 0 if found["accuracy"] >= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
