"""What an image file says of itself before it is decoded: format, size, orientation, depth.

What would fill the memory, run a program or wait for ever is refused here, before anything is decoded.
"""

import io
import math
import os
import stat
import struct
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import simplejpeg
from PIL import Image

from lightpose.errors import UserError

OnBadImage = Literal["error", "skip"]
"""Whether an image that can't be read ends a command, or is left out and counted."""

MAX_PIXELS = 178_956_970
"""Of an image, in every command. So many take 0.5 GB, and up to 3 GB while they are decoded. The figure is Pillow's own
limit, so that all decoders have the same."""

MAX_BYTES = 2**30
"""Of an image file."""

Image.init()
FORMATS = tuple(
    name
    for name in ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "PPM", "JPEG2000", "AVIF")  # others may run programs
    if name in Image.OPEN
)

_DEFLATE = 1032  # bytes that one byte of a PNG can stand for
_JPEG = 1024  # pixels that one byte of a JPEG can stand for: a bit for each 8 x 8, and twice as many for safety
_SCANS = 2**32  # pixels times the scans of a JPEG, in which it grows finer: some seconds of decoding
_ORIENTATION = 0x0112
_MIN_IS_BLACK, _RGB = 1, 2  # photometric interpretations of TIFF


def check_on_bad_image(choice: str) -> None:
    """Refuse an unknown choice.

    Raises:
        UserError: with the known ones.
    """
    if choice not in get_args(OnBadImage):
        raise UserError(f"on_bad_image={choice} is unknown; use {' or '.join(get_args(OnBadImage))}")


class ImageError(UserError):
    """An image file is missing, too large, or can't be decoded."""


class Header(NamedTuple):
    """What the first bytes of an image file declare.

    Attributes:
        format: one of `FORMATS`, or ``APNG``.
        stored_hw: size of the stored pixels, not turned yet.
        orientation: EXIF's, 1 to 8; 1 is upright.
        bits: of a sample, 8 for what has fewer.
    """

    format: str
    stored_hw: tuple[int, int]
    orientation: int
    bits: int

    @property
    def hw(self) -> tuple[int, int]:
        """Upright size."""
        height, width = self.stored_hw
        return (width, height) if self.orientation >= 5 else (height, width)


def read_header(data: bytes, name: str) -> Header:
    """The header of an image file.

    Args:
        data: the file, or as much of its beginning as holds the header.
        name: for messages.

    Raises:
        ImageError: for what is no image, and for more than `MAX_PIXELS`.
    """
    header = None
    if data[:2] == b"\xff\xd8":
        header = _jpeg(data)
    elif data[:8] == b"\x89PNG\r\n\x1a\n":
        header = _png(data, name)
    header = header or _by_pillow(data, name)
    check_pixels(header.hw, name)
    return header


def check_pixels(image_hw: tuple[int, int], name: str) -> None:
    """Refuse what would fill the memory.

    Raises:
        ImageError: for more than `MAX_PIXELS`.
    """
    if math.prod(image_hw) > MAX_PIXELS:
        raise _too_large(name, f"{image_hw[1]}x{image_hw[0]} pixels")


def check_content(data: bytes, header: Header, name: str) -> None:
    """Refuse a file that is made to be large when decoded, or slow.

    Raises:
        ImageError: for a JPEG or PNG so short that it can't hold the pixels that it declares, and for a JPEG of
            hundreds of scans.
    """
    height, width = header.stored_hw
    if header.format == "JPEG":
        least = height * width // _JPEG
        most_scans = _SCANS // (height * width + 1)
        if len(data) > 10 * most_scans and data.count(b"\xff\xda") > most_scans:  # a scan has 10 bytes and more
            raise ImageError(f"image {name} has over {most_scans} scans; save it anew as a plain JPEG")
    elif header.format == "PNG":
        bits, color = data[24:26]
        least = height * (width * bits * {2: 3, 4: 2, 6: 4}.get(color, 1) // 8) // _DEFLATE
    else:
        return
    if len(data) < least:
        raise corrupt(name, len(data))


def read_bytes(path: Path | str, most: int = -1) -> bytes:
    """The content of a regular file, or its first ``most`` bytes; anything else, such as a pipe, isn't opened.

    Raises:
        ImageError: for a file that can't be read, or of more than `MAX_BYTES`.
    """
    try:
        status = os.stat(path)  # noqa: PTH116 - once per sample, as `open` below: half the time of a Path
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(f"image {path} is no regular file; expected an image file")
        if status.st_size > MAX_BYTES:
            raise _too_large(str(path), f"{status.st_size} bytes")
        with open(path, "rb") as file:  # noqa: PTH123
            return file.read(most)
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        reason = error.strerror if isinstance(error, OSError) else None
        raise ImageError(f"image {path} can't be read ({reason or error}); check the folder of images") from error


def corrupt(name: str, length: int) -> ImageError:
    """What is said of a file that can't be decoded."""
    return ImageError(
        f"image {name} ({length} bytes) is truncated or not an image; replace it, or go on without it: "
        "on_bad_image=skip (reader.on_bad_image=skip in training)"
    )


def _too_large(name: str, what: str) -> ImageError:
    """What is said of a file over the limits."""
    return ImageError(
        f"image {name} has {what}; expected at most {MAX_PIXELS} pixels and {MAX_BYTES} bytes; make it smaller, or "
        "cut it up"
    )


def _jpeg(data: bytes) -> Header | None:
    try:
        height, width = simplejpeg.decode_jpeg_header(data)[:2]
    except ValueError:
        return None
    start = data.find(b"Exif\0\0", 0, 65536)
    return Header("JPEG", (height, width), 1 if start < 0 else _orientation(data[start : start + 65536]), 8)


def _png(data: bytes, name: str) -> Header | None:
    if data[12:16] != b"IHDR" or len(data) < 25:
        return None
    width, height, bits = struct.unpack_from(">IIB", data, 16)
    orientation, at, animated = 1, 8, False
    for _ in range(MAX_BYTES >> 13):  # an encoder's pieces have 8 KB, or more
        if at + 8 > len(data):
            break
        length, kind = struct.unpack_from(">I4s", data, at)
        if at + 8 + length > len(data):  # decoders would make room for what isn't there
            raise corrupt(name, len(data))
        if kind == b"eXIf":
            orientation = _orientation(data[at + 8 : at + 8 + length])
        animated = animated or kind == b"acTL"
        at += 12 + length
    return Header("APNG" if animated else "PNG", (height, width), orientation, max(bits, 8))


def _orientation(exif: bytes) -> int:
    tags = Image.Exif()
    try:
        tags.load(exif)
        orientation = int(tags.get(_ORIENTATION, 1))
    except Exception:  # whatever Pillow's parser meets in a damaged one
        return 1
    return orientation if 1 <= orientation <= 8 else 1


def _by_pillow(data: bytes, name: str) -> Header:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.format == "TIFF":
                return _tiff(image, name)
            width, height = image.size
            orientation = image.getexif().get(_ORIENTATION, 1)
            bits = 16 if image.mode.startswith("I;16") else 8
    except UserError:
        raise
    except Image.DecompressionBombError as error:
        raise _too_large(name, "more pixels than Pillow takes") from error
    except Exception as error:  # Pillow raises whatever its parsers meet
        raise corrupt(name, len(data)) from error
    known = isinstance(orientation, int) and 1 <= orientation <= 8
    return Header(str(image.format), (height, width), orientation if known else 1, bits)


def _tiff(image: Image.Image, name: str) -> Header:
    tags = image.tag_v2  # type: ignore[attr-defined]
    bits = set(tags.get(258, (1,)))
    kinds, photometric, planar = set(tags.get(339, (1,))), tags.get(262), tags.get(284, 1)
    deep = bits == {16} and photometric in (_MIN_IS_BLACK, _RGB) and planar == 1
    if kinds != {1} or not (deep or bits <= {1, 2, 4, 8}):
        raise ImageError(
            f"image {name} is a TIFF of {'/'.join(map(str, sorted(bits)))} bits a sample, sample format "
            f"{'/'.join(map(str, sorted(kinds)))}, photometric interpretation {photometric}; expected unsigned "
            "integers of 8 bits, or of 16 as grey or RGB"
        )
    orientation = tags.get(274, 1)
    height, width = int(tags[257]), int(tags[256])
    return Header("TIFF", (height, width), orientation if orientation in range(1, 9) else 1, 16 if deep else 8)
