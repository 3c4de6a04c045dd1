"""Geometry as one matrix: every step here multiplies ``input_from_image`` and moves no pixel.

One warp (`lightpose.data.pixels.crop`) moves the pixels, once, after all steps. Keypoints and boxes stay in image
pixels.
Defaults are those of the published top-down recipe (HRNet, arXiv:1902.09212; half body: MSPN, arXiv:1901.00148).
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np

from lightpose.geometry import Grid, check_grid, crop_matrix, expand_boxes, mirror_matrix
from lightpose.skeleton import Skeleton
from lightpose.structures import Annotations, Array, Sample


class Geometry:
    """Base of what may stand under ``geometry``: changes ``input_from_image`` and labels, and no pixel.

    Attributes:
        one_person: whether it is for samples of one person only.
        own_size: whether each input gets a size of its own, by which it can be evaluated, but not trained on.
    """

    one_person: ClassVar[bool] = False
    own_size: ClassVar[bool] = False

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """A new sample."""
        raise NotImplementedError


def mirror_labels(instances: Annotations, skeleton: Skeleton) -> Annotations:
    """Exchange left and right: in a mirrored picture a left hand looks like a right one."""
    swap = list(skeleton.swap)
    return replace(instances, keypoints=instances.keypoints[:, swap], visible=instances.visible[:, swap])


class CropBox(Geometry):
    """The box of a sample of one person fills the input.

    Args:
        input_hw: network input size.
        grid: pixel grid, see `lightpose.geometry`.
        padding: factor on the box.
    """

    one_person = True

    def __init__(self, input_hw: Sequence[int], grid: Grid, padding: float = 1.25) -> None:
        check_grid(grid)
        self.input_hw, self.grid, self.padding = (input_hw[0], input_hw[1]), grid, padding

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Set ``input_from_image``."""
        centers, sizes = expand_boxes(sample.instances.boxes_xyxy[:1], self.input_hw, self.padding)
        return replace(sample, input_from_image=crop_matrix(centers[0], sizes[0], self.input_hw, self.grid))


class CropImage(Geometry):
    """The whole image, centred and in proportion, fills the input.

    Args:
        input_hw: network input size.
        grid: pixel grid, see `lightpose.geometry`.
    """

    def __init__(self, input_hw: Sequence[int], grid: Grid) -> None:
        check_grid(grid)
        self.input_hw, self.grid = (input_hw[0], input_hw[1]), grid

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Set ``input_from_image``."""
        height, width = sample.image_hw
        centers, sizes = expand_boxes(np.array([[0, 0, width - 1, height - 1]]), self.input_hw, 1.0)
        size = np.maximum(sizes[0], 1.0)  # that of an image of one pixel is zero
        return replace(sample, input_from_image=crop_matrix(centers[0], size, self.input_hw, self.grid))


class HalfBody(Geometry):
    """Now and then, crop the upper or the lower half of the body. Comes after `CropBox`.

    The box of the sample becomes that of the chosen joints, centred on their mean. Does nothing for a skeleton without
    ``upper``.

    Args:
        skeleton: says which joints are ``upper``.
        input_hw: network input size.
        grid: pixel grid, see `lightpose.geometry`.
        probability: of doing it.
        min_total: labelled joints that a person must have.
        min_upper: labelled joints that make an upper half.
        min_lower: likewise for the lower half.
        padding: factor on the hull of the chosen joints.
        upper_probability: of choosing the upper half where both would do.
    """

    one_person = True

    def __init__(
        self,
        skeleton: Skeleton,
        input_hw: Sequence[int],
        grid: Grid,
        probability: float = 0.3,
        min_total: int = 9,
        min_upper: int = 2,
        min_lower: int = 3,
        padding: float = 1.5,
        upper_probability: float = 0.7,
    ) -> None:
        self.upper = np.isin(np.arange(skeleton.num_keypoints), skeleton.upper)
        self.crop = CropBox(input_hw, grid, padding)
        self.probability, self.upper_probability = probability, upper_probability
        self.min_total, self.min_upper, self.min_lower = min_total, min_upper, min_lower

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Replace the box and the crop, or nothing."""
        if rng.random() >= self.probability or not self.upper.any():
            return sample
        labelled = sample.instances.visible[0] > 0
        upper, lower = labelled & self.upper, labelled & ~self.upper
        enough_upper, enough_lower = upper.sum() >= self.min_upper, lower.sum() >= self.min_lower
        if labelled.sum() < self.min_total or not (enough_upper or enough_lower):
            return sample
        take_upper = rng.random() < self.upper_probability if enough_upper and enough_lower else enough_upper
        points = sample.instances.keypoints[0, upper if take_upper else lower, :2]
        extent = points.max(0) - points.min(0)
        if extent.max() < 1:
            return sample
        box = np.concatenate([points.mean(0) - extent / 2, points.mean(0) + extent / 2])[None]
        return self.crop(replace(sample, instances=replace(sample.instances, boxes_xyxy=box)), rng)


class RandomAffine(Geometry):
    """Scale, turn and shift the crop of a sample of one person. Comes after `CropBox` and `HalfBody`.

    Its random numbers come from the standard normal distribution cut at -1 and 1.

    Args:
        input_hw: network input size.
        scale: smallest and largest factor on the crop; a larger crop makes a smaller person.
        rotate_degrees: largest turn.
        rotate_probability: of turning at all.
        shift: largest shift, as a share of the padded box's width and height.
        shift_probability: of shifting at all.
    """

    one_person = True

    def __init__(
        self,
        input_hw: Sequence[int],
        scale: Sequence[float] = (0.5, 1.5),
        rotate_degrees: float = 80.0,
        rotate_probability: float = 0.6,
        shift: float = 0.16,
        shift_probability: float = 0.3,
    ) -> None:
        self.input_wh = np.array([input_hw[1], input_hw[0]], np.float64)
        self.scale = (scale[0], scale[1])
        self.rotate_degrees, self.rotate_probability = rotate_degrees, rotate_probability
        self.shift, self.shift_probability = shift, shift_probability

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Multiply ``input_from_image``."""
        low, high = self.scale
        scale = (low + high) / 2 + (high - low) / 2 * _cut_normal(rng)
        turn = rng.random() < self.rotate_probability
        radians = math.radians(self.rotate_degrees * _cut_normal(rng)) if turn else 0.0
        box = sample.instances.boxes_xyxy[0].astype(np.float64)
        center, size = (box[:2] + box[2:]) / 2, box[2:] - box[:2]
        moved = center
        if rng.random() < self.shift_probability:
            offset = self.shift * np.array([_cut_normal(rng), _cut_normal(rng)])
            moved = center + offset * self._padded(size, sample.input_from_image)
        cos, sin = math.cos(radians) / scale, math.sin(radians) / scale
        change = np.eye(3)  # image to image: what surrounds `moved` comes to stand where `center` did
        change[:2, :2] = [[cos, sin], [-sin, cos]]
        change[:2, 2] = center - change[:2, :2] @ moved
        return replace(sample, input_from_image=sample.input_from_image @ change)

    def _padded(self, size_wh: Array, input_from_image: Array) -> Array:
        """The box as large as it was before the crop was widened to the input's aspect: one side fills the crop."""
        (a, b), (c, d) = input_from_image[:2, :2].tolist()
        crop_wh = self.input_wh / math.sqrt(abs(a * d - b * c))
        return size_wh * float((crop_wh / np.maximum(size_wh, 1e-6)).min())


def _cut_normal(rng: np.random.Generator) -> float:
    """A random number from the standard normal distribution restricted to [-1, 1]."""
    while True:
        value = float(rng.standard_normal())
        if -1 <= value <= 1:
            return value


class RandomFlip(Geometry):
    """Mirror the input left to right, about the middle of its pixels, and exchange left and right keypoints.

    Args:
        skeleton: says which keypoints are each other's mirror image; nothing is mirrored where that is not known.
        input_hw: network input size.
        probability: of doing it.
    """

    def __init__(self, skeleton: Skeleton, input_hw: Sequence[int], probability: float = 0.5) -> None:
        self.skeleton, self.probability = skeleton, probability
        self.mirror = mirror_matrix(input_hw[1])

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Mirror, or not."""
        if rng.random() >= self.probability or not self.skeleton.mirrors:
            return sample
        return replace(
            sample,
            instances=mirror_labels(sample.instances, self.skeleton),
            input_from_image=self.mirror @ sample.input_from_image,
        )
