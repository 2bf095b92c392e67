# SPDX-License-Identifier: Apache-2.0
"""People in pictures without ROS, by a detector of the user's own: an ONNX file with the input and output of a YOLO.

Input: one tensor (1, 3, H, W), float32 or float16; the picture is scaled to fit, its aspect kept. H and W may be left
open: 640. Output: any of the shapes in `gc_ros.media.yolo`.

The class of people is the one called person in the file's metadata `names`; without metadata it is class 0.
The package brings no detector: mind the licence of yours. That of YOLOX is the package's own.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gc_ros.media.detections import Box, Detections
from gc_ros.media.tracker import LEAST_SCORE, Tracker
from gc_ros.media.yolo import GREY, WANTED, form_of, letterbox, people_of
from trt_build.errors import DataError, need
from trt_build.install import extra

_PERSON = "person"
_OPEN_SIDE = 640  # of an input whose size is left open

Found = tuple[Box, float]


class Detector:
    """Finds people in single pictures. Raises DataError for a file that is no such detector."""

    def __init__(self, file: Path, *, threads: int | None = None, overlap: float = 0.6) -> None:
        """overlap: IoU from which the weaker of two boxes is left out, where the network does not do so itself."""
        self.file, self._overlap = file, overlap
        ort = need("onnxruntime", extra("onnxruntime"))
        if not file.is_file():
            raise DataError(f"{file}: no such detector; give an ONNX file, exported from YOLO for one")
        options = ort.SessionOptions()
        options.log_severity_level = 4
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            self._session = ort.InferenceSession(
                str(file), sess_options=options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise self._runs_not(error) from None
        self._input, self._type, self._size = self._check_input()
        self._check_outputs()
        self._person = self._class_of_people()
        grey, *_ = letterbox(np.full((8, 8, 3), GREY, np.uint8), self._size)
        self._form = form_of(file, self._run(grey), self._size)

    def _check_input(self) -> tuple[str, Any, tuple[int, int]]:
        """Name, type, and (width, height) of the input."""
        inputs = self._session.get_inputs()
        types = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
        shape = inputs[0].shape if len(inputs) == 1 else []
        fixed = [n if isinstance(n, int) and n > 0 else None for n in shape]
        if (
            len(fixed) != 4
            or fixed[0] not in (1, None)
            or fixed[1] not in (3, None)
            or inputs[0].type not in types
        ):
            said = ", ".join(f"{i.name} {i.type} {tuple(i.shape)}" for i in inputs)
            raise DataError(
                f"{self.file}: its input is {said}; a detector takes one float tensor (1, 3, height, width)"
            )
        return inputs[0].name, types[inputs[0].type], (fixed[3] or _OPEN_SIDE, fixed[2] or _OPEN_SIDE)

    def _check_outputs(self) -> None:
        outputs = self._session.get_outputs()
        if len(outputs) != 1:
            names = ", ".join(output.name for output in outputs)
            raise DataError(
                f"{self.file}: {len(outputs)} outputs ({names}); a detector has one, {WANTED}: "
                "export one that only detects, without masks or joints"
            )

    def _class_of_people(self) -> int:
        """Number of the class. Raises DataError where the file names its classes, and people are not among them."""
        meta = self._session.get_modelmeta().custom_metadata_map
        task = meta.get("task", "detect")
        if task != "detect":
            raise DataError(f"{self.file}: made for the task {task}; export one for detect")
        try:
            names = ast.literal_eval(meta.get("names", "{}"))
            names = dict(enumerate(names)) if isinstance(names, (list, tuple)) else dict(names)
            people = [int(k) for k, name in names.items() if str(name).casefold() == _PERSON]
        except (ValueError, SyntaxError, TypeError):
            return 0
        if names and not people:
            some = ", ".join(str(name) for name in list(names.values())[:5])
            raise DataError(f"{self.file}: it knows no class {_PERSON}, but {some}")
        return people[0] if people else 0

    def __call__(self, image: NDArray[np.uint8]) -> list[Found]:
        """The people in an RGB image (H, W, 3), each with the score, the best first; boxes end at the image."""
        tensor, scale, (left, top) = letterbox(image, self._size, yolox=self._form.yolox)
        corners, scores = people_of(self.file, self._run(tensor), self._form, self._person, self._overlap)
        corners = (corners - (left, top, left, top)) / scale
        height, width = image.shape[:2]
        corners = np.clip(corners, 0, (width, height, width, height))
        usable = np.isfinite(corners).all(1) & np.isfinite(scores) & (scores >= LEAST_SCORE)
        usable &= (corners[:, 2:] - corners[:, :2] > 1).all(1)
        found = [(corners[i].tolist(), min(float(scores[i]), 1.0)) for i in np.flatnonzero(usable)]
        found.sort(key=lambda item: -item[1])
        return [(Box(*box), score) for box, score in found]

    def _run(self, tensor: NDArray[np.float32]) -> NDArray[np.float64]:
        try:
            (output,) = self._session.run(None, {self._input: tensor.astype(self._type)})
        except Exception as error:
            raise self._runs_not(error) from None
        return np.asarray(output, np.float64)

    def _runs_not(self, error: Exception) -> DataError:
        said = (str(error).splitlines() or [type(error).__name__])[0][:160]
        return DataError(f"{self.file}: not an ONNX file that runs ({said}); export it again")


class Finder:
    """A detector with a tracker: the people of a video or camera, picture by picture, each under one id."""

    def __init__(self, detector: Detector, tracker: Tracker | None = None) -> None:
        self._detector, self._tracker = detector, tracker or Tracker()

    def __call__(self, image: NDArray[np.uint8], stamp_ns: int) -> Detections:
        """Who is in the RGB image (H, W, 3). Stamps must not go back."""
        return self._tracker.update(self._detector(image), stamp_ns)
