"""The two contracts of network parts."""

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from lightpose.structures import Targets

Criterion = Callable[[dict[str, Tensor], Targets], dict[str, Tensor]]
"""A loss: the head's outputs and the codec's targets in, named scalars out."""


class FeatureModule(nn.Module):
    """A backbone (image in) or a neck (features in): a list of feature maps out.

    Attributes:
        out_channels: channels of each feature map.
        strides: input pixels per cell of each feature map, finest first.
    """

    out_channels: tuple[int, ...]
    strides: tuple[int, ...]


class Head(nn.Module):
    """Features in, the codec's outputs out.

    Built by `PoseNet` with ``in_channels``, ``strides`` and ``spec`` next to its own options.

    Attributes:
        emits: names of the outputs; must equal those of the codec's spec.
        criterion: the loss.
    """

    emits: ClassVar[frozenset[str]]
    criterion: Criterion

    def forward(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """Outputs by name, shaped (B, *spec.outputs[name])."""
        raise NotImplementedError

    def loss(self, features: Sequence[Tensor], targets: Targets) -> dict[str, Tensor]:
        """Named scalar losses, computed in float32 under autocast; their sum is minimised."""
        outputs = self(features)
        with torch.autocast(features[0].device.type, enabled=False):
            return self.criterion({name: output.float() for name, output in outputs.items()}, targets)
