"""The neck of RTMDet and RTMW."""

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from lightpose.errors import UserError
from lightpose.models.backbones.cspnext import Block, CSPLayer
from lightpose.models.backbones.layers import conv_norm
from lightpose.models.necks.yolox_pafpn import PAFPN

_conv = partial(conv_norm, activation=partial(nn.SiLU, inplace=True))


class CSPNeXtPAFPN(PAFPN):
    """`PAFPN` of CSPNeXt's blocks (RTMDet, arXiv:2212.07784), whose levels keep their channels.

    Args:
        in_channels: channels of each feature map.
        strides: of each feature map, increasing.
        blocks: of each CSP layer.
        out_indices: which levels come out, finest first; the last must, or its layers would learn nothing.

    Raises:
        UserError: when the strides do not increase, or a level is asked for that isn't there.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        strides: Sequence[int],
        blocks: int = 2,
        out_indices: Sequence[int] = (1, 2),
    ) -> None:
        layer = partial(CSPLayer, count=blocks, block=partial(Block, residual=False))
        super().__init__("cspnext_pafpn", in_channels, strides, _conv, layer)
        last = len(strides) - 1
        self.out_indices = sorted(index % len(strides) for index in out_indices if -len(strides) <= index <= last)
        if len(set(self.out_indices)) < len(out_indices) or last not in self.out_indices:
            raise UserError(
                f"neck.out_indices={list(out_indices)} must name some of {len(strides)} levels, the last among them; "
                f"give numbers from 0 to {last}"
            )
        self.out_channels = tuple(in_channels[index] for index in self.out_indices)
        self.strides = tuple(strides[index] for index in self.out_indices)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """The levels of ``out_indices``, finest first."""
        levels = self.fused(features)
        return [levels[index] for index in self.out_indices]
