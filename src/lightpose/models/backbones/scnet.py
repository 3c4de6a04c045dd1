"""SCNet: a ResNet whose convolutions calibrate themselves by what they see at a coarser resolution."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from lightpose.models.backbones.resnet import ResNetTrunk
from lightpose.models.weights import load_weights

CHANNELS = (256, 512, 1024, 2048)
POOLING = 4


class SCNet(ResNetTrunk):
    """SCNet (CVPR 2020, "Improving Convolutional Networks with Self-Calibrated Convolutions").

    (B, 3, H, W) normalised RGB to maps of 256, 512, 1024 and 2048 channels at strides 4 to 32, of any input size.
    Tensors are called as in the published code, so published pose weights fit by name.

    Args:
        blocks: of each layer: 3, 4, 6, 3 in SCNet-50, and 3, 4, 23, 3 in SCNet-101.
        out_indices: which of the four maps to give, finest first; negative ones count from the end; None gives all.
            Layers behind the last of them don't exist.
        weights: file to start from (`lightpose.models.weights.load_weights`).

    Raises:
        UserError: for an index that isn't there, or weights that can't be had.
    """

    def __init__(
        self,
        blocks: Sequence[int] = (3, 4, 6, 3),
        out_indices: Sequence[int] | None = (-1,),
        *,
        weights: str | Path | None = None,
    ) -> None:
        super().__init__(64, CHANNELS, blocks, SCBottleneck, out_indices)
        if weights is not None:
            load_weights(self, weights)


class SCBottleneck(nn.Module):
    """Bottleneck of two halves: a plain 3x3 convolution, and a self-calibrated one."""

    def __init__(self, layer: int, in_channels: int, out_channels: int, stride: int, shortcut: nn.Module) -> None:
        super().__init__()
        half = out_channels // 8
        self.conv1 = nn.Conv2d(in_channels, half, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(half)
        self.k1 = _conv_bn(half, stride)
        self.conv2 = nn.Conv2d(in_channels, half, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.scconv = SelfCalibrated(half, stride)
        self.conv3 = nn.Conv2d(2 * half, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, h, w) to (B, out_channels, h / stride, w / stride)."""
        plain = torch.relu(self.k1(torch.relu(self.bn1(self.conv1(x)))))
        calibrated = torch.relu(self.scconv(torch.relu(self.bn2(self.conv2(x)))))
        y = self.bn3(self.conv3(torch.cat([plain, calibrated], 1)))
        return torch.relu(y + self.downsample(x))


class SelfCalibrated(nn.Module):
    """A convolution, weighted by what another one sees at a quarter of the resolution, then a third one."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.k2 = nn.Sequential(Pool(), *_conv_bn(channels))
        self.k3 = _conv_bn(channels)
        self.k4 = _conv_bn(channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to (B, C, h / stride, w / stride)."""
        weights = torch.sigmoid(x + functional.interpolate(self.k2(x), x.shape[-2:]))
        y: Tensor = self.k4(self.k3(x) * weights)
        return y


class Pool(nn.Module):
    """Mean of windows of 4x4; maps smaller than that have a single one."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to (B, C, h // 4, w // 4)."""
        return functional.avg_pool2d(x, [min(POOLING, side) for side in x.shape[-2:]])


def _conv_bn(channels: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False), nn.BatchNorm2d(channels))
