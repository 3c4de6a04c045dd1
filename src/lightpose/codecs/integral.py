"""Coordinates of one person that are means of heatmaps."""

import math

import torch
from torch import Tensor

from lightpose.codecs.base import Codec
from lightpose.codecs.heatmap import Centers, HeatmapCodec
from lightpose.codecs.maps import nobody, on_device, one_pose_per_row
from lightpose.codecs.regression import labelled_points, mirrored
from lightpose.geometry import Grid
from lightpose.skeleton import Skeleton
from lightpose.structures import Batch, Poses, Spec, Targets


class IntegralCodec(Codec):
    """Keypoints (K, 2) as shares of the map's width and height, and the maps of sum 1 that they are the means of.

    As for integral regression (arXiv:1711.08229) and DSNT (arXiv:1801.07372), for one person per input. Round trip:
    exact to the resolution of floats.

    Args:
        skeleton: gives K, the mirror pairs and the weights.
        input_hw: network input size.
        grid: which input pixel a map cell stands for.
        stride: input pixels per map cell.
        sigma: standard deviation of a target map's Gaussian in cells.
        centers: see `lightpose.codecs.heatmap.HeatmapCodec`.
        truncate: see `lightpose.codecs.heatmap.HeatmapCodec`.

    Raises:
        UserError: for an option that can't be used.
    """

    def __init__(
        self,
        skeleton: Skeleton,
        input_hw: tuple[int, int],
        grid: Grid,
        stride: int = 4,
        sigma: float = 2.0,
        centers: Centers = "continuous",
        truncate: float | None = None,
    ) -> None:
        self.gaussians = HeatmapCodec(skeleton, input_hw, grid, stride, sigma, centers, truncate)
        self.map_grid, self.mirror_lag = self.gaussians.map_grid, self.gaussians.mirror_lag
        self.spec = Spec({**self.gaussians.spec.outputs, "keypoints": (skeleton.num_keypoints, 2)}, input_hw)
        self.input_hw = input_hw
        self.full_score = 1 / (2 * math.pi * sigma**2)
        self._loss_weights, self._swap = torch.tensor(skeleton.weights), torch.tensor(skeleton.swap)

    def encode(self, batch: Batch) -> Targets:
        """Keypoints (B, K, 2), maps (B, K, h, w) of sum 1 and weights (B, K) of the first instance of each row.

        Zero where not labelled or outside the input. Where nobody is there, the maps are even and count.
        """
        points, labelled = labelled_points(batch.instances, self.input_hw)  # (B, K, 2), (B, K)
        empty = nobody(batch.instances)  # (B, 1)
        maps = self.gaussians.encode(batch).maps["heatmap"] + empty[..., None, None]
        maps = maps / maps.sum((-2, -1), keepdim=True).clamp_min(1e-12)
        height, width = self.map_grid.map_hw
        keypoints = _scaled(self.map_grid.to_map(points), 1 / width, 1 / height)
        known = labelled[..., None] > 0
        loss_weights = on_device(self._loss_weights, labelled)
        return Targets(
            {"heatmap": maps, "keypoints": torch.where(known, keypoints, 0.0)},
            {"heatmap": (labelled + empty) * loss_weights, "keypoints": labelled * loss_weights},
        )

    def decode(self, outputs: dict[str, Tensor]) -> Poses:
        """One pose per row in input pixels.

        A score is the highest value of the map relative to that of a target's, and at most 1: it falls where the map
        is spread out.
        """
        maps, keypoints = outputs["heatmap"].float(), outputs["keypoints"].float()
        height, width = maps.shape[-2:]
        points = self.map_grid.to_input(_scaled(keypoints, width, height), (height, width))
        return one_pose_per_row(points, (maps.amax((-2, -1)) / self.full_score).clamp(0, 1))

    def flip(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Undo a horizontal mirroring of the input; an involution up to rounding."""
        swap = on_device(self._swap, outputs["heatmap"])
        maps, keypoints = (outputs[name].index_select(1, swap) for name in ("heatmap", "keypoints"))
        return {"heatmap": maps.flip(-1), "keypoints": mirrored(keypoints, maps.shape[-1])}


def _scaled(points: Tensor, x_factor: float, y_factor: float) -> Tensor:
    x, y = points.unbind(-1)
    return torch.stack([x * x_factor, y * y_factor], -1)
