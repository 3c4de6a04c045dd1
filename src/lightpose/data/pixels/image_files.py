"""Where the images of an annotation file are, and whether they are those that were annotated."""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from lightpose.errors import UserError


class ImagesNotFound(UserError):
    """The images of an annotation file are in none of the folders where they should be."""


def expanded(path: Path | str) -> Path:
    """The path, with ``~`` and ``~name`` replaced where such a home is known."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def image_folder(annotations: Path, first: str, images: Path | str | None) -> Path:
    """Where the images are: ``images``, or the first folder near the annotations that holds the first image.

    Args:
        annotations: the annotation file.
        first: name of the first image as it stands there.
        images: a folder; None looks in the folder of ``annotations``, in its ``images/`` and beside it.

    Raises:
        ImagesNotFound: naming the folders that were searched.
    """
    near = annotations.parent
    places = [expanded(images)] if images else [near, near / "images", near.parent / "images", near.parent]
    if images and places[0].is_dir():
        return places[0]
    for place in places:
        if os.path.isfile(place / first):  # noqa: PTH113 - a Path's method fails at names that are too long
            return place
    raise ImagesNotFound(
        f"the images of {annotations}, e.g. {first[:100]}, are not in {', '.join(map(str, places))}; say "
        "where they are with `images`"
    )


def check_files(annotations: Path, folder: Path, names: Iterable[str]) -> None:
    """Refuse images that are not there. Folders are listed, which takes less time than to ask for each file.

    Args:
        annotations: the annotation file, for the message.
        folder: where the images are.
        names: of the images as they stand in the file.

    Raises:
        ImagesNotFound: naming one, and how many there are.
    """
    listed: dict[str, set[str]] = {}
    missing, count = [], 0
    for name in names:
        place, file = os.path.split(name)
        if place not in listed:
            with suppress(OSError, ValueError):
                listed[place] = set(os.listdir(folder / place))  # noqa: PTH208 - names alone
        found = file in listed.setdefault(place, set()) or os.path.isfile(folder / name)  # noqa: PTH113 - as above
        count += 1
        missing += [] if found else [name]
    if missing:
        raise ImagesNotFound(
            f"{len(missing)} of the {count} images of {annotations} are not in {folder}, such as {missing[0][:100]}; "
            "say where they are with `images`"
        )


def check_image_hw(path: Path | str, actual_hw: tuple[int, ...], expected_hw: tuple[int, ...]) -> None:
    """Refuse an image that is not as large as annotated: its keypoints would be wrong.

    Raises:
        UserError: naming the file and both sizes.
    """
    if tuple(actual_hw) != tuple(expected_hw):
        raise UserError(
            f"image {path} is {actual_hw[1]}x{actual_hw[0]} (w x h, upright), but annotated as "
            f"{expected_hw[1]}x{expected_hw[0]}; annotate the image as it is shown (EXIF orientation "
            "applied), or restore the file"
        )
