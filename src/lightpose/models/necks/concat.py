"""All feature maps as one."""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from lightpose.errors import UserError
from lightpose.models.base import FeatureModule


def check_pyramid(neck: str, strides: Sequence[int]) -> None:
    """Refuse feature maps that are no pyramid.

    Raises:
        UserError: when there are fewer than two, or they do not get coarser.
    """
    if len(strides) < 2 or any(fine >= coarse for fine, coarse in pairwise(strides)):
        raise UserError(
            f"neck={neck} needs two or more feature maps, each coarser than the one before, but the backbone gives "
            f"strides {list(strides)}; set backbone.out_indices to several levels, or use neck=identity for one"
        )


class Concat(FeatureModule):
    """All feature maps, resized bilinearly to the finest and concatenated, as in HRNetV2 (arXiv:1904.04514).

    Args:
        in_channels: channels of each feature map.
        strides: of each feature map, increasing.

    Raises:
        UserError: when the strides do not increase.
    """

    def __init__(self, in_channels: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        check_pyramid("concat", strides)
        self.out_channels, self.strides = (sum(in_channels),), (strides[0],)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """One feature map of the finest size."""
        size = features[0].shape[-2:]
        coarser = [F.interpolate(feature, size=size, mode="bilinear") for feature in features[1:]]
        return [torch.cat([features[0], *coarser], 1)]
