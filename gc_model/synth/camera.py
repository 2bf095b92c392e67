# SPDX-License-Identifier: Apache-2.0
"""A pinhole camera that looks at the place where people act.

World: metres, y up, the activity happens above the origin. A camera at yaw 0 stands on the +z axis;
somebody whose facing angle equals the camera's yaw looks straight into it. Camera space: x to the right,
y up, z away from the camera (the Kinect's convention up to the sign of x).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class Camera:
    """Where a camera stands and how much it sees."""

    yaw_deg: float = 0.0
    distance: float = 3.2  # metres from the origin, on the floor
    height: float = 1.2  # of the lens above the floor
    look_at: float = 0.9  # height of the point over the origin that falls on the middle of the picture
    shift: float = 0.0  # metres sideways of that point
    focal: float = 1.5  # in picture heights
    size: tuple[int, int] = (256, 256)  # width, height in pixels

    @property
    def focal_px(self) -> float:
        return self.focal * self.size[1]

    @cached_property
    def frame(self) -> tuple[np.ndarray, np.ndarray]:
        """Position (3,) and rotation (3, 3) whose rows are right, up and away."""
        yaw = np.deg2rad(self.yaw_deg)
        right = np.array([np.cos(yaw), 0.0, -np.sin(yaw)])
        toward = np.array([np.sin(yaw), 0.0, np.cos(yaw)])
        position = toward * self.distance + right * self.shift + np.array([0.0, self.height, 0.0])
        away = right * self.shift + np.array([0.0, self.look_at, 0.0]) - position
        away /= np.linalg.norm(away)
        up = np.cross(right, away)
        return position, np.stack([right, up, away])

    def to_camera(self, points: np.ndarray) -> np.ndarray:
        """World points (..., 3) in camera space (..., 3), metres."""
        position, rotation = self.frame
        return (np.asarray(points, float) - position) @ rotation.T

    def to_pixels(self, points: np.ndarray) -> np.ndarray:
        """Camera-space points (..., 3) to pixels (..., 2); not clipped to the picture."""
        depth = np.maximum(points[..., 2], 0.05)
        width, height = self.size
        u = width / 2 + self.focal_px * points[..., 0] / depth
        v = height / 2 - self.focal_px * points[..., 1] / depth
        return np.stack([u, v], axis=-1)

    def project(self, points: np.ndarray) -> np.ndarray:
        """World points (..., 3) to pixels (..., 2)."""
        return self.to_pixels(self.to_camera(points))

    def scenery(self) -> Camera:
        """The same lens at yaw 0: rooms are laid out square to whoever films them."""
        return replace(self, yaw_deg=0.0)
