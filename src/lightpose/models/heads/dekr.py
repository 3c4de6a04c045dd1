"""The head of DEKR: a branch for each keypoint, which looks where that keypoint is."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from timm.models.resnet import BasicBlock
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from lightpose.models.base import Criterion, Head
from lightpose.models.heads.finest import Finest
from lightpose.models.heads.heatmap import map_shape, start_small
from lightpose.models.heads.rescoring import Rescoring
from lightpose.structures import Spec


class DEKRHead(Head):
    """``heatmap`` (K + 1, h, w) and ``displacement`` (K, 2, h, w) from the finest feature map (arXiv:2104.02300).

    Displacements come from a branch of its own for each keypoint, of two `AdaptiveBlock`. Features coarser than the
    codec's maps are resized.

    Args:
        in_channels: channels of each feature map.
        strides: of each feature map.
        spec: what the codec expects.
        criterion: the loss.
        heatmap_channels: of the layers before the heatmaps.
        branch_channels: of each keypoint's branch.
        rescoring: options of `Rescoring`, which the codec then scores poses with; None for poses that keep their
            scores.
        stages: how often the features go through these maps.

    Raises:
        UserError: when the features are finer than the codec's maps, and for links that can't be used.
    """

    emits = frozenset({"heatmap", "displacement"})

    def __init__(
        self,
        in_channels: Sequence[int],
        strides: Sequence[int],
        spec: Spec,
        criterion: Criterion,
        heatmap_channels: int = 32,
        branch_channels: int = 15,
        rescoring: Mapping[str, Any] | None = None,
        stages: int = 1,
    ) -> None:
        super().__init__()
        self.criterion = criterion
        count, *map_hw = map_shape(spec, "heatmap")
        keypoints = map_shape(spec, "displacement")[0]
        self.finest = Finest(in_channels, strides, spec, tuple(map_hw))
        width, wide = self.finest.channels, keypoints * branch_channels
        self.heatmap = nn.Sequential(
            *_conv_bn_relu(width, heatmap_channels),
            BasicBlock(heatmap_channels, heatmap_channels),
            _final(nn.Conv2d(heatmap_channels, count, 1)),
        )
        self.displacement = nn.Sequential(
            *_conv_bn_relu(width, wide),
            AdaptiveBlock(wide, keypoints),
            AdaptiveBlock(wide, keypoints),
            _final(nn.Conv2d(wide, 2 * keypoints, 1, groups=keypoints)),
        )
        self.rescoring = None if rescoring is None else Rescoring(keypoints, **rescoring)

    def forward(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """Outputs by name, shaped (B, *spec.outputs[name])."""
        maps = self.finest(features)
        return {"heatmap": self.heatmap(maps), "displacement": self.displacement(maps).unflatten(1, (-1, 2))}

    def hand_over(self, codec: Any) -> None:
        """What scores poses anew, if there is any."""
        codec.rescoring = self.rescoring


class AdaptiveBlock(nn.Module):
    """A residual 3x3 convolution whose nine taps are moved by an affine matrix at each cell, one for each branch.

    At the start the matrices are those of a plain convolution. It computes in float32.

    Args:
        channels: of all branches together.
        branches: they see nothing of each other.
    """

    taps: Tensor

    def __init__(self, channels: int, branches: int) -> None:
        super().__init__()
        self.branches = branches
        self.affine = nn.Conv2d(channels, 6 * branches, 3, padding=1, groups=branches)
        self.weight = nn.Parameter(torch.empty(channels, channels // branches, 3, 3))
        self.norm = nn.BatchNorm2d(channels)
        steps = torch.tensor([-1.0, 0.0, 1.0])
        taps = torch.cartesian_prod(steps, steps)  # (9, 2): y, x
        self.register_buffer("taps", torch.cat([taps, torch.ones(9, 1)], 1), persistent=False)
        nn.init.normal_(self.affine.weight, std=0.001)
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")
        with torch.no_grad():
            assert self.affine.bias is not None
            self.affine.bias.copy_(torch.eye(2, 3).flatten().repeat(branches))

    def forward(self, maps: Tensor) -> Tensor:
        """(B, channels, h, w) to the same."""
        matrices = self.affine(maps).float().unflatten(1, (self.branches, 2, 3))  # (B, branches, 2, 3, h, w)
        moved = torch.einsum("bgijhw,tj->bgtihw", matrices, self.taps)  # (B, branches, 9, 2, h, w)
        offsets = moved - self.taps[:, :2, None, None]
        found = deform_conv2d(maps.float(), offsets.flatten(1, 3), self.weight.float(), padding=1)
        return torch.relu(self.norm(found) + maps)


def _conv_bn_relu(in_channels: int, out_channels: int) -> list[nn.Module]:
    return [nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels), nn.ReLU()]


def _final(conv: nn.Conv2d) -> nn.Conv2d:
    start_small(conv)
    return conv
