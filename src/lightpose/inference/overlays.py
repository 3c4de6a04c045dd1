"""Pictures and videos with poses on them. Whatever fails here costs pictures, and never predictions."""

import logging
import re
import shutil
import unicodedata
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from itertools import chain, count
from pathlib import Path, PurePosixPath
from typing import Protocol

import cv2

from lightpose.draw import draw_poses
from lightpose.inference.frames import Frame
from lightpose.inference.prefetch import THREADS, prefetch
from lightpose.inference.tracking.tails import Tails
from lightpose.skeleton import Skeleton
from lightpose.structures import Array, Poses

log = logging.getLogger(__name__)

_PICTURES = (".jpg", ".jpeg", ".png")
_UNSAFE = re.compile(r'[\x00-\x1f\x7f<>:"|?*\ud800-\udfff]')
"""What some file system takes for something else than a letter of a name, or doesn't take."""
_LETTERS = 120
"""Bytes of a name in UTF-8; file systems take 255."""
_DEPTH = 16


class SafePaths:
    """Makes relative paths of names that come from files: always below the folder they are joined to, each only once.

    A name without ``..``, drive, odd letter or 120 bytes in a part stays as it is.
    """

    def __init__(self) -> None:
        self._files: set[str] = set()
        self._folders: set[str] = set()

    def __call__(self, name: str, number: int) -> PurePosixPath:
        """A path of a picture file for ``name``; ``number`` tells it from another of that name."""
        parts = [part for part in map(clean, re.split(r"[/\\]", name)) if part][-_DEPTH:] or ["image"]
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


def clean(part: str) -> str:
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

    def abandon(self) -> bool:
        """Leave off after a failure; whether what was written before is of use."""
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

    def abandon(self) -> bool:
        """Pictures of some images are not worth the space that predictions may need."""
        return False


class Overlays:
    """Draws results as they pass.

    An overlay that can't be drawn is left out. When one can't be written there is no space, or no encoder: then no more
    are. Pictures are removed, which leaves space for the predictions; a video ends there, if it can be played.

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
        self.given_up = self.kept = False

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
        if self.given_up and not self.kept:
            self.remove()
        elif self.failed:
            log.warning("%d overlays are left out; the predictions are complete", len(self.failed))
        return self.writer.path.exists()

    def _try(self, write: Callable[[], None]) -> None:
        try:
            write()
        except Exception as error:  # as above
            if not self.given_up:
                self.given_up, self.kept = True, self.writer.abandon()
                what = "The overlay video ends early, as it" if self.kept else "There will be no overlays, as they"
                log.warning("%s can't be written: %s. The predictions go on", what, error)
            if not self.kept:
                self.remove()

    def make_room(self) -> bool:
        """Give up the overlays for the sake of the predictions; whether there were any."""
        some = self.writer.path.exists()
        if some:
            log.warning("There will be no overlays, as the predictions need their space")
            self.given_up = True
            self.writer.abandon()
            self.remove()
        return some

    def remove(self) -> None:
        """Give up the overlays, also those there are."""
        self.given_up, self.kept = True, False
        with suppress(OSError):
            if self.writer.path.is_dir():
                shutil.rmtree(self.writer.path, ignore_errors=True)
            else:
                self.writer.path.unlink(missing_ok=True)
