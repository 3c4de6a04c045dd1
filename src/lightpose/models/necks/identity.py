"""No neck: feature maps as they are."""

from collections.abc import Sequence

from torch import Tensor

from lightpose.errors import UserError
from lightpose.models.base import FeatureModule


class Identity(FeatureModule):
    """Passes the backbone's one feature map on.

    Args:
        in_channels: channels of the feature map.
        strides: of the feature map.

    Raises:
        UserError: for several feature maps, of which a head would leave some, and their parameters, unused.
    """

    def __init__(self, in_channels: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        if len(strides) != 1:
            raise UserError(
                f"neck=identity and neck=select pass one feature map on, but the backbone gives {len(strides)} of "
                f"strides {list(strides)}; use neck=fpn or neck=concat, or neck=all for a head of all levels "
                "(head=mspn), or choose one with backbone.out_indices=[0]"
            )
        self.out_channels, self.strides = tuple(in_channels), tuple(strides)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """The same feature map."""
        return list(features)


class AllLevels(FeatureModule):
    """Passes all feature maps on, for heads that read every one.

    Args:
        in_channels: channels of each feature map.
        strides: of each feature map.
    """

    def __init__(self, in_channels: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        self.out_channels, self.strides = tuple(in_channels), tuple(strides)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """The same feature maps."""
        return list(features)
