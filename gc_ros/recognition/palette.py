# SPDX-License-Identifier: Apache-2.0
"""One colour a glimpse, the same in the overlay, in Foxglove, in reports and in the pictures of training."""

from __future__ import annotations

import zlib

Colour = tuple[int, int, int]  # RGB, 0 to 255

# The paper's red, green and blue; the fourth is amber.
GLIMPSE_COLOURS: tuple[Colour, ...] = ((240, 82, 76), (72, 205, 122), (70, 150, 255), (250, 190, 60))


def glimpse_colour(g: int) -> Colour:
    """The colour of glimpse g, counted from 0; a fifth glimpse has the first one's again."""
    return GLIMPSE_COLOURS[g % len(GLIMPSE_COLOURS)]


# Of people, beside those of the glimpses: none is near to one of theirs.
PERSON_COLOURS: tuple[Colour, ...] = (
    *((92, 200, 250), (255, 140, 200), (180, 255, 120), (200, 160, 255)),
    *((255, 235, 130), (120, 240, 230), (255, 170, 110), (190, 200, 215)),
)


def person_colour(person_id: str) -> Colour:
    """The colour of a person, by the id alone: it stays when others come and go."""
    return PERSON_COLOURS[zlib.crc32(person_id.encode()) % len(PERSON_COLOURS)]
