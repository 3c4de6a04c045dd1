"""The trunk of networks that are a ResNet of other blocks."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from lightpose.models.backbones.layers import init_convs
from lightpose.models.backbones.timm import select_levels
from lightpose.models.base import FeatureModule

STRIDES = (4, 8, 16, 32)


class ResNetTrunk(FeatureModule):
    """(B, 3, H, W) normalised RGB to maps at strides 4, 8, 16 and 32, of any input size.

    Args:
        stem: channels of the stem.
        channels: of the four maps.
        blocks: how many each of the four layers has.
        block: builds the block of a layer from the layer's index, its channels in and out, its stride, and what brings
            the block's input to the shape of its output.
        out_indices: which of the maps to give, finest first; negative ones count from the end; None gives all. Layers
            behind the last of them don't exist.

    Raises:
        UserError: for an index that isn't there.
    """

    def __init__(
        self,
        stem: int,
        channels: Sequence[int],
        blocks: Sequence[int],
        block: Callable[[int, int, int, int, nn.Module], nn.Module],
        out_indices: Sequence[int] | None,
    ) -> None:
        super().__init__()
        self.out_indices = select_levels(out_indices, STRIDES)
        self.out_channels = tuple(channels[i] for i in self.out_indices)
        self.strides = tuple(STRIDES[i] for i in self.out_indices)
        self.conv1 = nn.Conv2d(3, stem, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        before = stem
        for layer in range(self.out_indices[-1] + 1):
            width, stride = channels[layer], 1 if layer == 0 else 2
            shortcut = nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width))
            first = block(layer, before, width, stride, shortcut)
            others = (block(layer, width, width, 1, nn.Identity()) for _ in range(blocks[layer] - 1))
            self.add_module(f"layer{layer + 1}", nn.Sequential(first, *others))
            before = width
        init_convs(self)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) to the maps of ``out_indices``."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        maps = []
        for layer in range(self.out_indices[-1] + 1):
            maps.append(x := self.get_submodule(f"layer{layer + 1}")(x))
        return [maps[i] for i in self.out_indices]
