# SPDX-License-Identifier: Apache-2.0
"""Paint a solved body as one camera sees it."""

from __future__ import annotations

import numpy as np

from gc_model.synth.body import J, Solved, Subject
from gc_model.synth.camera import Camera
from gc_model.synth.draw import Canvas, Light
from gc_model.synth.wardrobe import Wardrobe

# From joint, to joint, radii in body heights, texture, bulge, is it clothed.
LIMBS = (
    ("SpineShoulder", "Shoulder", 0.030, 0.030, "upper_arm", 0.0),
    ("Shoulder", "Elbow", 0.031, 0.0245, "upper_arm", 0.06),
    ("Elbow", "Wrist", 0.0245, 0.0165, "forearm", 0.06),
    ("Wrist", "HandTip", 0.0165, 0.0115, "skin", 0.10),
    ("Wrist", "Thumb", 0.0090, 0.0070, "skin", 0.0),
    ("Hip", "Knee", 0.048, 0.035, "thigh", 0.03),
    ("Knee", "Ankle", 0.034, 0.0225, "shin", 0.10),
    ("Ankle", "Foot", 0.0235, 0.0190, "shoe", 0.06),
)
ALONG = np.linspace(0, 1, 128)
TORSO_WIDE = np.interp(ALONG, [0, 0.18, 0.42, 0.78, 1.0], [0.078, 0.086, 0.078, 0.098, 0.088])
TORSO_DEEP = np.interp(ALONG, [0, 0.18, 0.42, 0.78, 1.0], [0.066, 0.070, 0.062, 0.070, 0.050])


class Figure:
    """One body through a clip: everything that can be computed for all frames at once, then `draw` per frame."""

    def __init__(
        self, subject: Subject, wardrobe: Wardrobe, solved: Solved, camera: Camera, who: int
    ) -> None:
        self.wardrobe, self.who, self.height = wardrobe, who, subject.height
        self.space = camera.to_camera(solved.joints)  # (T, 25, 3)
        self.pixels = camera.to_pixels(self.space)  # (T, 25, 2)
        self.scale = camera.focal_px / np.maximum(self.space[..., 2], 0.05)  # pixels per metre (T, 25)
        _, rotation = camera.frame
        look = np.stack([rotation[0], -rotation[1], -rotation[2]])  # world to picture coordinates
        self.torso, self.head = look @ solved.torso, look @ solved.head
        self.turn = np.arctan2(self.torso[:, 0, 2], self.torso[:, 2, 2])
        self.floor = camera.project(np.stack([solved.joints[:, J["SpineBase"], 0], 0 * solved.joints[:, 0, 0],
                                              solved.joints[:, J["SpineBase"], 2]], -1))  # fmt: skip
        self.wide, self.deep = (profile * self.height * subject.build for profile in (TORSO_WIDE, TORSO_DEEP))
        self.props = []
        for prop, ends in solved.props:
            seen = camera.to_camera(ends)
            self.props.append((prop, seen, camera.to_pixels(seen)))
        thick = self.height * subject.build**0.7
        self.limbs = []
        for start, end, ra, rb, texture, bulge in LIMBS:
            loose = wardrobe.loose if texture in ("upper_arm", "thigh", "shin") else 1.0
            for side in ("Left", "Right"):
                first = start if start == "SpineShoulder" else start + side
                plain = texture == "upper_arm" and start == "SpineShoulder"
                skin = wardrobe.torso[30, 70] if plain else getattr(wardrobe, texture)
                self.limbs.append(
                    (J[first], J[end + side], ra * thick * loose, rb * thick * loose, skin, bulge)
                )

    def parts(self, k: int) -> list[tuple[float, int, int]]:
        """(depth, kind, index) of what is to be painted in frame k; the caller sorts several bodies' together."""
        z = self.space[k, :, 2]
        found = [((z[a] + z[b]) / 2, 0, i) for i, (a, b, *_) in enumerate(self.limbs)]
        found.append(((z[J["SpineBase"]] + z[J["SpineShoulder"]]) / 2, 1, 0))
        found.append((z[J["Head"]], 2, 0))
        for i, (_, seen, _) in enumerate(self.props):
            if np.isfinite(seen[k]).all():
                found.append((float(seen[k, :, 2].mean()), 3, i))
        return found

    def boxes(self) -> np.ndarray:
        """(T, 4) x_min, y_min, x_max, y_max in pixels around the body without what it holds; not clipped."""
        places, reaches = [], []
        for a, b, ra, rb, *_ in self.limbs:
            places += [self.pixels[:, a], self.pixels[:, b]]
            reaches += [ra * self.scale[:, a], rb * self.scale[:, b]]
        base, chest = (self.pixels[:, J[name]] for name in ("SpineBase", "SpineShoulder"))
        wide = np.hypot(self.wide[:, None] * np.cos(self.turn), self.deep[:, None] * np.sin(self.turn))
        for k in np.linspace(0, len(wide) - 1, 5).astype(int):
            t = k / (len(wide) - 1)
            places.append(base + (chest - base) * t)
            # The rounded ends of the trunk reach less far than it is wide.
            reaches.append(wide[k] * self.scale[:, J["SpineMid"]] * (1 if 0 < t < 1 else 0.6))
        scale = self.scale[:, J["Head"]] * self.height
        up = self.head[:, :2, 1] * scale[:, None]
        places += [self.pixels[:, J["Head"]] + up * way for way in (-0.014, 0.024)]
        reaches += [0.054 * scale] * 2
        middle, reach = np.stack(places, 1), np.stack(reaches, 1)[..., None]
        return np.concatenate([(middle - reach).min(1), (middle + reach).max(1)], 1)

    def seen(self, k: int, who: np.ndarray) -> float:
        """The share of its joints that lie in the picture, and on this body, in `who` (H, W): who is seen where."""
        height, width = who.shape
        x, y = np.floor(self.pixels[k]).astype(int).T
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        return float(np.mean(who[y[inside], x[inside]] == self.who) * inside.mean()) if inside.any() else 0.0

    def draw(self, canvas: Canvas, k: int, kind: int, index: int, light: Light) -> None:
        if kind == 0:
            a, b, ra, rb, texture, bulge = self.limbs[index]
            s, z, p = self.scale[k], self.space[k, :, 2], self.pixels[k]
            canvas.capsule(p[a], p[b], (ra * s[a], rb * s[b]), (z[a], z[b]), (s[a] + s[b]) / 2, texture, light,
                           self.who, bulge)  # fmt: skip
        elif kind == 1:
            self._torso(canvas, k, light)
        elif kind == 2:
            self._head(canvas, k, light)
        else:
            prop, seen, pixels = self.props[index]
            s = self.scale[k, J["SpineShoulder"]]
            r = prop.radius * self.height * s
            if prop.kind == "paper":
                r *= max(abs(float(self.torso[k, 2, 2])), 0.15)
            texture = np.array(prop.colour, np.float32)
            if prop.kind == "paper":
                texture = np.broadcast_to(texture, (24, 16, 3)).copy()
                texture[4:21:3, 2:13] *= 0.55  # lines of print
            canvas.capsule(pixels[k, 0], pixels[k, 1], (r, r), (seen[k, 0, 2], seen[k, 1, 2]), s, texture, light,
                           self.who, cap=6.0 if prop.flat else 1.0, matt=prop.kind == "paper")  # fmt: skip

    def _torso(self, canvas: Canvas, k: int, light: Light) -> None:
        a, b = J["SpineBase"], J["SpineShoulder"]
        p, z, s = self.pixels[k], self.space[k, :, 2], float(self.scale[k, J["SpineMid"]])
        turn = float(self.turn[k])
        profile = np.sqrt((self.wide * np.cos(turn)) ** 2 + (self.deep * np.sin(turn)) ** 2).astype(
            np.float32
        )
        down = (p[a] - p[b]) * 0.06
        canvas.capsule(p[a] + down, p[b], (s, s), (z[a], z[b]), s, self.wardrobe.torso, light, self.who,
                       cap=1.7, turn=turn, profile=profile)  # fmt: skip

    def _head(self, canvas: Canvas, k: int, light: Light) -> None:
        i, h, rotation = J["Head"], self.height, self.head[k]
        s, z, centre = float(self.scale[k, i]), float(self.space[k, i, 2]), self.pixels[k, i]
        skin = self.wardrobe.skin
        n = J["Neck"]
        canvas.capsule(self.pixels[k, J["SpineShoulder"]], centre, (0.031 * h * s, 0.027 * h * s),
                       (self.space[k, n, 2], z), s, skin * np.float32(0.86), light, self.who)  # fmt: skip
        left, up, front = rotation[:, 0], rotation[:, 1], rotation[:, 2]
        long_axis = up[:2] / max(float(np.hypot(up[0], up[1])), 1e-6)
        across = h * float(
            np.hypot(0.0475 * left[0], 0.057 * front[0]) / max(np.hypot(left[0], front[0]), 1e-6)
        )
        tall = h * (0.066 * float(np.hypot(up[0], up[1])) + 0.055 * abs(float(up[2])) * 0.3)

        def at(x: float, y: float, f: float) -> tuple[np.ndarray, float]:
            offset = (left * x + up * y + front * f) * h
            return centre + offset[:2] * s, z - float(offset[2])

        middle, depth = at(0.0, 0.0, 0.0)
        canvas.ball(
            middle, long_axis, (across * s, tall * s), depth, s, rotation, self.wardrobe.head, light, self.who
        )
        nose, nose_z = at(0.0, -0.010, 0.054)
        bridge, bridge_z = at(0.0, 0.006, 0.047)
        canvas.capsule(bridge, nose, (0.006 * h * s, 0.010 * h * s), (bridge_z, nose_z), s, skin * np.float32(0.97),
                       light, self.who)  # fmt: skip
        if self.wardrobe.hair is not None:
            crown, crown_z = at(0.0, 0.016, -0.014)
            canvas.ball(crown, long_axis, (across * s * 1.07, tall * s * 0.93), crown_z, s, rotation,
                        self.wardrobe.hair, light, self.who)  # fmt: skip
            if self.wardrobe.long_hair:
                top, top_z = at(0.0, 0.0, -0.022)
                tip, tip_z = at(0.0, -0.105, -0.036)
                canvas.capsule(top, tip, (0.050 * h * s, 0.040 * h * s), (top_z, tip_z), s,
                               self.wardrobe.hair[16, 20], light, self.who, cap=1.3)  # fmt: skip
