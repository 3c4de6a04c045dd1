"""HRNet: parallel branches of four resolutions that exchange features again and again."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from timm.models.resnet import BasicBlock, Bottleneck
from torch import Tensor, nn

from lightpose.errors import UserError
from lightpose.models.backbones.layers import check_divides, init_convs
from lightpose.models.backbones.timm import create_timm, select_levels
from lightpose.models.base import FeatureModule
from lightpose.models.weights import fit_weights, load_weights

MODULES = (1, 4, 3)  # of stages 2, 3 and 4
BLOCKS = 4  # in front of the branches, and of each branch of a module


class HighResolutionNet(FeatureModule):
    """The trunk of HRNet and of networks that differ from it in their modules.

    (B, 3, H, W) normalised RGB to maps of strides 4 to 32. The last module computes only the maps asked for.

    Args:
        channels: of the four branches, finest first.
        bottlenecks: in front of the branches.
        modules: how many there are in stages 2, 3 and 4.
        module: builds one from the channels of its branches and the maps it gives; it takes and gives lists of maps.
        out_indices: which of the four maps to give, finest first; negative ones count from the end; None gives all.

    Raises:
        UserError: for an index that isn't there.
    """

    def __init__(
        self,
        channels: Sequence[int],
        bottlenecks: int,
        modules: Sequence[int],
        module: Callable[[Sequence[int], Sequence[int]], nn.Module],
        out_indices: Sequence[int] | None,
    ) -> None:
        super().__init__()
        strides = [4 * 2**i for i in range(4)]
        self.out_indices = select_levels(out_indices, strides)
        self.out_channels = tuple(channels[i] for i in self.out_indices)
        self.strides = tuple(strides[i] for i in self.out_indices)

        self.conv1 = nn.Conv2d(3, 64, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.conv2 = nn.Conv2d(64, 64, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        widen = nn.Sequential(nn.Conv2d(64, 256, 1, bias=False), nn.BatchNorm2d(256))
        self.layer1 = nn.Sequential(
            Bottleneck(64, 64, downsample=widen), *(Bottleneck(256, 64) for _ in range(bottlenecks - 1))
        )
        self.transition1 = nn.ModuleDict(
            {"0": conv_bn_relu(256, channels[0]), "1": nn.Sequential(conv_bn_relu(256, channels[1], stride=2))}
        )
        self.transition2 = nn.ModuleDict({"2": nn.Sequential(conv_bn_relu(channels[1], channels[2], stride=2))})
        self.transition3 = nn.ModuleDict({"3": nn.Sequential(conv_bn_relu(channels[2], channels[3], stride=2))})
        self.stage2, self.stage3, self.stage4 = (
            nn.Sequential(
                *(module(channels[:branches], range(branches)) for _ in range(count - 1)),
                module(channels[:branches], self.out_indices if branches == 4 else range(branches)),
            )
            for branches, count in zip((2, 3, 4), modules, strict=True)
        )
        init_convs(self)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) to the maps of ``out_indices``."""
        x = self.relu(self.bn1(self.conv1(images)))
        x = self.layer1(self.relu(self.bn2(self.conv2(x))))
        maps: list[Tensor] = self.stage2([self.transition1["0"](x), self.transition1["1"](x)])
        maps = self.stage3([*maps, self.transition2["2"](maps[-1])])
        maps = self.stage4([*maps, self.transition3["3"](maps[-1])])
        return maps


class HRNet(HighResolutionNet):
    """High-resolution network (arXiv:1902.09212, arXiv:1908.07919).

    (B, 3, H, W) normalised RGB to maps of ``width * 2**i`` channels at stride ``4 * 2**i``. H and W must divide by 32.
    Tensors are called as in the published code, so published ImageNet and pose weights fit by name. The last fusion
    computes only the maps asked for; what no map needs does not exist.

    Args:
        width: channels of the finest branch: 18, 32 and 48 are published.
        out_indices: which of the four maps to give, finest first; negative ones count from the end; None gives all.
        pretrained: start from timm's ImageNet weights of this width.
        weights: start from this file instead (`lightpose.models.weights.load_weights`).
        input_hw: input size, to be refused here if it doesn't divide.
        upsample: how coarse maps are enlarged before they are added up: ``nearest``, or ``bilinear`` as in HRNetV2 for
            faces and hands.

    Raises:
        UserError: for an input size that doesn't divide, an index that isn't there, or weights that can't be had.
    """

    def __init__(
        self,
        width: int = 32,
        out_indices: Sequence[int] | None = (0,),
        *,
        pretrained: bool = False,
        weights: str | Path | None = None,
        input_hw: Sequence[int] | None = None,
        upsample: Literal["nearest", "bilinear"] = "nearest",
    ) -> None:
        check_divides("HRNet", input_hw)
        if upsample not in ("nearest", "bilinear"):
            raise UserError(f"backbone.upsample={upsample!r} is unknown; use nearest or bilinear")
        super().__init__(
            [width * 2**i for i in range(4)], BLOCKS, MODULES, partial(_basic_module, upsample=upsample), out_indices
        )
        if weights is not None:
            load_weights(self, weights)
        elif pretrained:
            source = f"hrnet_w{width}"
            fit_weights(self, create_timm(source, pretrained=True).state_dict(), f"timm's {source}")


class HighResolutionModule(nn.Module):
    """What every branch does for itself, then an exchange.

    Args:
        branches: each keeps the shape of its map.
        fusion: of the branches.
    """

    def __init__(self, branches: Iterable[nn.Module], fusion: "Fusion") -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)
        self.fuse_layers = fusion

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Maps of all branches to those that the fusion gives."""
        fused: list[Tensor] = self.fuse_layers([branch(x) for branch, x in zip(self.branches, maps, strict=True)])
        return fused


class Fusion(nn.ModuleDict):
    """Every map of ``rows`` becomes the sum of all maps, brought to its channels and its resolution.

    Args:
        channels: of the maps, finest first.
        rows: maps to fuse into, in the order they are given out.
        halving: builds what halves a map from its channels in, its channels out and ``stride=2``, a ReLU at its end.
        upsampling: how coarse maps are enlarged.
    """

    def __init__(
        self,
        channels: Sequence[int],
        rows: Sequence[int],
        halving: Callable[..., nn.Sequential],
        upsampling: str = "nearest",
    ) -> None:
        super().__init__(
            {
                str(row): nn.ModuleDict(
                    {
                        str(column): _bring(channels, row, column, halving, upsampling)
                        for column in range(len(channels))
                        if column != row
                    }
                )
                for row in rows
            }
        )
        self.rows = tuple(rows)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """All maps to those of ``rows``."""
        sums = []
        for row in self.rows:
            parts = self.parts(maps, row)
            sums.append(torch.relu(sum(parts[1:], parts[0])))
        return sums

    def parts(self, maps: list[Tensor], row: int) -> list[Tensor]:
        """All maps, finest first, as they are added up in ``row``."""
        layers: Mapping[str, nn.Module] = self[str(row)]  # type: ignore[assignment]
        return [x if column == row else layers[str(column)](x) for column, x in enumerate(maps)]


def _basic_module(channels: Sequence[int], rows: Sequence[int], upsample: str) -> HighResolutionModule:
    branches = [nn.Sequential(*(BasicBlock(width, width) for _ in range(BLOCKS))) for width in channels]
    return HighResolutionModule(branches, Fusion(channels, rows, conv_bn_relu, upsample))


def conv_bn_relu(in_channels: int, out_channels: int, stride: int = 1) -> nn.Sequential:
    """3x3 convolution, batch norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


def _bring(
    channels: Sequence[int], row: int, column: int, halving: Callable[..., nn.Sequential], upsampling: str
) -> nn.Sequential:
    """Brings the map ``column`` to the channels and the resolution of the map ``row``."""
    if column > row:
        return nn.Sequential(
            nn.Conv2d(channels[column], channels[row], 1, bias=False),
            nn.BatchNorm2d(channels[row]),
            nn.Upsample(scale_factor=float(2 ** (column - row)), mode=upsampling),
        )
    halvings = [halving(channels[column], channels[column], stride=2) for _ in range(row - column - 1)]
    last = halving(channels[column], channels[row], stride=2)[:-1]
    return nn.Sequential(*halvings, last)
