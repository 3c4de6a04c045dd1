"""Image files that no encoder at hand makes."""

import struct
import zlib

import numpy as np


def tiff(pixels, photometric, planar=1, extra=None, kind=1, order="<"):
    """An uncompressed TIFF of (H, W, C) samples, its tags as given."""
    height, width, channels = pixels.shape
    samples = pixels.astype(pixels.dtype.newbyteorder(order))
    strips = [samples] if planar == 1 else [samples[..., channel] for channel in range(channels)]
    data, places = bytearray({"<": b"II*\0", ">": b"MM\0*"}[order] + bytes(4)), []
    for strip in strips:
        places.append(len(data))
        data += np.ascontiguousarray(strip).tobytes()
    tags = {
        256: [width],
        257: [height],
        258: [8 * pixels.dtype.itemsize] * channels,
        259: [1],
        262: [photometric],
        273: places,
        277: [channels],
        278: [height],
        279: [strip.nbytes for strip in strips],
        284: [planar],
        **({338: [extra]} if extra is not None else {}),
        339: [kind] * channels,
    }
    entries = b""
    for tag, values in tags.items():
        wide = tag in (256, 257, 273, 278, 279)
        packed = struct.pack(order + ("I" if wide else "H") * len(values), *values)
        if len(packed) > 4:
            data += packed
            packed = struct.pack(order + "I", len(data) - len(packed))
        entries += struct.pack(order + "HHI", tag, 4 if wide else 3, len(values)) + packed.ljust(4, b"\0")
    data += bytes(len(data) % 2)
    data[4:8] = struct.pack(order + "I", len(data))
    return bytes(data + struct.pack(order + "H", len(tags)) + entries + bytes(4))


def png_of_size(png, hw):
    """A PNG whose header declares another size."""
    header = b"IHDR" + struct.pack(">II", hw[1], hw[0]) + png[24:29]
    return png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:]


def png_with(png, kind, content):
    """A PNG with one more chunk behind its header."""
    chunk = kind + content
    return png[:33] + struct.pack(">I", len(content)) + chunk + struct.pack(">I", zlib.crc32(chunk)) + png[33:]


def jpeg_of_size(jpeg, hw):
    """A JPEG whose header declares another size."""
    place = next(at for at in range(len(jpeg)) if jpeg[at : at + 2] in (b"\xff\xc0", b"\xff\xc2"))
    return jpeg[: place + 5] + struct.pack(">HH", *hw) + jpeg[place + 9 :]
