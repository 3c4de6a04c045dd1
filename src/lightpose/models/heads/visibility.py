"""A head around another, that also says whether each keypoint can be seen."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from lightpose.errors import UserError
from lightpose.models.base import Head
from lightpose.models.heads.heatmap import start_small
from lightpose.models.net import PairError, build_head
from lightpose.structures import Spec, Targets

NAME = "visibility"


class VisibilityHead(Head):
    """A logit ``visibility`` (K) beside the outputs of another head.

    It is pooled from the last feature map (`PooledLogits`). The wrapped head learns what it would learn alone: no
    gradient of visibility reaches the features, as in ProbPose (arXiv:2412.02254). The loss ``visibility`` is binary
    cross-entropy, averaged over the weights.

    Args:
        in_channels: channels of each feature map.
        strides: of each feature map.
        spec: what the codec expects.
        head: builds the wrapped head, as `PoseNet` does.
        width: channels of the convolution; None for a linear layer of the map's mean (`MeanLogits`), as published.
        loss_weight: of the loss of visibility. It matters with SGD, and where gradients are clipped by their norm; Adam
            scales it away.
        stages: how often the features go through these maps.

    Raises:
        PairError: when the wrapped head doesn't fit the wrapped codec, or the codec says nothing of visibility.
        UserError: when inputs are not images.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        strides: Sequence[int],
        spec: Spec,
        head: Callable[..., Head],
        width: int | None = 128,
        loss_weight: float = 1e-3,
        stages: int = 1,
    ) -> None:
        super().__init__()
        shape = spec.outputs.get(NAME)
        if not shape or shape[0] is None:
            raise PairError(
                f"head asks for the shape of {NAME!r} but codec expects {sorted(spec.outputs)}",
                spec,
                ways=["codec=visibility, with the codec that you have as codec.codec"],
            )
        if spec.input_hw is None:
            raise UserError("head=visibility pools feature maps of images, and inputs are none; leave it out")
        outputs = {name: other for name, other in spec.outputs.items() if name != NAME}
        inner = replace(spec, outputs=outputs, targets=spec.target_names - {NAME})
        self.head = build_head(head, in_channels, strides, stages, inner, "head.head")
        self.loss_weight = loss_weight
        channels, count = in_channels[-1], shape[0]
        self.visible = MeanLogits(channels, count) if width is None else PooledLogits(channels, width, count)

    @property
    def emits(self) -> frozenset[str]:  # type: ignore[override]
        """The wrapped head's outputs, and ``visibility``."""
        return self.head.emits | {NAME}

    @property
    def needs(self) -> frozenset[str]:
        """The wrapped head's targets, and ``visibility``."""
        return self.head.needs | {NAME}

    def forward(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """Outputs by name, shaped (B, *spec.outputs[name])."""
        return {**self.head(features), NAME: self.visible(features[-1])}

    def loss(self, features: Sequence[Tensor], targets: Targets) -> dict[str, Tensor]:
        """The wrapped head's losses, and ``visibility``."""
        return {**self.head.loss(features, targets), **self.criterion({NAME: self.visible(features[-1])}, targets)}

    def compare(self, outputs: dict[str, Tensor], targets: Targets) -> dict[str, Tensor]:
        """The wrapped head's criterion, and ``visibility``."""
        inner = {name: output for name, output in outputs.items() if name != NAME}
        return {**self.head.compare(inner, targets), **self.criterion(outputs, targets)}

    def criterion(self, outputs: dict[str, Tensor], targets: Targets) -> dict[str, Tensor]:
        """The loss of visibility, in float32."""
        visible, weights = targets.maps[NAME].float(), targets.weights[NAME].float()
        with torch.autocast(visible.device.type, enabled=False):
            loss = functional.binary_cross_entropy_with_logits(outputs[NAME].float(), visible, weights, reduction="sum")
        return {NAME: self.loss_weight * loss / weights.sum().clamp_min(1)}


class MeanLogits(nn.Module):
    """Numbers (B, n) by a linear layer of the mean of a feature map. No gradient goes back to the map.

    Args:
        in_channels: of the map.
        count: n.
    """

    def __init__(self, in_channels: int, count: int) -> None:
        super().__init__()
        self.final = nn.Linear(in_channels, count)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, n), in float32 under autocast."""
        logits: Tensor = self.final(maps.detach().mean((-2, -1)))
        return logits.float()


class PooledLogits(nn.Module):
    """Numbers (B, n) of a feature map, each a mean over the cells of what a 3x3 convolution finds.

    The mean is weighted as each number asks. No gradient goes back to the map.

    Args:
        in_channels: of the map.
        width: channels of the convolution.
        count: n.
    """

    def __init__(self, in_channels: int, width: int, count: int) -> None:
        super().__init__()
        self.hidden = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.final = nn.Conv2d(width, 2 * count, 1)
        start_small(self.final)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, n), in float32 under autocast."""
        evidence, attention = self.final(self.hidden(maps.detach())).float().flatten(2).chunk(2, 1)  # (B, n, h w)
        pooled: Tensor = (evidence * attention.softmax(-1)).sum(-1)
        return pooled
