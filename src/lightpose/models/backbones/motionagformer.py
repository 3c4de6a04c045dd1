"""MotionAGFormer: attention beside graph convolutions, over joints and over frames."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from timm.layers import DropPath, LayerScale, Mlp
from timm.models.vision_transformer import Attention
from torch import Tensor, nn

from lightpose.errors import UserError
from lightpose.models.backbones.dstformer import Fusion, along
from lightpose.models.base import FeatureModule


class MotionAGFormer(FeatureModule):
    """Keypoints (B, T, K, 3), x, y and confidence, to features (B, width, T, K) (arXiv:2310.16288).

    A block has two streams, one of attention and one of graph convolutions, each over the joints of a frame and then
    over the frames of a joint. In the graph of joints those that the skeleton links are neighbours, in that of frames
    those in which a joint has the most similar features.

    Args:
        keypoints: K; the estimator gives it.
        links: of the skeleton, pairs of keypoints; the estimator gives them.
        frames: T.
        width: channels.
        depth: blocks.
        heads: of attention.
        mlp_ratio: channels of a hidden layer per channel.
        neighbours: of a frame, itself included.
        drop_path: share of samples for which the last block is left out in training; earlier ones less.

    Raises:
        UserError: for a skeleton without links, and for too many neighbours.
    """

    def __init__(
        self,
        keypoints: int,
        links: Sequence[tuple[int, int]],
        frames: int = 243,
        width: int = 128,
        depth: int = 16,
        heads: int = 8,
        mlp_ratio: float = 4.0,
        neighbours: int = 2,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if not links:
            raise UserError("MotionAGFormer needs a graph of joints; give skeleton.links, such as [[hip,knee]]")
        if not 1 <= neighbours <= frames:
            raise UserError(f"backbone.neighbours={neighbours} must be between 1 and backbone.frames={frames}")
        self.length = frames
        self.embedding = nn.Linear(3, width)
        self.joints = nn.Parameter(torch.zeros(1, keypoints, width))
        graph = torch.zeros(keypoints, keypoints)
        for start, end in links:
            graph[start, end] = graph[end, start] = 1

        def stream(joints: Callable[[], nn.Module], frames: Callable[[], nn.Module], drop: float) -> nn.Sequential:
            return nn.Sequential(
                *(_Mixer(mixer(), width, mlp_ratio, drop, here) for mixer, here in ((joints, True), (frames, False)))
            )

        def attention() -> nn.Module:
            return Attention(width, heads)

        drops = np.linspace(0, drop_path, depth).tolist()
        self.attentions = nn.ModuleList(stream(attention, attention, drop) for drop in drops)
        self.graphs = nn.ModuleList(
            stream(lambda: _OfJoints(width, graph), lambda: _OfFrames(width, frames, neighbours), drop)
            for drop in drops
        )
        self.fusions = nn.ModuleList(Fusion(width) for _ in drops)
        self.norm = nn.LayerNorm(width)
        self.out_channels, self.strides = (width,), (1,)

    def forward(self, sequences: Tensor) -> list[Tensor]:
        """The features of the last block, alone in a list.

        Raises:
            UserError: for another number of frames than it was built for.
        """
        if sequences.shape[1] != self.length:
            raise UserError(
                f"samples have {sequences.shape[1]} frames, but the backbone takes {self.length}; set "
                f"reader.frames={self.length}, or backbone.frames={sequences.shape[1]}"
            )
        features = self.embedding(sequences) + self.joints  # (B, T, K, C)
        for attention, graph, fusion in zip(self.attentions, self.graphs, self.fusions, strict=True):
            features = fusion(attention(features), graph(features))
        return [self.norm(features).permute(0, 3, 1, 2)]


class _Mixer(nn.Module):
    """What mixes joints or frames, and a hidden layer, on (B, T, K, C)."""

    def __init__(self, mixer: nn.Module, width: int, mlp_ratio: float, drop_path: float, over_joints: bool) -> None:
        super().__init__()
        self.over_joints = over_joints
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mixer, self.mlp = mixer, Mlp(width, round(mlp_ratio * width))
        self.scale1, self.scale2 = LayerScale(width), LayerScale(width)
        self.drop = DropPath(drop_path)

    def forward(self, features: Tensor) -> Tensor:
        """(B, T, K, C)."""
        mixed = along(self.mixer, self.norm1(features), self.over_joints)
        features = features + self.drop(self.scale1(mixed))
        added: Tensor = features + self.drop(self.scale2(self.mlp(self.norm2(features))))
        return added


class _Convolution(nn.Module):
    """Graph convolution of nodes (N, L, C), with a batch norm for each node."""

    def __init__(self, width: int, nodes: int) -> None:
        super().__init__()
        self.own, self.neighbours = nn.Linear(width, width), nn.Linear(width, width)
        self.norm = nn.BatchNorm1d(nodes)

    def convolved(self, nodes: Tensor, graph: Tensor) -> Tensor:
        """(N, L, C), with a graph (L, L) or (N, L, L)."""
        degrees = graph.sum(-1).clamp_min(1).rsqrt()
        weights = degrees[..., None] * graph * degrees[..., None, :]
        added: Tensor = nodes + self.norm(weights @ self.neighbours(nodes) + self.own(nodes))
        return torch.relu(added)


class _OfJoints(_Convolution):
    graph: Tensor

    def __init__(self, width: int, graph: Tensor) -> None:
        super().__init__(width, len(graph))
        self.register_buffer("graph", graph, persistent=False)

    def forward(self, nodes: Tensor) -> Tensor:
        """(N, K, C)."""
        return self.convolved(nodes, self.graph.to(nodes.dtype))


class _OfFrames(_Convolution):
    def __init__(self, width: int, frames: int, count: int) -> None:
        super().__init__(width, frames)
        self.count = count

    def forward(self, nodes: Tensor) -> Tensor:
        """(N, T, C)."""
        likeness = nodes @ nodes.mT  # (N, T, T)
        least = likeness.topk(self.count, -1).values[..., -1:]
        return self.convolved(nodes, (likeness >= least).to(nodes.dtype))
