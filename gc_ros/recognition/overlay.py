# SPDX-License-Identifier: Apache-2.0
"""The picture of a result: the camera image with its glimpses, and a panel with the label, the best classes and the
workers; a banner where an activity begins or ends.

Colours stand for glimpses. A glimpse's tag shows the share of all that the workers take which comes from it, and so
does the thickness of its frame. A worker's row shows what it takes from each glimpse. Plain NumPy and OpenCV.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from gc_ros.recognition.activity import Activity
from gc_ros.recognition.drawing import (
    ACCENT,
    BACK,
    LINE,
    MUTED,
    OTHER,
    TEXT,
    TRACK,
    WARN,
    Canvas,
    bar,
    filled,
    finished,
    new_panel,
    put_text,
    scaled,
)
from gc_ros.recognition.palette import Colour, glimpse_colour
from gc_ros.recognition.smoothing import ActivityEvent
from gc_ros.stamps import NS

_DIM = 0.6  # brightness outside the glimpses
_TINT = 0.1  # of a glimpse's colour inside it
_BANNER_S = 2.0  # of the stream's time that an event stays on the picture
_BEGAN, _ENDED = (72, 205, 122), (136, 148, 164)


class Banner:
    """Which event the picture shows: the newest, for two seconds of the stream after it was decided.

    It goes by stamps, so a bag played at any rate shows the same. There is one writer; a reader in another thread sees
    the event before or the event after.
    """

    def __init__(self) -> None:
        self._newest: tuple[ActivityEvent, int] | None = None

    def add(self, events: Sequence[ActivityEvent], decided_ns: int) -> None:
        """Events in order, and the stamp of the frame that decided them."""
        # One activity gives way to another in one step: what began is the news.
        begun = [event for event in events if event.kind == "onset"]
        if events:
            self._newest = ((begun or events)[-1], decided_ns)

    def at(self, stamp_ns: int) -> ActivityEvent | None:
        """The event to show on the frame of this stamp; none before it was decided, as after a jump back."""
        if self._newest is None:
            return None
        event, decided_ns = self._newest
        return event if 0 <= stamp_ns - decided_ns < _BANNER_S * NS else None


def draw(
    image_rgb: NDArray[np.uint8],
    activity: Activity | None,
    assignment: ArrayLike | None = None,
    *,
    event: ActivityEvent | None = None,
    warmup: tuple[int, int] | None = None,
    height: int | None = None,
) -> Canvas:
    """The picture of a camera image and its newest result: RGB uint8 (height, width + panel, 3) of even size.

    image_rgb: uint8 (H, W, 3). activity: None draws the panel of a recogniser that has no result yet, with warmup =
    (n, T). assignment: (C, G); default: the activity's. event: onset or offset to announce. height: of the picture,
    pixels; default: the image's, between 480 and 720. Raises ImageError for an unusable image.
    """
    view, height = scaled(image_rgb, height)
    weights = None
    if activity is not None:
        weights = np.asarray(activity.assignment if assignment is None else assignment, np.float64)
        # The image may have another size than the one the boxes were computed for.
        fit = np.array([view.shape[1] / activity.width, view.shape[0] / activity.height] * 2)
        boxes = np.array([[g.x0, g.y0, g.x1, g.y1] for g in activity.glimpses]).reshape(-1, 4) * fit
        view = _glimpses(view, boxes, weights)
    view = filled(view, height)
    if event is not None:
        _announce(view, event)
    return np.hstack([view, _panel(height, activity, weights, warmup)])


def _glimpses(view: Canvas, boxes: NDArray[np.float64], weights: NDArray[np.float64]) -> Canvas:
    height = view.shape[0]
    bright, view = view, np.asarray(cv2.convertScaleAbs(view, alpha=_DIM), np.uint8)
    corners = [tuple(round(v) for v in box) for box in boxes.tolist()]
    for x0, y0, x1, y1 in corners:
        view[y0:y1, x0:x1] = bright[y0:y1, x0:x1]
    for g, (x0, y0, x1, y1) in enumerate(corners):
        if x1 > x0 and y1 > y0:
            part = view[y0:y1, x0:x1]
            tint = np.full_like(part, glimpse_colour(g))
            cv2.addWeighted(part, 1 - _TINT, tint, _TINT, 0, dst=part)
    share = weights.sum(axis=0) / max(weights.sum(), 1e-9)  # of all that the workers take
    unit = height / 480
    for g, (x0, y0, x1, y1) in enumerate(corners):
        if x1 <= x0 or y1 <= y0:  # outside the image
            continue
        colour = glimpse_colour(g)
        thick = max(1, round(unit * (1 + 5 * float(share[g]))))
        inset = thick // 2
        cv2.rectangle(
            view, (x0 + inset, y0 + inset), (x1 - 1 - inset, y1 - 1 - inset), colour, thick, cv2.LINE_AA
        )
    tags: list[tuple[int, int]] = []
    for g, (x0, y0, x1, y1) in enumerate(corners):  # above all frames
        if x1 > x0 and y1 > y0:
            tags.append(
                _tag(
                    view, f"{g + 1}", f"{100 * float(share[g]):.0f} %", x0, y0, glimpse_colour(g), unit, tags
                )
            )
    return view


def _tag(
    view: Canvas,
    name: str,
    share: str,
    x: int,
    y: int,
    colour: Colour,
    unit: float,
    others: Sequence[tuple[int, int]],
) -> tuple[int, int]:
    """Draw a glimpse's number and share at (x, y), or next to the tags that are there; returns its place."""
    size, wide = round(22 * unit), round(66 * unit)
    x, y = max(min(x, view.shape[1] - wide), 0), max(min(y, view.shape[0] - size), 0)
    x = _free(x, wide, view.shape[1], [a for a, b in others if abs(b - y) < size])
    cv2.rectangle(view, (x, y), (x + wide, y + size), colour, -1)
    base = y + round(16 * unit)
    put_text(view, name, x + size // 2, base, 12 * unit, BACK, align=0.5, bold=True)
    put_text(view, share, x + wide - round(6 * unit), base, 9.5 * unit, BACK, align=1.0)
    return x, y


def _free(x: int, wide: int, room: int, taken: Sequence[int]) -> int:
    """The place of a tag of this width in its row: x, else to the right while there is room, else to the left."""
    places = [x, *sorted(a + wide for a in taken), *sorted((a - wide for a in taken), reverse=True)]
    clear = (c for c in places if 0 <= c <= room - wide and all(abs(c - a) >= wide for a in taken))
    return next(clear, x)


def _announce(view: Canvas, event: ActivityEvent) -> None:
    """Draw a band over the foot of the picture: what began or ended, and its smoothed score."""
    height, width = view.shape[:2]
    unit = min(height / 480, width / 220)
    narrow = width < 400 * unit  # a portrait: score below the label, not beside it
    top = max(height - round((76 if narrow else 54) * unit), 0)
    band = view[top:]
    cv2.addWeighted(band, 0.2, np.full_like(band, BACK), 0.8, 0, dst=band)
    onset = event.kind == "onset"
    colour = _BEGAN if onset else _ENDED
    cv2.rectangle(view, (0, top), (round(8 * unit), height), colour, -1)
    left, room = round(24 * unit), width - round(40 * unit)
    note = f"{'began' if onset else 'ended'}   {100 * event.score:.0f} %"
    if narrow:
        put_text(view, note, left, top + round(62 * unit), 13 * unit, colour, room=room)
    else:
        put_text(view, note, width - left, top + round(35 * unit), 15 * unit, colour, align=1.0)
        room -= round(160 * unit)
    base = top + round((32 if narrow else 35) * unit)
    put_text(view, event.label, left, base, 20 * unit, TEXT, room=room, bold=True)


def _panel(
    height: int,
    activity: Activity | None,
    weights: NDArray[np.float64] | None,
    warmup: tuple[int, int] | None,
) -> Canvas:
    panel, x0, x1, u = new_panel(height)
    if activity is None or weights is None:
        _waiting(panel, warmup, x0, x1, u)
    else:
        _banner(panel, activity, x0, x1, u)
        y = _bars(panel, activity, x0, x1, 130 * u, u)
        _workers(panel, weights, x0, x1, max(y + 18 * u, 340 * u - 22 * u * (len(weights) - 3)), u)
        seconds = (activity.window_end_ns - activity.window_start_ns) / NS
        times = f"{seconds:.1f} s window   inference {1e3 * activity.inference_s:.0f} ms"
        put_text(panel, activity.model_id, x0, round(448 * u), 9.5 * u, MUTED, room=x1 - x0)
        put_text(panel, times, x0, round(465 * u), 9.5 * u, MUTED)
    return finished(panel, height)


def _waiting(panel: Canvas, warmup: tuple[int, int] | None, x0: int, x1: int, u: float) -> None:
    put_text(panel, "warming up" if warmup else "no result yet", x0, round(58 * u), 20 * u, MUTED)
    if warmup is None:
        return
    n, T = warmup
    step = (x1 - x0) / T
    for t in range(T):
        a, b = round(x0 + t * step), round(x0 + (t + 1) * step - 4 * u)
        bar(panel, a, b, round(78 * u), round(8 * u), ACCENT if t < n else TRACK)
    put_text(panel, f"{n} of {T} frames", x0, round(110 * u), 11 * u, MUTED)


def _banner(panel: Canvas, activity: Activity, x0: int, x1: int, u: float) -> None:
    unsure = activity.status != "ok"
    colour = WARN if unsure else TEXT
    text = "unknown" if activity.status == "unknown" else activity.shown(activity.label)
    put_text(panel, text, x0, round(58 * u), 25 * u, colour, room=x1 - x0, bold=True)
    note = f"perhaps {activity.shown(activity.label)}" if activity.status == "unknown" else activity.status
    percent = f"{100 * activity.score:.0f} %"
    if unsure:
        percent += f"   {note}"
    put_text(panel, percent, x0, round(86 * u), 14 * u, WARN if unsure else ACCENT, room=x1 - x0)
    cv2.line(panel, (x0, round(106 * u)), (x1, round(106 * u)), LINE, max(1, round(u)))


def _bars(panel: Canvas, activity: Activity, x0: int, x1: int, y: float, u: float) -> float:
    for rank, (label, _, score) in enumerate(activity.top_k[:5]):
        first = rank == 0
        put_text(panel, f"{100 * score:.0f} %", x1, round(y), 11 * u, TEXT if first else MUTED, align=1.0)
        shown = activity.shown(label)
        put_text(panel, shown, x0, round(y), 11 * u, TEXT if first else MUTED, room=round(x1 - x0 - 60 * u))
        top, thick = round(y + 7 * u), round(7 * u)
        bar(panel, x0, x1, top, thick, TRACK)
        end = x0 + round((x1 - x0) * min(max(score, 0.0), 1.0))
        if end - x0 >= thick:
            bar(panel, x0, end, top, thick, ACCENT if first else OTHER)
        y += 38 * u
    return y


def _workers(panel: Canvas, weights: NDArray[np.float64], x0: int, x1: int, y: float, u: float) -> None:
    put_text(panel, "what each worker looks at", x0, round(y), 9.5 * u, MUTED, room=x1 - x0)
    left, thick = x0 + round(26 * u), round(12 * u)
    for c, row in enumerate(weights):
        top = round(y + (14 + 22 * c) * u)
        put_text(panel, str(c + 1), x0, top + round(11 * u), 11 * u, TEXT)
        edges = left + np.concatenate([[0], np.cumsum(row)]) / max(row.sum(), 1e-9) * (x1 - left)
        for g in range(len(row)):
            a, b = round(edges[g]), round(edges[g + 1])
            if b > a:
                cv2.rectangle(panel, (a, top), (b - 1, top + thick), glimpse_colour(g), -1)
        for edge in edges[1:-1]:
            cv2.line(panel, (round(edge), top), (round(edge), top + thick), BACK, max(1, round(1.5 * u)))
