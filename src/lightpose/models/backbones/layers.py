"""What several backbones are made of."""

from collections import OrderedDict
from collections.abc import Callable, Container, Iterable, Sequence

import torch
from torch import Tensor, nn

from lightpose.errors import UserError


def conv_norm(
    in_channels: int,
    out_channels: int,
    kernel: int = 1,
    *,
    stride: int = 1,
    groups: int = 1,
    activation: Callable[[], nn.Module] | None = nn.ReLU,
    norm: Callable[[int], nn.Module] = nn.BatchNorm2d,
) -> nn.Sequential:
    """Convolution of the same size (but for its stride), batch norm, activation; called ``conv``, ``bn``, ``act``."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv=nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False),
        bn=norm(out_channels),
    )
    if activation is not None:
        layers["act"] = activation()
    return nn.Sequential(layers)


def separable(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    """3x3 convolution of each channel, batch norm, 1x1 convolution, batch norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, in_channels, 3, stride, padding=1, groups=in_channels, bias=False),
        nn.BatchNorm2d(in_channels),
        nn.Conv2d(in_channels, out_channels, 1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


class ChannelWeighting(nn.Module):
    """Multiplies every channel with a weight that the means of all channels decide on (arXiv:1709.01507).

    Args:
        channels: of the map.
        gate: brings the weights into the range from 0 to 1.
    """

    def __init__(self, channels: int, gate: Callable[[Tensor], Tensor] = torch.sigmoid) -> None:
        super().__init__()
        self.gate = gate
        narrow = channels // 4
        self.conv1 = nn.Sequential(OrderedDict(conv=nn.Conv2d(channels, narrow, 1)))
        self.conv2 = nn.Sequential(OrderedDict(conv=nn.Conv2d(narrow, channels, 1)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to the same shape."""
        mean = x.mean((2, 3), keepdim=True)  # (B, C, 1, 1)
        return x * self.gate(self.conv2(torch.relu(self.conv1(mean))))


def shuffle_channels(x: Tensor, groups: int) -> Tensor:
    """Channels of every group in turn (arXiv:1707.01083): (B, groups * n, h, w) to the same shape."""
    return x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


def init_convs(net: nn.Module) -> None:
    """Start convolutions so that ReLUs keep the variance of gradients (arXiv:1502.01852)."""
    for part in net.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")


def check_divides(name: str, input_hw: Sequence[int] | None, stride: int = 32) -> None:
    """Refuse an input size that a network can't halve down to its deepest stride.

    Raises:
        UserError: naming the nearest sizes that fit.
    """
    if input_hw is None or not any(side % stride for side in input_hw):
        return
    below = [max(side // stride, 1) * stride for side in input_hw]
    above = [-(-side // stride) * stride for side in input_hw]
    sizes = " or ".join(f"input_hw=[{h},{w}]" for h, w in dict.fromkeys([(*below,), (*above,)]))
    times = stride.bit_length() - 1
    raise UserError(
        f"{name} halves its input {times} times, so input_hw={list(input_hw)} must divide by {stride}; set {sizes}"
    )


def maps_of(stages: Iterable[nn.Module], x: Tensor, wanted: Container[int]) -> list[Tensor]:
    """What some of several stages give, which are applied one after the other.

    Args:
        stages: in their order.
        x: what the first one takes.
        wanted: numbers of the stages, from 0.
    """
    maps = []
    for number, stage in enumerate(stages):
        x = stage(x)
        if number in wanted:
            maps.append(x)
    return maps
