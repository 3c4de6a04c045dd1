"""ViPNAS: a ResNet and a MobileNetV3 whose widths, depths and kernels were searched for pose estimation."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from lightpose.models.backbones.layers import ChannelWeighting, conv_norm, init_convs
from lightpose.models.backbones.resnet import ResNetTrunk
from lightpose.models.base import FeatureModule
from lightpose.models.weights import load_weights

CHANNELS = (80, 160, 304, 608)
BLOCKS = (4, 6, 7, 3)
KERNELS = (3, 5, 5, 5)
ATTENTION = (True, False, True, True)
GROUPS = 16


class ViPNASResNet(ResNetTrunk):
    """ViPNAS-Res50 (arXiv:2105.10154).

    (B, 3, H, W) normalised RGB to maps of 80, 160, 304 and 608 channels at strides 4 to 32, of any input size. Tensors
    are called as in the published code, so published pose weights fit by name.

    Args:
        out_indices: which of the four maps to give, finest first; negative ones count from the end; None gives all.
            Layers behind the last of them don't exist.
        weights: file to start from (`lightpose.models.weights.load_weights`).

    Raises:
        UserError: for an index that isn't there, or weights that can't be had.
    """

    def __init__(self, out_indices: Sequence[int] | None = (-1,), *, weights: str | Path | None = None) -> None:
        super().__init__(48, CHANNELS, BLOCKS, ViPNASBottleneck, out_indices)
        if weights is not None:
            load_weights(self, weights)


class ViPNASBottleneck(nn.Module):
    """Bottleneck as wide as its output, with a grouped convolution and, in most layers, attention at its end."""

    def __init__(self, layer: int, in_channels: int, out_channels: int, stride: int, shortcut: nn.Module) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        kernel = KERNELS[layer]
        self.conv2 = nn.Conv2d(
            out_channels, out_channels, kernel, stride, padding=kernel // 2, groups=GROUPS, bias=False
        )
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv3 = nn.Conv2d(out_channels, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.attention = ContextBlock(out_channels) if ATTENTION[layer] else nn.Identity()
        self.downsample = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, h, w) to (B, out_channels, h / stride, w / stride)."""
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        y = self.attention(self.bn3(self.conv3(y)))
        return torch.relu(y + self.downsample(x))


class ContextBlock(nn.Module):
    """Adds to every cell what the whole map, by its own choice of cells, says (arXiv:1904.11492)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        narrow = max(channels // 16, 16)
        self.conv_mask = nn.Conv2d(channels, 1, 1)
        self.channel_add_conv = nn.Sequential(
            nn.Conv2d(channels, narrow, 1), nn.LayerNorm([narrow, 1, 1]), nn.ReLU(), nn.Conv2d(narrow, channels, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to the same shape."""
        share = self.conv_mask(x).flatten(1).softmax(1)  # (B, h * w)
        context = torch.einsum("bcn,bn->bc", x.flatten(2), share)[..., None, None]  # (B, C, 1, 1)
        added: Tensor = x + self.channel_add_conv(context)
        return added


@dataclass(frozen=True, slots=True)
class Stage:
    """Four inverted residuals of ViPNAS-MobileNetV3 (the first stage has one), the first of them with a stride."""

    channels: int
    expansion: int
    kernel: int
    groups: int
    stride: int
    attention: bool = True
    activation: type[nn.Module] = nn.Hardswish
    blocks: int = 4


STEM = 16
STAGES = (
    Stage(16, expansion=1, kernel=3, groups=8, stride=1, activation=nn.ReLU, blocks=1),
    Stage(24, expansion=5, kernel=7, groups=120, stride=2, activation=nn.ReLU),
    Stage(40, expansion=4, kernel=7, groups=20, stride=2, activation=nn.ReLU, attention=False),
    Stage(80, expansion=5, kernel=5, groups=100, stride=2),
    Stage(112, expansion=5, kernel=7, groups=280, stride=1),
    Stage(160, expansion=6, kernel=5, groups=240, stride=2),
)


class ViPNASMobileNetV3(FeatureModule):
    """ViPNAS-MobileNetV3 (arXiv:2105.10154).

    (B, 3, H, W) normalised RGB to one map of 160 channels at stride 32, of any input size. Tensors are called as in the
    published code, so published pose weights fit by name.

    Args:
        weights: file to start from (`lightpose.models.weights.load_weights`).

    Raises:
        UserError: for weights that can't be had.
    """

    out_channels = (STAGES[-1].channels,)
    strides = (32,)

    def __init__(self, *, weights: str | Path | None = None) -> None:
        super().__init__()
        layers: OrderedDict[str, nn.Module] = OrderedDict(
            conv1=conv_norm(3, STEM, 3, stride=2, activation=nn.Hardswish)
        )
        before = STEM
        for stage in STAGES:
            for block in range(stage.blocks):
                layers[f"layer{len(layers)}"] = InvertedResidual(before, stage, stage.stride if block == 0 else 1)
                before = stage.channels
        for name, layer in layers.items():
            self.add_module(name, layer)
        init_convs(self)
        if weights is not None:
            load_weights(self, weights)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) to one map (B, 160, H/32, W/32)."""
        x = images
        for layer in self.children():
            x = layer(x)
        return [x]


class InvertedResidual(nn.Module):
    """Widens, convolves in groups, weights channels and narrows again; added to its input where shapes agree."""

    def __init__(self, in_channels: int, stage: Stage, stride: int) -> None:
        super().__init__()
        wide, act = stage.channels * stage.expansion, stage.activation
        self.adds = stride == 1 and in_channels == stage.channels
        self.expand_conv = conv_norm(in_channels, wide, activation=act) if stage.expansion > 1 else nn.Identity()
        self.depthwise_conv = conv_norm(wide, wide, stage.kernel, stride=stride, groups=stage.groups, activation=act)
        self.se = ChannelWeighting(wide, _steep_sigmoid) if stage.attention else nn.Identity()
        self.linear_conv = conv_norm(wide, stage.channels, activation=None)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, h, w) to (B, channels, h / stride, w / stride)."""
        y: Tensor = self.linear_conv(self.se(self.depthwise_conv(self.expand_conv(x))))
        return x + y if self.adds else y


def _steep_sigmoid(x: Tensor) -> Tensor:
    """A line from 0 at -1 to 1 at 1; published weights were trained with it."""
    return ((x + 1) / 2).clamp(0, 1)
