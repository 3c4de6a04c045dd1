"""Where the images of an annotation file are, and whether they are those that were annotated."""

import os
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
