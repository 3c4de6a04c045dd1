"""What users give as pictures and boxes, made plain."""

import os
from collections.abc import Iterable
from typing import Any

import numpy as np
import PIL.Image

from lightpose.data.pixels.decode import pixels_of
from lightpose.errors import UserError
from lightpose.inference.detections import Detections, check_boxes
from lightpose.structures import Array, is_tensor

Image = str | os.PathLike[str] | Array | PIL.Image.Image


def is_one(images: Any) -> bool:
    """Whether this is one picture, or can't be several."""
    if isinstance(images, np.ndarray) or is_tensor(images):
        return images.ndim in (0, 2, 3)
    return isinstance(images, (str, bytes, os.PathLike, PIL.Image.Image)) or not isinstance(images, Iterable)


def given_boxes(images: int, boxes: Any, scores: Any) -> list[Detections | None]:
    """Checked boxes for every image, or None for every image."""
    if boxes is None:
        if scores is not None:
            raise UserError("box_scores come without boxes; give boxes, too, or leave both out")
        return [None] * images
    try:
        boxes, scores = list(boxes), None if scores is None else list(scores)
    except TypeError as error:
        raise UserError(f"boxes and box_scores are no lists of arrays ({error}); give each image one") from error
    scores = [None] * len(boxes) if scores is None else scores
    if not len(boxes) == len(scores) == images:
        raise UserError(
            f"{images} images come with {len(boxes)} arrays of boxes and {len(scores)} of scores; give each image "
            "one, empty where there is nobody"
        )
    return [
        check_boxes(_numbers(box, f"boxes of image {number}"), _scores(score, number), f"image {number}")
        for number, (box, score) in enumerate(zip(boxes, scores, strict=True))
    ]


def _scores(given: Any, number: int) -> Array | None:
    if given is None:
        return None
    scores = _numbers(given, f"box scores of image {number}")
    if not np.isfinite(scores).all():
        raise UserError(f"the box scores of image {number} are {scores.tolist()}; expected finite numbers")
    return scores


def _numbers(given: Any, what: str) -> Array:
    """Float32 of lists, arrays and tensors, wherever these are.

    Raises:
        UserError: for what is no array of numbers.
    """
    try:
        return np.asarray(given.detach().cpu() if is_tensor(given) else given, np.float32)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"the {what} are no array of numbers ({reason}); give one row x1, y1, x2, y2 each") from error


def as_rgb(image: Any, number: int, bits: int = 16) -> Array:
    """(H, W, 3) uint8 RGB of a picture whose meaning is plain.

    Args:
        image: (H, W, 3) RGB, (H, W) or (H, W, 1) grey, uint8; or a Pillow image, taken as it stands (EXIF orientation
            is not applied).
        number: for messages.
        bits: see `lightpose.data.pixels.decode.read_image`.

    Raises:
        UserError: for anything else.
    """
    if isinstance(image, PIL.Image.Image):
        return pixels_of(image, str(number), bits)
    hint = ""
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.size:
        if image.ndim == 3 and image.shape[2] == 3:
            return np.ascontiguousarray(image)
        if image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 1):
            return np.repeat(image.reshape(*image.shape[:2], 1), 3, -1)
        if image.ndim == 3 and image.shape[2] == 4:
            hint = "; leave the opacity out: image[..., :3]"
    elif is_tensor(image):
        hint = "; give such an array: tensor.permute(1, 2, 0).numpy(), of values from 0 to 255"
    elif isinstance(image, np.ndarray) and image.dtype.kind == "f":
        hint = "; give values from 0 to 255: (255 * image).round().astype(np.uint8) for those from 0 to 1"
    is_array = isinstance(image, np.ndarray) or is_tensor(image)
    what = f"{image.dtype} of shape {tuple(image.shape)}" if is_array else type(image).__name__
    raise UserError(
        f"image {number} is {what}; expected a path, a Pillow image, or a uint8 array, (H, W, 3) in RGB order or "
        f"(H, W) of grey levels{hint}"
    )
