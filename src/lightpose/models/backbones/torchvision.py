"""Classifiers of torchvision whose layers stand in a row, as backbones."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from lightpose.errors import UserError
from lightpose.models.backbones.layers import check_divides, init_convs
from lightpose.models.backbones.timm import select_levels
from lightpose.models.base import FeatureModule
from lightpose.models.weights import load_weights

FAMILIES = ("alexnet", "mobilenet_v2", "shufflenet_v2", "vgg")
CLASSIFIER = ("avgpool", "classifier", "fc")
PROBE = 64
"""Side of the image of zeros that tells the strides."""


class TorchvisionBackbone(FeatureModule):
    """MobileNetV2, ShuffleNetV2, VGG or AlexNet: normalised (B, 3, H, W) images to maps at strides from 4 to 32.

    Each is the deepest of its stride; layers behind the deepest map asked for don't exist. VGG and AlexNet drop the
    last rows and columns of maps that can't be halved, so their inputs must divide by the stride.

    Args:
        model: torchvision's name, e.g. ``mobilenet_v2``.
        pretrained: start from torchvision's ImageNet weights. They are downloaded once.
        weights: start from this file instead, in torchvision's naming (`lightpose.models.weights.load_weights`).
        out_indices: which maps to give, finest first; negative ones count from the end; None gives all.
        padding: pixels of zeros before and behind each axis, for a network whose maps would be smaller than its stride
            says: 15 and 16 for AlexNet.
        input_hw: input size, to be refused here if it must divide and doesn't.

    Raises:
        UserError: for another model, an input size that doesn't divide, an index that isn't there, or weights that
            can't be had.
    """

    def __init__(
        self,
        model: str,
        *,
        pretrained: bool = False,
        weights: str | Path | None = None,
        out_indices: Sequence[int] | None = (-1,),
        padding: Sequence[int] = (0, 0),
        input_hw: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.model = _create(model, pretrained and weights is None)
        if weights is not None:
            load_weights(self.model, weights)
        self.padding = [*padding, *padding]
        shapes = self._shapes(PROBE)
        found = {PROBE // side: i for i, (_, side) in enumerate(shapes) if side <= PROBE // 4 and PROBE % side == 0}
        self.levels = [list(found.values())[i] for i in select_levels(out_indices, list(found))]
        self.out_channels = tuple(shapes[i][0] for i in self.levels)
        self.strides = tuple(PROBE // shapes[i][1] for i in self.levels)
        for layer in list(self._row()._modules)[self.levels[-1] + 1 :]:
            delattr(self._row(), layer)
        _, rounded = self._shapes(PROBE + 1)[-1]
        if rounded == PROBE // self.strides[-1]:
            check_divides(model, input_hw, self.strides[-1])

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) to the maps of ``out_indices``."""
        return [x for i, x in enumerate(self._maps(images)) if i in self.levels]

    def _row(self) -> nn.Module:
        features = getattr(self.model, "features", self.model)
        assert isinstance(features, nn.Module)
        return features

    def _maps(self, images: Tensor) -> Iterator[Tensor]:
        """Of every layer in the row."""
        x = functional.pad(images, self.padding) if any(self.padding) else images
        for layer in self._row().children():
            x = layer(x)
            yield x

    @torch.no_grad()
    def _shapes(self, side: int) -> list[tuple[int, int]]:
        """Channels and height of the maps of every layer, of a square image."""
        self.eval()
        images = next(self.model.parameters()).new_zeros(1, 3, side, side)
        shapes = [(each.shape[1], each.shape[2]) for each in self._maps(images)]
        self.train()
        return shapes


def _create(name: str, pretrained: bool) -> nn.Module:
    """A model of torchvision without classifier."""
    names = [each for each in torchvision.models.list_models(torchvision.models) if each.startswith(FAMILIES)]
    if name not in names:
        raise UserError(
            f"backbone.model={name!r} is none of {', '.join(names)}; backbone=timm/any takes any model of timm"
        )
    if pretrained:
        return _without_classifier(_download(name))
    with torch.device("meta"):  # classifiers would take most of the time and memory
        model = _without_classifier(torchvision.models.get_model(name))
    model.to_empty(device=torch.get_default_device())
    for part in model.modules():
        reset = getattr(part, "reset_parameters", None)
        if callable(reset):
            reset()
    init_convs(model)
    return model


def _download(name: str) -> nn.Module:
    try:
        model: nn.Module = torchvision.models.get_model(name, weights="DEFAULT", progress=False)
    except OSError as error:
        raise UserError(
            f"the pretrained weights of {name} can't be had ({error}); connect this machine to the internet, or load a "
            "file with backbone.weights=FILE, or start from random weights with backbone.pretrained=false"
        ) from error
    return model


def _without_classifier(model: nn.Module) -> nn.Module:
    for part in CLASSIFIER:
        if hasattr(model, part):
            delattr(model, part)
    return model
