"""COCO keypoint files as data sets: a sample per person, or a sample per image."""

import functools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lightpose.data.base import PoseDataset
from lightpose.data.coco.box_formats import warn_of_boxes
from lightpose.data.coco.boxes import detected_boxes, unlabelled
from lightpose.data.coco.index import CocoIndex, read_coco
from lightpose.data.coco.json_values import kind
from lightpose.data.coco.onto import lacking, mapping_remarks, onto
from lightpose.data.coco.parse import BAD_BOX, USABLE
from lightpose.data.coco.places import check_places, warn_of_places
from lightpose.data.pipeline import Transform
from lightpose.data.pixels.cache import PixelCache, cache_of
from lightpose.data.pixels.decode import EncodedImage, check_image_bits
from lightpose.data.pixels.image_files import check_files, image_folder
from lightpose.data.pixels.image_header import ImageError, OnBadImage, check_on_bad_image
from lightpose.errors import UserError
from lightpose.skeleton import Skeleton, coco_links, joined
from lightpose.structures import Annotations, Array, Sample

log = logging.getLogger(__name__)


def skeleton_of(path: Path | str, sigmas: Sequence[float] | None = None) -> Skeleton:
    """The skeleton that a COCO file's ``categories`` describe, the keypoints of all of them joined by name.

    Where they name no keypoints, these are called 0, 1, ...

    Args:
        path: COCO keypoint file.
        sigmas: OKS constants; None takes the category's own ``sigmas``, else the default.

    Raises:
        UserError: when the file can't be used, or has no keypoints.
    """
    index = read_coco(path)
    check_trainable(index)
    numbered = {"keypoints": [str(number) for number in range(index.num_keypoints)]}
    different = {tuple(category.get("keypoints", ())): category for category in reversed(index.categories)}
    skeletons = [Skeleton.from_coco_category(numbered | category) for category in reversed(different.values())]
    skeleton = joined(skeletons)
    return skeleton if sigmas is None else skeleton.changed(sigmas=sigmas)


def skeleton_remarks(path: Path | str) -> list[str]:
    """What a COCO file leaves unsaid, or says wrongly, of its skeleton.

    Raises:
        UserError: as `skeleton_of`.
    """
    index, skeleton = read_coco(path), skeleton_of(path)
    remarks = []
    if "keypoints" not in index.categories[0]:
        remarks.append(
            f"`categories` of {path} name no keypoints, so these are called 0 to {skeleton.num_keypoints - 1}"
        )
    own = index.categories[0].get("keypoints", skeleton.keypoints)
    _, links = coco_links(index.categories[0].get("skeleton"), own)
    if links:
        remarks.append(
            f"{path} has {len(links)} links (`skeleton` of the category) that join no two of its "
            f"{len(own)} keypoints, e.g. {kind(links[0])}; they are not drawn"
        )
    return remarks


def check_trainable(index: CocoIndex) -> None:
    """Refuse a file that will do to predict on, and not to train or to measure on.

    Raises:
        UserError: when nothing has keypoints, or an image lacks its size.
    """
    if not index.num_keypoints:
        raise UserError(f"no category and no annotation of {index.path} has `keypoints`; this is not a keypoint file")
    unsized = np.flatnonzero(~index.image_hw.all(-1))
    if len(unsized):
        raise UserError(
            f"{len(unsized)} entries of `images` in {index.path} lack `width` or `height`, e.g. images[{unsized[0]}] "
            f"({index.file_name(unsized[0])}); add them, in pixels of the upright image"
        )


class CocoDataset(PoseDataset):
    """What both readers share: the index, the image files, the ground truth.

    Where images have a ``cam_param`` of ``focal`` [fx, fy] and ``princpt`` [cx, cy], in pixels, as 3-D data sets of
    hands and bodies write it, samples have a camera. All images have one, or none has.

    Args:
        annotations: COCO keypoint file.
        images: folder of the images; None looks in the folder of ``annotations``, in its ``images/`` and beside it.
        skeleton: None takes it from the file; another is matched with the file by name, see
            `lightpose.data.coco.onto.onto`.
        transforms: see `PoseDataset`.
        seed: see `PoseDataset`.
        on_bad_image: ``error``, or ``skip`` to put another sample in the place of an unreadable image and count it.
            With ``data.decode=device`` a JPEG that is complete is decoded too late to be skipped: damage inside of it
            is an error all the same.
        image_bits: how many bits the values of 16-bit images have, see `lightpose.data.pixels.decode.read_image`.

    Raises:
        ImagesNotFound: when the images are not where they should be.
        UserError: when a file is missing or wrong, nothing is usable, or the skeleton has none of its keypoints.
    """

    def __init__(
        self,
        annotations: Path | str,
        images: Path | str | None = None,
        skeleton: Skeleton | None = None,
        transforms: Transform | None = None,
        seed: int = 0,
        on_bad_image: OnBadImage = "error",
        image_bits: int = 16,
    ) -> None:
        check_on_bad_image(on_bad_image)
        check_image_bits(image_bits)
        self.image_bits = image_bits
        self.index = self.read_index(annotations)
        check_trainable(self.index)
        super().__init__(skeleton or skeleton_of(annotations), transforms, seed)
        read, self.index = self.index, onto(self.index, self.skeleton)
        for remark in mapping_remarks(read, self.skeleton):
            log.info(remark)
        if not (self.index.status == USABLE).any():
            boxes = "; experiment=single_animal needs no boxes" if (self.index.status == BAD_BOX).any() else ""
            raise UserError(f"there is nothing to learn from or to measure on. {self.index.summary()}{boxes}")
        check_places(self.index)
        self.folder = image_folder(self.index.path, self.index.file_name(0), images)
        log.info(self.index.summary())
        warn_of_boxes(self.index)
        warn_of_places(self.index)
        self.on_bad_image = on_bad_image
        self._bad = torch.zeros(len(self.index.image_ids), dtype=torch.bool).share_memory_()
        self._last: tuple[int, EncodedImage] | None = None
        self._cache: PixelCache | None = None

    def __len__(self) -> int:
        return len(self.image_rows)

    @classmethod
    def read_index(cls, annotations: Path | str) -> CocoIndex:
        """The content of the file, as the reader takes it."""
        return read_coco(annotations)

    @classmethod
    def read_image_hw(cls, annotations: Path | str) -> Array:
        """See `PoseDataset.read_image_hw`."""
        index = read_coco(annotations)
        check_trainable(index)
        return index.image_hw

    @classmethod
    def read_skeleton(cls, annotations: Path | str, sigmas: Sequence[float] | None = None) -> Skeleton:
        """See `skeleton_of`."""
        return skeleton_of(annotations, sigmas)

    @classmethod
    def skeleton_remarks(cls, annotations: Path | str) -> list[str]:
        """See the function `skeleton_remarks`."""
        return skeleton_remarks(annotations)

    @property
    def bad_images(self) -> list[str]:
        """Names of the unreadable images met so far, by any worker."""
        return [self.index.file_name(row) for row in np.flatnonzero(self._bad.numpy()).tolist()]

    @property
    def image_rows(self) -> Array:
        """(N,) row in the index of the image of each sample."""
        raise NotImplementedError

    def check_files(self) -> None:
        """See `PoseDataset.check_files`; with ``on_bad_image=skip`` images may be missing.

        Raises:
            ImagesNotFound: when images of samples are not there.
        """
        if self.on_bad_image == "error":
            names = map(self.index.file_name, np.unique(self.image_rows).tolist())
            check_files(self.index.path, self.folder, names)

    def keep_decoded(self, limit_gb: float) -> None:
        """See `PoseDataset.keep_decoded`."""
        if self._cache is None:
            self._cache, self._last = cache_of(self.index.image_hw, self.image_rows, limit_gb), None

    def image_row(self, index: int) -> int:
        """Row in the index of the image of sample ``index``."""
        return int(self.image_rows[index])

    def annotations_of(self, index: int) -> Annotations:
        """The labels of sample ``index``."""
        raise NotImplementedError

    def ignored(self, index: int) -> list[Array] | None:
        """Regions of the image of sample ``index`` that nothing may be learnt from; None where a sample is a person."""
        return None

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        """The sample after all transforms, or with ``on_bad_image=skip`` another one in its place.

        Raises:
            ImageError: for an unreadable image.
            UserError: when the image is not as large as the annotations say.
        """
        for _ in range(100):
            try:
                return super().sample(index, rng)
            except ImageError as error:
                if self.on_bad_image == "error":
                    raise
                row = self.image_row(index)
                if not self._bad[row]:
                    log.warning("Skipped: %s", error)
                self._bad[row] = True
                index = int(rng.integers(len(self)))
        raise UserError(f"100 images in a row can't be read; check that the images are in {self.folder}")

    def load(self, index: int, rng: np.random.Generator) -> Sample:
        """The sample before any transform, its image not yet decoded.

        Raises:
            ImageError: for a file that can't be read.
        """
        row = self.image_row(index)
        image = self._image(row)
        return Sample(
            image=image,
            instances=self.annotations_of(index),
            input_from_image=np.eye(3),
            image_id=int(self.index.image_ids[row]),
            index=index,
            image_hw=image.hw,
            ignore=self.ignored(index),
            camera=self.index.camera(row),
        )

    def _image(self, row: int) -> EncodedImage:
        if self._last is None or self._last[0] != row:  # the people of one image often follow each other
            height, width = self.index.image_hw[row].tolist()
            path, cache = self.folder / self.index.file_name(row), self._cache
            kept = functools.partial(cache.decoded, row) if cache else None
            self._last = row, EncodedImage(path, (height, width), self.image_bits, kept)
        return self._last[1]

    def _annotations(self, rows: slice | Array) -> Annotations:
        index = self.index
        return Annotations(
            keypoints=index.keypoints[rows],
            visible=index.visible[rows].astype(np.float32),
            boxes_xyxy=index.boxes_xyxy[rows],
            areas=index.areas[rows].astype(np.float32),
            categories=index.category_rows[rows].astype(np.int64),
            ids=index.ids[rows],
            scores=np.ones(len(index.ids[rows]), np.float32),
        )

    def ground_truth(self) -> dict[str, Any]:
        """What to score against: the whole file, see `CocoIndex.ground_truth`."""
        return self.index.ground_truth()


class CocoInstances(CocoDataset):
    """A sample per person: the usable annotations, or with ``boxes`` the detected boxes, ordered by image.

    Args:
        annotations: COCO keypoint file.
        boxes: file of detected boxes (`lightpose.data.coco.boxes.parse_boxes`); their samples have no labels.
        box_category: ``category_id`` to keep of ``boxes``; see `lightpose.data.coco.boxes.detected_boxes`.
        min_box_score: boxes below it are left out.
        shared: see `CocoDataset`.
    """

    def __init__(
        self,
        annotations: Path | str,
        boxes: Path | str | None = None,
        box_category: int | None = None,
        min_box_score: float = 0.0,
        **shared: Any,
    ) -> None:
        super().__init__(annotations, **shared)
        self._detected = detected_boxes(boxes, self.index, box_category, min_box_score) if boxes else None
        self._rows = np.flatnonzero(self.index.status == USABLE).astype(np.int32)

    @property
    def image_rows(self) -> Array:
        """(N,) row in the index of the image of each sample."""
        rows: Array = self._detected.image_rows if self._detected else self.index.image_rows[self._rows]
        return rows

    def image_row(self, index: int) -> int:
        """Row in the index of the image of sample ``index``."""
        if self._detected:
            return int(self._detected.image_rows[index])
        return int(self.index.image_rows[self._rows[index]])

    def annotations_of(self, index: int) -> Annotations:
        """One person; in a detected box nothing is labelled and the id is -1."""
        if not self._detected:
            row = self._rows[index]
            return self._annotations(slice(row, row + 1))
        one, found = slice(index, index + 1), self._detected
        count = self.index.num_keypoints
        return unlabelled(found.boxes_xyxy[one], found.scores[one], count, found.category_rows[one])


class CocoImages(CocoDataset):
    """A sample per image, with all its usable people.

    Args:
        annotations: COCO keypoint file.
        empty_images: learn from the images without a usable person, too. Evaluation always takes them, or false alarms
            there would go unseen.
        shared: see `CocoDataset`.

    Raises:
        UserError: for a file with several keypoint categories, between which a model of whole images can't tell.
    """

    one_person = False

    def __init__(self, annotations: Path | str, empty_images: bool = False, **shared: Any) -> None:
        super().__init__(annotations, **shared)
        categories = [str(category.get("name", category["id"])) for category in self.index.categories]
        if len(categories) > 1:
            raise UserError(
                f"{self.index.path} has {len(categories)} categories with keypoints ({', '.join(categories)}), but "
                "where a sample is a whole image nothing says of which a pose is; write one file per category, or use "
                "reader=coco"
            )
        if missing := lacking(self.index, self.skeleton):
            raise UserError(
                f"{self.index.path} has no {', '.join(missing)}, but where a sample is a whole image nothing says that "
                "these may be there and unlabelled; use reader=coco, or a file with all keypoints of the skeleton"
            )
        self.empty_images = empty_images
        self._peopled = np.unique(self.index.image_rows[self.index.status == USABLE])
        self._every = np.arange(len(self.index.image_ids))

    @property
    def image_rows(self) -> Array:
        """(N,) row in the index of each image."""
        return self._peopled if self.training and not self.empty_images else self._every

    def annotations_of(self, index: int) -> Annotations:
        """The usable people of an image; none is an ordinary case."""
        first, last = self.index.first[self.image_rows[index] :][:2]
        return self._annotations(first + np.flatnonzero(self.index.status[first:last] == USABLE))

    def ignored(self, index: int) -> list[Array]:
        """The regions of crowds and of people who can't be learnt from."""
        return self.index.ignored(self.image_row(index))
