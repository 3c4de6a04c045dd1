"""People as candidates: each prior of a one-stage network may be somebody."""

from typing import ClassVar

import torch
from torch import Tensor

from lightpose.codecs.base import Codec
from lightpose.codecs.maps import counted_cells, on_device
from lightpose.codecs.people import best_boxes, chosen, picked
from lightpose.errors import UserError
from lightpose.geometry import Grid
from lightpose.skeleton import Skeleton
from lightpose.structures import Batch, Poses, Spec, Targets

CELL = 8
"""Input pixels per cell of ``counted``."""
CANDIDATES = frozenset({"scores", "boxes", "points", "visibility", "priors"})
"""What is known of each candidate."""
PEOPLE = frozenset({"keypoints", "boxes", "areas", "sigmas", "counted"})
"""What is known of those whom candidates are assigned to."""


class OneStageCodec(Codec):
    """N candidates in no order, in input pixels, as one-stage networks find them all at once.

    Outputs are ``scores`` (N), the logit that somebody is there; ``boxes`` (N, 4) xyxy; ``points`` (N, K, 2);
    ``visibility`` (N, K), the logit that an annotator would mark the keypoint; and ``priors`` (N, 3), the point and the
    stride that each candidate comes from. How many there are only the network knows.

    Args:
        skeleton: gives K, and the sigmas and weights of the losses.
        input_hw: network input size.
        grid: not used: candidates are in input pixels.
        score_threshold: candidates must score above it.
        nms_threshold: of two candidates whose boxes overlap by more (IoU), the better one stays.
        most_candidates: of each input, the best, that are compared with each other.

    Raises:
        UserError: for a threshold that is no share, or no candidate.
    """

    flips: ClassVar[bool] = False

    def __init__(
        self,
        skeleton: Skeleton,
        input_hw: tuple[int, int],
        grid: Grid,
        score_threshold: float = 0.1,
        nms_threshold: float = 0.65,
        most_candidates: int = 1000,
    ) -> None:
        for name, value in (("score_threshold", score_threshold), ("nms_threshold", nms_threshold)):
            if not 0 <= value <= 1:
                raise UserError(f"codec.{name}={value} must be a number from 0 to 1")
        if most_candidates < 1:
            raise UserError(f"codec.most_candidates={most_candidates} leaves nobody; the published number is 1000")
        count = skeleton.num_keypoints
        outputs = {
            "scores": (None,),
            "boxes": (None, 4),
            "points": (None, count, 2),
            "visibility": (None, count),
            "priors": (None, 3),
        }
        self.spec = Spec(outputs, input_hw, PEOPLE)
        self.score_threshold, self.nms_threshold = score_threshold, nms_threshold
        self.most_candidates = most_candidates
        self._sigmas, self._loss_weights = torch.tensor(skeleton.sigmas), torch.tensor(skeleton.weights)

    def encode(self, batch: Batch) -> Targets:
        """The people of each input, those with a labelled keypoint inside of it.

        ``keypoints`` (B, M, K, 2) have the weight 1 where they are labelled and inside; ``boxes`` (B, M, 4), cut at the
        borders, and ``areas`` (B, M) the weight 1 where somebody is. ``sigmas`` (B, K) are those of the skeleton, their
        weights its factors on the loss. ``counted`` (B, h, w) is 0 where `Batch.ignore` covers a cell of 8 pixels, so
        that nothing there is a false alarm.
        """
        people, (height, width) = batch.instances, batch.inputs.shape[-2:]
        keypoints = people.keypoints[..., :2].float()
        x, y = keypoints.unbind(-1)
        inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
        labelled = inside & (people.visible > 0) & people.valid[..., None]  # (B, M, K)
        there = labelled.any(-1).float()  # (B, M)
        left, top, right, bottom = people.boxes_xyxy.float().unbind(-1)
        (left, right), (top, bottom) = (
            [side.clamp(0, length - 1) for side in pair]
            for pair, length in (((left, right), width), ((top, bottom), height))
        )
        sigmas, factors = (on_device(each, keypoints) for each in (self._sigmas, self._loss_weights))
        cells = counted_cells(batch, (-(-height // CELL), -(-width // CELL)))
        maps = {
            "keypoints": torch.where(labelled[..., None], keypoints, 0.0),
            "boxes": torch.stack([left, top, right, bottom], -1),
            "areas": people.areas.float(),
            "sigmas": sigmas.expand(len(batch), -1),
            "counted": cells,
        }
        weights = {
            "keypoints": labelled.float(),
            "boxes": there,
            "areas": there,
            "sigmas": factors.expand(len(batch), -1),
            "counted": torch.ones_like(cells),
        }
        return Targets(maps, weights)

    chosen = staticmethod(chosen)

    def decode(self, outputs: dict[str, Tensor]) -> Poses:
        """Poses in input pixels, best first in each input; a keypoint's score is its visibility."""
        return self.chosen(self.candidates(outputs))

    def candidates(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """The best candidates of each input, best first, and which of them are people."""
        scores = outputs["scores"].float()  # (B, N)
        best, place = scores.topk(min(self.most_candidates, scores.shape[1]), 1)
        best = best.sigmoid()  # only now: that of ONNX Runtime makes small scores equal, which have no order then
        boxes, points, logits = (picked(outputs[name].float(), place) for name in ("boxes", "points", "visibility"))
        seen = logits.sigmoid()
        return {
            "keypoints": points,
            "keypoint_scores": seen,
            "scores": best,
            "visibility": seen,
            "boxes_xyxy": boxes,
            "box_scores": best,
            "valid": best_boxes(boxes, best, self.nms_threshold, self.score_threshold),
        }
