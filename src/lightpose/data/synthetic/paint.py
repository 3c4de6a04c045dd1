"""Pictures of the synthetic people: backgrounds, bodies from far to near, and which part of whom each pixel shows."""

import colorsys
from dataclasses import dataclass
from typing import Self

import cv2
import numpy as np

from lightpose.data.synthetic.body import (
    FACE,
    HEAD,
    HEAD_RADII,
    LEFT_CHEST,
    LEFT_HAND,
    LEFT_PELVIS,
    LEFT_TOE,
    NECK,
    Body,
)
from lightpose.structures import Array

Color = tuple[float, float, float]
"""RGB in 0..255."""

PARTS = 16
"""Labels reserved for one person: pixel label = 1 + person * PARTS + part; 0 is nobody."""
MOST_PEOPLE = 255 // PARTS
TORSO, HEAD_PART, NECK_PART = 0, 1, 2
UPPER_ARM, FOREARM, THIGH, SHIN, FOOT = 3, 5, 7, 9, 11  # left; the right one follows

_LIMBS = (  # part, first point and second point on the left, their radii in mm
    (UPPER_ARM, 5, 7, 50, 41),
    (FOREARM, 7, 9, 40, 30),
    (FOREARM, 9, LEFT_HAND, 31, 33),
    (THIGH, 11, 13, 78, 56),
    (SHIN, 13, 15, 54, 38),
    (FOOT, 15, LEFT_TOE, 42, 34),
)
_SHOWN_BY = (  # the parts that show each keypoint where nothing nearer covers it
    *((HEAD_PART,),) * 5,
    *((TORSO, UPPER_ARM), (TORSO, UPPER_ARM + 1), (UPPER_ARM, FOREARM), (UPPER_ARM + 1, FOREARM + 1)),
    *((FOREARM,), (FOREARM + 1,), (TORSO, THIGH), (TORSO, THIGH + 1)),
    *((THIGH, SHIN), (THIGH + 1, SHIN + 1), (SHIN, FOOT), (SHIN + 1, FOOT + 1)),
)
_TORSO_POINTS = (5, 6, LEFT_CHEST, LEFT_CHEST + 1, LEFT_PELVIS, LEFT_PELVIS + 1)
_TORSO_RADII = (48.0, 48.0, 98.0, 98.0, 94.0, 94.0)
_SHIFT = 4  # fractional bits of the coordinates that OpenCV gets
_TURNS = np.linspace(0, 2 * np.pi, 18, endpoint=False)
_CIRCLE = np.stack([np.cos(_TURNS), np.sin(_TURNS)], -1)


def _sphere(count: int) -> Array:
    """(count, 3) unit vectors spread evenly (a Fibonacci lattice)."""
    height = 1 - (2 * np.arange(count) + 1) / count
    angle = np.pi * (1 + 5**0.5) * np.arange(count)
    ring = np.sqrt(1 - height**2)
    return np.stack([ring * np.cos(angle), height, ring * np.sin(angle)], -1)


_HEAD_DIRECTIONS = _sphere(240)
# The face: all within 62 degrees (cosine 0.47) of its middle, which is a bit below straight ahead.
_FACE_DIRECTIONS = _HEAD_DIRECTIONS[(_HEAD_DIRECTIONS @ [0, -0.419, 0.908]) > 0.47]


@dataclass(frozen=True, slots=True)
class Camera:
    """A pinhole: x to the right, y down, z into the picture, mm; a pixel's centre has integer coordinates."""

    focal_px: float
    center_px: tuple[float, float]

    def project(self, points: Array) -> Array:
        """(..., 3) mm to (..., 2) image pixels."""
        return points[..., :2] / points[..., 2:] * self.focal_px + self.center_px


@dataclass(frozen=True, slots=True)
class Look:
    """What a person wears; left and right alike, so that only the front of the body tells them apart."""

    skin: Color
    hair: Color
    shirt: Color
    trousers: Color
    shoes: Color
    long_sleeves: bool
    long_trousers: bool

    @classmethod
    def sample(cls, rng: np.random.Generator) -> Self:
        """Random colours, with hair that stands out from the skin."""
        shade = rng.uniform(0, 1)
        skin = _mix((250, 214, 186), (98, 62, 42), shade)
        dark_hair = ((25, 20, 18), (70, 42, 24), (120, 62, 25))
        light_hair = ((225, 190, 110), (190, 190, 190), (15, 12, 12))
        palette = dark_hair if shade < 0.6 else light_hair
        return cls(
            skin=skin,
            hair=palette[rng.integers(len(palette))],
            shirt=_vivid(rng),
            trousers=_vivid(rng),
            shoes=_vivid(rng),
            long_sleeves=bool(rng.random() < 0.5),
            long_trousers=bool(rng.random() < 0.7),
        )


class Painting:
    """A picture in the making.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        labels: (H, W) uint8, whose part each pixel shows.
    """

    def __init__(self, image: Array) -> None:
        self.image = image
        self.labels: Array = np.zeros(image.shape[:2], np.uint8)

    def hull(self, points: Array, color: Color, label: int | None = None) -> None:
        """Fill the convex hull of (N, 2) points; ``label`` None colours without changing who owns the pixels."""
        fixed = cv2.convexHull(np.round(points * (1 << _SHIFT)).astype(np.int32))
        cv2.fillConvexPoly(self.image, fixed, color, cv2.LINE_AA, _SHIFT)
        if label is not None:
            cv2.fillConvexPoly(self.labels, fixed, label, cv2.LINE_8, _SHIFT)

    def solid(self, centers: Array, radii: Array, color: Color, label: int) -> None:
        """The hull of discs at (N, 2) centres with (N,) radii in px: dark rim, colour, a lighter upper left."""
        rim = np.clip(0.12 * radii.max(), 0.5, 1.6)
        self.hull(_discs(centers, radii + rim / 2), _mix(color, (0, 0, 0), 0.65), label)
        self.hull(_discs(centers, radii - rim / 2), color)
        self.hull(_discs(centers - 0.28 * radii[:, None], 0.42 * radii), _mix(color, (255, 255, 255), 0.16))


def _discs(centers: Array, radii: Array) -> Array:
    return (centers[:, None] + radii[:, None, None] * _CIRCLE).reshape(-1, 2)


def _mix(first: Color, second: Color, share: float) -> Color:
    red, green, blue = ((1 - share) * a + share * b for a, b in zip(first, second, strict=True))
    return red, green, blue


def _hsv(hue: float, saturation: float, value: float) -> Color:
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return 255 * red, 255 * green, 255 * blue


def _vivid(rng: np.random.Generator) -> Color:
    return _hsv(rng.random(), rng.uniform(0.35, 1), rng.uniform(0.35, 1))


def _opposite(color: Color) -> Color:
    """Black or white, whichever stands out."""
    return (255, 255, 255) if sum(color) < 380 else (0, 0, 0)


def _unit(vectors: Array) -> Array:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def _muted(rng: np.random.Generator) -> Color:
    return _hsv(rng.random(), rng.uniform(0, 0.4), rng.uniform(0.25, 0.95))


def paint_person(canvas: Painting, body: Body, look: Look, camera: Camera, person: int) -> None:
    """Paint a body (in the camera's frame) from its farthest part to its nearest, and label its pixels."""
    colors = {
        **{UPPER_ARM: look.shirt, FOREARM: look.shirt if look.long_sleeves else look.skin},
        **{THIGH: look.trousers, SHIN: look.trousers if look.long_trousers else look.skin, FOOT: look.shoes},
    }
    depth = body.points[:, 2]
    # (depth, part, points, radii in mm, color); the torso counts as a bit deeper, so that limbs beside it lie over it
    solids: list[tuple[float, int, tuple[int, ...], tuple[float, ...], Color]] = [
        (depth[HEAD], HEAD_PART, (), (), look.skin),
        (depth[NECK] + 30, NECK_PART, (NECK, HEAD), (48, 40), look.skin),
        (depth[list(_TORSO_POINTS)].mean() + 60, TORSO, _TORSO_POINTS, _TORSO_RADII, look.shirt),
    ]
    for part, start, end, *radii in _LIMBS:
        color = look.skin if end == LEFT_HAND else colors[part]
        for right in (0, 1):  # of points as of parts, the right one follows the left one
            pair = (start + right, end + right)
            solids.append((depth[list(pair)].mean(), part + right, pair, tuple(radii), color))

    first_label = 1 + person * PARTS
    for _, part, indices, radii_mm, color in sorted(solids, key=lambda solid: -solid[0]):
        if part == HEAD_PART:
            _paint_head(canvas, body, look, camera, first_label + part)
            continue
        points = body.points[list(indices)]
        radii_px = np.array(radii_mm) * body.girth * camera.focal_px / points[:, 2]
        canvas.solid(camera.project(points), radii_px, color, first_label + part)
        if part == TORSO:
            _paint_front(canvas, body, look, camera)


def _paint_front(canvas: Painting, body: Body, look: Look, camera: Camera) -> None:
    """A neckline and a row of buttons, where the chest faces the camera."""
    neck, middle = body.points[NECK], body.points[LEFT_PELVIS : LEFT_PELVIS + 2].mean(0)
    up = _unit(neck - middle)
    left = _unit(body.points[5] - body.points[6])
    front = _unit(np.cross(left, up))
    if front @ _unit(neck) > -0.1:
        return
    surface = 96 * body.girth * front
    tip = neck - 150 * up + surface
    collar = neck + 0.5 * surface
    canvas.hull(camera.project(np.stack([collar + 62 * left, collar - 62 * left, tip])), look.skin)
    buttons = tip + np.linspace(0.2, 0.85, 4)[:, None] * (middle + surface - tip)
    for center, radius in zip(camera.project(buttons), 13 * camera.focal_px / buttons[:, 2], strict=True):
        canvas.hull(_discs(center[None], np.array([max(radius, 0.7)])), _mix(look.shirt, _opposite(look.shirt), 0.75))


def _paint_head(canvas: Painting, body: Body, look: Look, camera: Camera, label: int) -> None:
    """An ellipsoid of hair with a face in front; ears and nose stick out, on whichever side of it they are."""
    center = body.points[HEAD]
    size = np.linalg.norm(body.points[1] - body.points[2]) / np.linalg.norm(FACE[1] - FACE[2])
    scale = size * camera.focal_px / center[2]  # px per mm of the measures below
    view = _unit(center)

    def surface(directions: Array) -> tuple[Array, Array]:
        """Image points of the ellipsoid in these directions, and whether they face the camera."""
        facing = (directions / HEAD_RADII) @ body.head.T @ view < 0
        return camera.project(center + size * (directions * HEAD_RADII) @ body.head.T), facing

    def spot(point: int, radius_mm: float, color: Color) -> None:
        disc = _discs(camera.project(body.points[point])[None], np.array([max(radius_mm * scale, 0.6)]))
        canvas.hull(disc, color, label)

    nose_ears = [(0, 17.0, _mix(look.skin, (120, 40, 30), 0.3)), (3, 24.0, look.skin), (4, 24.0, look.skin)]
    depth = body.points[:, 2]
    for point, radius, color in nose_ears:
        if depth[point] > depth[HEAD]:
            spot(point, radius, color)
    outline = surface(_HEAD_DIRECTIONS)[0]
    canvas.hull(outline, look.hair, label)
    face, facing = surface(_FACE_DIRECTIONS)
    if facing.sum() > 2:
        canvas.hull(face[facing], look.skin)
    for point, radius, color in nose_ears:
        if depth[point] <= depth[HEAD]:
            spot(point, radius, color)
    for eye in (np.flatnonzero(_faces_camera(body)[1:3]) + 1).tolist():
        spot(eye, 16, (245, 245, 245))
        spot(eye, 10, (20, 20, 30))
    mouth = np.array([[-24, -62, 80], [24, -62, 80], [0, -72, 82]], float)
    if body.head[:, 2] @ view < -0.3:
        canvas.hull(camera.project(center + size * mouth @ body.head.T), (150, 40, 45))


def _faces_camera(body: Body) -> Array:
    """(5,) bool, whether nose, eyes and ears are on the side of the head that the camera sees; ears stick out most."""
    normals = _unit(FACE / HEAD_RADII**2) @ body.head.T
    return normals @ _unit(body.points[HEAD]) < (0.15, -0.05, -0.05, 0.3, 0.3)


def visibility(canvas: Painting, body: Body, camera: Camera, person: int) -> Array:
    """(17,) int: 0 outside the picture, 1 inside but hidden, 2 visible, once the canvas is finished."""
    height, width = canvas.labels.shape
    points_px = camera.project(body.points[:17])
    inside = ((points_px >= 0) & (points_px <= (width - 1, height - 1))).all(1)
    column, row = np.round(points_px).astype(int).clip(0, (width - 1, height - 1)).T
    part = canvas.labels[row, column].astype(int) - 1 - person * PARTS
    shown = np.array([owner in parts for owner, parts in zip(part, _SHOWN_BY, strict=True)])
    shown[:5] &= _faces_camera(body)
    for left in (5, 11):  # shoulders and hips on the far side of the torso
        depth = body.points[left : left + 2, 2]
        far = depth - depth.mean() > 0.3 * np.linalg.norm(body.points[left] - body.points[left + 1])
        shown[left : left + 2] &= ~(far & (part[left : left + 2] == TORSO))
    return np.where(inside, 1 + shown, 0)


def paint_background(rng: np.random.Generator, image_hw: tuple[int, int]) -> Array:
    """(H, W, 3) uint8: a muted gradient with blotches, perhaps stripes or checks, and shapes that aren't people."""
    height, width = image_hw
    # Gradient and blotches vary slowly: a few cells, enlarged.
    y, x = np.mgrid[-1:1:7j, -1:1:9j]
    angle = rng.uniform(0, 2 * np.pi)
    ramp = 0.5 + 0.35 * (x * np.cos(angle) + y * np.sin(angle))[..., None]
    coarse = (1 - ramp) * _muted(rng) + ramp * _muted(rng) + rng.normal(0, rng.uniform(3, 22), (7, 9, 3))
    image = cv2.resize(coarse.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    if rng.random() < 0.4:
        y, x = np.mgrid[0:height, 0:width].astype(np.float32) / height
        tilt, pitch = rng.uniform(0, np.pi), rng.uniform(30, 120)
        wave = np.sin(pitch * (x * np.cos(tilt) + y * np.sin(tilt)))
        if rng.random() < 0.5:
            wave *= np.sin(pitch * (y * np.cos(tilt) - x * np.sin(tilt)))
        image += rng.uniform(6, 25) * wave[..., None]
    canvas = Painting(image.clip(0, 255).astype(np.uint8))
    for _ in range(rng.integers(2, 9)):
        paint_shape(canvas, rng, rng.uniform((0, 0), (width, height)), rng.uniform(0.06, 0.5) * height, _muted(rng))
    return canvas.image


def paint_shape(
    canvas: Painting, rng: np.random.Generator, center: Array, size_px: float, color: Color, label: int | None = None
) -> None:
    """A random disc, box, bar or polygon."""
    kind = rng.integers(4)
    if kind == 0:
        canvas.hull(_discs(center[None], np.array([size_px / 2])), color, label)
    elif kind == 1:
        half = np.array([rng.uniform(0.25, 0.5), rng.uniform(0.25, 0.5)]) * size_px
        canvas.hull(center + half * [[-1, -1], [1, -1], [1, 1], [-1, 1]], color, label)
    elif kind == 2:
        angle = rng.uniform(0, np.pi)
        along = size_px * np.array([np.cos(angle), np.sin(angle)])
        radii = np.full(2, rng.uniform(0.06, 0.12) * size_px)
        canvas.hull(_discs(center + np.stack([along, -along]), radii), color, label)
    else:
        canvas.hull(center + rng.uniform(-size_px / 2, size_px / 2, (7, 2)), color, label)


def paint_occluder(canvas: Painting, rng: np.random.Generator, body: Body, camera: Camera) -> None:
    """A shape in front of one of the body's joints, from a tenth to a quarter of the person's size."""
    points_px = camera.project(body.points)
    size_px = rng.uniform(0.1, 0.28) * np.ptp(points_px, axis=0).max()
    joint = rng.integers(5, 17)
    center = points_px[joint] + rng.normal(0, 0.2 * size_px, 2)
    paint_shape(canvas, rng, center, size_px, _vivid(rng), label=0)


def photographed(rng: np.random.Generator, image: Array) -> Array:
    """The picture as a camera would give it: exposure, a little blur, noise."""
    exposed = image.astype(np.float32) * rng.uniform(0.75, 1.12)
    if rng.random() < 0.4:
        exposed = cv2.GaussianBlur(exposed, (0, 0), rng.uniform(0.4, 0.8))
    exposed += rng.uniform(1, 5) * rng.standard_normal((*image.shape[:2], 1), np.float32)
    return exposed.clip(0, 255).astype(np.uint8)
