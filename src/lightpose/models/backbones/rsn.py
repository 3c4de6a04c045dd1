"""RSN: residual steps, whose branches see further and further, and hand on what they see."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from lightpose.models.backbones.layers import conv_norm
from lightpose.models.backbones.mspn import STEM, DownAndUp

STEPS = 4
BRANCH = 26
"""Channels of a branch of a block of 64 channels."""


class RSN(DownAndUp):
    """Residual steps network (arXiv:2003.04030): (B, 3, H, W) normalised RGB to the maps of `DownAndUp`.

    Tensors are called as in the published code, so published pose weights fit by name.

    Args:
        stages: how many there are.
        blocks: of each of the four layers of a stage: 2, 2, 2, 2 in RSN-18 and 3, 4, 6, 3 in RSN-50.
        channels: that these layers give.
        width: channels of the maps.
        weights: file to start from (`lightpose.models.weights.load_weights`).

    Raises:
        UserError: for less than one stage, or weights that can't be had.
    """

    def __init__(
        self,
        stages: int = 1,
        blocks: Sequence[int] = (2, 2, 2, 2),
        channels: Sequence[int] = (64, 128, 256, 512),
        width: int = 256,
        *,
        weights: str | Path | None = None,
    ) -> None:
        super().__init__("multi_stage_rsn", stages, blocks, channels, width, ResidualSteps, weights)


class ResidualSteps(nn.Module):
    """Branch i is i convolutions one after the other; each adds what branch i - 1 has at the same depth."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, shortcut: nn.Module | None) -> None:
        super().__init__()
        width = in_channels * BRANCH // STEM
        self.conv_bn_relu1 = conv_norm(in_channels, STEPS * width, stride=stride)
        for branch in range(1, STEPS + 1):
            for depth in range(1, branch + 1):
                self.add_module(f"conv_bn_relu2_{branch}_{depth}", conv_norm(width, width, 3))
        self.conv_bn3 = conv_norm(STEPS * width, out_channels, activation=None)
        self.downsample = shortcut or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, h, w) to (B, out_channels, h / stride, w / stride)."""
        ends, before = [], list[Tensor]()
        for branch, y in enumerate(self.conv_bn_relu1(x).chunk(STEPS, 1)):
            here = []
            for depth in range(branch + 1):
                y = y + before[depth] if depth < branch else y
                y = self.get_submodule(f"conv_bn_relu2_{branch + 1}_{depth + 1}")(y)
                here.append(y)
            ends.append(y)
            before = here
        z: Tensor = self.conv_bn3(torch.cat(ends, 1)) + self.downsample(x)
        return torch.relu(z)
