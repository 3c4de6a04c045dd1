"""The finest features, of the size of the codec's maps."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from lightpose.models.heads.heatmap import upsampling
from lightpose.structures import Spec


class Finest(nn.Module):
    """The finest feature map of the last stage; one that is coarser than the codec's maps is resized.

    Args:
        in_channels: channels of each feature map.
        strides: of each feature map.
        spec: what the codec expects.
        map_hw: size of the codec's maps.

    Attributes:
        channels: of the map.

    Raises:
        UserError: when the features are finer than the codec's maps.
    """

    def __init__(self, in_channels: Sequence[int], strides: Sequence[int], spec: Spec, map_hw: tuple[int, ...]) -> None:
        super().__init__()
        finest = min(range(len(strides)), key=lambda level: strides[level])
        self.level = finest - len(strides)  # counted from the end: of the last stage
        self.channels = in_channels[self.level]
        self.factor = upsampling(strides[self.level], spec, map_hw)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """(B, channels, h, w)."""
        maps = features[self.level]
        return maps if self.factor == 1 else F.interpolate(maps, scale_factor=self.factor, mode="bilinear")
