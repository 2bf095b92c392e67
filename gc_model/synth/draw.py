# SPDX-License-Identifier: Apache-2.0
"""Shaded, textured, depth-tested capsules and heads, painted into a small float picture.

Each part of a body is a round solid seen by a camera: a tapered capsule whose coverage is analytic (so edges are
anti-aliased), lit by its true normals and tested against a depth buffer, so that limbs cross each other correctly.
Picture coordinates: x right, y down; normals: x right, y down, z towards the camera.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class Light:
    direction: tuple[float, float, float]  # towards the light, in picture coordinates
    ambient: float = 0.62
    diffuse: float = 0.50


class Canvas:
    """A picture (H, W, 3) float32 0..255 with depth (H, W) metres and body numbers (H, W) uint8."""

    def __init__(self, width: int, height: int, bodies: int = 1) -> None:
        self.width, self.height, self.several = width, height, bodies > 1
        self.rgb = np.zeros((height, width, 3), np.float32)
        self.depth = np.full((height, width), np.inf, np.float32)
        self.who = np.zeros((height, width), np.uint8)
        self._x = np.arange(width, dtype=np.float32)[None, :] + 0.5
        self._y = np.arange(height, dtype=np.float32)[:, None] + 0.5

    def start(self, background: np.ndarray) -> None:
        """Begin a frame with `background` (H, W, 3), float32 or uint8."""
        np.copyto(self.rgb, background)
        self.depth.fill(np.inf)
        if self.several:
            self.who.fill(0)

    def capsule(
        self,
        a: np.ndarray,
        b: np.ndarray,
        radii: tuple[float, float],
        depths: tuple[float, float],
        scale: float,
        texture: np.ndarray,
        light: Light,
        who: int,
        bulge: float = 0.0,
        cap: float = 1.0,
        turn: float | None = None,
        profile: np.ndarray | None = None,
        matt: bool = False,
    ) -> None:
        """Draw from `a` to `b` (pixels); radii in pixels, depths in metres, `scale` pixels per metre.

        texture: (3,) one colour, or (N, M, 3): rows run from a to b; columns across the visible half, or all
        around the solid when `turn` (radians, 0 = its front faces the camera) is given. bulge widens the middle,
        cap > 1 flattens the ends, profile (N,) multiplies the radius along the way, matt draws it unshaded.
        """
        ax, ay = float(a[0]), float(a[1])
        dx, dy = float(b[0]) - ax, float(b[1]) - ay
        length = max((dx * dx + dy * dy) ** 0.5, 1e-3)
        # Python floats: a NumPy float64 scalar would make every array below float64.
        ra, rb, scale = max(float(radii[0]), 0.6), max(float(radii[1]), 0.6), float(scale)
        za, dz = float(depths[0]), float(depths[1] - depths[0])
        reach = max(ra, rb) * (1.0 + bulge if profile is None else float(profile.max())) + 1.5
        x0, x1 = int(max(min(ax, ax + dx) - reach, 0)), int(min(max(ax, ax + dx) + reach + 1, self.width))
        y0, y1 = int(max(min(ay, ay + dy) - reach, 0)), int(min(max(ay, ay + dy) + reach + 1, self.height))
        if x0 >= x1 or y0 >= y1:
            return
        ux, uy = dx / length, dy / length
        if dx * dx + dy * dy < 1e-6:
            ux, uy = 0.0, 1.0
        px, py = self._x[:, x0:x1] - ax, self._y[y0:y1] - ay
        along = px * ux + py * uy
        across = py * ux - px * uy
        t = _unit_range(along * (1 / length))
        along -= t * length
        if cap != 1.0:
            along *= cap
        if profile is not None:
            radius = profile[(t * (len(profile) - 1)).astype(np.intp)] * ra
        else:
            middle = 2 * bulge * (ra + rb)
            radius = t * -middle
            radius += rb - ra + middle
            radius *= t
            radius += ra
        square = along * along
        square += across * across
        distance = cv2.sqrt(square)
        cover = radius - distance
        cover += 0.5
        _unit_range(cover)
        inverse = 1.0 / radius
        nv = across * inverse
        nz = 1.0 - square * inverse * inverse
        nz = cv2.sqrt(np.maximum(nz, 0.0, out=nz))
        z = nz * radius
        z *= -1.0 / scale
        z += t * dz
        z += za
        if matt:
            shade = np.full_like(nv, light.ambient + 0.8 * light.diffuse * light.direction[2])
        else:
            shade = _limb_shade(nv, (ux, uy), light)
        colour = _limb_colour(texture, shade, nv, t, turn)
        self._blend(y0, y1, x0, x1, colour, cover, z, who)

    def ball(
        self,
        centre: np.ndarray,
        up: np.ndarray,
        radii: tuple[float, float],
        depth: float,
        scale: float,
        rotation: np.ndarray,
        texture: np.ndarray,
        light: Light,
        who: int,
    ) -> None:
        """Draw an egg with a texture mapped by longitude and latitude.

        centre, up in pixels (up: unit vector of its long axis); radii across and along, pixels; rotation (3, 3):
        columns are the egg's left, up and front in picture coordinates; texture (N, M, 3): rows from top to bottom,
        columns from the egg's right over its front (middle) to its left.
        """
        wide_r, high_r = float(radii[0]), float(radii[1])
        cx, cy, reach = float(centre[0]), float(centre[1]), max(wide_r, high_r) + 1.5
        x0, x1 = int(max(cx - reach, 0)), int(min(cx + reach + 1, self.width))
        y0, y1 = int(max(cy - reach, 0)), int(min(cy + reach + 1, self.height))
        if x0 >= x1 or y0 >= y1:
            return
        ux, uy = float(up[0]), float(up[1])
        px, py = self._x[:, x0:x1] - cx, self._y[y0:y1] - cy
        high = (px * ux + py * uy) * (1 / high_r)
        wide = (py * ux - px * uy) * (1 / wide_r)
        square = high * high + wide * wide
        cover = _unit_range((1.0 - cv2.sqrt(square)) * min(wide_r, high_r) + 0.5)
        nz = cv2.sqrt(np.maximum(1.0 - square, 0.0))
        nx = wide * -uy + high * ux
        ny = wide * ux + high * uy
        left, top, front = (nx * r[0] + ny * r[1] + nz * r[2] for r in np.asarray(rotation, np.float32).T)
        rows, columns = texture.shape[:2]
        u = cv2.phase(np.ascontiguousarray(front), np.ascontiguousarray(left))  # 0..2 pi from the front
        u *= columns / (2 * np.pi)
        u += columns * 0.5
        v = (1.0 - np.clip(top, -1.0, 1.0)) * ((rows - 1) * 0.5)
        colour = cv2.remap(texture, u, v.astype(np.float32), cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
        lx, ly, lz = light.direction
        shade = nz * (light.diffuse * lz + 0.12) + nx * (light.diffuse * lx) + ny * (light.diffuse * ly)
        shade += light.ambient - 0.10
        shade = np.maximum(shade, 0.34)
        cv2.multiply(colour, cv2.merge((shade, shade, shade)), dst=colour)
        self._blend(y0, y1, x0, x1, colour, cover, float(depth) - nz * (wide_r / float(scale)), who)

    def _blend(self, y0: int, y1: int, x0: int, x1: int, colour, cover, z, who: int) -> None:
        depth = self.depth[y0:y1, x0:x1]
        cover *= z < depth
        roi = self.rgb[y0:y1, x0:x1]
        cv2.subtract(colour, roi, dst=colour)
        cv2.multiply(colour, cv2.merge((cover, cover, cover)), dst=colour)
        cv2.add(roi, colour, dst=roi)
        solid = cover > 0.5
        cv2.copyTo(z, solid.view(np.uint8), depth)
        if self.several:
            np.copyto(self.who[y0:y1, x0:x1], who, where=solid)

    def bodies(self) -> np.ndarray:
        """Who is seen where (H, W) uint8, 0 nobody."""
        return self.who if self.several else np.isfinite(self.depth).view(np.uint8)

    def shadow(self, centre: np.ndarray, radii: tuple[float, float], stamp: np.ndarray) -> None:
        """Darken the floor by `stamp` (n, n) float32 factors stretched to `radii` around `centre`."""
        w, h = max(int(2 * radii[0]), 2), max(int(2 * radii[1]), 2)
        x, y = round(float(centre[0]) - w / 2), round(float(centre[1]) - h / 2)
        x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + w, self.width), min(y + h, self.height)
        if x0 < x1 and y0 < y1:
            patch = cv2.resize(stamp, (w, h))[y0 - y : y1 - y, x0 - x : x1 - x]
            self.rgb[y0:y1, x0:x1] *= patch[..., None]


def _limb_shade(nv: np.ndarray, way: tuple[float, float], light: Light) -> np.ndarray:
    """Brightness (h, w) of a limb that points along `way`, a unit vector; nv (h, w): its normals across, -1..1.

    Lambert plus a little darkening towards the outline, which reads as roundness. Across the limb only: rounded ends
    would show as beads where two parts of a limb meet.
    """
    (ux, uy), (lx, ly, lz) = way, light.direction
    shade = nv * nv
    shade *= -0.75 * (light.diffuse * lz + 0.16)
    shade += nv * (light.diffuse * (ly * ux - lx * uy))
    shade += light.ambient + light.diffuse * lz
    return np.maximum(shade, 0.30, out=shade)


def _limb_colour(
    texture: np.ndarray, shade: np.ndarray, nv: np.ndarray, t: np.ndarray, turn: float | None
) -> np.ndarray:
    """Shaded colours (h, w, 3) of a limb: its texture at t (h, w), 0..1 along it, and at the normals nv across it.

    texture, turn: as for `Canvas.capsule`.
    """
    if texture.ndim == 1:
        red, green, blue = texture.tolist()
        return cv2.merge((shade * red, shade * green, shade * blue))
    rows, columns = texture.shape[:2]
    if turn is None:
        u = nv * ((columns - 1) * 0.5)
        u += (columns - 1) * 0.5
    else:
        u = np.arcsin(np.clip(nv, -1.0, 1.0))
        u *= columns / (2 * np.pi)
        u += columns * (0.5 - turn / (2 * np.pi))
    colour = cv2.remap(texture, u, t * np.float32(rows - 1), cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    return cv2.multiply(colour, cv2.merge((shade, shade, shade)), dst=colour)


def _unit_range(x: np.ndarray) -> np.ndarray:
    """Clip to 0..1 in place; np.clip costs four times as much on arrays as small as a limb."""
    np.maximum(x, 0.0, out=x)
    return np.minimum(x, 1.0, out=x)
