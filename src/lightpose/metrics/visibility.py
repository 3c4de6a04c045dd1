"""How well it is told which keypoints can be seen."""

import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_average_precision

from lightpose.errors import UserError
from lightpose.metrics.keypoints import MatchedMetric
from lightpose.skeleton import Skeleton
from lightpose.structures import Batch, Poses


class Visibility(MatchedMetric):
    """Predicted visibility against the labels v=2 (visible) and v=1 (labelled, but hidden); v=0 doesn't count.

    Of each pose and the one labelled instance of its sample. Images in which several people are labelled or found are
    left out, with a warning the first time. The figures:

    - ``occlusion_AP``: average precision of finding the hidden keypoints, the least visible first; by chance it is
      their share.
    - ``occlusion_AP_of_scores``: the same, with the keypoints' scores in place of their visibility.
    - ``visibility_AP``: average precision of finding the visible ones; they are many, so it is high by chance.
    - ``visibility_accuracy``: share of keypoints on the right side of a probability of 0.5.

    Args:
        skeleton: the keypoints.
    """

    refuses_several = False
    figures = ("occlusion_AP", "occlusion_AP_of_scores", "visibility_AP", "visibility_accuracy")

    def __init__(self, skeleton: Skeleton) -> None:
        empty = torch.empty(0, skeleton.num_keypoints)
        super().__init__(skeleton, visibility=empty, keypoint_scores=empty, seen=empty.bool())

    def append(self, poses: Poses, batch: Batch, **columns: Tensor) -> Tensor:
        """Keep what was predicted beside the columns.

        Raises:
            UserError: for poses without visibility.
        """
        if poses.visibility is None:
            raise UserError(
                "metric=visibility scores a predicted visibility, but this model predicts none; train with "
                "head=visibility codec=visibility, or leave the metric out"
            )
        mine = {
            "visibility": poses.visibility,
            "keypoint_scores": poses.keypoint_scores,
            "seen": batch.instances.visible[poses.batch_index, 0] > 1,
        }
        return super().append(poses, batch, **columns, **mine)

    def compute(self) -> dict[str, Tensor]:
        """The figures; NaN without keypoints of the kind to find."""
        rows = self._of_lone(self.rows())
        counted = rows["visible"]
        seen, visibility, scores = (rows[name][counted] for name in ("seen", "visibility", "keypoint_scores"))
        found = (
            average_precision(-visibility, ~seen),
            average_precision(-scores, ~seen),
            average_precision(visibility, seen),
            ((visibility >= 0.5) == seen).double().mean(),
        )
        return dict(zip(self.figures, found, strict=True))


def average_precision(ranks: Tensor, wanted: Tensor) -> Tensor:
    """Of ranking (n,) numbers, the highest first; NaN where none is wanted."""
    if not wanted.any():
        return torch.tensor(float("nan"))
    order = ranks.unique(return_inverse=True)[1].double()  # torchmetrics takes a sigmoid of what isn't in [0, 1]
    return binary_average_precision(order / order.max().clamp_min(1), wanted.long(), validate_args=False)
