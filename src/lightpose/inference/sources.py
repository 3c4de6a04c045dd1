"""Where pictures come from: files, a COCO JSON, a video or a camera, one after the other."""

import glob
import json
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any, TypeVar

import cv2

from lightpose.data.decode import read_image
from lightpose.errors import UserError
from lightpose.inference.boxes import Detections, annotation_boxes
from lightpose.structures import Array

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv"})
DECODERS = 4

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture.

    Attributes:
        name: unique in its source: a path relative to the folder, or the video's name and the frame's number.
        image: (H, W, 3) uint8 RGB.
        image_id: the COCO file's id, or 1, 2, ... in order.
    """

    name: str
    image: Array
    image_id: int


@dataclass(frozen=True, slots=True)
class ImageFiles:
    """Image files in a fixed order.

    Attributes:
        files: name → path.
        image_ids: name → id.
        has_ids: True when the ids come from a COCO file, so that a boxes file may refer to them.
        boxes: name → boxes that the COCO file annotates, of categories with keypoints if there are such, or None.
        category_id: the first of these categories.
    """

    files: dict[str, Path]
    image_ids: dict[str, int]
    has_ids: bool = False
    boxes: dict[str, Detections] | None = None
    category_id: int = 1

    def frames(self, ahead: int) -> Iterator[Frame]:
        """The pictures, decoded by threads, at most ``ahead`` of them before they are asked for.

        Raises:
            UserError: at the first file that can't be decoded, naming it.
        """
        for name, image in prefetch(lambda name: (name, read_image(self.files[name])), self.files, ahead):
            yield Frame(name, image, self.image_ids[name])


@dataclass(frozen=True, slots=True)
class Video:
    """A video file or a camera.

    Attributes:
        path: of the file, or the number of the camera.
        fps: frames per second.
        image_ids: name → number of the frame, from 1, as many as the file's header announces; empty for a camera.
    """

    path: str | int
    fps: float
    image_ids: dict[str, int]
    has_ids: bool = True
    boxes: None = None
    category_id: int = 1

    @property
    def stem(self) -> str:
        """Name of the video without folder and suffix, or ``camera0``."""
        return f"camera{self.path}" if isinstance(self.path, int) else Path(self.path).stem

    def frames(self, ahead: int) -> Iterator[Frame]:
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


def prefetch(function: Callable[[T], R], items: Iterable[T], ahead: int, threads: int = DECODERS) -> Generator[R]:
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
    return ImageFiles(named, {name: number for number, name in enumerate(named, start=1)})


def _coco_images(path: Path, images: str | None) -> ImageFiles:
    try:
        content: Any = json.loads(path.read_bytes())
        named = {str(image["file_name"]): int(image["id"]) for image in content["images"]}
        categories = [entry["id"] for entry in content.get("categories", []) if entry.get("keypoints")]
        people = [
            entry for entry in content.get("annotations", []) if not categories or entry["category_id"] in categories
        ]
        boxes = annotation_boxes(people, {number: name for name, number in named.items()}, path)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"source={path} is no COCO file with `images` ({error!r}); give one, or the images") from error
    if not named:
        raise UserError(f"source={path} lists no images")
    near = path.parent
    places = [Path(images).expanduser()] if images else [near, near / "images", near.parent / "images", near.parent]
    folder = next((place for place in places if (place / next(iter(named))).is_file()), places[0])
    missing = [name for name in named if not (folder / name).is_file()]
    if missing:
        raise UserError(
            f"{len(missing)} of the {len(named)} images of {path} are not in {folder}, such as {missing[0]}; "
            "say where they are with images=FOLDER"
        )
    files = {name: folder / name for name in named}
    return ImageFiles(files, named, has_ids=True, boxes=boxes or None, category_id=categories[0] if categories else 1)


def _open_video(path: str | int) -> Video:
    capture = cv2.VideoCapture(path)
    opened, fps, frames = capture.isOpened(), capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
    capture.release()
    if not opened:
        what = f"camera {path}" if isinstance(path, int) else str(path)
        raise UserError(f"{what} can't be opened as a video; check that a player shows it, or give images")
    video = Video(path, fps if fps > 0 else 30.0, {})
    if isinstance(path, int):
        return video
    numbers = range(1, int(frames) + 1)
    return Video(path, video.fps, {frame_name(video.stem, number): number for number in numbers})
