"""The head that emits joints in space, and where their root is."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightpose.models.heads.lifting import LiftingHead


class TrajectoryHead(LiftingHead):
    """``joints`` as `LiftingHead` from the last features, and ``root`` (3,) from those before (arXiv:1811.11742).

    Args:
        in_channels: channels of the features.
        options: see `LiftingHead`. The criterion may need ``points`` and ``camera``, too.
    """

    emits = frozenset({"joints", "root"})

    def __init__(self, in_channels: Sequence[int], **options: Any) -> None:
        super().__init__(in_channels, **options)
        self.place = nn.Linear(in_channels[0], 3)

    @property
    def needs(self) -> frozenset[str]:
        """Names of the targets that the loss reads."""
        return self.emits | {"points", "camera"}

    def forward(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """Outputs by name, shaped (B, *spec.outputs[name]); not rounded under autocast."""
        first = features[0]
        with torch.autocast(first.device.type, enabled=False):
            root = self.place(first[..., first.shape[-1] // 2].to(self.place.weight.dtype))
        return {**super().forward(features), "root": root}
