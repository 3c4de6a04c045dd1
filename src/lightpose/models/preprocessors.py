"""From stored pixels to network pixels, on the device."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from lightpose.errors import UserError


class Normalize(nn.Module):
    """Subtract the mean and divide by the standard deviation of each channel.

    Args:
        mean: of R, G, B on the 0 to 255 scale.
        std: likewise.
        order: of the channels that come out; some published weights take ``bgr``.

    Raises:
        UserError: for another order.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float], order: Literal["rgb", "bgr"] = "rgb") -> None:
        super().__init__()
        if order not in ("rgb", "bgr"):
            raise UserError(f"preprocessor.order={order!r} is unknown; use rgb or bgr")
        self.order = order
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 or float in, float32 out."""
        normal = (inputs.float() - self.mean) / self.std
        return normal.flip(-3) if self.order == "bgr" else normal


class StandardizeKeypoints(nn.Module):
    """Subtract the mean and divide by the standard deviation of each keypoint's place on the screen.

    Args:
        mean: (K, 2) x and y on the screen, see `lightpose.geometry.screen_from_image`.
        std: (K, 2) likewise.

    Raises:
        UserError: for statistics of different shapes, and for a deviation that isn't positive.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[Sequence[float]], std: Sequence[Sequence[float]]) -> None:
        super().__init__()
        if [len(row) for row in mean] != [len(row) for row in std] or {len(row) for row in mean} != {2}:
            raise UserError("preprocessor.mean and preprocessor.std need two numbers for each keypoint, both as many")
        if not all(value > 0 for row in std for value in row):
            raise UserError("preprocessor.std must be positive; give 1 where a keypoint doesn't move")
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32), persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, T, K, 3) in, whose last number is a confidence and stays; float32 out."""
        places, confidence = inputs.float().split([2, 1], -1)
        return torch.cat([(places - self.mean) / self.std, confidence], -1)
