"""Heads that emit coordinates."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from lightpose.errors import UserError
from lightpose.models.base import Criterion, Head
from lightpose.structures import Spec


class RegressionHead(Head):
    """``keypoints`` (K, 2) from the mean of the coarsest feature map of the last stage (arXiv:1312.4659).

    Args:
        in_channels: channels of each feature map.
        strides: of each feature map.
        spec: what the codec expects.
        criterion: the loss.
        stages: how often the features go through these maps.

    Raises:
        UserError: when the codec's keypoints are not of the plane.
    """

    emits = frozenset({"keypoints"})
    numbers: ClassVar[int] = 2
    """How many a keypoint has."""

    def __init__(
        self, in_channels: Sequence[int], strides: Sequence[int], spec: Spec, criterion: Criterion, stages: int = 1
    ) -> None:
        super().__init__()
        self.criterion = criterion
        shape = spec.outputs["keypoints"]
        if shape is None or len(shape) != 2 or shape[0] is None or shape[1] != 2:
            raise UserError(f"a regression head emits keypoints of shape (K, 2), but the codec expects {shape}")
        coarsest = max(range(len(strides)), key=lambda level: strides[level])
        self.level = coarsest - len(strides)  # counted from the end: of the last stage
        self.count = shape[0]
        self.final = nn.Linear(in_channels[self.level], self.count * self.numbers)
        nn.init.normal_(self.final.weight, std=0.01)
        nn.init.zeros_(self.final.bias)

    def forward(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """Outputs by name, shaped (B, *spec.outputs[name])."""
        return {"keypoints": self.vectors(features)}

    def vectors(self, features: Sequence[Tensor]) -> Tensor:
        """(B, K, numbers), not rounded under autocast: bfloat16 can't tell neighbouring pixels apart."""
        maps = features[self.level]
        with torch.autocast(maps.device.type, enabled=False):
            mean = maps.to(self.final.weight.dtype).mean((-2, -1))  # (B, C)
            vectors: Tensor = self.final(mean)
        return vectors.unflatten(1, (self.count, self.numbers))


class RLEHead(RegressionHead):
    """`RegressionHead` that emits deviations ``sigmas`` (K, 2) between 0 and 1 as well (arXiv:2107.11291)."""

    emits = frozenset({"keypoints", "sigmas"})
    numbers = 4

    @property
    def needs(self) -> frozenset[str]:
        """Only ``keypoints``: deviations have no target."""
        return frozenset({"keypoints"})

    def forward(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """Outputs by name, shaped (B, *spec.outputs[name])."""
        keypoints, logits = self.vectors(features).split(2, -1)
        return {"keypoints": keypoints, "sigmas": logits.sigmoid()}
