"""Boxes from a file, for the images of a source."""

from pathlib import Path

from lightpose.data.coco.boxes import parse_boxes
from lightpose.errors import UserError
from lightpose.inference.detections import Detections, by_image
from lightpose.inference.sources import Source


def read_boxes(path: str | Path, source: Source) -> dict[int, Detections]:
    """Boxes of a file (`lightpose.data.coco.boxes.parse_boxes`) by the id of the image; one without boxes is left out.

    Raises:
        UserError: when the file can't be used, or is about images that the source doesn't have.
    """
    listed = parse_boxes(path)
    find = source.finder()
    found = [find(image) for image in listed.images]
    for image, image_ids in zip(listed.images, found, strict=True):
        if not image_ids:
            example = source.name_of(next(iter(source.image_ids), 1))
            raise UserError(
                f"boxes={path} has a box for {image}, which the source doesn't have: its names are like {example}. "
                "Boxes and source must name images alike; image ids count where the source is a COCO JSON or a video"
            )
    return by_image(found, listed)
