"""Temporal convolutions over sequences of keypoints: VideoPose3D, and of one frame the simple baseline."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightpose.errors import UserError
from lightpose.models.base import FeatureModule


class TCN(FeatureModule):
    """Keypoints (B, T, K, 2 or more) to features (B, width, T - frames + 1): one for each ``frames`` frames in a row.

    Of a keypoint x and y come first, and what follows is not used.

    VideoPose3D (arXiv:1811.11742) where several frames are seen, the simple baseline (arXiv:1705.03098) where one is.
    No frame is made up at the ends: T is at least ``frames``. Where it is equal, convolutions take steps, which
    computes what the dilated form does and nothing that is thrown away.

    Args:
        keypoints: K; the estimator gives it.
        frames: how many frames are seen at once: kernel ** (blocks + 1).
        blocks: residual blocks; None takes as many as kernels of 3 need.
        width: channels.
        dropout: share of the features dropped in training.
        causal: what a block passes on beside its convolutions is the last frame that it sees, not the middle one.
        links: not used.

    Raises:
        UserError: where no odd kernel sees ``frames`` frames.
    """

    def __init__(
        self,
        keypoints: int,
        frames: int = 27,
        blocks: int | None = None,
        width: int = 1024,
        dropout: float = 0.25,
        causal: bool = False,
        links: Sequence[tuple[int, int]] = (),
    ) -> None:
        super().__init__()
        layers = _layers_of_three(frames) if blocks is None else blocks + 1
        kernel = round(frames ** (1 / layers)) if layers > 0 else 0
        if kernel % 2 == 0 or kernel**layers != frames:
            raise UserError(
                f"backbone.frames={frames} can't be seen by {layers} layers of one odd kernel; give a power of 3, such "
                "as 9, 27, 81 or 243, or backbone.blocks with frames=1"
            )
        self.frames, self.kernel, self.causal = frames, kernel, causal
        self.stem = _Layer(2 * keypoints, width, kernel, dropout)
        self.blocks = nn.ModuleList(_Block(width, kernel, dropout) for _ in range(layers - 1))
        self.out_channels, self.strides = (width,), (1,)

    def forward(self, sequences: Tensor) -> list[Tensor]:
        """The features of the last block, alone in a list.

        Raises:
            UserError: for sequences that are shorter than ``frames``.
        """
        length = sequences.shape[1]
        if length < self.frames:
            raise UserError(
                f"samples have {length} frames, but the backbone sees {self.frames} at once; set "
                f"reader.frames={self.frames}, or backbone.frames={length}"
            )
        steps = length == self.frames
        stride, dilation = (self.kernel, 1) if steps else (1, 1)
        features = self.stem(sequences[..., :2].flatten(2).mT, stride, dilation)  # (B, width, T')
        for block in self.blocks:
            dilation *= 1 if steps else self.kernel
            reach = (self.kernel - 1) * dilation
            first = reach if self.causal else reach // 2
            passed = features[..., first : features.shape[-1] - reach + first : stride]
            features = block(features, passed, stride, dilation)
        return [features]


class PoseAndTrajectory(TCN):
    """A second network of the same kind before a `TCN`: its features tell where the root is, the others the pose.

    Args:
        options: of each, see `TCN`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.trajectory = TCN(**options)
        self.out_channels, self.strides = self.trajectory.out_channels + self.out_channels, (1, 1)

    def forward(self, sequences: Tensor) -> list[Tensor]:
        """The features of both, as `TCN` gives them."""
        return [*self.trajectory(sequences), *super().forward(sequences)]


class _Block(nn.Module):
    """Two layers, the first over time, beside which features pass."""

    def __init__(self, width: int, kernel: int, dropout: float) -> None:
        super().__init__()
        self.wide, self.narrow = _Layer(width, width, kernel, dropout), _Layer(width, width, 1, dropout)

    def forward(self, features: Tensor, passed: Tensor, stride: int, dilation: int) -> Tensor:
        """Features (B, C, T) and those that pass (B, C, T') to (B, C, T')."""
        added: Tensor = passed + self.narrow(self.wide(features, stride, dilation))
        return added


class _Layer(nn.Module):
    """Convolution, norm, ReLU and dropout."""

    def __init__(self, before: int, after: int, kernel: int, dropout: float) -> None:
        super().__init__()
        self.conv = nn.Conv1d(before, after, kernel, bias=False)
        self.norm = nn.BatchNorm1d(after)
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Tensor, stride: int = 1, dilation: int = 1) -> Tensor:
        """(B, C, T) to (B, C', T')."""
        moved = nn.functional.conv1d(features, self.conv.weight, stride=stride, dilation=dilation)
        dropped: Tensor = self.dropout(torch.relu(self.norm(moved)))
        return dropped


def _layers_of_three(frames: int) -> int:
    layers = 0
    while 3**layers < frames:
        layers += 1
    return layers
