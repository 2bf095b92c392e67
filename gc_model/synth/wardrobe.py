# SPDX-License-Identifier: Apache-2.0
"""Skin, hair, faces and clothes: the textures a body is painted with."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import cv2
import numpy as np

SKIN = (
    (255, 219, 190),
    (244, 200, 164),
    (226, 178, 138),
    (198, 146, 106),
    (166, 114, 78),
    (128, 84, 58),
    (92, 60, 44),
)
HAIR = (
    (28, 22, 20),
    (52, 36, 26),
    (88, 58, 36),
    (126, 88, 50),
    (186, 150, 92),
    (142, 64, 36),
    (150, 148, 146),
)
TROUSERS = (
    (44, 58, 92),
    (62, 84, 124),
    (36, 38, 44),
    (122, 108, 84),
    (84, 86, 90),
    (150, 140, 122),
    (58, 68, 56),
    (88, 60, 48),
)
PATTERNS = ("plain", "plain", "plain", "hoops", "stripes", "checks", "block", "jacket", "print", "dots")


@dataclass(frozen=True)
class Wardrobe:
    """Textures, float32 RGB 0..255; see `Canvas.capsule` for their layout."""

    skin: np.ndarray
    hair: np.ndarray | None  # (N, M, 3) of the cap of hair, None when bald
    long_hair: bool
    head: np.ndarray
    torso: np.ndarray
    upper_arm: np.ndarray
    forearm: np.ndarray
    thigh: np.ndarray
    shin: np.ndarray
    shoe: np.ndarray
    loose: float  # how much cloth widens the limbs


def vivid(rng: np.random.Generator, low: float = 0.25, high: float = 0.95) -> np.ndarray:
    """A cloth colour: saturated, pastel, or grey now and then."""
    saturation = rng.choice(
        [rng.uniform(0.5, 0.85), rng.uniform(0.15, 0.4), rng.uniform(0.0, 0.08)], p=[0.6, 0.25, 0.15]
    )
    return np.array(colorsys.hsv_to_rgb(rng.uniform(), saturation, rng.uniform(low, high)), np.float32) * 255


def cloth(rng: np.random.Generator, rows: int, columns: int, strength: float = 0.10) -> np.ndarray:
    """Folds: smooth brightness (rows, columns, 1) around 1."""
    coarse = rng.normal(0, 1, (max(rows // 6, 3), max(columns // 5, 3))).astype(np.float32)
    return 1 + strength * cv2.resize(coarse, (columns, rows), interpolation=cv2.INTER_CUBIC)[..., None]


def pattern(rng: np.random.Generator, kind: str, rows: int, columns: int, base: np.ndarray, accent: np.ndarray,
            period: float, around: bool) -> np.ndarray:  # fmt: skip
    """(rows, columns, 3) of a named pattern; `around`: columns go once round the body, its front in the middle."""
    v, u = np.mgrid[0:rows, 0:columns].astype(np.float32)
    u = (u + 0.5) / columns * (1.0 if around else 0.25)
    v = (v + 0.5) / rows
    front = np.abs(u - 0.5) * 2 if around else np.ones_like(u)
    if kind == "hoops":
        where = np.sin(2 * np.pi * v * period) > 0.1
    elif kind == "stripes":
        where = np.sin(2 * np.pi * u * period * 3) > 0.3
    elif kind == "checks":
        where = (np.sin(2 * np.pi * v * period) > 0.2).astype(np.float32)
        where = (where + (np.sin(2 * np.pi * u * period * 3) > 0.2)) / 2
    elif kind == "block":
        where = v > 0.62
    elif kind == "jacket":
        where = front < 0.11
    elif kind == "print":
        where = ((u - 0.5) / 0.09) ** 2 + ((v - 0.66) / 0.14) ** 2 < 1 if around else np.zeros_like(u)
    elif kind == "dots":
        where = np.sin(2 * np.pi * v * period * 1.3) * np.sin(2 * np.pi * u * period * 3) > 0.45
    else:
        where = np.zeros_like(u)
    mix = np.asarray(where, np.float32)[..., None]
    return (base * (1 - mix) + accent * mix).astype(np.float32)


def face(rng: np.random.Generator, skin: np.ndarray, hair: np.ndarray, bald: bool) -> np.ndarray:
    """Texture of a head (48, 64, 3), its face in the middle."""
    image = np.empty((192, 256, 3), np.float32)
    image[:] = skin
    image[150:] *= 0.90
    beard, glasses = rng.uniform() < 0.2, rng.uniform() < 0.25
    line = int(rng.uniform(36, 52))
    eye_gap, mouth = int(rng.uniform(15, 18)), int(rng.uniform(11, 16))

    def paint(colour, alpha: float, shape) -> None:
        mask = np.zeros(image.shape[:2], np.uint8)
        shape(mask)
        x, y, w, h = cv2.boundingRect(mask)
        roi, cover = image[y : y + h, x : x + w], mask[y : y + h, x : x + w, None] * np.float32(alpha / 255)
        roi += (np.asarray(colour, np.float32) - roi) * cover

    def ellipse(x: int, y: int, a: int, b: int):
        return lambda m: cv2.ellipse(m, (x, y), (a, b), 0, 0, 360, (255,), -1, cv2.LINE_AA)

    if beard:
        paint(hair, 0.75, lambda m: cv2.rectangle(m, (128 - 52, 122), (128 + 52, 192), (255,), -1))
    if not bald:

        def around(m: np.ndarray) -> None:
            m[:line] = 255
            m[:140, : 128 - 58] = m[:140, 128 + 58 :] = 255

        paint(hair, 1.0, around)
    for side in (-1, 1):
        paint(skin * 0.82, 0.6, ellipse(128 + side * 62, 98, 7, 15))  # ears
        paint(skin * 0.62, 0.5, ellipse(128 + side * eye_gap, 84, 9, 7))  # sockets
        paint((248, 246, 240), 1.0, ellipse(128 + side * eye_gap, 86, 6, 4))
        paint((30, 24, 22), 1.0, ellipse(128 + side * eye_gap, 86, 4, 4))
        paint(hair * 0.8, 0.9, ellipse(128 + side * eye_gap, 72, 9, 3))
        paint((226, 120, 104), 0.16, ellipse(128 + side * 24, 112, 12, 9))
        if glasses:
            paint(
                (26, 26, 30),
                0.95,
                lambda m, s=side: cv2.ellipse(m, (128 + s * eye_gap, 86), (13, 11), 0, 0, 360, (255,), 3),
            )
    paint(skin * 0.74, 0.7, ellipse(128, 112, 7, 4))
    paint(skin * (0.78, 0.50, 0.50), 0.95, ellipse(128, 134, mouth, 4))
    return cv2.resize(image, (64, 48), interpolation=cv2.INTER_AREA)


def dress(person: np.random.Generator, outfit: np.random.Generator) -> Wardrobe:
    """Skin, face and hair from `person` (who somebody is); clothes from `outfit` (what they wear today)."""
    tone, lock = int(person.integers(len(SKIN))), int(person.integers(len(HAIR)))
    if tone >= 3 and lock in (3, 4, 5):
        lock -= 3
    skin = np.array(SKIN[tone], np.float32) * person.uniform(0.94, 1.04)
    hair = np.array(HAIR[lock], np.float32) * person.uniform(0.85, 1.15)
    style = person.choice(["short", "long", "bald"], p=[0.55, 0.36, 0.09])
    head = face(person, skin, hair, style == "bald")
    hat = outfit.uniform() < 0.10
    cap = (
        None
        if style == "bald" and not hat
        else (vivid(outfit) if hat else hair) * cloth(person, 32, 40, 0.12)
    )

    base, accent = vivid(outfit), vivid(outfit)
    if np.abs(base - accent).sum() < 120:
        accent = 255 - accent * 0.6
    kind, period = str(outfit.choice(PATTERNS)), outfit.uniform(3.5, 7.0)
    torso = pattern(outfit, kind, 40, 96, base, accent, period, True) * cloth(outfit, 40, 96)
    sleeve = accent if kind == "block" and outfit.uniform() < 0.5 else base
    limb = "plain" if kind in ("jacket", "print", "block") else kind
    arm = np.concatenate([pattern(outfit, limb, 28, 12, sleeve, accent, period * 0.7, False) for _ in (0, 1)])
    arm *= cloth(outfit, 56, 12)
    # Long or short sleeves, in rows of the arm.
    length = outfit.choice([56, 52, 16, 20], p=[0.45, 0.1, 0.3, 0.15])
    arm[length:] = skin
    arm[length - 1 : length + 1] *= 0.8
    neckline = np.array([1, 1, 0, 0])[outfit.integers(4)]
    if neckline:
        torso[38:, 40:56] = skin
    belt = int(outfit.uniform(5, 9))
    bottom = np.array(TROUSERS[outfit.integers(len(TROUSERS))], np.float32) * outfit.uniform(0.85, 1.25)
    torso[:belt] = bottom * cloth(outfit, belt, 96)
    torso[belt : belt + 1] *= 0.6
    leg = np.ones((56, 12, 3), np.float32) * bottom * cloth(outfit, 56, 12)
    if outfit.uniform() < 0.18:  # shorts
        leg[22:] = skin
    leg[:, 0] *= 0.85
    shoe = np.array([vivid(outfit, 0.15, 0.9), (40, 36, 34), (225, 222, 214)][outfit.integers(3)], np.float32)
    return Wardrobe(
        skin=skin, hair=None if cap is None else np.clip(cap, 0, 255).astype(np.float32), long_hair=style == "long",
        head=head, torso=np.clip(torso, 0, 255).astype(np.float32), upper_arm=arm[:28].copy(), forearm=arm[28:].copy(),
        thigh=leg[:28].copy(), shin=leg[28:].copy(), shoe=shoe, loose=float(outfit.uniform(1.0, 1.18)),
    )  # fmt: skip
