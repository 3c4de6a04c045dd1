"""The one step that moves pixels: in a worker, or left to the device."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np

from lightpose.data.pixels.decode import EncodedImage
from lightpose.data.pixels.pieces import joined
from lightpose.errors import UserError
from lightpose.geometry import full_from_reduced, reduction, transform_points
from lightpose.structures import Array, Sample


@dataclass(frozen=True, slots=True)
class Unwarped:
    """An image whose pixels are moved on the device only.

    Attributes:
        name: for messages; images of the same name are the same.
        data: (N,) uint8, a JPEG file; or (H, W, 3) uint8 RGB.
        image_hw: size of the image.
        reduction: the side of the squares that are averaged before it is warped.
        input_hw: network input size.
        margin_grey: see `Warp`.
    """

    name: str
    data: Array
    image_hw: tuple[int, int]
    reduction: int
    input_hw: tuple[int, int]
    margin_grey: int


class Warp:
    """Move the pixels: the image becomes the input, bilinear, in one grey outside.

    An image that is still encoded is decoded here, a JPEG no larger than the input needs it. Others are averaged to
    that size, so that what the input shows doesn't depend on the kind of file.

    Args:
        input_hw: network input size, of samples that don't say theirs.
        margin_grey: value of each channel where the input shows what is beside the image, 0 to 255.

    Raises:
        UserError: for another value.
    """

    def __init__(self, input_hw: Sequence[int], margin_grey: int = 0) -> None:
        self.input_hw, self.margin_grey = (input_hw[0], input_hw[1]), _checked(margin_grey)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Replace the image by the (h, w, 3) input."""
        input_hw = sample.input_hw or self.input_hw
        if isinstance(sample.image, tuple):

            def warp(image: Any, input_from_image: Array) -> Array:
                pixels: Array = self(replace(sample, image=image, input_from_image=input_from_image), rng).image
                return pixels

            mixed = joined(sample.image, sample.input_from_image, input_hw, warp, self.margin_grey)
            return replace(sample, image=mixed)
        image, matrix = sample.image, sample.input_from_image
        wanted, factor = reduction(matrix), 1
        if isinstance(image, EncodedImage):
            image, factor = image.decode(wanted)
            matrix = matrix @ full_from_reduced(factor)
        if factor < wanted:
            image, matrix = _averaged(image, matrix, wanted, input_hw)
        return replace(sample, image=_warped(image, matrix, input_hw, self.margin_grey))


class DeferWarp:
    """Takes the place of `Warp`, and leaves its work to `lightpose.data.pixels.device`.

    Whole upright JPEGs travel as they are. All other images are decoded here, so that a bad file is found here.

    Args:
        input_hw: network input size, of samples that don't say theirs.
        margin_grey: see `Warp`.

    Raises:
        UserError: as of `Warp`.
    """

    def __init__(self, input_hw: tuple[int, int], margin_grey: int = 0) -> None:
        self.input_hw, self.margin_grey = input_hw, _checked(margin_grey)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Replace the image by an `Unwarped` one."""
        image, factor = sample.image, reduction(sample.input_from_image)
        if not isinstance(image, EncodedImage):
            name, data = f"of sample {sample.index}", image
        elif image.plain_jpeg():
            name, data = image.name, np.frombuffer(image.data, np.uint8)
        else:
            name, data = image.name, image.decode()[0]
        input_hw = sample.input_hw or self.input_hw
        return replace(sample, image=Unwarped(name, data, sample.image_hw, factor, input_hw, self.margin_grey))


def _checked(margin_grey: object) -> int:
    if type(margin_grey) is not int or not 0 <= margin_grey <= 255:
        raise UserError(f"margin_grey={margin_grey!r} must be a whole number from 0, which is black, to 255, white")
    return margin_grey


def _warped(image: Array, input_from_image: Array, input_hw: tuple[int, int], margin_grey: int) -> Array:
    """The (h, w, 3) input, bilinear, in one grey outside.

    OpenCV moves pixels of four bytes in a third of the time of three, to the same result. An image that is much larger
    than the input would take longer to copy to four than that saves.
    """
    small = image.shape[0] * image.shape[1] < 10 * input_hw[0] * input_hw[1]
    pixels = cv2.cvtColor(image, cv2.COLOR_RGB2RGBA) if small else image
    warped: Array = cv2.warpAffine(
        pixels, input_from_image[:2], input_hw[::-1], flags=cv2.INTER_LINEAR, borderValue=(margin_grey,) * 4
    )
    return cv2.cvtColor(warped, cv2.COLOR_RGBA2RGB) if small else warped


def _averaged(image: Array, input_from_image: Array, factor: int, input_hw: tuple[int, int]) -> tuple[Array, Array]:
    """The part of an image that the input shows, and ``input_from`` this part.

    Its pixels are means of ``factor`` x ``factor`` squares of the image.
    """
    height, width = input_hw
    corners = np.array([[0.0, 0.0], [width, 0.0], [width, height], [0.0, height]])
    squares = transform_points(np.linalg.inv(input_from_image), corners) // factor
    most = (np.array(image.shape[1::-1]) - 1) // factor
    left, top = first = np.clip(squares.min(0) - 1, 0, most).astype(int) * factor
    right, bottom = np.clip(squares.max(0) + 1, 0, most).astype(int) * factor + factor
    part = image[top:bottom, left:right]
    missing = -part.shape[0] % factor, -part.shape[1] % factor
    part = cv2.copyMakeBorder(part, 0, missing[0], 0, missing[1], cv2.BORDER_REPLICATE) if any(missing) else part
    small_wh = part.shape[1] // factor, part.shape[0] // factor
    image_from_part = np.eye(3)
    image_from_part[:2, 2] = first
    small: Array = cv2.resize(part, small_wh, interpolation=cv2.INTER_AREA)
    return small, input_from_image @ image_from_part @ full_from_reduced(factor)
