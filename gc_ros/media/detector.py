# SPDX-License-Identifier: Apache-2.0
"""People in pictures without ROS, by a detector of the user's own: an ONNX file with the input and output of YOLO.

Input: one tensor (1, 3, H, W), float32 or float16, RGB from 0 to 1; the picture is scaled to fit, its aspect kept, and
centred on grey. H and W may be left open: 640. Output: one tensor, of either of these shapes, in pixels of that input:

    (1, 4 + classes, N)   YOLOv8, v9, 11, 12: centre x, centre y, width, height, then a score a class; overlapping boxes
                          are left out here, by non-maximum suppression
    (1, N, 6)             YOLOv10, 26, and exports with nms=True: x_min, y_min, x_max, y_max, score, class

The class of people is the one called person in the file's metadata `names`; without metadata it is class 0.
The package brings no detector: mind the licence of yours.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from gc_ros.media.detections import Box, Detections
from gc_ros.media.tracker import LEAST_SCORE, Tracker
from trt_build.errors import DataError, need
from trt_build.install import extra

_PERSON = "person"
_OPEN_SIDE = 640  # of an input whose size is left open
_GREY = 114  # as YOLO is trained
_MOST = 300  # boxes that non-maximum suppression looks at
_WANTED = "(1, 4 + classes, N) as of YOLOv8 and 11, or (1, N, 6) as of exports with nms=True"

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
            raise DataError(
                f"{file}: not an ONNX file that runs ({_first_line(error)}); export it again"
            ) from None
        self._input, self._type, self._size = self._check_input()
        self._check_outputs()
        self._person = self._class_of_people()

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
                f"{self.file}: {len(outputs)} outputs ({names}); a detector has one, {_WANTED}: "
                "export one that only detects, without masks or joints"
            )
        shape = outputs[0].shape
        if all(isinstance(n, int) and n > 0 for n in shape):
            _layout(self.file, tuple(shape))

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
        tensor, scale, (left, top) = letterbox(image, self._size)
        (output,) = self._session.run(None, {self._input: tensor.astype(self._type)})
        output = np.asarray(output, np.float64)
        corners, scores = self._read(output)
        corners = (corners - (left, top, left, top)) / scale
        height, width = image.shape[:2]
        corners = np.clip(corners, 0, (width, height, width, height))
        usable = np.isfinite(corners).all(1) & np.isfinite(scores) & (scores >= LEAST_SCORE)
        usable &= (corners[:, 2:] - corners[:, :2] > 1).all(1)
        found = [(corners[i].tolist(), min(float(scores[i]), 1.0)) for i in np.flatnonzero(usable)]
        found.sort(key=lambda item: -item[1])
        return [(Box(*box), score) for box, score in found]

    def _read(self, output: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Corners (n, 4) and scores (n,) of people, in pixels of the input."""
        if _layout(self.file, output.shape) == "end":
            rows = output[0]
            people = rows[:, 5].round() == self._person
            return rows[people, :4], rows[people, 4]
        columns = output[0]
        if 4 + self._person >= len(columns):
            raise DataError(f"{self.file}: {len(columns) - 4} classes, and people are number {self._person}")
        # The class of people must be the most likely one.
        scores = columns[4 + self._person]
        chosen = np.flatnonzero((scores >= LEAST_SCORE) & (columns[4:].argmax(0) == self._person))
        chosen = chosen[np.argsort(-scores[chosen], kind="stable")][:_MOST]
        middle, size = columns[:2, chosen].T, columns[2:4, chosen].T
        corners = np.concatenate([middle - size / 2, middle + size / 2], 1)
        boxes = np.concatenate([middle - size / 2, size], 1)
        kept = cv2.dnn.NMSBoxes(boxes.tolist(), scores[chosen].tolist(), LEAST_SCORE, self._overlap)
        order = np.asarray(kept, int).reshape(-1)
        return corners[order], scores[chosen][order]


class Finder:
    """A detector with a tracker: the people of a video or camera, picture by picture, each under one id."""

    def __init__(self, detector: Detector, tracker: Tracker | None = None) -> None:
        self._detector, self._tracker = detector, tracker or Tracker()

    def __call__(self, image: NDArray[np.uint8], stamp_ns: int) -> Detections:
        """Who is in the RGB image (H, W, 3). Stamps must not go back."""
        return self._tracker.update(self._detector(image), stamp_ns)


def letterbox(
    image: NDArray[np.uint8], size: tuple[int, int]
) -> tuple[NDArray[np.float32], float, tuple[int, int]]:
    """The image as input (1, 3, H, W), 0 to 1, for `size` (width, height); its scale; where its corner lies."""
    (width, height), (h, w) = size, image.shape[:2]
    scale = min(width / w, height / h)
    inside = (max(round(w * scale), 1), max(round(h * scale), 1))
    left, top = (width - inside[0]) // 2, (height - inside[1]) // 2
    canvas = np.full((height, width, 3), _GREY, np.uint8)
    canvas[top : top + inside[1], left : left + inside[0]] = cv2.resize(
        image, inside, interpolation=cv2.INTER_LINEAR
    )
    tensor = canvas.transpose(2, 0, 1)[None].astype(np.float32) / 255
    return np.ascontiguousarray(tensor), scale, (left, top)


def _layout(file: Path, shape: tuple[int, ...]) -> str:
    """ "end" or "columns". Raises DataError for any other shape."""
    if len(shape) == 3 and shape[0] == 1:
        if shape[2] == 6:
            return "end"
        # More places than classes: the other way round is a YOLO of before v8, with one score more in each row.
        if 5 <= shape[1] < shape[2]:
            return "columns"
    raise DataError(f"{file}: its output is {tuple(shape)}; needs {_WANTED}")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]
