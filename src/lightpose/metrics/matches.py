"""Poses with the distances to their labels, one by one."""

import numpy as np
import torch
from torch import Tensor

from lightpose.metrics.calibration import keypoint_oks
from lightpose.metrics.keypoints import MatchedMetric
from lightpose.skeleton import Skeleton
from lightpose.structures import Array, Batch, Poses


class Matches(MatchedMetric):
    """The matched poses themselves with their errors, for a report.

    Args:
        skeleton: the keypoints.
    """

    refuses_several = False
    figures = ()

    def __init__(self, skeleton: Skeleton) -> None:
        count = skeleton.num_keypoints
        empty = torch.empty(0, count)
        super().__init__(skeleton, keypoints=torch.empty(0, count, 2), keypoint_scores=empty, oks=empty)
        self.sigmas = skeleton.sigmas
        self._told = True  # EPE says what is left out, and the report says it again

    def append(self, poses: Poses, batch: Batch, **columns: Tensor) -> Tensor:
        """Keep the poses beside the columns."""
        mine = {
            "keypoints": poses.keypoints[..., :2],
            "keypoint_scores": poses.keypoint_scores,
            "oks": keypoint_oks(columns["distances"], poses, batch, self.sigmas),
        }
        return super().append(poses, batch, **columns, **mine)

    def compute(self) -> dict[str, Array]:
        """Columns of the matched instances, and ``left_out``, the number of images that hold several."""
        rows = self.rows()
        matched = self._of_lone(rows)
        images = [len(found["sample_keys"][:, 0].unique()) for found in (rows, matched)]
        # NumPy, as torchmetrics takes the dimensions off a tensor of one element
        return {name: column.numpy() for name, column in matched.items()} | {
            "left_out": np.array(images[0] - images[1])
        }
