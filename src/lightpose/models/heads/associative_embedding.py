"""Maps of keypoints, and of tags that tell people apart."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from lightpose.models.heads.heatmap import HeatmapHead
from lightpose.structures import Spec


class AssociativeEmbeddingHead(HeatmapHead):
    """`HeatmapHead` that emits ``tag`` (K, h, w, 1) next to ``heatmap`` (arXiv:1611.05424).

    Args:
        in_channels: see `HeatmapHead`.
        strides: see `HeatmapHead`.
        spec: what the codec expects.
        options: of `HeatmapHead`.
    """

    emits = frozenset({"heatmap", "tag"})

    def __init__(self, in_channels: Sequence[int], strides: Sequence[int], spec: Spec, **options: Any) -> None:
        maps: dict[str, Any] = {name: (spec.outputs[name] or ())[:3] for name in sorted(self.emits)}
        super().__init__(in_channels, strides, replace(spec, outputs=maps), **options)

    @property
    def needs(self) -> frozenset[str]:
        """The maps, and the cells of each person's keypoints."""
        return frozenset({"heatmap", "cells"})

    def forward(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """Outputs by name: (B, K, h, w) and (B, K, h, w, 1)."""
        outputs = super().forward(features)
        return {"heatmap": outputs["heatmap"], "tag": outputs["tag"][..., None]}
