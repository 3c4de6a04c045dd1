"""No neck."""

from collections.abc import Sequence

from torch import Tensor

from lightpose.models.base import FeatureModule


class Identity(FeatureModule):
    """Passes all feature maps on."""

    def __init__(self, in_channels: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        self.out_channels, self.strides = tuple(in_channels), tuple(strides)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """The same feature maps."""
        return list(features)
