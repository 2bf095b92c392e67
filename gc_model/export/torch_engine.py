# SPDX-License-Identifier: Apache-2.0
"""The network as the robot's `Engine`, so that evaluation can run the robot's own recogniser on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from gc_model.paper.network import ClipResult, FrameResult, Network, State
from gc_model.paper.presets import Config
from gc_model.training.checkpoint import Recipe
from trt_build.bundle import Bundle, Calibration, Preprocess
from trt_build.engine import TensorSpec, check_inputs, expected_io
from trt_build.errors import DataError
from trt_build.labels import IDLE_LABELS


class TorchEngine:
    """A `trt_build.engine.Engine` with one slot; takes and returns the arrays that the exported graphs do."""

    backend = "torch"
    batch = 1

    def __init__(self, model: Network, info: Bundle, mode: str):
        self.model, self.mode = model.eval(), mode
        self.inputs, self.outputs = expected_io(info, mode)
        self._state: State | None = model.initial_state(1, streaming=True) if mode == "step" else None
        self._zero = self._state
        named = self._state.named() if self._state else {}
        self.states = {k: TensorSpec(k, (None, *v.shape[1:]), np.dtype(np.float32)) for k, v in named.items()}
        self.description = f"torch {torch.__version__}, {mode}"

    @torch.no_grad()
    def run(
        self, inputs: Mapping[str, NDArray[Any]], active: Sequence[bool] | None = None
    ) -> dict[str, NDArray[Any]]:
        check_inputs(self.inputs, inputs, self.batch)
        values = {}
        if self.mode == "window":
            clip = torch.from_numpy(inputs["frames"]).permute(0, 1, 4, 2, 3)
            maps = self.model.maps(clip)
            Z, c = self.model.features_of(maps)
            result: FrameResult | ClipResult = self.model.fold(Z, c)[0]
            if "embedding" in self.outputs:
                values["embedding"] = self.model.embedding(clip, maps, Z, c)
        else:
            assert self._state is not None
            frame = torch.from_numpy(inputs["frame"]).permute(0, 3, 1, 2)
            result, self._state, values["embedding"] = self.model.stream_and_embed(frame, self._state)
        values |= {"logits": result.logits, "glimpses": result.l, "assignment": result.p}
        # A bundle of schema 1 has no embedding.
        return {name: values[name].cpu().numpy() for name in self.outputs}

    def reset(self, slots: Sequence[int] | None = None) -> None:
        self._state = self._zero

    def read_states(self) -> dict[str, NDArray[Any]]:
        """A copy of the states, for verification."""
        named = self._state.named() if self._state else {}
        return {name: value.cpu().numpy().copy() for name, value in named.items()}

    def close(self) -> None:
        return None


def bundle_info(config: Config, recipe: Recipe, embedding: int = 0) -> Bundle:
    """The content of bundle.json for a model, without hashes and parity. embedding: `Network.embedding_size`.

    Raises DataError for a run that no bundle can be made of.
    """
    try:
        return Bundle(
            model_id=f"glimpse_clouds-{config.preset}-{len(recipe.labels)}",  # the export adds the weights' hash
            preset=config.preset,
            labels=recipe.labels,
            idle=[label for label in recipe.labels if label in IDLE_LABELS],
            T=config.T,
            glimpses=config.G,
            workers=config.C,
            embedding=embedding,
            temporal=config.temporal,
            modes=["window", "step"] if config.streams else ["window"],
            default_mode="step" if config.streams and config.reset_after == 0 else "window",
            reset_after=config.reset_after,
            preprocess=Preprocess(size=config.size, resize=config.resize, fit=config.fit),
            rate_hz=recipe.rate_hz(config.T),
            calibration=Calibration(
                temperature=recipe.temperature, unknown_threshold=recipe.unknown_threshold
            ),
            provenance=recipe.provenance,
        )
    except ValidationError as error:
        first = error.errors()[0]
        field, message = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
        remedy = 'write another in model.json, under "labels"' if field == "labels" else "train again"
        raise DataError(
            f"no bundle can be made of this run: {field + ': ' if field else ''}{message}; {remedy}"
        ) from None
