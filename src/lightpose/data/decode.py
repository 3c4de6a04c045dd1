"""Image files to pixels."""

import io
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from lightpose.data.image_files import check_image_hw
from lightpose.errors import UserError
from lightpose.structures import Array

_EXIF_ORIENTATION = 0x0112
_UPRIGHT: dict[int, Callable[[Array], Array]] = {
    2: lambda image: cv2.flip(image, 1),
    3: lambda image: cv2.rotate(image, cv2.ROTATE_180),
    4: lambda image: cv2.flip(image, 0),
    5: cv2.transpose,
    6: lambda image: cv2.rotate(image, cv2.ROTATE_90_CLOCKWISE),
    7: lambda image: cv2.rotate(cv2.transpose(image), cv2.ROTATE_180),
    8: lambda image: cv2.rotate(image, cv2.ROTATE_90_COUNTERCLOCKWISE),
}


class ImageError(UserError):
    """An image file is missing or can't be decoded."""


def read_image(path: Path | str) -> Array:
    """The pixels of an image file, upright: (H, W, 3) uint8 RGB.

    JPEG is decoded by libjpeg-turbo through simplejpeg, everything else by OpenCV. EXIF orientation is applied, grey
    and palette images become RGB, 16 bits become 8, transparency is dropped.

    Raises:
        ImageError: naming the file, when it is missing, truncated or not an image.
    """
    return decode_image(_read(path), str(path))


def read_image_hw(path: Path | str) -> tuple[int, int]:
    """The upright size (h, w) of an image file, from its header alone.

    Raises:
        ImageError: naming the file, when it is missing or its header is not that of an image.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = image.getexif().get(_EXIF_ORIENTATION, 1) >= 5
    except UnidentifiedImageError as error:
        raise _corrupt(str(path), Path(path).stat().st_size) from error
    except OSError as error:
        raise _unreadable(path, error) from error
    return (width, height) if turned else (height, width)


def decode_image(data: bytes, name: str) -> Array:
    """Like `read_image`, from the bytes of a file; ``name`` is for the message."""
    return _decode(data, name, 1)[0]


class EncodedImage:
    """An image file, read but decoded only where its pixels are needed, and no larger than needed.

    Args:
        path: the file.
        hw: upright size that it must have; None for any.

    Attributes:
        hw: upright size.
        name: the path, for messages.
        data: content of the file.

    Raises:
        ImageError: naming the file, when it can't be read, or has to be decoded for its size and can't be.
    """

    def __init__(self, path: Path | str, hw: tuple[int, int] | None = None) -> None:
        self.name = str(path)
        self.data = _read(path)
        self._decoded: dict[int, tuple[Array, int]] = {}
        self.hw = hw or self._own_hw()

    def _own_hw(self) -> tuple[int, int]:
        if self.data[:2] == b"\xff\xd8" and _orientation(self.data) == 1:
            with suppress(ValueError):  # what simplejpeg can't read, OpenCV may
                height, width = simplejpeg.decode_jpeg_header(self.data)[:2]
                return height, width
        self._decoded[1] = _decode(self.data, self.name, 1)
        height, width = self._decoded[1][0].shape[:2]
        return height, width

    def decode(self, reduction: int = 1) -> tuple[Array, int]:
        """The upright pixels and the factor by which they are reduced; they are kept for the next who asks.

        Args:
            reduction: 1, 2, 4 or 8, the side of the square that a pixel stands for. A JPEG that needs no turning is
                reduced while it is decoded, anything else is not.

        Raises:
            ImageError: naming the file, when it is truncated or not an image.
            UserError: when the image is not of the size that it must have.
        """
        if reduction not in self._decoded:
            image, factor = _decode(self.data, self.name, reduction)
            full_hw = image.shape[:2] if factor == 1 else simplejpeg.decode_jpeg_header(self.data)[:2]
            check_image_hw(self.name, full_hw, self.hw)
            self._decoded[reduction] = image, factor
        return self._decoded[reduction]

    def plain_jpeg(self) -> bool:
        """Whether this is a whole upright JPEG of grey levels or YCbCr, which every decoder reads alike.

        Raises:
            UserError: when such an image is not of the size that it must have.
        """
        data = self.data
        if data[:2] != b"\xff\xd8" or data[-2:] != b"\xff\xd9":
            return False
        try:
            height, width, color, _ = simplejpeg.decode_jpeg_header(data)
        except ValueError:
            return False
        if color not in ("YCbCr", "Gray") or _orientation(data) != 1:
            return False
        check_image_hw(self.name, (height, width), self.hw)
        return True


def _read(path: Path | str) -> bytes:
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - half the time of Path.open, once per sample
            return file.read()
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path | str, error: OSError) -> ImageError:
    return ImageError(f"image {path} can't be read ({error.strerror or error}); check the folder of images")


def _corrupt(name: str, length: int) -> ImageError:
    return ImageError(
        f"image {name} ({length} bytes) is truncated or not an image; replace it, or take it out of the annotations"
    )


def _decode(data: bytes, name: str, reduction: int) -> tuple[Array, int]:
    """The upright pixels, and the factor by which they are reduced."""
    image, factor = _decode_jpeg(data, reduction) if data[:2] == b"\xff\xd8" else (_decode_other(data), 1)
    if image is None:
        raise _corrupt(name, len(data))
    return image, factor


def _decode_jpeg(data: bytes, reduction: int) -> tuple[Array | None, int]:
    try:
        orientation = _orientation(data)
        if reduction > 1 and orientation == 1:
            height, width = simplejpeg.decode_jpeg_header(data)[:2]
            if max(height, width) >= 16:  # of less, other factors give that size, too
                small_hw = -(-height // reduction), -(-width // reduction)
                return simplejpeg.decode_jpeg(data, min_height=small_hw[0], min_width=small_hw[1]), reduction
        image: Array = simplejpeg.decode_jpeg(data)
    except ValueError as error:
        # OpenCV reads what simplejpeg doesn't (CMYK, stray bytes), but paints the missing part of a file grey.
        return None if "remature end" in str(error) else _decode_other(data), 1
    return _UPRIGHT[orientation](image) if orientation in _UPRIGHT else image, 1


def _orientation(data: bytes) -> int:
    if b"Exif\0\0" not in data[:65536]:
        return 1
    try:
        with Image.open(io.BytesIO(data)) as header:
            orientation = header.getexif().get(_EXIF_ORIENTATION, 1)
    except (OSError, SyntaxError, ValueError):  # what Pillow raises for a damaged header
        return 1
    return int(orientation) if orientation in _UPRIGHT else 1


def _decode_other(data: bytes) -> Array | None:
    if not data:
        return None
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        return None
    return None if image is None else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
