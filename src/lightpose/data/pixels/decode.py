"""Image files to pixels."""

import functools
import io
import logging
import threading
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
from PIL import Image

from lightpose.data.pixels.image_files import check_image_hw
from lightpose.data.pixels.image_header import (
    FORMATS,
    Header,
    ImageError,
    check_content,
    check_pixels,
    corrupt,
    read_bytes,
    read_header,
)
from lightpose.errors import UserError
from lightpose.structures import Array

log = logging.getLogger(__name__)
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # its words about bad files name none

_UPRIGHT: dict[int, Callable[[Array], Array]] = {
    1: lambda image: image,
    2: lambda image: cv2.flip(image, 1),
    3: lambda image: cv2.rotate(image, cv2.ROTATE_180),
    4: lambda image: cv2.flip(image, 0),
    5: cv2.transpose,
    6: lambda image: cv2.rotate(image, cv2.ROTATE_90_CLOCKWISE),
    7: lambda image: cv2.rotate(cv2.transpose(image), cv2.ROTATE_180),
    8: lambda image: cv2.rotate(image, cv2.ROTATE_90_COUNTERCLOCKWISE),
}
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")
_HEADER_BYTES = 65536
FEW_BITS = 14
"""16-bit images whose values have no more bits than this were probably not meant to have 16."""
_said_dark: list[str] = []
_LOADING = threading.Lock()
"""One picture may be given several times, and threads can't share the file behind it."""


def read_image(path: Path | str, bits: int = 16) -> Array:
    """The pixels of an image file, upright: (H, W, 3) uint8 RGB.

    Formats are told by content, never by name. EXIF orientation is applied. Grey, palette, 1-bit, CMYK, YCbCr and Lab
    images become RGB; transparency is dropped, and the colours below it stay; of an animation or a file of several
    pages, the first is read. 16 bits become 8, the same way for every image: the lowest ``bits - 8`` are left out. Of
    TIFF, signed and floating-point samples are refused.

    Args:
        path: the file.
        bits: how many bits the values of 16-bit images have; 12 for those of many cameras.

    Raises:
        ImageError: naming the file, when it is missing, truncated, not an image, or larger than
            `lightpose.data.pixels.image_header.MAX_PIXELS`.
        UserError: for a value that has more than ``bits``.
    """
    return decode_image(read_bytes(path), str(path), bits)


def read_image_hw(path: Path | str) -> tuple[int, int]:
    """The upright size (h, w) of an image file, from its header alone.

    Raises:
        ImageError: naming the file, when it is missing, too large, or its header is not that of an image.
    """
    start = read_bytes(path, _HEADER_BYTES)
    if start[:2] == b"\xff\xd8":
        try:
            return read_header(start, str(path)).hw
        except ImageError:  # as the header goes on, or the image is too large, which is said below
            pass
    return read_header(read_bytes(path), str(path)).hw


def bits_used(path: Path | str) -> int | None:
    """How many bits the largest value of a 16-bit image has; None for an image of 8 bits.

    An image of `FEW_BITS` or fewer is almost black if its values are taken to have 16.

    Raises:
        ImageError: as `read_image`.
    """
    data = read_bytes(path)
    header = read_header(data, str(path))
    return int(_pixels(data, header, str(path))[0].max()).bit_length() if header.bits == 16 else None


def decode_image(data: bytes, name: str, bits: int = 16) -> Array:
    """Like `read_image`, from the bytes of a file; ``name`` is for the message."""
    return _decode(data, name, bits, 1)[0]


def pixels_of(image: Image.Image, name: str, bits: int = 16) -> Array:
    """(H, W, 3) uint8 RGB of a Pillow image, as it stands: EXIF orientation is not applied. Else as `read_image`.

    Raises:
        ImageError: for an image that can't be loaded, is too large, or of a mode without a plain meaning.
        UserError: for a value of more than ``bits``.
    """
    check_pixels((image.height, image.width), name)
    try:
        with _LOADING:
            image.load()
        pixels = _pil_pixels(image)
    except Exception as error:  # a file behind it is decoded only now
        raise ImageError(f"image {name} can't be loaded by Pillow ({error}); replace it") from error
    if pixels is None:
        raise _unknown_mode(name, image.mode)
    return _eight_bits(pixels, bits, name) if pixels.dtype == np.uint16 else pixels


def check_image_bits(bits: int) -> None:
    """Refuse a number of bits that values of 16-bit images can't have.

    Raises:
        UserError: with those they can have.
    """
    if isinstance(bits, bool) or not isinstance(bits, int) or not 8 <= bits <= 16:
        raise UserError(f"image_bits={bits!r} must be 8 to 16: how many bits the values of 16-bit images have")


class EncodedImage:
    """An image file, read and decoded only where its pixels are needed, and no larger than needed.

    Args:
        path: the file.
        hw: upright size that it must have; None for any.
        bits: see `read_image`.
        cache: takes a reduction and a function that decodes at one, and gives what that gives or gave; see
            `lightpose.data.pixels.cache`.

    Attributes:
        hw: upright size.
        name: the path, for messages.

    Raises:
        ImageError: naming the file, when its header is needed for the size and can't be read.
    """

    def __init__(
        self,
        path: Path | str,
        hw: tuple[int, int] | None = None,
        bits: int = 16,
        cache: Callable[[int, Callable[[int], tuple[Array, int]]], tuple[Array, int]] | None = None,
    ) -> None:
        self.name, self.bits, self._path, self._cache = str(path), bits, path, cache
        self._decoded: dict[int, tuple[Array, int]] = {}
        self.hw = hw or read_header(self.data, self.name).hw

    @functools.cached_property
    def data(self) -> bytes:
        """Content of the file.

        Raises:
            ImageError: naming the file, when it can't be read.
        """
        return read_bytes(self._path)

    def decode(self, reduction: int = 1) -> tuple[Array, int]:
        """The upright pixels and the factor by which they are reduced; they are kept for the next who asks.

        Args:
            reduction: 1, 2, 4 or 8, the side of the square that a pixel stands for. A JPEG that needs no turning is
                reduced while it is decoded, anything else is not.

        Raises:
            ImageError: naming the file, when it is truncated, too large or not an image.
            UserError: when the image is not of the size that it must have.
        """
        if reduction not in self._decoded:
            read = self._decode_file
            self._decoded[reduction] = self._cache(reduction, read) if self._cache else read(reduction)
        return self._decoded[reduction]

    def _decode_file(self, reduction: int) -> tuple[Array, int]:
        image, factor, full_hw = _decode(self.data, self.name, self.bits, reduction)
        check_image_hw(self.name, full_hw, self.hw)
        return image, factor

    def plain_jpeg(self) -> bool:
        """Whether this is a whole upright JPEG of grey levels or YCbCr, which every decoder reads alike.

        Raises:
            ImageError: for one that is too large, or made to be.
            UserError: when such an image is not of the size that it must have.
        """
        data = self.data
        if data[:2] != b"\xff\xd8" or data[-2:] != b"\xff\xd9":
            return False
        try:
            color = simplejpeg.decode_jpeg_header(data)[2]
        except ValueError:
            return False
        header = read_header(data, self.name)
        if color not in ("YCbCr", "Gray") or header.orientation != 1:
            return False
        check_image_hw(self.name, header.hw, self.hw)
        check_content(data, header, self.name)
        return True


def _decode(data: bytes, name: str, bits: int, reduction: int) -> tuple[Array, int, tuple[int, int]]:
    """The upright pixels, the factor by which they are reduced, and the upright size of the whole image."""
    header = read_header(data, name)
    reducible = header.format == "JPEG" and header.orientation == 1
    reducible = reducible and max(header.hw) >= 16  # of less, other factors give that size, too
    pixels, factor = _pixels(data, header, name, reduction if reducible else 1)
    height, width = (-(-side // factor) for side in header.hw)
    if pixels.shape != (height, width, 3):
        raise ImageError(
            f"image {name} declares {width}x{height} pixels (w x h) and holds {pixels.shape[1]}x{pixels.shape[0]}; "
            "replace it"
        )
    return (_eight_bits(pixels, bits, name) if pixels.dtype == np.uint16 else pixels), factor, header.hw


def _pixels(data: bytes, header: Header, name: str, reduction: int = 1) -> tuple[Array, int]:
    """The upright pixels, (H, W, 3) uint8 or uint16 RGB, and the factor by which they are reduced."""
    check_content(data, header, name)
    turn = _UPRIGHT[header.orientation]
    if header.format == "JPEG":
        least_hw = [-(-side // reduction) for side in header.hw] if reduction > 1 else [0, 0]
        try:
            return turn(simplejpeg.decode_jpeg(data, min_height=least_hw[0], min_width=least_hw[1])), reduction
        except ValueError as error:
            # Pillow reads what simplejpeg doesn't, such as stray bytes, but paints a part that is missing grey.
            if "remature end" in str(error):
                raise corrupt(name, len(data)) from error
    if header.format in ("PNG", "WEBP") or (header.format == "TIFF" and header.bits == 16):
        flags = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
        try:
            image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        except cv2.error as error:
            raise corrupt(name, len(data)) from error
        if image is None:
            raise corrupt(name, len(data))
        return turn(cv2.cvtColor(image, cv2.COLOR_BGR2RGB)), 1
    pixels = _by_pillow(data, name)
    return pixels if header.format == "TIFF" else turn(pixels), 1  # of TIFF, Pillow does the turning


def _by_pillow(data: bytes, name: str) -> Array:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            pixels, mode = _pil_pixels(image), image.mode
    except Exception as error:  # Pillow raises whatever its parsers meet
        raise corrupt(name, len(data)) from error
    if pixels is None:
        raise _unknown_mode(name, mode)
    return pixels


def _pil_pixels(image: Image.Image) -> Array | None:
    """(H, W, 3) uint8 or uint16 RGB; None for pixels of a kind that doesn't say how bright they are."""
    image.load()
    if image.format == "PPM" and image.mode == "I":  # scaled from the file's own maximum
        return np.repeat((np.asarray(image) >> 8).astype(np.uint8)[..., None], 3, -1)
    if image.mode.startswith("I;16"):
        return np.repeat(np.asarray(image)[..., None].astype(np.uint16), 3, -1)
    if image.mode in ("La", "RGBa"):  # colours that were multiplied by the opacity
        image = image.convert(image.mode.upper())
    return np.array(image.convert("RGB")) if image.mode in _MODES else None


def _unknown_mode(name: str, mode: str) -> ImageError:
    return ImageError(f"image {name} has Pillow's mode {mode}; expected I;16 or one of {', '.join(_MODES)}")


def _eight_bits(image: Array, bits: int, name: str) -> Array:
    """(H, W, 3) uint8 of uint16, by the same factor for every image."""
    needed = int(image.max()).bit_length()
    if needed > bits:
        raise UserError(f"image {name} holds values of {needed} bits; image_bits={bits} must be {needed} at least")
    if bits == 16 and 0 < needed <= FEW_BITS:
        _say_dark(name, max(needed, 8))
    return (image >> (bits - 8)).astype(np.uint8)


def _say_dark(name: str, needed: int) -> None:
    """Warn of an image that becomes almost black, once in a process."""
    if not _said_dark:
        _said_dark.append(name)
        log.warning(
            "image %s uses %d of its 16 bits and is almost black as it is read; if this is so of all images, set "
            "image_bits=%d (reader.image_bits=%d in training)",
            name,
            needed,
            needed,
            needed,
        )
