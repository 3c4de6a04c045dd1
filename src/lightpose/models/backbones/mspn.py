"""MSPN: stages of a network that goes down and up, each of which gets what the one before it saw."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from lightpose.errors import UserError
from lightpose.models.backbones.layers import conv_norm, init_convs
from lightpose.models.base import FeatureModule
from lightpose.models.weights import load_weights

STEM = 64
STRIDES = (4, 8, 16, 32)


class DownAndUp(FeatureModule):
    """The trunk of MSPN and of networks that differ from it in their blocks.

    (B, 3, H, W) normalised RGB to maps of ``width`` channels at strides 4 to 32 from each stage, of any input size.

    Args:
        name: of the list of stages in published weights.
        stages: how many there are.
        blocks: on the way down, of each of the four layers of a stage.
        channels: that the four layers give.
        width: channels on the way up.
        block: builds a block from its channels in and out, its stride, and what brings its input to the shape of its
            output.
        weights: file to start from (`lightpose.models.weights.load_weights`).

    Raises:
        UserError: for less than one stage, not four layers, or weights that can't be had.
    """

    def __init__(
        self,
        name: str,
        stages: int,
        blocks: Sequence[int],
        channels: Sequence[int],
        width: int,
        block: Callable[[int, int, int, nn.Module | None], nn.Module],
        weights: str | Path | None = None,
    ) -> None:
        super().__init__()
        if stages < 1 or len(blocks) != len(STRIDES) or len(channels) != len(STRIDES):
            raise UserError(
                f"backbone.stages={stages} must be at least 1, and backbone.blocks={list(blocks)} and "
                f"backbone.channels={list(channels)} four numbers each"
            )
        self.stages, self.out_channels, self.strides = stages, (width,) * len(STRIDES), STRIDES
        self.name = name
        stem = nn.Sequential(conv_norm(3, STEM, 7, stride=2), nn.MaxPool2d(3, stride=2, padding=1))
        self.top = nn.Sequential(OrderedDict(top=stem))
        self.add_module(
            name, nn.ModuleList(Stage(blocks, channels, width, block, stage < stages - 1) for stage in range(stages))
        )
        init_convs(self)
        if weights is not None:
            load_weights(self, weights)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) to the maps of each stage, finest first."""
        x, skips, maps = self.top(images), None, []
        for stage in self.get_submodule(self.name).children():
            here, skips, x = stage(x, skips)
            maps += here
        return maps


class MSPN(DownAndUp):
    """Multi-stage pose network (arXiv:1901.00148): (B, 3, H, W) normalised RGB to the maps of `DownAndUp`.

    Tensors are called as in the published code, so published pose weights fit by name.

    Args:
        stages: how many there are.
        blocks: bottlenecks of each of the four layers of a stage.
        channels: that these layers give.
        width: channels of the maps.
        weights: file to start from (`lightpose.models.weights.load_weights`).

    Raises:
        UserError: for less than one stage, or weights that can't be had.
    """

    def __init__(
        self,
        stages: int = 1,
        blocks: Sequence[int] = (3, 4, 6, 3),
        channels: Sequence[int] = (256, 512, 1024, 2048),
        width: int = 256,
        *,
        weights: str | Path | None = None,
    ) -> None:
        super().__init__("multi_stage_mspn", stages, blocks, channels, width, Bottleneck, weights)


class Stage(nn.Module):
    """Four layers down, four maps up.

    Args:
        blocks: see `DownAndUp`.
        channels: see `DownAndUp`.
        width: see `DownAndUp`.
        block: see `DownAndUp`.
        another: whether a stage follows, to which this one gives what it saw.
    """

    def __init__(
        self,
        blocks: Sequence[int],
        channels: Sequence[int],
        width: int,
        block: Callable[[int, int, int, nn.Module | None], nn.Module],
        another: bool,
    ) -> None:
        super().__init__()
        self.downsample, self.upsample = nn.ModuleDict(), nn.ModuleDict()
        before = STEM
        for index, (count, after) in enumerate(zip(blocks, channels, strict=True)):
            stride = 2 if index else 1
            changes = stride > 1 or before != after
            shortcut = conv_norm(before, after, stride=stride, activation=None) if changes else None
            others = (block(after, after, 1, None) for _ in range(count - 1))
            self.downsample[f"layer{index + 1}"] = nn.Sequential(block(before, after, stride, shortcut), *others)
            before = after
        for index, below in enumerate(reversed(channels)):
            self.upsample[f"up{index + 1}"] = Rise(below, width, coarsest=index == 0, skips=another)
        if another:
            self.upsample["up4"].add_module("cross_conv", conv_norm(width, STEM))
        self.another = another

    def forward(self, x: Tensor, skips: list[Tensor] | None) -> tuple[list[Tensor], list[Tensor] | None, Tensor]:
        """The maps, finest first, and what the next stage takes: sums to add to its layers, and its input.

        Args:
            x: (B, 64, H/4, W/4).
            skips: from the stage before, one for each layer.
        """
        down: list[Tensor] = []
        for index, layer in enumerate(self.downsample.values()):
            x = layer(x)
            if skips is not None:
                x = x + skips[index]
            down.append(x)
        rises: list[Rise] = list(self.upsample.values())  # type: ignore[arg-type]
        up: list[Tensor] = []
        for rise, below in zip(rises, down[::-1], strict=True):
            up.append(rise(below, up[-1] if up else None))
        if not self.another:
            return up[::-1], None, x
        given = [rise.give(below, above) for rise, below, above in zip(rises, down[::-1], up, strict=True)]
        return up[::-1], given[::-1], self.upsample["up4"].get_submodule("cross_conv")(up[-1])


class Rise(nn.Module):
    """A map from the way down, and the coarser map from the way up, added.

    Args:
        below: channels from the way down.
        width: channels on the way up.
        coarsest: whether there is no coarser map.
        skips: whether there are convolutions of what the next stage gets.
    """

    def __init__(self, below: int, width: int, coarsest: bool, skips: bool) -> None:
        super().__init__()
        self.in_skip = conv_norm(below, width, activation=None)
        if not coarsest:
            self.up_conv = conv_norm(width, width, activation=None)
        if skips:
            self.out_skip1, self.out_skip2 = conv_norm(below, below), conv_norm(width, below)

    def forward(self, below: Tensor, coarser: Tensor | None) -> Tensor:
        """(B, width, h, w)."""
        x: Tensor = self.in_skip(below)
        if coarser is not None:
            x = x + self.up_conv(functional.interpolate(coarser, x.shape[-2:], mode="bilinear", align_corners=True))
        return torch.relu(x)

    def give(self, below: Tensor, above: Tensor) -> Tensor:
        """(B, below, h, w): what the next stage gets of this level."""
        sums: Tensor = self.out_skip1(below) + self.out_skip2(above)
        return sums


class Bottleneck(nn.Module):
    """The bottleneck of ResNet; its shortcut is called as in published weights of MSPN."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, shortcut: nn.Module | None) -> None:
        super().__init__()
        narrow = out_channels // 4
        self.conv1 = nn.Conv2d(in_channels, narrow, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(narrow)
        self.conv2 = nn.Conv2d(narrow, narrow, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(narrow)
        self.conv3 = nn.Conv2d(narrow, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample = shortcut or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, h, w) to (B, out_channels, h / stride, w / stride)."""
        y = torch.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(torch.relu(self.bn2(self.conv2(y)))))
        return torch.relu(y + self.downsample(x))
