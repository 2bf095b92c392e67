# SPDX-License-Identifier: Apache-2.0
"""The picture of several people's results: each one's box with id and label, and where the model looked at them.

At the side stand the people by their ids with label and score, and below them the label of the whole picture. A person
has a colour of his own, by the id; the glimpses have theirs, as in `overlay`. Plain NumPy and OpenCV.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from gc_ros.recognition.activity import Activity
from gc_ros.recognition.drawing import (
    ACCENT,
    BACK,
    LINE,
    MUTED,
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
    text_width,
)
from gc_ros.recognition.palette import glimpse_colour, person_colour
from gc_ros.recognition.people import PersonActivity

_ROWS = 9  # people that the panel has room for


def draw_people(
    image_rgb: NDArray[np.uint8],
    people: Sequence[PersonActivity],
    scene: Activity | None = None,
    *,
    height: int | None = None,
) -> Canvas:
    """The picture of a camera image and the newest result of each person in it: RGB uint8 (height, width + panel, 3).

    image_rgb: uint8 (H, W, 3), of the size that the results are about. scene: result of the whole picture. height: of
    the picture, pixels; default: the image's, between 480 and 720. Raises ImageError for an unusable image.
    """
    view, height = scaled(image_rgb, height)
    fit = view.shape[1] / image_rgb.shape[1], view.shape[0] / image_rgb.shape[0]
    unit = view.shape[0] / 480
    for person in people:  # tags are drawn after all boxes, so that no box hides one
        _person(view, person, fit, unit)
    for person in people:
        _tag(view, person, fit, unit)
    return np.hstack([filled(view, height), _panel(height, people, scene)])


def _person(view: Canvas, person: PersonActivity, fit: tuple[float, float], unit: float) -> None:
    shares = person.activity.shares
    for g, glimpse in enumerate(person.activity.glimpses):
        low = round(glimpse.x0 * fit[0]), round(glimpse.y0 * fit[1])
        high = round(glimpse.x1 * fit[0]) - 1, round(glimpse.y1 * fit[1]) - 1
        if high[0] > low[0] and high[1] > low[1]:  # else outside the image
            thick = max(1, round(unit * (0.5 + 2.5 * float(shares[g]))))
            cv2.rectangle(view, low, high, glimpse_colour(g), thick, cv2.LINE_AA)
    low, high = _corners(view, person, fit)
    cv2.rectangle(view, low, high, person_colour(person.person_id), max(2, round(2.5 * unit)), cv2.LINE_AA)


def _corners(
    view: Canvas, person: PersonActivity, fit: tuple[float, float]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """The person's box in the view; a box may be far larger than the image, and OpenCV counts in 32 bits."""
    box, edge = person.box, max(view.shape)
    x0, x1 = (round(min(max(x * fit[0], -edge), 2 * edge)) for x in (box.x_min, box.x_max))
    y0, y1 = (round(min(max(y * fit[1], -edge), 2 * edge)) for y in (box.y_min, box.y_max))
    return (x0, y0), (x1, y1)


def _tag(view: Canvas, person: PersonActivity, fit: tuple[float, float], unit: float) -> None:
    (x, y), _ = _corners(view, person, fit)
    text = f"{person.person_id}  {person.activity.spoken}  {100 * person.activity.score:.0f} %"
    pixels, high = 11 * unit, round(22 * unit)
    wide = min(text_width(text, pixels / 22, max(1, round(pixels / 14))) + round(12 * unit), view.shape[1])
    x = max(min(x, view.shape[1] - wide), 0)
    y = max(min(y - high, view.shape[0] - high), 0)
    cv2.rectangle(view, (x, y), (x + wide, y + high), person_colour(person.person_id), -1)
    put_text(view, text, x + round(6 * unit), y + round(16 * unit), pixels, BACK, room=wide - round(8 * unit))


def _panel(height: int, people: Sequence[PersonActivity], scene: Activity | None) -> Canvas:
    panel, x0, x1, u = new_panel(height)
    count = f"{len(people)} people" if len(people) != 1 else "1 person"
    put_text(panel, count if people else "nobody", x0, round(46 * u), 20 * u, TEXT if people else MUTED)
    y = 76 * u
    for person in people[:_ROWS]:
        activity, colour = person.activity, person_colour(person.person_id)
        base = round(y + 10 * u)
        cv2.rectangle(panel, (x0, round(y - 2 * u)), (x0 + round(10 * u), base), colour, -1)
        put_text(panel, person.person_id, x0 + round(18 * u), base, 10 * u, MUTED, room=round(70 * u))
        put_text(panel, f"{100 * activity.score:.0f} %", x1, base, 11 * u, TEXT, align=1.0)
        words = TEXT if activity.status == "ok" else WARN
        put_text(
            panel,
            activity.spoken,
            x0 + round(96 * u),
            base,
            12 * u,
            words,
            room=x1 - x0 - round(150 * u),
            bold=True,
        )
        top, thick = round(y + 18 * u), round(5 * u)
        bar(panel, x0, x1, top, thick, TRACK)
        end = x0 + round((x1 - x0) * min(max(activity.score, 0.0), 1.0))
        if end - x0 >= thick:
            bar(panel, x0, end, top, thick, colour)
        y += 38 * u
    if len(people) > _ROWS:
        put_text(panel, f"and {len(people) - _ROWS} more", x0, round(y + 8 * u), 10 * u, MUTED)
    if scene is not None:
        top = round(430 * u)
        cv2.line(panel, (x0, top), (x1, top), LINE, max(1, round(u)))
        put_text(panel, "whole picture", x0, round(452 * u), 9.5 * u, MUTED)
        put_text(panel, f"{100 * scene.score:.0f} %", x1, round(452 * u), 9.5 * u, ACCENT, align=1.0)
        put_text(
            panel,
            scene.spoken,
            x0 + round(120 * u),
            round(452 * u),
            9.5 * u,
            MUTED,
            room=x1 - x0 - round(170 * u),
        )
    return finished(panel, height)
