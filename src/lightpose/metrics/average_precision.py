"""COCO's keypoint evaluation, by faster-coco-eval."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster

from lightpose.data.coco.ground_truth import keypoint_categories
from lightpose.errors import UserError

log = logging.getLogger(__name__)

FIGURES = ("AP", "AP50", "AP75", "APM", "APL", "AR", "AR50", "AR75", "ARM", "ARL")


CROWDING = {"AP_E": (-np.inf, 0.1), "AP_M": (0.1, 0.8), "AP_H": (0.8, np.inf)}
"""CrowdPose's easy, medium and hard images (arXiv:1812.00324): more than the one ``crowdIndex``, at most the other."""

_NOWHERE = 1e9
"""Pixels. A keypoint this far out is as wrong as one further out, whose square may be infinite."""


class GroundTruth:
    """An annotation file's content, made ready to score poses.

    Args:
        coco: ``images``, ``annotations`` and ``categories``; not changed.
        num_keypoints: of the skeleton.

    Attributes:
        category_ids: of the categories that list keypoints; of all where none does.
        category_names: id → name, distinct.

    Raises:
        UserError: when annotations have another number of keypoints.
    """

    def __init__(self, coco: Mapping[str, Any], num_keypoints: int) -> None:
        self.category_ids = [category["id"] for category in keypoint_categories(coco["categories"])]
        self.image_ids = [image["id"] for image in coco["images"]]
        self.crowding = {image["id"]: image["crowdIndex"] for image in coco["images"] if "crowdIndex" in image}
        scored = set(self.category_ids)
        self.category_names = _names(category for category in coco["categories"] if category["id"] in scored)
        entries = [entry for entry in coco["annotations"] if entry["category_id"] in scored]
        _check_keypoints("instances of the ground truth", entries, num_keypoints)
        self.num_keypoints = num_keypoints
        # Counted from 1, since the evaluation takes an id of 0 for none.
        self.instances = [{**entry, "id": number} for number, entry in enumerate(entries, 1)]

    def average_precision(
        self,
        predictions: Sequence[Mapping[str, Any]],
        sigmas: Sequence[float],
        evaluation: Callable[..., COCOeval_faster] = COCOeval_faster,
    ) -> dict[str, float]:
        """Average precision and recall at OKS 0.50:0.95, 0.50 and 0.75 and over 0.50:0.95 for two ranges of area.

        Args:
            predictions: COCO results; not changed.
            sigmas: K falloff constants.
            evaluation: makes one with another similarity; predictions have the ids 1, 2, ... in it.

        Returns:
            The `FIGURES`; NaN for one that has no labelled instance in its range. Where there are several categories,
            also ``AP/CATEGORY`` of each that has labelled instances; the others are their mean. Where images have a
            ``crowdIndex``, also the average precision of easy, medium and hard ones, see `CROWDING`.

        Raises:
            UserError: for image ids or categories that the ground truth lacks, or another number of keypoints.
        """
        _check_keypoints("the predictions", predictions, self.num_keypoints)
        check_ids(predictions, self.image_ids, self.category_ids)
        triples = np.array([prediction["keypoints"] for prediction in predictions], np.float64)
        triples = triples.reshape(len(predictions), self.num_keypoints, 3).clip(-_NOWHERE, _NOWHERE)
        areas = np.ptp(triples[..., :2], axis=1).prod(1).tolist()
        poses = [
            {
                "id": number,
                "image_id": prediction["image_id"],
                "category_id": prediction["category_id"],
                "keypoints": keypoints,
                "score": float(prediction["score"]),
                "area": area,
            }
            for number, (prediction, keypoints, area) in enumerate(
                zip(predictions, triples.reshape(-1, 3 * self.num_keypoints).tolist(), areas, strict=True), 1
            )
        ]
        frame = {
            "images": [{"id": image_id} for image_id in self.image_ids],
            "categories": [{"id": category_id} for category_id in self.category_ids],
        }
        sides = [COCO({**frame, "annotations": entries}) for entries in (self.instances, poses)]

        def run_on(image_ids: Sequence[int]) -> COCOeval_faster:
            run = evaluation(
                *sides, "keypoints", print_function=log.debug, kpt_oks_sigmas=[float(sigma) for sigma in sigmas]
            )
            run.params.imgIds = sorted(image_ids)
            run.run()
            return run

        run = run_on(self.image_ids)
        figures = {name: _figure(value) for name, value in zip(FIGURES, run.stats, strict=True)}
        for name, (low, high) in CROWDING.items() if self.crowding else ():
            some = [image_id for image_id, crowding in self.crowding.items() if low < crowding <= high]
            figures[name] = _figure(run_on(some).stats[0]) if some else float("nan")
        return figures | self._of_categories(run)

    def _of_categories(self, evaluation: COCOeval_faster) -> dict[str, float]:
        """The average precision of each category that has labelled instances, where there are several categories."""
        if len(self.category_ids) < 2:
            return {}
        precision = np.asarray(evaluation.eval["precision"])[:, :, :, 0, -1]  # threshold, recall, category
        each = {
            f"AP/{self.category_names[category_id]}": precision[:, :, place]
            for place, category_id in enumerate(evaluation.params.catIds)
        }
        return {name: float(values[values >= 0].mean()) for name, values in each.items() if (values >= 0).any()}


def _figure(value: float) -> float:
    return float(value) if value >= 0 else float("nan")


def _names(categories: Iterable[Mapping[str, Any]]) -> dict[int, str]:
    """Category id → name, with the id where several have that name, or one has none."""
    given = {category["id"]: str(category.get("name", "category")) for category in categories}
    times = Counter(given.values())
    return {
        number: name if times[name] == 1 and name != "category" else f"{name} {number}"
        for number, name in given.items()
    }


def _check_keypoints(owner: str, entries: Sequence[Mapping[str, Any]], count: int) -> None:
    for entry in entries:
        if len(entry["keypoints"]) != 3 * count:
            raise UserError(
                f"{owner} have {len(entry['keypoints'])} keypoint numbers (image_id {entry['image_id']}), but a "
                f"skeleton of {count} keypoints makes {3 * count} (x, y and visibility or score); choose the skeleton "
                "of the file"
            )


def check_ids(entries: Sequence[Mapping[str, Any]], image_ids: Sequence[int], category_ids: Sequence[int]) -> None:
    """Refuse predictions that are of other images or categories than the ground truth.

    Args:
        entries: predictions in the COCO format.
        image_ids: those of the ground truth.
        category_ids: likewise.

    Raises:
        UserError: for an id that the ground truth lacks.
    """
    for key, words, known in (("image_id", "image ids", image_ids), ("category_id", "category ids", category_ids)):
        unknown = sorted({entry[key] for entry in entries} - set(known))
        if unknown:
            some = ", ".join(str(number) for number in unknown[:5]) + (", ..." if len(unknown) > 5 else "")
            raise UserError(
                f"the predictions name {len(unknown)} {words} that the ground truth lacks ({some}); it has "
                f"{len(set(known))}, e.g. {min(known, default='none')}; score predictions against the file they were "
                "made for"
            )
