"""Coordinates of one person, as shares of the input."""

import torch
from torch import Tensor

from lightpose.codecs.base import Codec
from lightpose.codecs.grid import MapGrid
from lightpose.codecs.maps import labelled_cells, on_device, one_pose_per_row
from lightpose.geometry import Grid, check_grid
from lightpose.skeleton import Skeleton
from lightpose.structures import Batch, Instances, Poses, Spec, Targets


class RegressionCodec(Codec):
    """Keypoints (K, 2) divided by the input's width and height (arXiv:1312.4659), for one person per input.

    Round trip: exact to the resolution of floats. Coordinates have no size of their own, so inputs of another size
    decode as if they had ``input_hw``.

    Args:
        skeleton: gives K, the mirror pairs and the weights.
        input_hw: network input size.
        grid: of the crop; coordinates are the same on all.
        sigmas: the head also predicts deviations ``sigmas`` (K, 2) between 0 and 1 (arXiv:2107.11291), in the unit of
            the keypoints. A score is then 1 less the mean deviation; without them it is 1.
    """

    def __init__(self, skeleton: Skeleton, input_hw: tuple[int, int], grid: Grid, sigmas: bool = False) -> None:
        check_grid(grid)
        names = ("keypoints", "sigmas") if sigmas else ("keypoints",)
        outputs = dict.fromkeys(names, (skeleton.num_keypoints, 2))
        self.spec = Spec(outputs, input_hw, targets=frozenset({"keypoints"}))
        self.input_hw = input_hw
        self._input_wh = torch.tensor([input_hw[1], input_hw[0]], dtype=torch.float32)
        self._loss_weights, self._swap = torch.tensor(skeleton.weights), torch.tensor(skeleton.swap)

    def encode(self, batch: Batch) -> Targets:
        """Keypoints (B, K, 2) and weights (B, K) of the first instance of each row.

        Zero where not labelled or outside the input, and where nobody is there, as coordinates can't say so.
        """
        points, labelled = labelled_points(batch.instances, self.input_hw)
        weights = labelled * on_device(self._loss_weights, labelled)
        return Targets({"keypoints": points / on_device(self._input_wh, points)}, {"keypoints": weights})

    def decode(self, outputs: dict[str, Tensor]) -> Poses:
        """One pose per row in input pixels."""
        keypoints = outputs["keypoints"].float()  # (B, K, 2)
        sigmas = outputs["sigmas"].float() if "sigmas" in outputs else torch.zeros_like(keypoints)
        return one_pose_per_row(keypoints * on_device(self._input_wh, keypoints), 1 - sigmas.mean(-1))

    def flip(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Undo a horizontal mirroring of the input; an involution up to rounding.

        Pixel x is mirrored to ``input_w - 1 - x``. Deviations stay as they are, and change sides with their keypoints.
        """
        swap = on_device(self._swap, outputs["keypoints"])
        swapped = {name: output.index_select(1, swap) for name, output in outputs.items()}
        return {**swapped, "keypoints": mirrored(swapped["keypoints"], self.input_hw[1])}


def labelled_points(instances: Instances, input_hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Input pixels (B, K, 2) and labels in {0, 1} (B, K) of the first instance of each row.

    The label is 0 for a keypoint that is not labelled, or outside the input; its place is then the origin.
    """
    points, labels = labelled_cells(instances, MapGrid(input_hw, "stride", 1), reach=0)
    return points[:, 0], labels[:, 0]


def mirrored(keypoints: Tensor, width: int) -> Tensor:
    """Keypoints (..., 2) as shares of ``width`` cells, of which the first and the last change places."""
    x, y = keypoints.unbind(-1)
    return torch.stack([(width - 1) / width - x, y], -1)
