"""The head that emits joints in space."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightpose.models.base import Criterion, Head
from lightpose.structures import Spec


class LiftingHead(Head):
    """``joints`` (K, 3) by a linear layer on the last features (B, C, T), of their middle frame.

    Args:
        in_channels: channels of the features.
        strides: not used.
        spec: what the codec expects.
        criterion: the loss.
        stages: not used, as the last features are of the last stage.
    """

    emits = frozenset({"joints"})

    def __init__(
        self, in_channels: Sequence[int], strides: Sequence[int], spec: Spec, criterion: Criterion, stages: int = 1
    ) -> None:
        super().__init__()
        self.criterion = criterion
        self.shape: Sequence[int] = spec.outputs["joints"]  # type: ignore[assignment]
        self.final = nn.Linear(in_channels[-1], self.shape[0] * self.shape[1])

    def forward(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """Outputs by name, shaped (B, *spec.outputs[name]); not rounded under autocast."""
        last = features[-1]
        with torch.autocast(last.device.type, enabled=False):
            numbers = self.final(last[..., last.shape[-1] // 2].to(self.final.weight.dtype))  # (B, K * 3)
        return {"joints": numbers.unflatten(1, self.shape)}
