"""The head that emits the joints of every frame in space."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightpose.models.base import Criterion, Head
from lightpose.structures import Spec


class MotionHead(Head):
    """``motion`` (T, K, 3) from the last features (B, C, T, K): a layer with tanh, and a linear one (arXiv:2210.06551).

    Args:
        in_channels: channels of the features.
        strides: not used.
        spec: what the codec expects.
        criterion: the loss.
        representation: channels between the two layers.
        stages: not used, as the last features are of the last stage.
    """

    emits = frozenset({"motion"})

    def __init__(
        self,
        in_channels: Sequence[int],
        strides: Sequence[int],
        spec: Spec,
        criterion: Criterion,
        representation: int = 512,
        stages: int = 1,
    ) -> None:
        super().__init__()
        self.criterion = criterion
        _, _, dims = spec.outputs["motion"]  # type: ignore[misc]
        self.hidden, self.final = nn.Linear(in_channels[-1], representation), nn.Linear(representation, dims or 3)

    def forward(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """Outputs by name, shaped (B, *spec.outputs[name]); not rounded under autocast."""
        last = features[-1].permute(0, 2, 3, 1)  # (B, T, K, C)
        with torch.autocast(last.device.type, enabled=False):
            return {"motion": self.final(torch.tanh(self.hidden(last.to(self.final.weight.dtype))))}
