"""What poses are scored against, in the form of a COCO file."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from lightpose.data.pixels.decode import EncodedImage
from lightpose.skeleton import Skeleton
from lightpose.structures import Sample


def keypoint_categories(categories: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those that list keypoints; all, where none does. Only these are trained on, measured on, and predicted."""
    every = list(categories)
    return [category for category in every if category.get("keypoints")] or every


def annotation(
    annotation_id: int,
    image_id: int,
    category_id: int,
    box_xywh: Sequence[float],
    area: float,
    keypoints: Sequence[float],
    labelled: int,
    crowd: bool = False,
) -> dict[str, Any]:
    """An entry of ``annotations``.

    Args:
        annotation_id: its id.
        image_id: of its image.
        category_id: of its category.
        box_xywh: image pixels.
        area: square pixels.
        keypoints: x, y and visibility of each.
        labelled: how many are.
        crowd: whether it is several people in one.
    """
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": box_xywh,
        "area": area,
        "keypoints": keypoints,
        "num_keypoints": labelled,
        "iscrowd": int(crowd),
    }


def ground_truth_of(samples: Iterable[Sample], skeleton: Skeleton) -> dict[str, Any]:
    """The content of a COCO file that says what samples say.

    Categories are numbered from 1. Instances whose id is -1 are left out, as nothing is labelled of them. Regions to
    ignore become crowds: the evaluation counts no pose in them.

    Args:
        samples: before any transform; several may be of one image.
        skeleton: which keypoints there are.
    """
    images: dict[int, dict[str, Any]] = {}
    annotations = []
    most = 1
    for sample in samples:
        labels, (height, width) = sample.instances, sample.image_hw
        name = sample.image.name if isinstance(sample.image, EncodedImage) else str(sample.image_id)
        images[sample.image_id] = {"id": sample.image_id, "height": height, "width": width, "file_name": name}
        triples = np.concatenate([labels.keypoints[..., :2], labels.visible[..., None]], -1).astype(np.float64)
        boxes = np.concatenate([labels.boxes_xyxy[:, :2], labels.boxes_xyxy[:, 2:] - labels.boxes_xyxy[:, :2]], -1)
        for row in np.flatnonzero(labels.ids >= 0).tolist():
            category = int(labels.categories[row]) + 1
            most = max(most, category)
            annotations.append(
                annotation(
                    int(labels.ids[row]),
                    sample.image_id,
                    category,
                    boxes[row].tolist(),
                    float(labels.areas[row]),
                    triples[row].ravel().tolist(),
                    int((labels.visible[row] > 0).sum()),
                )
            )
        for region in sample.ignore or ():
            left_top, right_bottom = np.nanmin(region, 0), np.nanmax(region, 0)
            box = [*left_top.tolist(), *(right_bottom - left_top).tolist()]
            nothing = [0.0] * (3 * skeleton.num_keypoints)
            annotations.append(annotation(-1, sample.image_id, 1, box, box[2] * box[3], nothing, 0, crowd=True))
    names = list(skeleton.keypoints)
    categories = [{"id": number, "name": skeleton.name, "keypoints": names} for number in range(1, most + 1)]
    return {"images": list(images.values()), "categories": categories, "annotations": annotations}
