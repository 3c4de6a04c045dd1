"""COCO keypoint files of one subject per image: a sample is the whole image, and no box is needed."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from lightpose.data.coco.boxes import unlabelled
from lightpose.data.coco.dataset import CocoDataset
from lightpose.data.coco.index import CocoIndex, read_coco
from lightpose.data.coco.parse import BAD_BOX, BAD_KEYPOINTS, CROWD, FILLED_AREA, MISTAKES, USABLE
from lightpose.errors import UserError
from lightpose.geometry import whole_image_box
from lightpose.structures import Annotations, Array, Sample

log = logging.getLogger(__name__)

HULL_AREA = "no area, taken as that of the rectangle around the keypoints"


class CocoFrames(CocoDataset):
    """A sample per image, with its one subject; boxes of the file are not used.

    Images in which nothing is labelled are samples of nobody (`Sample.empty`). An image of which only a crowd, or an
    annotation that can't be read, is known is no sample of training.

    Args:
        annotations: COCO keypoint file.
        empty_images: learn from the images in which nothing is labelled, too. Evaluation always takes them, or false
            alarms there would go unseen.
        shared: see `CocoDataset`.

    Raises:
        UserError: for a file with several subjects in an image.
    """

    whole_image: ClassVar[bool] = True

    def __init__(self, annotations: Path | str, empty_images: bool = True, **shared: Any) -> None:
        super().__init__(annotations, **shared)
        index = self.index
        usable = np.flatnonzero(index.status == USABLE)  # ordered by image
        peopled, counts = np.unique(index.image_rows[usable], return_counts=True)
        if (counts > 1).any():
            row = int(peopled[counts > 1][0])
            raise UserError(
                f"{(counts > 1).sum()} images of {index.path} show several subjects, e.g. {index.file_name(row)} "
                f"{counts.max(initial=0, where=peopled == row)}, but a model of whole images finds one; use "
                "experiment=topdown_smalldata, which takes each in its box"
            )
        unclear = index.image_rows[np.isin(index.status, (CROWD, BAD_KEYPOINTS))]
        damaged = any(reason in MISTAKES for reason in index.dropped)  # of which images, nothing says
        self._every = np.arange(len(index.image_ids))
        self._empty = np.zeros(0, np.int64) if damaged else np.setdiff1d(self._every, [*peopled, *unclear])
        self._learnt = np.union1d(peopled, self._empty) if empty_images else peopled
        self._annotation_rows = np.full(len(self._every), -1)
        self._annotation_rows[peopled] = usable
        if len(self._empty):
            log.info(
                "%s: nothing is labelled in %d of %d images, so they are taken to show no subject "
                "(reader.empty_images=false leaves such images out of training, though not out of validation)",
                index.path,
                len(self._empty),
                len(self._every),
            )

    @classmethod
    def read_index(cls, annotations: Path | str) -> CocoIndex:
        """See `without_boxes`."""
        return without_boxes(read_coco(annotations))

    @property
    def image_rows(self) -> Array:
        """(N,) row in the index of each image."""
        return self._learnt if self.training else self._every

    def annotations_of(self, index: int) -> Annotations:
        """The subject of an image; an unlabelled one where there is none."""
        image_row = self.image_row(index)
        row = int(self._annotation_rows[image_row])
        if row >= 0:
            return self._annotations(slice(row, row + 1))
        height, width = self.index.image_hw[image_row].tolist()
        return unlabelled(whole_image_box((height, width)), np.ones(1, np.float32), self.index.num_keypoints)

    def load(self, index: int, rng: np.random.Generator) -> Sample:
        """See `CocoDataset.load`."""
        return replace(super().load(index, rng), empty=bool(np.isin(self.image_row(index), self._empty)))

    def ground_truth(self) -> dict[str, Any]:
        """The whole file but for unlabelled annotations: a pose in such a box, the whole image, is a false alarm."""
        truth = super().ground_truth()
        entries = [entry for entry in truth["annotations"] if entry["num_keypoints"] or entry["iscrowd"]]
        return {**truth, "annotations": entries}


def without_boxes(index: CocoIndex) -> CocoIndex:
    """The same annotations, each in a box as large as its image; so none is left out for its box.

    An area that neither the file nor its box gives is that of the rectangle around the labelled keypoints, 1 at least.
    """
    sizes_wh = index.image_hw[index.image_rows][:, ::-1]
    boxes = np.concatenate([np.zeros_like(sizes_wh), sizes_wh], -1)
    labelled = index.visible[..., None] > 0
    low = index.keypoints.min(1, initial=np.inf, where=labelled)
    high = index.keypoints.max(1, initial=-np.inf, where=labelled)
    bare = ~(index.areas > 0)
    by_box = index.mended.get(FILLED_AREA, 0) - int(bare.sum())
    mended = {**index.mended, FILLED_AREA: by_box, HULL_AREA: int(bare.sum())}
    return replace(
        index,
        boxes_xywh=boxes.astype(np.float64),
        boxes_xyxy=boxes.astype(np.float32),
        areas=np.where(bare, (high - low).clip(0).prod(-1).clip(1), index.areas),
        status=np.where(index.status == BAD_BOX, USABLE, index.status).astype(np.uint8),
        mended={what: count for what, count in mended.items() if count > 0},
    )
