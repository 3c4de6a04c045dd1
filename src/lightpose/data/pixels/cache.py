"""Decoded images, kept in memory that all workers share."""

import contextlib
import logging
import mmap
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lightpose.structures import Array

log = logging.getLogger(__name__)

REDUCTIONS = 2 ** np.arange(4)
_LIMITS = (  # of a container, as cgroups of version 2 and 1 give them: the limit, what is used, what of it can go
    ("/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


class PixelCache:
    """Room for the pixels of images, at each reduction that a decoder offers. Whoever decodes an image fills it.

    Workers share it if they are forked: the memory belongs to no file and can't be pickled, so workers that start in
    another way get None in its place and decode every image. Memory is taken only as it is filled.

    Args:
        image_hw: (N, 2) size of each image.
        rows: which of them to keep.

    Raises:
        OSError: when the machine doesn't give the memory.
    """

    def __init__(self, image_hw: Array, rows: Array) -> None:
        sizes = np.zeros((len(image_hw), len(REDUCTIONS)), np.int64)
        sizes[rows] = _sizes(image_hw[rows])
        self._image_hw, self._kept = image_hw, sizes[:, 0] > 0
        self._starts = sizes.size + np.cumsum(sizes).reshape(sizes.shape) - sizes
        self._memory = mmap.mmap(-1, sizes.size + int(sizes.sum()))
        # The factor by which an image is reduced if a reduction is asked for; 0 while its pixels are not here.
        self._factors = np.frombuffer(self._memory, np.uint8, sizes.size).reshape(sizes.shape)
        self._lock = multiprocessing.Lock()  # pixels may be seen later than their factor without it, on some processors

    def __reduce__(self) -> Any:
        return type(None), ()

    def decoded(self, row: int, reduction: int, decode: Callable[[int], tuple[Array, int]]) -> tuple[Array, int]:
        """What ``decode(reduction)`` gives for image ``row``; read-only, and decoded only once, if it is to be kept.

        Args:
            row: of the image.
            reduction: one of `REDUCTIONS`.
            decode: gives the pixels and the factor by which they are reduced.
        """
        if not self._kept[row]:
            return decode(reduction)
        column = reduction.bit_length() - 1
        with self._lock:
            factor = int(self._factors[row, column])
        if not factor:
            pixels, factor = decode(reduction)
            self._place(row, factor)[...] = pixels
            with self._lock:  # two who decode an image at once write the same
                self._factors[row, column] = factor
        place = self._place(row, factor)
        place.flags.writeable = False
        return place, factor

    def _place(self, row: int, factor: int) -> Array:
        height, width = -(-self._image_hw[row] // factor)
        start = int(self._starts[row, factor.bit_length() - 1])
        return np.frombuffer(self._memory, np.uint8, height * width * 3, start).reshape(height, width, 3)


def cache_of(image_hw: Array, rows: Array, limit_gb: float) -> PixelCache | None:
    """A cache of all images of a data set; None, and a line that says why, where they don't fit.

    Args:
        image_hw: (N, 2) size of each image.
        rows: of the images that samples are made of.
        limit_gb: 10^9 bytes that all of them may take. They may take half of the free memory, too, and no more.
    """
    if not limit_gb:
        return None
    rows = np.unique(rows)
    needed, free = int(_sizes(image_hw[rows]).sum()) / 1e9, free_memory() / 1e9
    why = f"the {len(rows)} images are decoded anew in each pass: decoded, they take {needed:.2f} GB"
    if needed > free / 2:
        log.info("%s, and more than half of the free memory (%.2f GB) is not used for them", why, free)
    elif needed > limit_gb:
        log.info("%s; to keep them in memory, set data.cache_gb=%d", why, -(-needed // 1))
    else:
        with contextlib.suppress(OSError):
            return PixelCache(image_hw, rows)
        log.info("%s, which the system refuses", why)
    return None


def free_memory() -> float:
    """Bytes that programs can still take of the machine and of the container; infinite where neither tells."""
    free = [float("inf")]
    with contextlib.suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free.append(1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")))
    for folder, limit, used, spare in _LIMITS:
        with contextlib.suppress(OSError, KeyError, ValueError):  # ValueError: the limit is "max"
            figures = dict(line.split() for line in (Path(folder) / "memory.stat").read_text().splitlines())
            most, taken = (int((Path(folder) / name).read_text()) for name in (limit, used))
            free.append(most - taken + int(figures[spare]))
    return max(0, min(free))


def _sizes(image_hw: Array) -> Array:
    """(N, R) bytes of each image at each of the `REDUCTIONS`."""
    return np.multiply(3, (-(-image_hw.astype(np.int64)[:, None] // REDUCTIONS[:, None])).prod(-1))
