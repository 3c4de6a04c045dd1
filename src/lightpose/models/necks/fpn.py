"""Feature pyramid network."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from lightpose.models.base import FeatureModule
from lightpose.models.necks.concat import check_pyramid


class FPN(FeatureModule):
    """The finest level of a feature pyramid network (arXiv:1612.03144).

    Coarser levels are computed on the way down, but get no output convolution: a head on one map would leave its
    parameters without a gradient. (So torchvision's pyramid, which has one for each level, does not fit.)

    Args:
        in_channels: channels of each feature map.
        strides: of each feature map, increasing.
        out_channels: channels of the output.

    Raises:
        UserError: when the strides do not increase.
    """

    def __init__(self, in_channels: Sequence[int], strides: Sequence[int], out_channels: int = 256) -> None:
        super().__init__()
        check_pyramid("fpn", strides)
        self.lateral = nn.ModuleList(nn.Conv2d(channels, out_channels, 1) for channels in in_channels)
        self.output = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        for conv in (*self.lateral, self.output):
            nn.init.kaiming_uniform_(conv.weight, a=1)
            nn.init.zeros_(conv.bias)
        self.out_channels, self.strides = (out_channels,), (strides[0],)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """One feature map of the finest size."""
        levels = [conv(feature) for conv, feature in zip(self.lateral, features, strict=True)]
        merged = levels.pop()
        for level in reversed(levels):
            merged = level + F.interpolate(merged, size=level.shape[-2:], mode="nearest")
        return [self.output(merged)]
