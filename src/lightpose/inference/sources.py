"""Where pictures come from: files, a COCO JSON, a video or a camera, one after the other."""

import glob
import json
import os
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any, TypeVar

import cv2

from lightpose.data.boxes import annotated_boxes
from lightpose.data.decode import read_image
from lightpose.data.image_files import image_folder
from lightpose.data.loading import CORES
from lightpose.errors import UserError
from lightpose.inference.boxes import Detections, by_name
from lightpose.structures import Array

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv"})
THREADS = min(8, CORES)
"""That decode and crop; more would only wait for Python's lock."""
AHEAD = 2 * THREADS

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture.

    Attributes:
        name: unique in its source: a path relative to the folder, or the video's name and the frame's number.
        image: (H, W, 3) uint8 RGB, or the path of a file.
        image_id: the COCO file's id, or 1, 2, ... in order.
    """

    name: str
    image: Array | Path
    image_id: int

    def pixels(self) -> Array:
        """(H, W, 3) uint8 RGB; a file is read.

        Raises:
            UserError: for a file that can't be decoded.
        """
        return read_image(self.image) if isinstance(self.image, Path) else self.image


@dataclass(frozen=True, slots=True)
class ImageFiles:
    """Image files in a fixed order.

    Attributes:
        files: name → path.
        names: id → name.
        has_ids: True when the ids come from a COCO file, so that a boxes file may refer to them.
        boxes: name → boxes that the COCO file annotates, of categories with keypoints if there are such, or None.
        category_id: the first of these categories.
    """

    files: dict[str, Path]
    names: dict[int, str]
    has_ids: bool = False
    boxes: dict[str, Detections] | None = None
    category_id: int = 1

    @property
    def image_ids(self) -> Collection[int]:
        """Ids of the pictures."""
        return self.names.keys()

    def name_of(self, image_id: int) -> str | None:
        """Name of the picture with that id, or None."""
        return self.names.get(image_id)

    def has(self, name: str) -> bool:
        """Whether there is a picture of that name."""
        return name in self.files

    def frames(self, ahead: int = AHEAD) -> Iterator[Frame]:
        """The pictures, decoded by threads, at most ``ahead`` of them before they are asked for.

        Raises:
            UserError: at the first file that can't be decoded, naming it.
        """

        def read(item: tuple[int, str]) -> Frame:
            image_id, name = item
            return Frame(name, read_image(self.files[name]), image_id)

        yield from prefetch(read, self.names.items(), ahead)


@dataclass(frozen=True, slots=True)
class Video:
    """A video file or a camera.

    Attributes:
        path: of the file, or the number of the camera.
        fps: frames per second.
        image_ids: numbers of the frames, from 1, as many as the file's header announces; empty for a camera.
    """

    path: str | int
    fps: float
    image_ids: range
    has_ids: bool = True
    boxes: None = None
    category_id: int = 1

    @property
    def stem(self) -> str:
        """Name of the video without folder and suffix, or ``camera0``."""
        return f"camera{self.path}" if isinstance(self.path, int) else Path(self.path).stem

    def name_of(self, image_id: int) -> str | None:
        """Name of the frame with that number, or None where the file announces fewer."""
        return None if self.image_ids and image_id not in self.image_ids else frame_name(self.stem, image_id)

    def has(self, name: str) -> bool:
        """Whether there is a frame of that name."""
        number = name.rpartition("_")[2]
        return number.isdecimal() and self.name_of(int(number)) == name

    def frames(self, ahead: int = AHEAD) -> Iterator[Frame]:
        """The frames, read by a thread, at most ``ahead`` of them before they are asked for.

        Raises:
            UserError: when there is not even one.
        """
        capture = cv2.VideoCapture(self.path)

        def read(number: int) -> Array | None:
            found, image = capture.read()
            return cv2.cvtColor(image, cv2.COLOR_BGR2RGB) if found else None

        try:
            with closing(prefetch(read, count(1), ahead, threads=1)) as images:
                for number, image in enumerate(images, start=1):
                    if image is None:
                        if number == 1:
                            raise UserError(f"{self.path} gives no frame; it may be damaged, or in use by a program")
                        return
                    yield Frame(frame_name(self.stem, number), image, number)
        finally:
            capture.release()


Source = ImageFiles | Video


def open_source(source: str | int, images: str | None = None) -> Source:
    """What ``source`` names: an image, a folder of images, a glob, a COCO JSON, a video file or a camera's number.

    Args:
        source: path, pattern or number.
        images: folder of the images that a COCO JSON lists; looked for near it if None.

    Raises:
        UserError: when it is missing, empty or of an unknown kind.
    """
    text = str(source)
    path = Path(text).expanduser()
    if text.isdigit() and not path.exists():
        return _open_video(int(text))
    if path.is_dir():
        return _image_files([file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES], text)
    if not path.exists() and glob.has_magic(text):
        found = map(Path, glob.glob(str(path), recursive=True))  # noqa: PTH207 - Path.glob takes no absolute pattern
        return _image_files([file for file in found if file.suffix.lower() in IMAGE_SUFFIXES], text)
    if not path.is_file():
        raise UserError(f"there is no source={text}; give an image, folder, glob, video, camera number or COCO JSON")
    if path.suffix.lower() == ".json":
        return _coco_images(path, images)
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return _open_video(str(path))
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return _image_files([path], text)
    known = ", ".join(sorted(IMAGE_SUFFIXES | VIDEO_SUFFIXES))
    raise UserError(f"source={text} is no known kind of file; expected .json or one of {known}")


def frame_name(stem: str, number: int) -> str:
    """Name of a video's frame, counted from 1."""
    return f"{stem}_{number:06d}"


def prefetch(function: Callable[[T], R], items: Iterable[T], ahead: int, threads: int = THREADS) -> Generator[R]:
    """``map(function, items)`` by threads that keep at most ``ahead`` results waiting; close it to stop them."""
    pool = ThreadPoolExecutor(threads)
    waiting: deque[Future[R]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """``items`` in lists of ``size``; the last may be shorter.

    Raises:
        UserError: for a size below 1.
    """
    if size < 1:
        raise UserError(f"batch_size={size} must be at least 1")
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def _image_files(files: list[Path], source: str) -> ImageFiles:
    if not files:
        raise UserError(f"source={source} holds no image; expected files ending in {', '.join(sorted(IMAGE_SUFFIXES))}")
    top = os.path.commonpath([file.parent for file in files])
    named = {os.path.relpath(file, top): file for file in sorted(files)}
    return ImageFiles(named, dict(enumerate(named, start=1)))


def _coco_images(path: Path, images: str | None) -> ImageFiles:
    try:
        content: Any = json.loads(path.read_bytes())
        names = {int(image["id"]): str(image["file_name"]) for image in content["images"]}
        categories = [entry["id"] for entry in content.get("categories", []) if entry.get("keypoints")]
        listed = annotated_boxes(content, path)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"source={path} is no COCO file with `images` ({error!r}); give one, or the images") from error
    if not names:
        raise UserError(f"source={path} lists no images")
    folder = image_folder(path, next(iter(names.values())), images)
    files = {name: folder / name for name in names.values()}
    missing = [name for name, file in files.items() if not file.is_file()]
    if missing:
        raise UserError(
            f"{len(missing)} of the {len(files)} images of {path} are not in {folder}, such as {missing[0]}; say where "
            "they are with `images`"
        )
    boxes = by_name([str(name) for name in listed.images], listed)
    return ImageFiles(files, names, has_ids=True, boxes=boxes or None, category_id=categories[0] if categories else 1)


def _open_video(path: str | int) -> Video:
    capture = cv2.VideoCapture(path)
    opened, fps, frames = capture.isOpened(), capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
    capture.release()
    if not opened:
        what = f"camera {path}" if isinstance(path, int) else str(path)
        raise UserError(f"{what} can't be opened as a video; check that a player shows it, or give images")
    announced = 0 if isinstance(path, int) else max(int(frames), 0)
    return Video(path, fps if fps > 0 else 30.0, range(1, announced + 1))
