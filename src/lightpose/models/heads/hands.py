"""The head of InterNet: volumes of two hands, how their depths differ, and which of them are there."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from lightpose.models.base import Criterion, Head
from lightpose.models.heads.heatmap import HeatmapHead, map_shape
from lightpose.structures import Spec


class HandsHead(Head):
    """Volumes ``heatmap`` (K, depth, h, w), ``root_depth`` (1) and the logits ``hands`` (2) (arXiv:2008.09309).

    The first half of the keypoints comes from one row of transposed convolutions and the rest from another, as of right
    and left hands. The two others come from the mean of the last feature map; root depth is the mean place in a softmax
    over ``root_cells``, as a share of their number and 0 in their middle, in float32 under autocast.

    Args:
        in_channels: channels of each feature map.
        strides: of each feature map.
        spec: what the codec expects.
        criterion: the loss.
        channels: of each transposed convolution.
        hidden: width of the layer before root depth, and of that before hands.
        root_cells: cells of root depth.
        stages: how often the features go through these maps.

    Raises:
        UserError: when the features can't be upsampled to the volume's size.
    """

    emits = frozenset({"heatmap", "root_depth", "hands"})

    def __init__(
        self,
        in_channels: Sequence[int],
        strides: Sequence[int],
        spec: Spec,
        criterion: Criterion,
        channels: int = 256,
        hidden: int = 512,
        root_cells: int = 64,
        stages: int = 1,
    ) -> None:
        super().__init__()
        self.criterion = criterion
        count, *volume = map_shape(spec, "heatmap")
        first = -(-count // 2)
        self.right, self.left = (
            HeatmapHead(
                in_channels,
                strides,
                replace(spec, outputs={"heatmap": (half, *volume)}),
                criterion,
                channels=channels,
                stages=stages,
            )
            for half in (first, count - first)
        )
        self.root_cells = root_cells
        self.root_depth = _perceptron(in_channels[-1], hidden, root_cells)
        self.hands = _perceptron(in_channels[-1], hidden, 2)

    def forward(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """Outputs by name, shaped (B, *spec.outputs[name])."""
        volumes = [half(features)["heatmap"] for half in (self.right, self.left)]
        pooled = features[-1].mean((-2, -1))  # (B, C)
        shares = self.root_depth(pooled).float().softmax(-1)  # (B, root_cells)
        cells = torch.arange(self.root_cells, device=shares.device)
        place = (shares * cells).sum(-1, keepdim=True) / self.root_cells - 0.5
        return {"heatmap": torch.cat(volumes, 1), "root_depth": place, "hands": self.hands(pooled)}


def _perceptron(width: int, hidden: int, count: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, count))
