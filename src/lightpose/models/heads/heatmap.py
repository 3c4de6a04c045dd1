"""Heads that emit maps."""

import math
from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from lightpose.errors import UserError
from lightpose.models.base import Criterion, Head
from lightpose.structures import Spec


class HeatmapHead(Head):
    """One map per keypoint from the finest feature map of the last stage; others are not used.

    How far to upsample follows from the strides. Where the input is no multiple of a stride, feature maps reach past
    the input on the right and bottom, and the outputs are cut to the size that the codec expects. Inputs of another
    size give maps of another size; their sides must divide by the stride.

    Args:
        in_channels: channels of each feature map.
        strides: of each feature map.
        spec: what the codec expects.
        criterion: the loss.
        upsample: ``deconv`` doubles the size with transposed 4x4 convolutions as often as it takes, then a 1x1
            convolution (arXiv:1804.06208); ``bilinear`` resizes at once, then a 3x3 convolution (arXiv:2204.12484).
        channels: of each transposed convolution.
        stages: how often the features go through these maps.
        groups: of each transposed convolution.
        hidden: channels of a 1x1 convolution before the last, with batch norm, as in HRNetV2; None for no such layer.

    Raises:
        UserError: when the features can't be upsampled to the map's size.
    """

    emits = frozenset({"heatmap"})

    def __init__(
        self,
        in_channels: Sequence[int],
        strides: Sequence[int],
        spec: Spec,
        criterion: Criterion,
        upsample: Literal["deconv", "bilinear"] = "deconv",
        channels: int = 256,
        stages: int = 1,
        groups: int = 1,
        hidden: int | None = None,
    ) -> None:
        super().__init__()
        self.criterion = criterion
        maps = self.emits - {"keypoints"}  # means of maps have none of their own
        self.shapes = {name: map_shape(spec, name) for name in sorted(maps)}
        finest = min(range(len(strides)), key=lambda level: strides[level])
        self.level = finest - len(strides)  # counted from the end: of the last stage
        width = in_channels[self.level]
        self.map_hw: tuple[int, ...] = self.shapes["heatmap"][-2:]
        factor = upsampling(strides[self.level], spec, self.map_hw)
        assert spec.input_hw is not None
        self.padded_hw = tuple(int(-(-side // strides[self.level]) * factor) for side in spec.input_hw)
        if upsample == "deconv":
            self.upsample, width = deconvs(factor, width, channels, groups)
        elif upsample == "bilinear":
            self.upsample = nn.Sequential(nn.ReLU(), nn.Upsample(scale_factor=factor, mode="bilinear"))
        else:
            raise UserError(f"head.upsample={upsample!r} is unknown; use deconv or bilinear")
        self.hidden = nn.Sequential()
        if hidden is not None:
            self.hidden.extend([nn.Conv2d(width, hidden, 1), nn.BatchNorm2d(hidden), nn.ReLU(inplace=True)])
            width = hidden
        kernel = 1 if upsample == "deconv" else 3
        self.sizes = [math.prod(shape[:-2]) for shape in self.shapes.values()]
        self.final = nn.Conv2d(width, sum(self.sizes), kernel, padding=kernel // 2)
        start_small(self.final)

    def forward(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """Outputs by name, shaped (B, *spec.outputs[name])."""
        maps = self.final(self.hidden(self.upsample(features[self.level])))  # (B, sum of sizes, h, w)
        if tuple(maps.shape[-2:]) == self.padded_hw:
            maps = maps[..., : self.map_hw[0], : self.map_hw[1]]
        parts = maps.split(self.sizes, 1)
        return {
            name: part.unflatten(1, shape[:-2]) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }


class HeatmapOffsetHead(HeatmapHead):
    """`HeatmapHead` that emits ``offset`` (K, 2, h, w) next to ``heatmap`` (arXiv:1911.07524)."""

    emits = frozenset({"heatmap", "offset"})


def map_shape(spec: Spec, name: str) -> tuple[int, ...]:
    """Shape of the maps that the codec expects.

    Raises:
        UserError: where they are no maps, or their size is not known.
    """
    shape = spec.outputs[name] or ()
    known = tuple(side for side in shape if side is not None)
    if len(known) < 3 or len(known) < len(shape):
        raise UserError(f"a heatmap head emits maps of known size, but the codec says of {name} {spec.outputs[name]}")
    return known


def upsampling(stride: int, spec: Spec, map_hw: tuple[int, ...]) -> float:
    """How many times larger the codec's maps are than feature maps of ``stride``.

    Raises:
        UserError: where they are smaller, or inputs are not images.
    """
    if spec.input_hw is None:
        raise UserError("a heatmap head needs a codec of images, but this codec's spec has no input_hw")
    factor = stride * map_hw[0] / spec.input_hw[0]
    if factor < 1:
        raise UserError(
            f"the backbone's features have stride {stride}, finer than the codec's maps of size {list(map_hw)} for "
            f"input_hw={list(spec.input_hw)}; set codec.stride={stride}, or "
            "choose a coarser level with backbone.out_indices"
        )
    return factor


def deconvs(factor: float, in_channels: int, channels: int, groups: int = 1) -> tuple[nn.Sequential, int]:
    """Transposed convolutions that upsample by ``factor``, and their output channels.

    Raises:
        UserError: for a factor that is no power of two, and for groups that don't divide the channels.
    """
    steps = round(math.log2(factor))
    if 2**steps != factor:
        raise UserError(
            f"head.upsample=deconv doubles sizes and can't upsample {factor:g} times; use head.upsample=bilinear, "
            "or a codec.stride that is the features' stride divided by a power of two"
        )
    if steps and (in_channels % groups or channels % groups):
        raise UserError(
            f"head.groups={groups} must divide the features' {in_channels} channels and head.channels={channels}"
        )
    layers: list[nn.Module] = []
    for width in [in_channels, *[channels] * (steps - 1)] if steps else []:
        deconv = nn.ConvTranspose2d(width, channels, 4, stride=2, padding=1, groups=groups, bias=False)
        start_small(deconv)
        layers += [deconv, nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers), channels if steps else in_channels


def start_small(conv: nn.Conv2d | nn.ConvTranspose2d) -> None:
    """Small weights and no bias, so that training starts with outputs near zero."""
    nn.init.normal_(conv.weight, std=0.001)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
