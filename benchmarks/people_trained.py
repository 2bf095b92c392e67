# SPDX-License-Identifier: Apache-2.0
"""Networks trained on people against networks trained on whole pictures, and both together, clip by clip.

    gc-model joints clips.csv --out joints --what body --boxes boxes
    gc-model ablate ... --subjects f0 --test-subjects f1 --rows global,clouds --out whole_f1
    gc-model ablate ... --subjects f0 --test-subjects f1 --rows global,clouds --set boxes=boxes --out person_f1
    python benchmarks/people_trained.py --data clips.csv --boxes boxes --row clouds --fold f1 whole_f1 person_f1

A --fold is the people that are tested, and the two folders of tables; give one for each. Each clip is judged by five
sub-sequences, of whole pictures by the one network and of the person whom it is about most by the other; together
they are the sum of the logarithms of their scores. Where tables have several seeds, or a --fold is given again with
tables of other seeds, a clip is as right as the part of its runs. `others` are the same network of whole pictures
together with that of another row (--beside), for what two networks gain in any case. Intervals are over clips drawn
again. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from people_gain import figures

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gc_model.evaluation.evaluate import EvaluateOptions, clips_to_judge
from gc_model.evaluation.judges import stored_sub_sequences
from gc_model.export.torch_engine import bundle_info
from gc_model.training import checkpoint

Scores = dict[str, tuple[NDArray[np.float64], int]]  # by clip, the logarithms and the class


def scores(table: Path, row: str, seed: int, data: Path, subject: str, boxes: Path | None) -> Scores:
    """Of every clip of the subject, by the run of this row and seed, from the table's stored features."""
    model, recipe = checkpoint.load(table / row / f"test-{seed}")
    options = EvaluateOptions(data, subjects=[subject], boxes=boxes)
    clips = [c.first_person for c in recipe.own(clips_to_judge(options, recipe.person_margin))]
    info = bundle_info(model.config, recipe)
    judge = stored_sub_sequences(model, info, table / "cache", clips, front_alone=True)
    return {c.name: (np.log(judge(c) + 1e-9), recipe.labels.index(c.label)) for c in clips}


def seeds_of(*rows: Path) -> list[int]:
    """Those that every row of the tables has a run of. Raises SystemExit where there are none."""
    found = [{int(run.name.partition("-")[2]) for run in row.glob("test-*")} for row in rows]
    if not (of_all := set.intersection(*found)):
        raise SystemExit(f"{', '.join(map(str, rows))}: no seed of which each has a run")
    return sorted(of_all)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--boxes", type=Path, required=True)
    parser.add_argument("--row", default="clouds", help="Of the tables.")
    parser.add_argument("--beside", default="global", help="Another row of them.")
    parser.add_argument("--fold", nargs=3, action="append", required=True, metavar=("WHO", "WHOLE", "PERSON"))
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    # By way and clip, the runs of every seed.
    right: dict[str, dict[str, list[bool]]] = {name: {} for name in ("whole", "person", "both", "others")}
    runs = 0
    for who, *tables in arguments.fold:
        data, row, beside = arguments.data, arguments.row, arguments.beside
        whole, person = map(Path, tables)
        for seed in seeds_of(whole / row, person / row, whole / beside):
            of_whole = scores(whole, row, seed, data, who, None)
            of_person = scores(person, row, seed, data, who, arguments.boxes)
            of_other = scores(whole, beside, seed, data, who, None)
            for name, (first, label) in of_whole.items():
                second, third = of_person[name][0], of_other[name][0]
                ways = {"whole": first, "person": second, "both": first + second, "others": first + third}
                for way, values in ways.items():
                    right[way].setdefault(name, []).append(int(values.argmax()) == label)
            runs += 1
    hits = {way: np.array([np.mean(r) for r in of.values()]) for way, of in right.items()}
    result = {way: figures(values, hits["whole"]) for way, values in hits.items()}
    clips = len(hits["whole"])
    print(json.dumps({"clips": clips, "runs": runs, "row": arguments.row, "result": result}, indent=2))


if __name__ == "__main__":
    main()
