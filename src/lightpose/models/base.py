"""The two contracts of network parts."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightpose.codecs.base import Codec
from lightpose.structures import Targets

Criterion = Callable[[dict[str, Tensor], Targets], dict[str, Tensor]]
"""A loss: the head's outputs and the codec's targets in, named scalars out."""


class FeatureModule(nn.Module):
    """A backbone (image in) or a neck (features in): a list of feature maps out.

    Attributes:
        out_channels: channels of each feature map.
        strides: input pixels per cell of each feature map, finest first.
        stages: how many times the list goes through these maps, for networks that predict again and again (Hourglass,
            MSPN): the maps of one stage stand together, those of the last stage at the end.
    """

    out_channels: tuple[int, ...]
    strides: tuple[int, ...]
    stages: int = 1


class Head(nn.Module):
    """Features in, the codec's outputs out.

    Built by `PoseNet` with ``in_channels``, ``strides``, ``stages`` and ``spec`` next to its own options.

    Attributes:
        emits: names of the outputs; must equal those of the codec's spec. A property where only the built head knows.
        criterion: the loss of outputs. Validation calls it with what was predicted from.
    """

    emits: frozenset[str]
    criterion: Criterion
    fast_call: Callable[..., dict[str, Tensor]] | None = None
    """What a call does in place of `plain_call`, see `lightpose.runtime.speed`."""

    def __call__(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """`forward`, or what stands in its place."""
        return (self.fast_call or self.plain_call)(features)

    def plain_call(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """`forward` without any acceleration."""
        outputs: dict[str, Tensor] = super().__call__(features)
        return outputs

    @property
    def needs(self) -> frozenset[str]:
        """Names of the targets that the loss reads; the codec's spec must have them."""
        return self.emits

    def forward(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """Outputs by name, shaped (B, *spec.outputs[name])."""
        raise NotImplementedError

    def loss(self, features: Sequence[Tensor], targets: Targets) -> dict[str, Tensor]:
        """Named scalar losses of training, whose sum is minimised.

        It takes features and not outputs, since some heads need the targets to compute outputs, or read every stage.
        """
        return self.compare(self(features), targets)

    def compare(self, outputs: dict[str, Tensor], targets: Targets) -> dict[str, Tensor]:
        """The criterion, in float32 under autocast."""
        device = next(iter(outputs.values())).device.type
        with torch.autocast(device, enabled=False):
            return self.criterion({name: output.float() for name, output in outputs.items()}, targets)

    def hand_over(self, codec: Any) -> None:
        """Give the codec what of the head it decodes with, once both are built; few heads have such a thing."""

    def flip_tested(
        self, outputs: dict[str, Tensor], features: Sequence[Tensor], mirrored: Sequence[Tensor], codec: Codec
    ) -> dict[str, Tensor]:
        """Outputs of an input together with its mirror image.

        Args:
            outputs: those of ``features``, in float32.
            features: of the input.
            mirrored: of its mirror image.
            codec: undoes the mirroring, and joins.
        """
        turned = {name: output.float() for name, output in self(mirrored).items()}
        return codec.merge(outputs, codec.flip(turned))
