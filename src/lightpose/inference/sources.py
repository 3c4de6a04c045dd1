"""Where pictures come from: files, a COCO JSON, a video, a camera or a stream, one after the other."""

import glob
import logging
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from lightpose.data.coco.box_formats import warn_of_boxes
from lightpose.data.coco.boxes import BoxedImage, KnownImages, annotated_boxes
from lightpose.data.coco.index import CocoIndex, read_coco
from lightpose.data.coco.parse import UNNAMED
from lightpose.data.pixels.decode import read_image
from lightpose.data.pixels.image_files import check_files, expanded, image_folder
from lightpose.data.pixels.image_header import ImageError, check_on_bad_image
from lightpose.errors import UserError
from lightpose.inference.detections import Detections, by_image, rows_by_image
from lightpose.inference.frames import Frame, Video
from lightpose.inference.prefetch import AHEAD, prefetch
from lightpose.inference.video.containers import opened
from lightpose.inference.video.live import Camera, Stream, is_url, open_camera, open_stream
from lightpose.inference.video.timeline import read_timeline
from lightpose.structures import Array

log = logging.getLogger(__name__)

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".gif"})

_KINDS = "give an image, folder, glob, video, camera number, address or COCO JSON"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ImageFiles:
    """Image files in a fixed order.

    Attributes:
        files: name → path.
        names: id → name.
        has_ids: True when the ids come from a COCO file, so that a boxes file may refer to them.
        annotated: the COCO file's annotations, if it has some.
        category_ids: of its categories with keypoints, in order; None where there is no COCO file, or one without
            categories.
        id_of_text: what the COCO file has in the place of ids → id, where it has no numbers.
    """

    files: dict[str, Path]
    names: dict[int, str]
    has_ids: bool = False
    annotated: CocoIndex | None = None
    category_ids: list[int] | None = None
    id_of_text: dict[str, int] | None = None

    @property
    def image_ids(self) -> Collection[int]:
        """Ids of the pictures."""
        return self.names.keys()

    @property
    def boxes(self) -> dict[int, Detections] | None:
        """Id → boxes that the COCO file annotates, of categories with keypoints if there are such.

        None where it annotates nothing. The log says what is wrong with them.
        """
        if self.annotated is None:
            return None
        warn_of_boxes(self.annotated)
        listed = annotated_boxes(self.annotated)
        return by_image([[image.image_id] for image in listed.images if isinstance(image.image_id, int)], listed)

    @property
    def kinds(self) -> dict[int, Array]:
        """Id → the category, counted from 0, that each of `boxes` is annotated with; empty where all have the same."""
        if self.annotated is None or len(self.annotated.categories) < 2:
            return {}
        rows = self.annotated.boxed()
        kinds = self.annotated.category_rows[rows]
        image_ids = self.annotated.image_ids[self.annotated.image_rows[rows]]
        found = rows_by_image([[image_id] for image_id in image_ids.tolist()])
        return {image_id: kinds[of_image].astype(np.int64) for image_id, of_image in found.items()}

    def name_of(self, image_id: int) -> str | None:
        """Name of the picture with that id, or None."""
        return self.names.get(image_id)

    def finder(self) -> Callable[[BoxedImage], list[int]]:
        """Gives the ids of the pictures that a box is of: several where the COCO file lists a picture several times."""
        ids = list(self.names)
        known = KnownImages(ids if self.has_ids else [], list(self.names.values()), self.id_of_text)
        return lambda image: [ids[row] for row in known.rows(image)]

    def frames(self, ahead: int = AHEAD, on_bad_image: str = "error", image_bits: int = 16) -> Iterator[Frame]:
        """The pictures, decoded by threads, at most ``ahead`` of them before they are asked for.

        Args:
            ahead: how many.
            on_bad_image: ``skip`` leaves out a file that can't be decoded, and names and counts it.
            image_bits: see `lightpose.data.pixels.decode.read_image`.

        Raises:
            UserError: at the first file that can't be decoded, naming it, unless it is skipped.
        """
        check_on_bad_image(on_bad_image)
        bad: dict[int, str] = {}

        def read(item: tuple[int, tuple[int, str]]) -> Frame:
            row, (image_id, name) = item
            image: Array | Path = self.files[name]
            try:
                image = read_image(self.files[name], image_bits)
            except ImageError as error:
                if on_bad_image == "error":
                    raise
                bad[row] = str(error)
            return Frame(name, image, image_id)

        yield from without_bad(prefetch(read, enumerate(self.names.items()), ahead), bad)


Source = ImageFiles | Video | Camera | Stream


def open_source(source: str | int, images: str | None = None, hwaccel: str | None = None) -> Source:
    """What ``source`` names: an image, a folder of images, a glob, a COCO JSON, a video file, a camera, or a stream.

    Only the address of a stream opens a connection. Of folders and globs, files whose names begin with a dot are left
    out.

    Args:
        source: path, pattern, number or address.
        images: folder of the images that a COCO JSON lists; looked for near it if None.
        hwaccel: what decodes a video file, see `lightpose.inference.video.containers.opened`.

    Raises:
        UserError: when it is missing, empty or of an unknown kind.
    """
    text = str(source)
    path = expanded(text)
    if not text.strip():
        raise UserError(f"source is empty; {_KINDS}")
    if text.isascii() and text.isdigit() and len(text) < 5 and not os.path.exists(path):  # noqa: PTH110 - as below
        return open_camera(int(text))
    if is_url(text):
        return open_stream(text)
    # Unlike a Path's methods, these take names that are too long, or hold a zero byte, for names of nothing.
    if os.path.isdir(path):  # noqa: PTH112
        return _folder(path)
    if not os.path.exists(path) and glob.has_magic(text):  # noqa: PTH110
        named = [Path(name) for name in glob.glob(str(path), recursive=True)]  # noqa: PTH207
        pictures = _pictures(named)
        if not pictures:
            _refuse_videos(named, text)
        return _image_files(pictures, text)
    if not os.path.exists(path):  # noqa: PTH110
        raise UserError(f"there is no source={text}; {_KINDS}")
    if not path.is_file():
        raise UserError(f"source={text} is a device, a pipe or a socket; {_KINDS}")
    if path.suffix.lower() == ".json":
        return _coco_images(path, images)
    if path.suffix.lower() in VIDEO_SUFFIXES:
        if hwaccel is not None:
            with opened(str(path), hwaccel=hwaccel):  # or say at once that it can't
                pass
        return Video(str(path), read_timeline(str(path)), hwaccel)
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return _image_files([path], text)
    known = ", ".join(sorted(IMAGE_SUFFIXES | VIDEO_SUFFIXES))
    raise UserError(f"source={text} is no known kind of file; expected .json or one of {known}")


def without_bad(results: Iterable[T], bad: Mapping[int, str]) -> Iterator[T]:
    """The results, but for those counted (from 0) in ``bad``, which are named in warnings.

    Args:
        results: in order.
        bad: why a result is left out; it may be filled while results come, up to the one that comes.

    Raises:
        UserError: when none is left.
    """
    total = 0
    for row, result in enumerate(results):
        total += 1
        if row in bad:
            log.warning("Skipped: %s", bad[row])
        else:
            yield result
    if bad:
        if len(bad) == total:
            raise UserError(f"none of the {total} images can be read; check that they are images")
        log.warning("%d of %d images can't be read and were skipped", len(bad), total)


def _pictures(files: Iterable[Path]) -> list[Path]:
    """Those that look like images; hidden ones are notes of a system, or of a program, about others."""
    named = [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".")]
    return [file for file in named if not file.is_dir()]


def _folder(path: Path) -> ImageFiles:
    try:
        content = list(path.iterdir())
    except OSError as error:
        raise UserError(f"source={path} can't be read ({error.strerror}); check its permissions") from error
    pictures = _pictures(content)
    if not pictures:
        _refuse_videos(content, str(path))
    if not pictures and any(entry.is_dir() for entry in content):
        raise UserError(
            f"source={path} holds no image itself, only folders; name the images in them with a pattern, such as "
            f"source='{path}/**/*.jpg'"
        )
    source = _image_files(pictures, str(path))
    others = [entry for entry in content if entry.is_file() and entry.suffix.lower() not in IMAGE_SUFFIXES]
    if others:
        log.info("%s: %d files that are no images are left out, such as %s", path, len(others), others[0].name)
    return source


def _refuse_videos(files: list[Path], source: str) -> None:
    videos = sorted(file for file in files if file.suffix.lower() in VIDEO_SUFFIXES)
    if videos:
        raise UserError(
            f"source={source} holds videos and no image, and a command takes one video; give source='{videos[0]}', and "
            "each an out= of its own"
        )


def _image_files(files: list[Path], source: str) -> ImageFiles:
    if not files:
        raise UserError(f"source={source} holds no image; expected files ending in {', '.join(sorted(IMAGE_SUFFIXES))}")
    top = os.path.commonpath([file.parent for file in files])
    named = {os.path.relpath(file, top): file for file in sorted(files)}
    return ImageFiles(named, dict(enumerate(named, start=1)))


def _coco_images(path: Path, images: str | None) -> ImageFiles:
    index = read_coco(path)
    names = {image_id: index.file_name(row) for row, image_id in enumerate(index.image_ids.tolist())}
    folder = image_folder(path, index.file_name(0), images)
    files = {name: folder / name for name in names.values()}
    check_files(path, folder, files)
    id_of_text = index.id_of_text()
    if id_of_text:
        text, image_id = next(iter(id_of_text.items()))
        log.warning(
            "%s has image ids that are no numbers; predictions have numbers, such as %d for %s", path, image_id, text
        )
    annotated = index if len(index.ids) or index.dropped else None
    category_ids = None if index.categories == [UNNAMED] else [category["id"] for category in index.categories]
    return ImageFiles(files, names, True, annotated, category_ids, id_of_text)
