# SPDX-License-Identifier: Apache-2.0
"""One colour a glimpse, the same in the overlay, in Foxglove, in reports and in the pictures of training."""

from __future__ import annotations

Colour = tuple[int, int, int]  # RGB, 0 to 255

# The paper's red, green and blue; the fourth is amber.
GLIMPSE_COLOURS: tuple[Colour, ...] = ((240, 82, 76), (72, 205, 122), (70, 150, 255), (250, 190, 60))


def glimpse_colour(g: int) -> Colour:
    """The colour of glimpse g, counted from 0; a fifth glimpse has the first one's again."""
    return GLIMPSE_COLOURS[g % len(GLIMPSE_COLOURS)]
