"""COCO's keypoint evaluation, by faster-coco-eval."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster

from lightpose.errors import UserError

log = logging.getLogger(__name__)

FIGURES = ("AP", "AP50", "AP75", "APM", "APL", "AR", "AR50", "AR75", "ARM", "ARL")


class GroundTruth:
    """An annotation file's content, made ready to score poses.

    Args:
        coco: ``images``, ``annotations`` and ``categories``; not changed.
        num_keypoints: of the skeleton.

    Attributes:
        category_ids: of the categories that list keypoints; of all where none does.

    Raises:
        UserError: when annotations have another number of keypoints.
    """

    def __init__(self, coco: Mapping[str, Any], num_keypoints: int) -> None:
        named = [category for category in coco["categories"] if category.get("keypoints")]
        self.category_ids = [category["id"] for category in named or coco["categories"]]
        self.image_ids = [image["id"] for image in coco["images"]]
        scored = set(self.category_ids)
        entries = [entry for entry in coco["annotations"] if entry["category_id"] in scored]
        _check_keypoints("instances of the ground truth", entries, num_keypoints)
        self.num_keypoints = num_keypoints
        # Counted from 1, since the evaluation takes an id of 0 for none.
        self.instances = [{**entry, "id": number} for number, entry in enumerate(entries, 1)]

    def average_precision(self, predictions: Sequence[Mapping[str, Any]], sigmas: Sequence[float]) -> dict[str, float]:
        """Average precision and recall at OKS 0.50:0.95, 0.50 and 0.75 and over 0.50:0.95 for two ranges of area.

        Args:
            predictions: COCO results; not changed.
            sigmas: K falloff constants.

        Returns:
            The `FIGURES`; NaN for one that has no labelled instance in its range.

        Raises:
            UserError: for image ids or categories that the ground truth lacks, or another number of keypoints.
        """
        _check_keypoints("the predictions", predictions, self.num_keypoints)
        _check_ids("image ids", self.image_ids, [prediction["image_id"] for prediction in predictions])
        _check_ids("category ids", self.category_ids, [prediction["category_id"] for prediction in predictions])
        triples = np.array([prediction["keypoints"] for prediction in predictions], np.float64)
        sides = np.ptp(triples.reshape(len(predictions), self.num_keypoints, 3)[..., :2], axis=1)
        with np.errstate(over="ignore"):
            areas = sides.prod(1).tolist()
        read = (
            "image_id",
            "category_id",
            "keypoints",
            "score",
        )  # what else is there, the evaluation may take for its own
        poses = [
            {**{key: prediction[key] for key in read}, "id": number, "area": area}
            for number, (prediction, area) in enumerate(zip(predictions, areas, strict=True), 1)
        ]
        frame = {
            "images": [{"id": image_id} for image_id in self.image_ids],
            "categories": [{"id": category_id} for category_id in self.category_ids],
        }
        evaluation = COCOeval_faster(
            COCO({**frame, "annotations": self.instances}),
            COCO({**frame, "annotations": poses}),
            "keypoints",
            print_function=log.debug,
            kpt_oks_sigmas=[float(sigma) for sigma in sigmas],
        )
        evaluation.run()
        return {
            name: float(value) if value >= 0 else float("nan")
            for name, value in zip(FIGURES, evaluation.stats, strict=True)
        }


def _check_keypoints(owner: str, entries: Sequence[Mapping[str, Any]], count: int) -> None:
    for entry in entries:
        if len(entry["keypoints"]) != 3 * count:
            raise UserError(
                f"{owner} have {len(entry['keypoints'])} keypoint numbers (image_id {entry['image_id']}), but a "
                f"skeleton of {count} keypoints makes {3 * count} (x, y and visibility or score); choose the skeleton "
                "of the file"
            )


def _check_ids(words: str, known: Sequence[int], given: Sequence[int]) -> None:
    unknown = sorted(set(given) - set(known))
    if unknown:
        some = ", ".join(str(number) for number in unknown[:5]) + (", ..." if len(unknown) > 5 else "")
        raise UserError(
            f"the predictions name {len(unknown)} {words} that the ground truth lacks ({some}); it has "
            f"{len(set(known))}, e.g. {min(known, default='none')}; score predictions against the file they were made "
            "for"
        )
