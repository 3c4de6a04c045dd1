"""One picture after the other: frames, and the videos that give them."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

from lightpose.data.coco.boxes import BoxedImage
from lightpose.data.coco.json_values import whole_number
from lightpose.data.pixels.decode import read_image
from lightpose.errors import UserError
from lightpose.inference.prefetch import AHEAD, prefetch
from lightpose.inference.video.decode import read_frames
from lightpose.inference.video.timeline import Timeline
from lightpose.structures import Array

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture.

    Attributes:
        name: unique in its source: a path relative to the folder, or the video's name and the frame's number.
        image: (H, W, 3) uint8 RGB, or the path of a file.
        image_id: the COCO file's id, or 1, 2, ... in order.
        image_bits: of a 16-bit file, see `lightpose.data.pixels.decode.read_image`.
        time_s: when a frame of a video is shown, counted from its first; None for other pictures.
    """

    name: str
    image: Array | Path
    image_id: int
    image_bits: int = 16
    time_s: float | None = None

    def pixels(self) -> Array:
        """(H, W, 3) uint8 RGB; a file is read.

        Raises:
            UserError: for a file that can't be decoded.
        """
        return read_image(self.image, self.image_bits) if isinstance(self.image, Path) else self.image


class Numbered:
    """What a video and a camera share: frames with numbers for names."""

    __slots__ = ()

    def name_of(self, image_id: int) -> str | None:
        """Name of the frame with that number, from 1, or None where there can't be one."""
        raise NotImplementedError

    def has(self, name: str) -> bool:
        """Whether there may be a frame of that name."""
        number = name.rpartition("_")[2]
        return number.isdecimal() and self.name_of(int(number)) == name

    def finder(self) -> Callable[[BoxedImage], list[int]]:
        """Gives the number of the frame that a box is of, or nothing."""

        def find(image: BoxedImage) -> list[int]:
            name = image.file_name
            number = whole_number(image.image_id if name is None else name.rpartition("_")[2])
            if number is None or number < 1 or not (self.name_of(number) if name is None else self.has(name)):
                return []
            return [number]

        return find


@dataclass(frozen=True, eq=False, slots=True)
class Video(Numbered):
    """A video file.

    Attributes:
        path: of the file.
        timeline: which frames it has.
        hwaccel: see `lightpose.inference.video.containers.opened`.
    """

    path: str
    timeline: Timeline
    hwaccel: str | None = None
    has_ids: bool = True
    boxes: None = None
    category_ids: None = None

    @property
    def fps(self) -> float:
        """Frames per second."""
        return float(self.timeline.fps)

    @property
    def stem(self) -> str:
        """Name of the video without folder and suffix."""
        return Path(self.path).stem

    @property
    def image_ids(self) -> range:
        """Numbers of the frames, from 1, as many as the file announces."""
        return range(1, self.timeline.announced + 1)

    def name_of(self, image_id: int) -> str | None:
        """Name of the frame with that number, or None where the file announces fewer."""
        return frame_name(self.stem, image_id) if image_id in self.image_ids else None

    def frames(self, ahead: int = AHEAD) -> Iterator[Frame]:
        """The frames, read by a thread, at most ``ahead`` of them before they are asked for.

        Each has its own number, by its time stamp; those that can't be read are named and counted in a warning.

        Raises:
            UserError: when there is not even one.
        """
        decoded = read_frames(self.path, self.timeline, self.hwaccel)
        given = last = 0
        missing: list[tuple[int, int]] = []
        ahead_of_us = prefetch(lambda _: next(decoded, None), repeat(None), ahead, threads=1)
        with closing(decoded), closing(ahead_of_us):
            for numbered in ahead_of_us:
                if numbered is None:
                    break
                number, image = numbered
                if number > last + 1:
                    missing.append((last + 1, number - 1))
                given, last = given + 1, number
                yield Frame(frame_name(self.stem, number), image, number, time_s=self.timeline.time_s(number))
        if last < self.timeline.announced:
            missing.append((last + 1, self.timeline.announced))
        if not given:
            raise UserError(f"{self.path} gives no frame; it may be damaged, check that a player shows it")
        if missing:
            log.warning(
                "%s: %d of %d frames can't be read: %s; the others are given under their own numbers",
                self.path,
                sum(end - start + 1 for start, end in missing),
                self.timeline.announced,
                _ranges(missing),
            )


def frame_name(stem: str, number: int) -> str:
    """Name of a video's frame, counted from 1."""
    return f"{stem}_{number:06d}"


def _ranges(ranges: Sequence[tuple[int, int]]) -> str:
    shown = [str(start) if start == end else f"{start}-{end}" for start, end in ranges[:10]]
    return ", ".join(shown) + (f" and {len(ranges) - 10} more stretches" if len(ranges) > 10 else "")
