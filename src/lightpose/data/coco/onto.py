"""The keypoints of a COCO file as those of a skeleton, found by name."""

from dataclasses import replace

import numpy as np

from lightpose.data.coco.index import CocoIndex
from lightpose.data.coco.parse import UNLABELLED, USABLE
from lightpose.errors import UserError
from lightpose.skeleton import Skeleton


def onto(index: CocoIndex, skeleton: Skeleton) -> CocoIndex:
    """The same annotations with the keypoints of a skeleton, in its order.

    A keypoint that the file lacks is labelled nowhere, so it has no weight in training and isn't scored. One that the
    skeleton lacks is left out. A file that names no keypoints must have as many as the skeleton, in its order.

    Raises:
        UserError: when a category has no keypoint of the skeleton.
    """
    names = index.keypoint_names
    if not names and index.num_keypoints != skeleton.num_keypoints:
        raise UserError(
            f"{index.path} has {index.num_keypoints} keypoints without names, but skeleton {skeleton.name!r} has "
            f"{skeleton.num_keypoints}; name them in the `keypoints` of the file's categories"
        )
    if not names or tuple(names) == skeleton.keypoints:
        return index
    for category in index.categories:
        if max(skeleton.places(category["keypoints"])) < 0:
            raise UserError(
                f"category {category.get('name', category['id'])} of {index.path} has {len(category['keypoints'])} "
                f"keypoints ({_some(category['keypoints'])}), and none of them is called as one of the "
                f"{skeleton.num_keypoints} of skeleton {skeleton.name!r} ({_some(skeleton.keypoints)}); choose "
                "skeleton=auto, or say which are the same with skeleton.renames={NAME: KEYPOINT, ...}"
            )
    found = [(row, place) for row, place in enumerate(skeleton.places(names)) if place >= 0]
    rows, places = (list(column) for column in zip(*found, strict=True))
    shape = (len(index.ids), skeleton.num_keypoints)
    keypoints, visible = np.zeros((*shape, 2), np.float32), np.zeros(shape, np.uint8)
    keypoints[:, places], visible[:, places] = index.keypoints[:, rows], index.visible[:, rows]
    bare = (index.status == USABLE) & ~visible.any(-1)
    return replace(
        index,
        keypoint_names=list(skeleton.keypoints),
        keypoints=keypoints,
        visible=visible,
        status=np.where(bare, UNLABELLED, index.status).astype(np.uint8),
    )


def lacking(index: CocoIndex, skeleton: Skeleton) -> list[str]:
    """Keypoints of a skeleton that a file has in no category."""
    known = [place for category in index.categories for place in skeleton.places(category.get("keypoints", ()))]
    return [name for place, name in enumerate(skeleton.keypoints) if known and place not in known]


def mapping_remarks(index: CocoIndex, skeleton: Skeleton) -> list[str]:
    """What a file and a skeleton don't have in common.

    Args:
        index: as read from the file.
        skeleton: that it is brought onto.
    """
    remarks = []
    if missing := lacking(index, skeleton):
        remarks.append(
            f"{index.path} lacks {len(missing)} of the {skeleton.num_keypoints} keypoints of skeleton "
            f"{skeleton.name!r}, which have no weight there: {', '.join(missing)}"
        )
    names = index.keypoint_names
    unused = [name for name, place in zip(names, skeleton.places(names), strict=True) if place < 0]
    if unused:
        remarks.append(
            f"{len(unused)} keypoints of {index.path} are not in skeleton {skeleton.name!r}, and are left out: "
            f"{', '.join(unused)}"
        )
    return remarks


def _some(names: list[str] | tuple[str, ...]) -> str:
    return ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
