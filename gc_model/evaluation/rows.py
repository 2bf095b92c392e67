# SPDX-License-Identifier: Apache-2.0
"""The rows of the paper's tables: what each changes of a training, and the accuracy that the paper gives."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Row:
    """One row: the options it changes, and the paper's accuracy in %, cross-subject and cross-view (Tables 1 to 6).

    relative: the difference to the paper's full model in %, where that is all it gives, on one split.
    """

    title: str
    changes: dict[str, Any] = field(default_factory=dict)
    paper: tuple[float, float] | None = None
    relative: float | None = None


_L_D = {"pose_weight": 0.0, "glimpse_weight": 0.0}
ROWS: dict[str, Row] = {
    "global_LD": Row("global model, L_D", {"model": "global"} | _L_D, (84.5, 91.5)),
    "global": Row("global model, L_D + L_P", {"model": "global"}, (85.5, 92.1)),
    "glimpse_sum": Row(
        "global + sum of glimpses + GRU", {"model": "glimpse_sum", "glimpse_weight": 0.0}, (85.8, 92.4)
    ),
    "clouds_LD": Row("clouds, L_D", _L_D, (85.7, 92.5)),
    "clouds_LD_LP": Row("clouds, L_D + L_P", {"glimpse_weight": 0.0}, (86.4, 93.0)),
    "clouds_LD_LG": Row("clouds, L_D + L_G", {"pose_weight": 0.0}, (86.1, 92.9)),
    "clouds": Row("clouds, all losses", {}, (86.6, 93.2)),
    "global_head": Row("clouds + global model", {"global_head": True}, (86.6, 93.2)),
    "glimpse_tubes": Row("3D tubes", {"model": "glimpse_tubes"}, (85.8, 92.7)),
    "random": Row("random glimpses", {"attention": "random"}, (80.3, 87.8)),
    "saliency": Row("saliency", {"attention": "saliency"}, (86.2, 92.9)),
    "metric_random": Row("D random, trained", {"metric_init": "random"}, relative=-0.4),
    "metric_fixed": Row("D fixed", {"metric_trainable": False}, relative=-0.8),
    "concat": Row("concatenation instead of Hadamard", {"encoding": "concat"}, relative=-1.1),
    **{
        f"G{g}C{c}": Row(f"G = {g}, C = {c}", {"glimpses": g, "workers": c})
        for g in range(1, 5)
        for c in range(1, 5)
        if (g, c) != (3, 3)
    },
    "c3d": Row("C3D", {"model": "c3d"} | _L_D, (63.5, 70.3)),
    "frame_lstm": Row("ResNet50 + LSTM", {"model": "frame_lstm"} | _L_D, (71.3, 80.2)),
}
# Of N-UCLA the paper gives two rows, by test view; there L_P and L_G are off.
NUCLA = {"global": {"V3": 85.6, "V2": 84.7, "V1": 79.2}, "clouds": {"V3": 90.1, "V2": 89.5, "V1": 83.4}}
