# SPDX-License-Identifier: Apache-2.0
"""Bodies: the Kinect v2's 25 joints, a subject's proportions and style, and poses solved into joints.

A body's own frame: x to the person's left, y up, z forward, origin on the floor between the feet. Lengths of a
pose are in body heights, so that the same motion fits tall and short people.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

JOINTS = (
    "SpineBase", "SpineMid", "Neck", "Head",
    "ShoulderLeft", "ElbowLeft", "WristLeft", "HandLeft",
    "ShoulderRight", "ElbowRight", "WristRight", "HandRight",
    "HipLeft", "KneeLeft", "AnkleLeft", "FootLeft",
    "HipRight", "KneeRight", "AnkleRight", "FootRight",
    "SpineShoulder", "HandTipLeft", "ThumbLeft", "HandTipRight", "ThumbRight",
)  # fmt: skip
J = {name: index for index, name in enumerate(JOINTS)}
LEFT, RIGHT = 1, -1  # signs of x in the body's frame


@dataclass(frozen=True)
class Subject:
    """Proportions (fractions of the height), build and manner of one person."""

    height: float
    build: float  # 0.85 slim .. 1.25 heavy
    shoulder: float
    hip: float
    upper_arm: float
    forearm: float
    hand: float
    thigh: float
    shin: float
    speed: float
    reach: float  # amplitude of motions
    handed: int  # LEFT or RIGHT
    posture: float  # radians of standing lean
    sway: float
    elbow_out: float
    stance: float


def make_subject(rng: np.random.Generator) -> Subject:
    """Draw a person; the draws are always the same number in the same order."""
    u = rng.uniform
    return Subject(
        height=float(np.clip(rng.normal(1.70, 0.09), 1.50, 1.92)),
        build=u(0.86, 1.22), shoulder=u(0.108, 0.126), hip=u(0.048, 0.060), upper_arm=u(0.165, 0.182),
        forearm=u(0.143, 0.157), hand=u(0.092, 0.106), thigh=u(0.235, 0.252), shin=u(0.232, 0.248),
        speed=u(0.82, 1.22), reach=u(0.80, 1.18), handed=LEFT if u() < 0.14 else RIGHT, posture=u(-0.02, 0.09),
        sway=u(0.3, 1.3), elbow_out=u(0.1, 0.6), stance=u(0.055, 0.085),
    )  # fmt: skip


@dataclass
class Reach:
    """Where a wrist goes: `anchor` + `offset` (T, 3); `weight` (T,) blends from the hanging arm."""

    anchor: str  # head, chest, base, floor
    offset: np.ndarray
    pole: tuple[float, float, float]  # where the elbow points
    hand: np.ndarray | None = None  # direction of the hand (T, 3); None continues the forearm
    weight: np.ndarray | float = 1.0


@dataclass
class Prop:
    """Something held or thrown. `ends` (T, 2, 3) in the body's frame in body heights, NaN where unseen."""

    kind: str
    side: int
    radius: float
    along: np.ndarray  # (T, 3) direction of its axis
    length: float
    colour: tuple[float, ...]  # RGB 0..255
    lift: np.ndarray | float = 0.0  # shift (T, 3) from the hand
    flat: bool = True


@dataclass
class Pose:
    """A motion before it is solved into joints; every array has T rows. Angles in radians."""

    frames: int
    lean: np.ndarray = field(init=False)
    side: np.ndarray = field(init=False)
    twist: np.ndarray = field(init=False)
    nod: np.ndarray = field(init=False)
    turn: np.ndarray = field(init=False)
    pelvis: np.ndarray = field(init=False)
    feet: dict[int, np.ndarray] = field(init=False)
    heading: np.ndarray = field(init=False)  # radians that the whole body is turned by, from its facing
    path: np.ndarray = field(init=False)  # how far it has gone, along its facing
    arms: dict[int, Reach] = field(default_factory=dict)
    props: list[Prop] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in ("lean", "side", "twist", "nod", "turn", "heading", "path"):
            setattr(self, name, np.zeros(self.frames))
        self.pelvis = np.zeros((self.frames, 3))
        self.feet = {LEFT: np.zeros((self.frames, 3)), RIGHT: np.zeros((self.frames, 3))}


@dataclass(frozen=True)
class Solved:
    """Joints (T, 25, 3) in metres in the frame they were asked in, and what drawing needs beside them."""

    joints: np.ndarray
    torso: np.ndarray  # (T, 3, 3) columns left, up, forward
    head: np.ndarray  # (T, 3, 3)
    props: list[tuple[Prop, np.ndarray]]  # ends (T, 2, 3)


def rotation(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """(T, 3, 3): turn about z (side), then x (lean forward), then y (twist to the left)."""
    cx, sx, cy, sy, cz, sz = np.cos(x), np.sin(x), np.cos(y), np.sin(y), np.cos(z), np.sin(z)
    one, nil = np.ones_like(x), np.zeros_like(x)

    def build(rows: list[list[np.ndarray]]) -> np.ndarray:
        return np.stack([np.stack(row, -1) for row in rows], -2)

    about_x = build([[one, nil, nil], [nil, cx, -sx], [nil, sx, cx]])
    about_y = build([[cy, nil, sy], [nil, one, nil], [-sy, nil, cy]])
    about_z = build([[cz, -sz, nil], [sz, cz, nil], [nil, nil, one]])
    return about_y @ about_x @ about_z


def unit(v: np.ndarray) -> np.ndarray:
    return v / np.maximum(np.linalg.norm(v, axis=-1, keepdims=True), 1e-9)


def two_bones(start: np.ndarray, goal: np.ndarray, first: float, second: float, pole: np.ndarray):
    """Elbow (or knee) and reachable end (T, 3) of a two-bone chain that bends towards `pole`."""
    toward = goal - start
    distance = np.clip(np.linalg.norm(toward, axis=-1, keepdims=True), abs(first - second) + 0.02,
                       (first + second) * 0.998)  # fmt: skip
    direction = unit(toward)
    along = (first**2 - second**2 + distance**2) / (2 * distance)
    out = np.sqrt(np.maximum(first**2 - along**2, 0.0))
    pole = np.broadcast_to(pole, start.shape)
    sideways = unit(pole - (pole * direction).sum(-1, keepdims=True) * direction)
    return start + along * direction + out * sideways, start + distance * direction


def solve(subject: Subject, pose: Pose, facing: float, position: tuple[float, float] = (0.0, 0.0)) -> Solved:
    """Joints of `pose` for `subject` who stands at `position` (x, z in metres) and faces `facing` radians."""
    s, zeros = subject, np.zeros(pose.frames)
    joints = np.zeros((pose.frames, 25, 3))

    def put(name: str, value: np.ndarray) -> np.ndarray:
        joints[:, J[name]] = value
        return value

    hip_height = (s.thigh + s.shin) * 0.995 + 0.045
    base = put("SpineBase", np.array([0.0, hip_height + 0.015, 0.0]) + pose.pelvis)
    half = rotation(pose.lean * 0.6, pose.twist * 0.5, pose.side * 0.5)
    torso = rotation(pose.lean, pose.twist, pose.side)
    head_r = rotation(pose.lean * 0.55 + pose.nod, pose.twist + pose.turn, pose.side * 0.6)
    mid = put("SpineMid", base + half @ np.array([0.0, 0.140, 0.005]))
    chest = put("SpineShoulder", mid + torso @ np.array([0.0, 0.140, -0.005]))
    neck = put("Neck", chest + torso @ np.array([0.0, 0.038, 0.0]))
    head = put("Head", neck + head_r @ np.array([0.0, 0.078, 0.012]))
    anchors = {"head": head, "chest": chest, "base": base, "floor": np.zeros_like(base)}

    hands: dict[int, np.ndarray] = {}
    for sign, name in ((LEFT, "Left"), (RIGHT, "Right")):
        shoulder = put("Shoulder" + name, chest + torso @ np.array([sign * s.shoulder, -0.012, 0.0]))
        hang = shoulder + half @ np.array([sign * 0.035, -(s.upper_arm + s.forearm) * 0.965, 0.035])
        goal, pole, way = hang, np.array([sign * s.elbow_out, 0.0, -1.0]), None
        if sign in pose.arms:
            arm = pose.arms[sign]
            weight = np.broadcast_to(np.asarray(arm.weight, float), (pose.frames,))[:, None]
            # A raised arm passes in front of the body, not through it.
            detour = np.array([sign * 0.05, 0.0, 0.10]) * (4 * weight * (1 - weight))
            goal = hang + (anchors[arm.anchor] + arm.offset - hang) * weight + detour
            pole = pole + (unit(np.array(arm.pole, float)) - pole) * weight
            way = arm.hand
        elbow, wrist = two_bones(shoulder, goal, s.upper_arm, s.forearm, pole)
        direction = unit(wrist - elbow)
        if way is not None:
            direction = unit(direction + (unit(way) - direction) * weight)
        put("Elbow" + name, elbow)
        put("Wrist" + name, wrist)
        put("Hand" + name, wrist + direction * s.hand * 0.45)
        put("HandTip" + name, wrist + direction * s.hand)
        inward = unit(
            np.cross(direction, np.array([0.0, 0.0, 1.0])) * -sign + np.array([-sign * 0.3, 0.3, 0.4])
        )
        put("Thumb" + name, wrist + direction * s.hand * 0.42 + inward * s.hand * 0.34)
        hands[sign] = joints[:, J["Hand" + name]]

        hip = put(
            "Hip" + name,
            base + rotation(zeros, pose.twist * 0.3, zeros) @ np.array([sign * s.hip, -0.015, 0.0]),
        )
        ankle_goal = np.array([sign * s.stance, 0.045, -0.01]) + pose.feet[sign]
        knee, ankle = two_bones(hip, ankle_goal, s.thigh, s.shin, np.array([sign * 0.18, 0.0, 1.0]))
        put("Knee" + name, knee)
        put("Ankle" + name, ankle)
        shin = unit(ankle - knee)
        toe = unit(
            np.array([sign * 0.25, -0.25, 1.0]) - 0.65 * shin * (shin @ np.array([0.0, 0.0, 1.0]))[:, None]
        )
        put("Foot" + name, ankle + toe * 0.085)

    props = []
    for prop in pose.props:
        axis = unit(np.broadcast_to(prop.along, (pose.frames, 3))) * prop.length / 2
        middle = hands[prop.side] + prop.lift
        props.append((prop, np.stack([middle - axis, middle + axis], axis=1)))

    turn = rotation(zeros, facing + pose.heading, zeros)
    gone = pose.path * s.height
    place = np.stack([position[0] + gone * np.sin(facing), zeros, position[1] + gone * np.cos(facing)], -1)

    def world(points: np.ndarray) -> np.ndarray:
        return np.einsum("tij,tkj->tki", turn, points * s.height) + place[:, None]

    return Solved(world(joints), turn @ torso, turn @ head_r, [(p, world(ends)) for p, ends in props])
