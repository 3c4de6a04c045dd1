"""COCO's keypoint evaluation: the similarities of all pairs at once, matched and averaged by faster-coco-eval."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster

from lightpose.errors import UserError
from lightpose.structures import Array

log = logging.getLogger(__name__)

FIGURES = ("AP", "AP50", "AP75", "APM", "APL", "AR", "AR50", "AR75", "ARM", "ARL")

MOST_POSES = 20
"""Of an image and a category that COCO counts, best first."""

PAIRS_AT_ONCE = 2**14
"""Whose similarities are computed together, so that what lies between fits into caches."""


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
        categories, images = set(self.category_ids), set(self.image_ids)
        entries = [entry for entry in coco["annotations"] if entry["category_id"] in categories]
        check_keypoints("instances of the ground truth", entries, num_keypoints)
        entries = [entry for entry in entries if entry["image_id"] in images]
        self.keypoints = np.array([entry["keypoints"] for entry in entries], np.float64).reshape(-1, num_keypoints, 3)
        self.boxes_xywh = np.array([entry["bbox"] for entry in entries], np.float64).reshape(-1, 4)
        self.areas = np.array([entry["area"] for entry in entries], np.float64)
        self.instances = [
            {
                "id": number,
                "image_id": entry["image_id"],
                "category_id": entry["category_id"],
                "area": entry["area"],
                "iscrowd": entry.get("iscrowd", 0),
                "num_keypoints": entry.get("num_keypoints", 0),
            }
            for number, entry in enumerate(entries, 1)
        ]

    def average_precision(
        self,
        image_ids: Sequence[int],
        category_ids: Sequence[int],
        keypoints: Array,
        scores: Array,
        sigmas: Sequence[float],
    ) -> dict[str, float]:
        """Average precision and recall at OKS 0.50:0.95, 0.50 and 0.75 and over 0.50:0.95 for two ranges of area.

        Args:
            image_ids: N.
            category_ids: N.
            keypoints: (N, K, 2) float64, image pixels.
            scores: (N,).
            sigmas: K falloff constants.

        Returns:
            The `FIGURES`; NaN for one that has no labelled instance in its range.

        Raises:
            UserError: for image ids or categories that the ground truth lacks.
        """
        _check_ids("image ids", self.image_ids, image_ids)
        _check_ids("category ids", self.category_ids, category_ids)
        sides = np.ptp(keypoints, axis=1)
        rows = zip(image_ids, category_ids, scores.tolist(), (sides[:, 0] * sides[:, 1]).tolist(), strict=True)
        poses = [
            {"id": number, "image_id": image_id, "category_id": category_id, "score": score, "area": area}
            for number, (image_id, category_id, score, area) in enumerate(rows, 1)
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
        oks = self.similarities(image_ids, category_ids, keypoints, scores, sigmas)
        evaluation.computeOks = lambda image_id, category_id: oks.get((image_id, category_id), [])  # its own is slow
        evaluation.run()
        return {
            name: float(value) if value >= 0 else float("nan")
            for name, value in zip(FIGURES, evaluation.stats, strict=True)
        }

    def similarities(
        self,
        image_ids: Sequence[int],
        category_ids: Sequence[int],
        keypoints: Array,
        scores: Array,
        sigmas: Sequence[float],
    ) -> dict[tuple[int, int], Array]:
        """Image and category id → OKS (P, M) of its best poses, by score, to its M annotations, as they stand.

        To the last bit what ``computeOks`` of faster-coco-eval gives. Arguments are those of `average_precision`.
        """
        truth = self._groups(*([entry[key] for entry in self.instances] for key in ("image_id", "category_id")))
        groups = self._groups(image_ids, category_ids)
        by_group, order = np.argsort(truth, kind="stable"), np.lexsort((-scores, groups))
        truth, groups = truth[by_group], groups[order]
        counted = np.arange(len(order)) - np.searchsorted(groups, groups) < MOST_POSES
        order, groups = order[counted], groups[counted]

        first = np.searchsorted(truth, groups)
        counts = np.searchsorted(truth, groups, "right") - first  # pairs of each pose
        ends = np.cumsum(counts)
        pose = np.repeat(order, counts)
        instance = by_group[np.arange(len(pose)) + np.repeat(first - ends + counts, counts)]
        values = np.empty(len(pose))
        for start in range(0, len(pose), PAIRS_AT_ONCE):
            some = slice(start, start + PAIRS_AT_ONCE)
            values[some] = self._oks(keypoints[pose[some]], instance[some], np.array(sigmas, np.float64))

        begins = np.flatnonzero(np.diff(groups, prepend=-1))  # of the groups, among the poses
        shares = np.split(values, (ends - counts)[begins[1:]])
        return {
            (image_ids[order[row]], category_ids[order[row]]): share.reshape(-1, counts[row])
            for row, share in zip(begins, shares, strict=False)  # without poses there is a share all the same
            if counts[row]
        }

    def _groups(self, image_ids: Sequence[int], category_ids: Sequence[int]) -> Array:
        """A number for each pair of an image and a category."""
        images, categories = np.sort(self.image_ids), np.sort(self.category_ids)
        groups: Array = np.searchsorted(images, image_ids) * len(categories) + np.searchsorted(categories, category_ids)
        return groups

    def _oks(self, points: Array, instances: Array, sigmas: Array) -> Array:
        """OKS (P,) of poses (P, K, 2) to P annotations; where none is labelled, of how far they are from its box."""
        labels, boxes = self.keypoints[instances], self.boxes_xywh[instances, None]
        deltas, visible = points - labels[..., :2], labels[..., 2] > 0
        unlabelled = ~visible.any(1)
        if unlabelled.any():  # crowds, of which poses may be part
            corner, sides = boxes[unlabelled, :, :2], boxes[unlabelled, :, 2:]
            outside = np.maximum(0, corner - sides - points[unlabelled])
            deltas[unlabelled] = outside + np.maximum(0, points[unlabelled] - (corner + sides * 2))
            visible[unlabelled] = True
        errors = (deltas**2).sum(-1) / (sigmas * 2) ** 2 / (self.areas[instances, None] + np.spacing(1)) / 2
        counts, values = visible.sum(1), np.empty(len(points))
        for count in np.unique(counts):  # sums of rows that are equally long round as those of single rows
            rows = counts == count
            values[rows] = np.exp(-errors[rows[:, None] & visible]).reshape(-1, count).sum(1) / count
        return values


def check_keypoints(owner: str, entries: Sequence[Mapping[str, Any]], count: int) -> None:
    """Refuse entries of an annotation or predictions file that don't have ``3 * count`` keypoint numbers.

    Raises:
        UserError: for one that has not; its sentence begins with ``owner``.
    """
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
