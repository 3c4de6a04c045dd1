"""Pictures and videos with poses on them. Whatever fails here costs pictures, and never predictions."""

import logging
import math
import re
import shutil
import unicodedata
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from fractions import Fraction
from itertools import chain, count
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol

import cv2
import numpy as np

from lightpose.draw import draw_poses
from lightpose.inference.frames import Frame
from lightpose.inference.prefetch import THREADS, prefetch
from lightpose.inference.tracking.tails import Tails
from lightpose.skeleton import Skeleton
from lightpose.structures import Array, Poses

if TYPE_CHECKING:
    from av.container import OutputContainer

log = logging.getLogger(__name__)

_PICTURES = (".jpg", ".jpeg", ".png")
_UNSAFE = re.compile(r'[\x00-\x1f\x7f<>:"|?*\ud800-\udfff]')
"""What some file system takes for something else than a letter of a name, or doesn't take."""
_LETTERS = 120
"""Bytes of a name in UTF-8; file systems take 255."""
_DEPTH = 16
_VIDEO_CODECS = ("libx264", "libopenh264", "mpeg4")
"""The first that FFmpeg has; H.264 is what every player and browser shows."""


class SafePaths:
    """Makes relative paths of names that come from files: always below the folder they are joined to, each only once.

    A name without ``..``, drive, odd letter or 120 bytes in a part stays as it is.
    """

    def __init__(self) -> None:
        self._files: set[str] = set()
        self._folders: set[str] = set()

    def __call__(self, name: str, number: int) -> PurePosixPath:
        """A path of a picture file for ``name``; ``number`` tells it from another of that name."""
        parts = [part for part in map(_clean, re.split(r"[/\\]", name)) if part][-_DEPTH:] or ["image"]
        path = PurePosixPath(*parts)
        if path.suffix.lower() not in _PICTURES:
            path = path.with_name(f"{path.name}.png")
        stem = f"{path.stem[:30]}_{str(number)[:30]}"
        others = (PurePosixPath(f"{stem}_{again}{path.suffix}") for again in count(2))
        free = next(filter(self._is_free, chain([path, path.with_stem(stem)], others)))
        self._files.add(_key(free))
        self._folders.update(map(_key, free.parents))
        return free

    def _is_free(self, path: PurePosixPath) -> bool:
        key = _key(path)
        taken = key in self._files or key in self._folders
        return not taken and not any(_key(folder) in self._files for folder in path.parents)


def _clean(part: str) -> str:
    """A part of a path as a harmless name; empty for one that names no entry of a folder."""
    part = _UNSAFE.sub("_", part).rstrip(" .")
    if len(part.encode()) > _LETTERS:
        stem, dot, suffix = part.rpartition(".")
        ending = f".{suffix}" if dot and len(suffix.encode()) < 10 else ""
        part = (stem if ending else part).encode()[: _LETTERS - 10].decode(errors="ignore") + ending
    return part


def _key(path: PurePosixPath) -> str:
    """The same for names that some file system takes for the same."""
    return unicodedata.normalize("NFC", str(path)).casefold()


class PictureWriter(Protocol):
    """Where overlays go.

    Attributes:
        threads: how many may write at once.
        path: the folder or file that is written.
    """

    threads: int
    path: Path

    def place(self, frame: Frame) -> Path:
        """Where the overlay of a frame goes; asked in order, before any thread writes it."""
        ...

    def write(self, frame: Frame, place: Path, image: Array) -> None:
        """Keep an (H, W, 3) uint8 RGB picture."""
        ...

    def close(self) -> None:
        """Complete what was written."""
        ...


class ImageWriter:
    """A picture file each, in the folder, under the image's own name as far as `SafePaths` leaves it."""

    threads = THREADS

    def __init__(self, folder: Path) -> None:
        self.path, self._paths = folder, SafePaths()

    def place(self, frame: Frame) -> Path:
        """A path that no other frame has; formats other than JPEG and PNG get ``.png`` after their name."""
        return self.path / self._paths(frame.name, frame.image_id)

    def write(self, frame: Frame, place: Path, image: Array) -> None:
        """Write the file.

        Raises:
            OSError: when there is no space for it.
            ValueError: for a size that the format doesn't have.
        """
        done, data = cv2.imencode(place.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        if not done:
            raise ValueError(f"{place.suffix} takes no picture of {image.shape[1]}x{image.shape[0]}")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data.tobytes())

    def close(self) -> None:
        """Nothing is left to do."""


class VideoWriter:
    """An MP4 video, of H.264 where FFmpeg has it, which is complete once it is closed.

    Args:
        folder: of the file.
        stem: its name, as far as `SafePaths` would leave it.
        fps: frames per second, any; over 1000 are taken for 1000.
    """

    threads = 1  # frames come in order

    def __init__(self, folder: Path, stem: str, fps: float) -> None:
        self.path = folder / f"{_clean(stem.replace('/', '_')) or 'video'}.mp4"
        self.rate = video_rate(fps)
        self._container: OutputContainer | None = None
        self._stream: Any = None
        self._first = 0

    def place(self, frame: Frame) -> Path:
        """The video."""
        return self.path

    def write(self, frame: Frame, place: Path, image: Array) -> None:
        """Append a frame, shown when it was in the source; all get the size of the first, made even.

        Raises:
            OSError: when it can't be written.
            ValueError: when FFmpeg encodes no video of that size.
        """
        import av

        if self._container is None:
            self._open(image)
            self._first = frame.image_id
        height, width = self._stream.height, self._stream.width
        if not (0 <= height - image.shape[0] <= 1 and 0 <= width - image.shape[1] <= 1):
            image = cv2.resize(image, (width, height))
        if image.shape[:2] != (height, width):
            image = np.pad(image, ((0, height - image.shape[0]), (0, width - image.shape[1]), (0, 0)), "edge")
        picture = av.VideoFrame.from_ndarray(image, format="rgb24")
        picture.pts, picture.time_base = frame.image_id - self._first, 1 / self.rate
        self._mux(picture)

    def close(self) -> None:
        """Write what the encoder still has."""
        if self._container is not None:
            self._mux(None)
            self._container.close()

    def _mux(self, picture: Any) -> None:
        assert self._container is not None
        for packet in self._stream.encode(picture):
            self._container.mux(packet)

    def _open(self, image: Array) -> None:
        import av

        height, width = (side + side % 2 for side in image.shape[:2])
        self.path.parent.mkdir(parents=True, exist_ok=True)
        for codec in (name for name in _VIDEO_CODECS if name in av.codecs_available):
            container = av.open(str(self.path), "w", format="mp4")
            stream: Any = container.add_stream(codec, rate=self.rate)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            if codec == "libx264":
                stream.options = {"preset": "veryfast"}
            else:  # whose own rate is that of a stamp
                stream.codec_context.bit_rate = max(1_000_000, round(height * width * self.rate / 5))
            try:
                stream.codec_context.open()
            except av.FFmpegError:
                container.close()
                continue
            self._container, self._stream = container, stream
            return
        raise ValueError(f"FFmpeg encodes no video of {width}x{height}")


def video_rate(fps: float) -> Fraction:
    """The rate as a fraction that every codec takes: MPEG-4 has 16 bits for its parts."""
    rate = min(Fraction(fps), Fraction(1000))
    return rate.limit_denominator(min(1001, 65535 // math.ceil(rate))) or Fraction(1)


class Overlays:
    """Draws results as they pass.

    An overlay that can't be drawn is left out. When one can't be written there is no space, or no encoder: then all are
    given up and removed, which leaves space for the predictions.

    Args:
        writer: where they go.
        skeleton: of the poses.
        threshold: see `lightpose.draw.draw_poses`.
        tail_frames: of a video, over how many frames those who have an identity draw a tail behind them.
    """

    def __init__(self, writer: PictureWriter, skeleton: Skeleton, threshold: float, tail_frames: int = 0) -> None:
        self.writer, self.skeleton, self.threshold = writer, skeleton, threshold
        self.tails = Tails(tail_frames, threshold)
        self.failed: list[str] = []
        self.given_up = False

    def drawn(self, results: Iterable[tuple[Frame, Poses[Array]]]) -> Generator[tuple[Frame, Poses[Array]]]:
        """Pass results on, each drawn by a thread; close it to stop them."""

        def placed() -> Iterator[tuple[Path, Frame, Poses[Array], dict[int, Array]]]:
            for frame, found in results:
                yield self.writer.place(frame), frame, found, self.tails(frame.image_id, found)

        return prefetch(self._draw, placed(), 2 * self.writer.threads, self.writer.threads)

    def _draw(self, item: tuple[Path, Frame, Poses[Array], dict[int, Array]]) -> tuple[Frame, Poses[Array]]:
        place, frame, found, tails = item
        if not self.given_up:
            try:
                picture = draw_poses(
                    frame.pixels(),
                    found.keypoints[..., :2],
                    found.keypoint_scores,
                    self.skeleton,
                    boxes_xyxy=found.boxes_xyxy,
                    threshold=self.threshold,
                    visibility=found.visibility,
                    track_ids=found.track_ids,
                    tails=tails,
                )
            except Exception as error:  # whatever it is, the predictions are worth more
                self.failed.append(frame.name)
                log.warning("The overlay of %s is left out: %s", frame.name, error)
                return frame, found
            self._try(lambda: self.writer.write(frame, place, picture))
        return frame, found

    def close(self) -> bool:
        """Complete the overlays, or remove them; whether there are any."""
        if not self.given_up:
            self._try(self.writer.close)
        if self.given_up:
            self._remove()
        elif self.failed:
            log.warning("%d overlays are left out; the predictions are complete", len(self.failed))
        return self.writer.path.exists()

    def _try(self, write: Callable[[], None]) -> None:
        try:
            write()
        except Exception as error:  # as above
            if not self.given_up:
                self.given_up = True
                log.warning("There will be no overlays, as they can't be written: %s. The predictions go on", error)
            self._remove()

    def _remove(self) -> None:
        with suppress(OSError):
            if self.writer.path.is_dir():
                shutil.rmtree(self.writer.path, ignore_errors=True)
            else:
                self.writer.path.unlink(missing_ok=True)
