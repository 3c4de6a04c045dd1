"""Geometry of whole images, with any number of people in each; see `lightpose.data.transforms`."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from lightpose.data.transforms import CropImage, Geometry
from lightpose.errors import UserError
from lightpose.geometry import Grid, check_grid
from lightpose.structures import Sample

_LONGEST = 4
"""An image that is more than so many times as long as wide is shown as if it were that, or its input would be huge."""


class ResizeImage(Geometry):
    """The whole image in proportion, in an input that is as large as that takes, to evaluate and to predict.

    Both sides of the input are multiples of a number, so it shows up to so many pixels beside the image.

    Args:
        input_hw: network input size, one side of which the image gets.
        grid: pixel grid, see `lightpose.geometry`.
        fit: ``short`` makes the image's short side as long as the input's, as published results are computed; ``long``
            makes its long side as long as the input's.
        multiple: what the sides of the input are multiples of: the network's largest stride, or more.

    Raises:
        UserError: for an unknown grid or side, and a multiple below 1.
    """

    own_size = True

    def __init__(
        self, input_hw: Sequence[int], grid: Grid, fit: Literal["long", "short"] = "short", multiple: int = 32
    ) -> None:
        check_grid(grid)
        check_side(fit)
        if multiple < 1:
            raise UserError(f"multiple={multiple} must be at least 1; use the network's largest stride, such as 32")
        self.side, self.grid, self.fit, self.multiple = (min if fit == "short" else max)(input_hw), grid, fit, multiple

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Set ``input_from_image`` and ``input_hw``."""
        short, long = sorted(sample.image_hw)
        scale = self.side / (max(short, long / _LONGEST) if self.fit == "short" else long)
        height, width = (math.ceil(scale * side / self.multiple - 1e-6) * self.multiple for side in sample.image_hw)
        fitted = CropImage((height, width), self.grid)(sample, rng)
        return replace(fitted, input_hw=(height, width))


class RandomImageAffine(Geometry):
    """Scale, turn and shift a whole image. Comes after `lightpose.data.transforms.CropImage`.

    Defaults are those of the published bottom-up recipes (HigherHRNet, arXiv:1908.10357; DEKR, arXiv:2104.02300), which
    draw from uniform distributions.

    Args:
        input_hw: network input size.
        scale: smallest and largest factor on what the input shows; showing more makes smaller people.
        fit: where the factor is 1, the input shows all of the image's ``long`` side, with margins beside the other, or
            of its ``short`` side, without margins.
        rotate_degrees: largest turn, about the middle of the input.
        shift: largest shift, as a share of the input's width and height.

    Raises:
        UserError: for scales that are none, and an unknown side.
    """

    def __init__(
        self,
        input_hw: Sequence[int],
        scale: Sequence[float] = (0.75, 1.5),
        fit: Literal["long", "short"] = "short",
        rotate_degrees: float = 30.0,
        shift: float = 0.2,
    ) -> None:
        if not 0 < scale[0] <= scale[1]:
            raise UserError(f"scale={list(scale)} must be two positive factors, the smaller first; try [0.75,1.5]")
        check_side(fit)
        self.input_wh = np.array([input_hw[1], input_hw[0]], np.float64)
        self.scale, self.fit = (scale[0], scale[1]), fit
        self.rotate_degrees, self.shift = rotate_degrees, shift

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Multiply ``input_from_image``."""
        zoom = 1 / rng.uniform(*self.scale)
        if self.fit == "short":
            shares = np.array(sample.image_hw[::-1]) / self.input_wh
            zoom *= shares.max() / shares.min()
        radians = math.radians(self.rotate_degrees * rng.uniform(-1, 1))
        cos, sin = zoom * math.cos(radians), zoom * math.sin(radians)
        middle = (self.input_wh - 1) / 2
        change = np.eye(3)  # input to input
        change[:2, :2] = [[cos, -sin], [sin, cos]]
        change[:2, 2] = middle + self.shift * self.input_wh * rng.uniform(-1, 1, 2) - change[:2, :2] @ middle
        return replace(sample, input_from_image=change @ sample.input_from_image)


def check_side(fit: str) -> None:
    """Refuse an unknown side.

    Raises:
        UserError: with the known ones.
    """
    if fit not in ("long", "short"):
        raise UserError(f"fit={fit!r} is no side of an image; use long or short")
