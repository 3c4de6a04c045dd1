"""Samples that consist of several: mosaics, and images blended with others (arXiv:2004.10934, arXiv:2107.08430).

Mixing comes before geometry. It makes a *frame*, which all later steps take for the image: labels move into the frame,
and each `Piece` keeps its image and the matrix into the frame. So geometry still is one matrix, and pixels move once.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from lightpose.data.pixels.pieces import Piece
from lightpose.data.transforms import mirror_labels
from lightpose.errors import UserError
from lightpose.geometry import mirror_matrix, transform_boxes, transform_points
from lightpose.skeleton import Skeleton
from lightpose.structures import Annotations, Array, Sample


class Mixing:
    """Base of what may stand under ``mix``: makes one sample of several whole images."""

    def __call__(self, sample: Sample, another: Callable[[], Sample], rng: np.random.Generator) -> Sample:
        """A new sample.

        Args:
            sample: what to start from.
            another: draws a random sample of the same data set.
            rng: of this sample.
        """
        raise NotImplementedError


class Mosaic(Mixing):
    """Four images that meet in a random point of a frame as large as the input.

    Each is as large as it would be alone, fills its quarter as far as it reaches, and goes on for half the input beyond
    the frame, which turning, shifting and smaller scales bring in.

    Args:
        input_hw: network input size.
        probability: of doing it.
    """

    def __init__(self, input_hw: Sequence[int], probability: float = 1.0) -> None:
        self.input_wh, self.probability = np.array([input_hw[1], input_hw[0]], np.float64), probability

    def __call__(self, sample: Sample, another: Callable[[], Sample], rng: np.random.Generator) -> Sample:
        """Join, or not."""
        if rng.random() >= self.probability:
            return sample
        frame = self.input_wh
        corner = np.rint(rng.uniform(0, frame))  # of edges, and not of pixels' centres
        placed = []
        for quarter in range(4):
            part = sample if quarter == 0 else another()
            after = np.array([quarter % 2, quarter // 2])  # 1 where it lies right of or below the corner
            size = np.array(part.image_hw[::-1], np.float64)
            scale = float((frame / size).min())
            start = corner - (1 - after) * size * scale
            low = np.where(after, corner, -frame / 2)
            high = np.where(after, 1.5 * frame, corner)
            placed.append(_placed(part, scale, start, low, high))
        height, width = int(frame[1]), int(frame[0])
        return _together(sample, placed, (height, width))


class MixUp(Mixing):
    """Another image, half transparent, over an image or a mosaic.

    Args:
        skeleton: says which keypoints are each other's mirror image.
        scale: smallest and largest size, relative to that which fits into the frame.
        flip_probability: of mirroring the other image.
        probability: of doing it.
    """

    def __init__(
        self,
        skeleton: Skeleton,
        scale: Sequence[float] = (0.8, 1.6),
        flip_probability: float = 0.5,
        probability: float = 1.0,
    ) -> None:
        if not 0 < scale[0] <= scale[1]:
            raise UserError(f"scale={list(scale)} must be two positive factors, the smaller first; try [0.8,1.6]")
        self.skeleton, self.scale = skeleton, (scale[0], scale[1])
        self.flip_probability, self.probability = flip_probability, probability

    def __call__(self, sample: Sample, another: Callable[[], Sample], rng: np.random.Generator) -> Sample:
        """Blend, or not."""
        if rng.random() >= self.probability:
            return sample
        other, frame = another(), np.array(sample.image_hw[::-1], np.float64)
        size = np.array(other.image_hw[::-1], np.float64)
        scale = float((frame / size).min()) * rng.uniform(*self.scale)
        room = frame - scale * size
        start = rng.uniform(np.minimum(room, 0), np.maximum(room, 0))
        mirror = rng.random() < self.flip_probability and self.skeleton.mirrors
        if mirror:
            other = replace(other, instances=mirror_labels(other.instances, self.skeleton))
        below = _placed(sample, 1.0, np.zeros(2), np.full(2, -np.inf), np.full(2, np.inf))
        above = _placed(other, scale, start, np.zeros(2), frame, mirror, share=0.5)
        return _together(sample, [below, above], sample.image_hw)


def _placed(
    sample: Sample, scale: float, start: Array, low: Array, high: Array, mirror: bool = False, share: float = 1.0
) -> Sample:
    """A sample in a frame: scaled, its first edges at ``start``, cut to what lies between ``low`` and ``high`` (x, y).

    Frames of pieces that it already has, as a mosaic, are left as they are.
    """
    height, width = sample.image_hw
    matrix = np.diag([scale, scale, 1.0])
    matrix[:2, 2] = start + scale / 2 - 0.5
    matrix = matrix @ mirror_matrix(width) if mirror else matrix
    if isinstance(sample.image, tuple):
        return sample
    first, last = np.maximum(start, low), np.minimum(start + scale * np.array([width, height]), high)
    window = np.concatenate([first, last - 1])
    labels, ignore = _moved(sample.instances, matrix, window), sample.ignore
    if ignore is not None:
        ignore = [transform_points(matrix, region).clip(window[:2], window[2:]) for region in ignore]
    return replace(sample, image=(Piece(sample.image, matrix, window, share),), instances=labels, ignore=ignore)


def _moved(labels: Annotations, matrix: Array, window: Array) -> Annotations:
    """Labels in the frame: keypoints outside of the window aren't labelled, and who has no box in it is left out."""
    keypoints = transform_points(matrix, labels.keypoints)
    inside = np.all((keypoints[..., :2] >= window[:2]) & (keypoints[..., :2] <= window[2:]), -1)
    boxes = transform_boxes(matrix, labels.boxes_xyxy)
    boxes = np.concatenate([np.maximum(boxes[:, :2], window[:2]), np.minimum(boxes[:, 2:], window[2:])], -1)
    moved = replace(
        labels,
        keypoints=keypoints,
        visible=labels.visible * inside,
        boxes_xyxy=boxes.astype(labels.boxes_xyxy.dtype),
        areas=(labels.areas * abs(np.linalg.det(matrix[:2, :2]))).astype(labels.areas.dtype),
    )
    stays = np.flatnonzero(np.all(boxes[:, 2:] > boxes[:, :2], -1))
    return _of_all([moved], stays)


def _of_all(parts: Sequence[Annotations], stays: Array | slice = slice(None)) -> Annotations:
    names = ("keypoints", "visible", "boxes_xyxy", "areas", "categories", "ids", "scores")
    return Annotations(**{name: np.concatenate([getattr(part, name) for part in parts])[stays] for name in names})


def _together(sample: Sample, parts: Sequence[Sample], frame_hw: tuple[int, int]) -> Sample:
    """One sample of several that are placed, the lowest first; ids are those of ``sample``."""
    known = [part.ignore for part in parts if part.ignore is not None]
    return replace(
        sample,
        image=tuple(piece for part in parts for piece in part.image),
        instances=_of_all([part.instances for part in parts]),
        ignore=[region for regions in known for region in regions] if known else None,
        image_hw=frame_hw,
    )
