"""Images that consist of several: each piece is an image with its own matrix, and all meet in one warp."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import cv2
import numpy as np

from lightpose.geometry import transform_points
from lightpose.structures import Array

_SHIFT = 4  # bits of a pixel's fraction, for OpenCV
_FAR = 2**24  # pixels


@dataclass(frozen=True, slots=True)
class Piece:
    """An image in the frame that it shares with others.

    Attributes:
        image: as of `lightpose.structures.Sample`.
        frame_from_image: (3, 3) float64.
        window_xyxy: (4,) the part of the frame that it fills, its first and its last pixels.
        share: how much of it there is; the rest is what lies below.
    """

    image: Any
    frame_from_image: Array
    window_xyxy: Array
    share: float = 1.0


def joined(
    pieces: Sequence[Piece],
    input_from_frame: Array,
    input_hw: tuple[int, int],
    warp: Callable[[Any, Array], Array],
    margin_grey: int,
) -> Array:
    """(h, w, 3) uint8: pieces one upon the other, and one grey where there is none.

    Args:
        pieces: the lowest first.
        input_from_frame: (3, 3).
        input_hw: network input size.
        warp: makes the (h, w, 3) input of an image and ``input_from_image``.
        margin_grey: value of each channel where there is no piece.
    """
    out = np.full((*input_hw, 3), margin_grey, np.uint8)
    for piece in pieces:
        left, top, right, bottom = piece.window_xyxy
        window = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
        there = fill([window], input_from_frame, input_hw)
        if there.any():
            own, below = warp(piece.image, input_from_frame @ piece.frame_from_image)[there], out[there]
            out[there] = own if piece.share == 1 else np.rint(piece.share * own + (1 - piece.share) * below)
    return out


def fill(regions: Sequence[Array], input_from_image: Array, input_hw: tuple[int, int]) -> Array:
    """(H, W) bool: which pixels of the input are in a region.

    Args:
        regions: see `lightpose.structures.Sample`.
        input_from_image: (3, 3).
        input_hw: network input size.
    """
    mask = np.zeros(input_hw, np.uint8)
    for region in regions:
        points = transform_points(input_from_image, region.astype(np.float64))
        gaps = np.flatnonzero(np.isnan(points[:, 0])).tolist()
        rings = [points[start + 1 : end] for start, end in pairwise([-1, *gaps, len(points)])]
        fixed = [np.rint(ring.clip(-_FAR, _FAR) * (1 << _SHIFT)).astype(np.int32) for ring in rings]
        cv2.fillPoly(mask, fixed, 1, shift=_SHIFT)
    return mask.view(bool)
