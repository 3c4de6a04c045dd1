"""Geometry of whole images, with any number of people in each; see `lightpose.data.transforms`."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from lightpose.data.transforms import Geometry
from lightpose.errors import UserError
from lightpose.structures import Sample


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
