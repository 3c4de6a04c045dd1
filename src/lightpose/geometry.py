"""Boxes, affine matrices and pixel grids: the only home of a pixel convention.

A *grid* says which input pixel a map cell stands for, and how a box fills the input:

=============  ============================================  =========================================
grid           input pixel of map cell ``i``                 box of width ``w`` fills
=============  ============================================  =========================================
``stride``     ``i * stride``                                ``input_w`` pixels, centre to ``input_w / 2``
``udp``        ``i * (input_w - 1) / (map_w - 1)``           ``input_w - 1`` steps, centre to ``(input_w - 1) / 2``
``half_pixel`` ``(i + 0.5) * stride - 0.5``                  ``input_w`` pixels, centre to ``(input_w - 1) / 2``
=============  ============================================  =========================================

``stride`` is the convention of most published heatmap weights, ``udp`` that of Unbiased Data Processing
(arXiv:1911.07524), ``half_pixel`` the unbiased default for new recipes.
"""

from __future__ import annotations  # for those who need no torch

import math
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from lightpose.errors import UserError
from lightpose.structures import Array

if TYPE_CHECKING:
    from torch import Tensor

Grid = Literal["stride", "udp", "half_pixel"]
Pair = tuple[float, float]


def check_grid(grid: str) -> None:
    """Refuse an unknown grid.

    Raises:
        UserError: with the known ones.
    """
    if grid not in get_args(Grid):
        raise UserError(f"grid={grid!r} is unknown; use one of {', '.join(get_args(Grid))}")


def input_from_map(grid: Grid, input_hw: tuple[int, int], map_hw: tuple[int, int]) -> tuple[Pair, Pair]:
    """``(scale, offset)``, each in (x, y) order, with ``input = map * scale + offset``.

    On the ``udp`` grid the only cell of an axis is the input's first pixel.
    """
    (input_h, input_w), (map_h, map_w) = input_hw, map_hw
    if grid == "udp":
        return ((input_w - 1) / max(map_w - 1, 1), (input_h - 1) / max(map_h - 1, 1)), (0.0, 0.0)
    scale_x, scale_y = input_w / map_w, input_h / map_h
    return (scale_x, scale_y), ((scale_x - 1) / 2, (scale_y - 1) / 2) if grid == "half_pixel" else (0.0, 0.0)


def mirror_lag(grid: Grid, input_hw: tuple[int, int], map_hw: tuple[int, int]) -> int:
    """How many pixels a mirrored input must move left for its maps to mirror cell by cell.

    Mirroring an image sends pixel x to ``input_w - 1 - x``, mirroring a map sends cell i to ``map_w - 1 - i``. On the
    ``stride`` grid the two disagree by ``stride - 1`` input pixels, on the other grids they agree. Maps finer than the
    input have no lag of whole pixels.
    """
    return max(input_hw[1] // map_hw[1] - 1, 0) if grid == "stride" else 0


def expand_boxes(boxes_xyxy: Array, input_hw: tuple[int, int], padding: float) -> tuple[Array, Array]:
    """Centres and sizes (w, h), each (M, 2) float64, of boxes scaled by ``padding`` and widened to the input aspect."""
    boxes = np.asarray(boxes_xyxy, np.float64)
    centers, sizes = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) * padding
    aspect = input_hw[1] / input_hw[0]
    width = np.maximum(sizes[:, 0], sizes[:, 1] * aspect)
    return centers, np.stack([width, width / aspect], -1)


def extents(points: Array, known: Array) -> tuple[Array, Array]:
    """Lowest and highest x and y, each (N, 2), of the known of (N, K, 2) points; infinite where none is."""
    low = np.where(known[..., None], points, np.inf).min(1, initial=np.inf)
    high = np.where(known[..., None], points, -np.inf).max(1, initial=-np.inf)
    return low, high


def whole_image_box(image_hw: tuple[int, int]) -> Array:
    """(1, 4) float32 xyxy: the box of a subject that a whole image is searched for."""
    height, width = image_hw
    return np.array([[0, 0, width, height]], np.float32)


def crop_matrix(center: Array, size_wh: Array, input_hw: tuple[int, int], grid: Grid, degrees: float = 0.0) -> Array:
    """``input_from_image`` (3, 3) float64: the box ``center``, ``size_wh`` (image px) fills the input.

    Positive ``degrees`` turn the crop window clockwise on screen, so its content counter-clockwise.
    """
    inner = np.array([input_hw[1], input_hw[0]], np.float64) - (grid == "udp")
    target = (np.array([input_hw[1], input_hw[0]], np.float64) - (grid != "stride")) / 2
    scale = inner / np.asarray(size_wh, np.float64)
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    linear = np.diag(scale) @ np.array([[cos, sin], [-sin, cos]])
    matrix = np.eye(3)
    matrix[:2, :2] = linear
    matrix[:2, 2] = target - linear @ np.asarray(center, np.float64)
    return matrix


def full_from_reduced(factor: int) -> Array:
    """(3, 3): from an image whose pixels are means of ``factor`` x ``factor`` squares to the image itself."""
    offset = (factor - 1) / 2
    return np.array([[factor, 0.0, offset], [0.0, factor, offset], [0.0, 0.0, 1.0]])


def reduction(input_from_image: Array) -> int:
    """The largest of 1, 2, 4 and 8 by which an image may be reduced before ``input_from_image`` would enlarge it."""
    (a, b), (c, d) = input_from_image[:2, :2].tolist()
    largest_scale = (math.hypot(a + d, b - c) + math.hypot(a - d, b + c)) / 2  # the larger singular value
    return next((factor for factor in (8, 4, 2) if factor * largest_scale <= 1), 1)


def mirror_matrix(input_w: int) -> Array:
    """(3, 3): horizontal flip of the input, pixel x to ``input_w - 1 - x``."""
    return np.array([[-1.0, 0.0, input_w - 1], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])


def transform_points(matrix: Array, points: Array) -> Array:
    """Apply a (3, 3) affine matrix to (..., 2) points; further dimensions pass through."""
    xy = points[..., :2] @ matrix[:2, :2].T + matrix[:2, 2]
    return np.concatenate([xy, points[..., 2:]], -1).astype(points.dtype)


def transform_boxes(matrix: Array, boxes_xyxy: Array) -> Array:
    """Axis-aligned hulls (M, 4) of affinely transformed boxes (M, 4)."""
    corners = boxes_xyxy[:, [[0, 1], [2, 1], [2, 3], [0, 3]]]  # (M, 4, 2)
    moved = transform_points(matrix, corners)
    return np.concatenate([moved.min(1), moved.max(1)], -1)


def apply_affine(matrices: Tensor, points: Tensor) -> Tensor:
    """Map (N, K, D) points by (N, 3, 3) matrices; only x and y change.

    Float32 whatever comes in, also under autocast, which would make a matrix product bfloat16: hence none is used.
    """
    import torch

    matrices, points = matrices.float()[:, None, :2], points.float()
    xy = (matrices[..., :2] * points[..., None, :2]).sum(-1) + matrices[..., 2]
    return torch.cat([xy, points[..., 2:]], -1)


def screen_from_image(points: Array, image_hw: tuple[int, int]) -> Array:
    """Image pixels (..., 2) as lifting takes them: 0 is the middle of the image, x from -1 to 1, y in the same unit."""
    height, width = image_hw
    return (points - np.array([width, height]) / 2) / (width / 2)


def image_from_screen(points: Tensor, image_hw: Tensor) -> Tensor:
    """Undo `screen_from_image`, of points (B, ..., 2) and sizes (B, 2)."""
    wh = image_hw.flip(-1).to(points.dtype).reshape(-1, *(1,) * (points.ndim - 2), 2)
    return (points * wh[..., :1] + wh) / 2
