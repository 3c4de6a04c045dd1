"""The kinematic body of the synthetic people: bone lengths, joint limits, poses, forward kinematics.

The body's frame has its origin at the pelvis, x to the person's left, y up and z forwards, in mm. An arm or a leg that
hangs straight down has all angles zero.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from lightpose.structures import Array

KEYPOINTS = (
    *("nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder"),
    *("left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip"),
    *("left_knee", "right_knee", "left_ankle", "right_ankle"),
)
LINKS = (
    *((15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8)),
    *((7, 9), (8, 10), (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6)),
)

# Points after the 17 keypoints, which only the drawing needs.
NECK, HEAD, LEFT_HAND, LEFT_TOE, LEFT_CHEST, LEFT_PELVIS = 17, 18, 19, 21, 23, 25
NUM_POINTS = 27

HEAD_RADII = np.array([80.0, 115.0, 97.0])
"""Semi-axes of the head's ellipsoid (left, up, front), mm."""
FACE = np.array([[0, -22, 108], [33, 14, 87], [-33, 14, 87], [80, -6, -6], [-80, -6, -6]], float)
"""Nose, eyes and ears from the centre of the head, mm."""

Range = tuple[float, float]
Limb = tuple[Range, Range, Range, Range]
"""Ranges, in degrees, of flexion (forwards), abduction (sideways), inward twist and bend (elbow or knee)."""

ARM_LIMITS: Limb = ((-45, 180), (-10, 150), (-90, 90), (0, 145))
ARMS: tuple[tuple[float, Limb], ...] = (
    (0.30, ((-20, 20), (4, 22), (-20, 40), (0, 40))),  # hanging
    (0.14, ((-25, 5), (28, 50), (45, 80), (70, 105))),  # hand on the hip
    (0.10, ((40, 105), (0, 30), (-20, 50), (0, 90))),  # reaching forwards
    (0.27, ((-15, 25), (55, 110), (-90, 20), (0, 100))),  # out to the side
    (0.16, ((140, 175), (0, 30), (-30, 50), (0, 70))),  # up
    (0.03, ARM_LIMITS),
)
"""(share, ranges) of the things that an arm does."""

STAND: Limb = ((-8, 12), (0, 14), (-15, 10), (0, 12))
WIDE: Limb = ((-10, 25), (18, 38), (-20, 0), (0, 40))
SEAT: Limb = ((60, 95), (2, 25), (-10, 10), (60, 100))
SQUAT: Limb = ((60, 105), (12, 35), (-15, 0), (80, 125))
STEP: Limb = ((15, 50), (0, 10), (-10, 10), (0, 45))
PUSH: Limb = ((-30, -5), (0, 10), (-10, 10), (5, 60))
RAISED: Limb = ((55, 100), (0, 25), (-15, 15), (50, 110))
LEGS: tuple[tuple[float, Limb, Limb], ...] = (
    (0.32, STAND, STAND),
    (0.30, STEP, PUSH),
    (0.14, WIDE, WIDE),
    (0.09, SEAT, SEAT),
    (0.05, SQUAT, SQUAT),
    (0.10, RAISED, STAND),
)
"""(share, ranges of one leg, ranges of the other) of the things that legs do."""


@dataclass(frozen=True, slots=True)
class Body:
    """A posed body, in its own frame or, after `moved`, in the camera's.

    Attributes:
        points: (NUM_POINTS, 3) float64 mm, the 17 keypoints first.
        head: (3, 3), the head's left, up and front as columns.
        girth: factor of all thicknesses.
    """

    points: Array
    head: Array
    girth: float

    def moved(self, rotation: Array, shift: Array) -> Self:
        """The body after ``rotation`` (3, 3) and then ``shift`` (3,)."""
        return replace(self, points=self.points @ rotation.T + shift, head=rotation @ self.head)


def turn(axis: int, degrees: float) -> Array:
    """(3, 3) right-handed rotation about x, y or z (0, 1, 2)."""
    radians = np.deg2rad(degrees)
    first, second = (axis + 1) % 3, (axis + 2) % 3
    matrix = np.eye(3)
    matrix[first, first] = matrix[second, second] = np.cos(radians)
    matrix[second, first] = np.sin(radians)
    matrix[first, second] = -matrix[second, first]
    return matrix


@dataclass(frozen=True, slots=True)
class Build:
    """How large somebody is.

    Attributes:
        size: factor of what is no bone.
        length: bone → mm.
    """

    size: float
    length: Mapping[str, float]

    @classmethod
    def sample(cls, rng: np.random.Generator) -> Self:
        """A random one."""
        size = rng.uniform(0.86, 1.1)
        lengths = np.array([180, 95, 490, 285, 255, 425, 415]) * size * rng.uniform(0.93, 1.07, 7)
        names = ("shoulder", "hip", "spine", "upper_arm", "forearm", "thigh", "shin")
        return cls(size, dict(zip(names, lengths, strict=True)))


def sample_body(rng: np.random.Generator) -> Body:
    """A body of random build in a random natural pose, in its own frame."""
    build = Build.sample(rng)
    bent = rng.random() < 0.18
    torso = turn(0, rng.uniform(30, 75) if bent else rng.normal(4, 8))
    torso = turn(2, rng.normal(0, 8)) @ torso @ turn(1, rng.normal(0, 14))
    look = turn(1, np.clip(rng.normal(0, 28), -65, 65)) @ turn(0, rng.normal(-15 if bent else 4, 13))
    head = torso @ look @ turn(2, rng.normal(0, 8))
    arms = [ARMS[i][1] for i in rng.choice(len(ARMS), 2, p=[share for share, _ in ARMS])]
    if rng.random() < 0.3:
        arms[1] = arms[0]
    pick = LEGS[rng.choice(len(LEGS), p=[share for share, *_ in LEGS])]
    legs = pick[1:] if rng.random() < 0.5 else pick[:0:-1]
    angles = [
        [[rng.uniform(*limits) for limits in limb] for limb in (arm, leg)] for arm, leg in zip(arms, legs, strict=True)
    ]
    points = posed(build, torso, head, angles)
    return Body(points, head, build.size * rng.uniform(0.9, 1.2))


def walking_body(build: Build, girth: float, phase: float, swing: float) -> Body:
    """A body in the middle of a step, in its own frame.

    Args:
        build: of the body.
        girth: see `Body`.
        phase: where in the two steps of a cycle, in radians.
        swing: how far arms and legs go, from 0 (standing) to 1.
    """
    torso = turn(0, 2 + 3 * swing)
    angles = []
    for shift in (0, np.pi):  # left, right
        forwards, rising = np.sin(phase + shift), max(np.cos(phase + shift), 0)
        arm = [-24 * swing * forwards, 8, 5, 12 + 14 * swing]
        leg = [2 + 26 * swing * forwards, 2, 0, 4 + 46 * swing * rising]
        angles.append([arm, leg])
    return Body(posed(build, torso, torso, angles), torso, girth)


def posed(build: Build, torso: Array, head: Array, angles: Sequence[Sequence[Sequence[float]]]) -> Array:
    """(NUM_POINTS, 3) mm in the body's frame.

    Args:
        build: of the body.
        torso: (3, 3) rotation.
        head: (3, 3) rotation.
        angles: flexion, abduction, twist and bend, in degrees, of an arm and a leg, on the left and on the right.
    """
    size, length = build.size, build.length
    points = np.zeros((NUM_POINTS, 3))
    points[NECK] = torso @ [0, length["spine"], 0]
    points[HEAD] = points[NECK] + torso @ [0, 75 * size, 10 * size] + head @ [0, 105 * size, 15 * size]
    points[:5] = points[HEAD] + FACE * size @ head.T
    for i, side in enumerate((1.0, -1.0)):  # left, right
        arm, leg = angles[i]
        points[5 + i] = points[NECK] + torso @ [side * length["shoulder"], -35 * size, 0]
        points[11 + i] = [side * length["hip"], 0, 0]
        points[LEFT_CHEST + i] = points[NECK] + torso @ [side * 75 * size, -150 * size, 0]
        points[LEFT_PELVIS + i] = [side * 70 * size, 25 * size, 0]
        upper, lower = _limb(arm, side, torso, bend_sign=-1)
        points[7 + i] = points[5 + i] + upper @ [0, -length["upper_arm"], 0]
        points[9 + i] = points[7 + i] + lower @ [0, -length["forearm"], 0]
        points[LEFT_HAND + i] = points[9 + i] + lower @ [0, -95 * size, 0]
        upper, lower = _limb(leg, side, np.eye(3), bend_sign=1)
        points[13 + i] = points[11 + i] + upper @ [0, -length["thigh"], 0]
        points[15 + i] = points[13 + i] + lower @ [0, -length["shin"], 0]
        points[LEFT_TOE + i] = points[15 + i] + lower @ [side * 25 * size, -60 * size, 165 * size]
    return points


def _limb(angles: Sequence[float], side: float, parent: Array, bend_sign: float) -> tuple[Array, Array]:
    """Rotations of the upper and the lower bone of an arm (bends forwards, -1) or a leg (bends backwards, 1)."""
    flexion, abduction, twist, bend = angles
    upper = parent @ turn(0, -flexion) @ turn(2, side * abduction) @ turn(1, -side * twist)
    return upper, upper @ turn(0, bend_sign * bend)
