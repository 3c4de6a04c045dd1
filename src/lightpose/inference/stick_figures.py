"""Pictures of poses in space, beside what they were seen in."""

import functools
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lightpose.draw import draw_poses
from lightpose.inference.lifting import Lifted
from lightpose.skeleton import Skeleton
from lightpose.structures import Array

_LEAST_SIDE, _MOST_SIDE = 240, 720
"""Pixels of a picture in space, which is as high as the frame beside it."""
_APART_MM = 1200.0
"""Between the roots of people of one frame, who stand in a row since nothing says where they are."""


class StickFigures:
    """Draws the joints of everyone in a frame, half from the side, in a cube that has one size in all pictures.

    A joint whose keypoint has a score below the threshold is hollow. Each identity has its colour and its number.

    Args:
        everyone: all that will be drawn.
        skeleton: of the joints.
        plane: of the keypoints that they were lifted from.
        threshold: see `lightpose.draw.draw_poses`.
    """

    def __init__(self, everyone: Sequence[Lifted], skeleton: Skeleton, plane: Skeleton, threshold: float) -> None:
        self.skeleton, self.plane, self.threshold = skeleton, plane, threshold
        self.reach_mm = max([500.0, *(float(np.abs(each.joints_mm).max()) for each in everyone)])

    def __call__(self, people: Sequence[Lifted], image: Array | None) -> Array:
        """(H, W, 3) uint8 RGB: the frame with its keypoints, where there is one, and beside it the people in space."""
        side = _MOST_SIDE if image is None else int(np.clip(image.shape[0], _LEAST_SIDE, _MOST_SIDE))
        space = self._in_space(people, side)
        if image is None:
            return space
        if people:
            points = np.stack([each.seen.keypoints for each in people])
            scores = np.nan_to_num(points[..., 2])
            image = draw_poses(
                image, points[..., :2], scores, self.plane, threshold=self.threshold, track_ids=_ids_of(people)
            )
        height, width = image.shape[:2]
        way = cv2.INTER_AREA if height > side else cv2.INTER_LINEAR
        scaled = cv2.resize(image, (max(1, round(width * side / height)), side), interpolation=way)
        return np.concatenate([scaled, space], 1)

    def _in_space(self, people: Sequence[Lifted], side: int) -> Array:
        spread = _APART_MM * (len(people) - 1) / 2 if people else 0.0
        cube, pixels_from_space = _cube(self.reach_mm + spread, side)
        if not people:
            return cube
        joints = np.stack([each.joints_mm for each in people]).astype(np.float64)  # (N, K, 3)
        joints[..., 0] += _APART_MM * np.arange(len(people))[:, None] - spread
        x, y, z = np.moveaxis(joints, -1, 0)
        upright = np.stack([x, z, -y, np.ones_like(x)], -1) @ pixels_from_space.T  # (N, K, 3)
        scores = np.stack([each.scores for each in people]).clip(1e-6)
        pixels = upright[..., :2] / upright[..., 2:]
        return draw_poses(cube, pixels, scores, self.skeleton, threshold=self.threshold, track_ids=_ids_of(people))


def _ids_of(people: Sequence[Lifted]) -> Array:
    """(N,) who they are, -1 where that isn't known."""
    return np.array([-1 if each.seen.track_id is None else each.seen.track_id for each in people])


@functools.lru_cache(maxsize=16)
def _cube(reach_mm: float, side: int) -> tuple[Array, Array]:
    """The picture (H, W, 3) of an empty cube, and the matrix (3, 4) from space to its pixels, times the depth."""
    figure = Figure(figsize=(side / 100, side / 100), dpi=100)
    canvas = FigureCanvasAgg(figure)
    axes: Any = figure.add_axes((0.0, 0.04, 0.92, 0.92), projection="3d")
    limits = (-reach_mm, reach_mm)
    axes.set(xlim=limits, ylim=limits, zlim=limits)
    axes.set_box_aspect((1, 1, 1))
    axes.view_init(elev=12, azim=-65)
    axes.tick_params(labelsize=6, pad=-2)
    axes.locator_params(nbins=4)
    for name, text in (("x", "across, mm"), ("y", "away, mm"), ("z", "up, mm")):
        getattr(axes, f"set_{name}label")(text, fontsize=7, labelpad=-8)
    canvas.draw()
    picture: Array = np.asarray(canvas.buffer_rgba())[..., :3].copy()
    shift_scale = axes.transData.get_matrix()  # to pixels from the lower left corner
    pixels = np.array([[1, 0, 0], [0, -1, side], [0, 0, 1]]) @ shift_scale
    return picture, pixels @ axes.get_proj()[[0, 1, 3]]
