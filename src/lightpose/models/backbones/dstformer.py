"""Attention over joints and over frames, in two orders: MotionBERT's DSTFormer; and what others share with it."""

from collections.abc import Sequence

import numpy as np
import torch
from timm.layers import DropPath, Mlp
from timm.models.vision_transformer import Attention
from torch import Tensor, nn

from lightpose.errors import UserError
from lightpose.models.base import FeatureModule


class DSTFormer(FeatureModule):
    """Keypoints (B, T, K, 3), x, y and confidence, to features (B, width, T, K) (arXiv:2210.06551).

    Of the two streams of a block, one looks at the joints of a frame first and then at the frames of a joint, the other
    the other way round. Each feature tells how much of either it takes.

    Args:
        keypoints: K; the estimator gives it.
        frames: the most that T may be.
        width: channels.
        depth: blocks.
        heads: of attention.
        mlp_ratio: channels of a hidden layer per channel.
        drop_path: share of samples for which the last block is left out in training; earlier ones less.
        links: not used.
    """

    def __init__(
        self,
        keypoints: int,
        frames: int = 243,
        width: int = 512,
        depth: int = 5,
        heads: int = 8,
        mlp_ratio: float = 2.0,
        drop_path: float = 0.0,
        links: Sequence[tuple[int, int]] = (),
    ) -> None:
        super().__init__()
        self.embedding = nn.Linear(3, width)
        self.joints = nn.Parameter(0.02 * torch.randn(1, keypoints, width))
        self.frames = nn.Parameter(torch.zeros(1, frames, 1, width))
        drops = np.linspace(0, drop_path, depth).tolist()

        def streams(order: tuple[bool, bool]) -> nn.ModuleList:
            return nn.ModuleList(
                nn.Sequential(*(_Attention(width, heads, mlp_ratio, drop, over_joints) for over_joints in order))
                for drop in drops
            )

        self.joints_first, self.frames_first = streams((True, False)), streams((False, True))
        self.fusions = nn.ModuleList(Fusion(width) for _ in drops)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.out_channels, self.strides = (width,), (1,)

    def forward(self, sequences: Tensor) -> list[Tensor]:
        """The features of the last block, alone in a list.

        Raises:
            UserError: for more frames than it was built for.
        """
        length, most = sequences.shape[1], self.frames.shape[1]
        if length > most:
            raise UserError(
                f"samples have {length} frames, but the backbone knows the places of {most}; set reader.frames={most}, "
                f"or backbone.frames={length}"
            )
        features = self.embedding(sequences) + self.joints + self.frames[:, :length]  # (B, T, K, C)
        for one, other, fusion in zip(self.joints_first, self.frames_first, self.fusions, strict=True):
            features = fusion(one(features), other(features))
        return [self.norm(features).permute(0, 3, 1, 2)]


class Fusion(nn.Module):
    """The mean of two streams (..., C), weighted anew for each feature by a linear layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weigh = nn.Linear(2 * width, 2)
        nn.init.zeros_(self.weigh.weight)
        nn.init.constant_(self.weigh.bias, 0.5)

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        """(..., C)."""
        shares = self.weigh(torch.cat([one, other], -1)).softmax(-1)  # (..., 2)
        mean: Tensor = one * shares[..., :1] + other * shares[..., 1:]
        return mean


class _Attention(nn.Module):
    """Attention and a hidden layer on (B, T, K, C), over the joints of a frame or over the frames of a joint."""

    def __init__(self, width: int, heads: int, mlp_ratio: float, drop_path: float, over_joints: bool) -> None:
        super().__init__()
        self.over_joints = over_joints
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attention = Attention(width, heads, qkv_bias=True)
        self.mlp = Mlp(width, round(mlp_ratio * width))
        self.drop = DropPath(drop_path)

    def forward(self, features: Tensor) -> Tensor:
        """(B, T, K, C)."""
        features = features + self.drop(along(self.attention, self.norm1(features), self.over_joints))
        added: Tensor = features + self.drop(self.mlp(self.norm2(features)))
        return added


def along(mixer: nn.Module, features: Tensor, over_joints: bool) -> Tensor:
    """Call ``mixer``, which takes (N, L, C), on (B, T, K, C): with the joints of each frame, or the frames of a joint.

    Returns:
        (B, T, K, C).
    """
    sets = features if over_joints else features.transpose(1, 2)
    mixed: Tensor = mixer(sets.flatten(0, 1)).unflatten(0, sets.shape[:2])
    return mixed if over_joints else mixed.transpose(1, 2)
