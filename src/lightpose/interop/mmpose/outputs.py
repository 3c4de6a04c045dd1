"""What our heads compute in the form and order of MMPose's."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lightpose.models.base import Head
from lightpose.models.heads.associative_embedding import AssociativeEmbeddingHead
from lightpose.models.heads.cid import CIDHead
from lightpose.models.heads.dekr import DEKRHead
from lightpose.models.heads.hands import HandsHead
from lightpose.models.heads.heatmap import HeatmapHead, HeatmapOffsetHead
from lightpose.models.heads.integral import IntegralHead
from lightpose.models.heads.multi_stage import MultiStageHead
from lightpose.models.heads.regression import RegressionHead
from lightpose.models.heads.rtmo import RTMOHead
from lightpose.models.heads.visibility import VisibilityHead
from lightpose.models.heads.yoloxpose import YOLOXPoseHead

Features = Sequence[Tensor]


def _in_order(*names: str) -> Callable[[Any, Features], list[Tensor]]:
    def give(head: Head, features: Features) -> list[Tensor]:
        outputs = head(features)
        return [outputs[name] for name in names]

    return give


def _named(head: Head, features: Features) -> list[Tensor]:
    return list(head(features).values())


def _stages(head: MultiStageHead, features: Features) -> list[Tensor]:
    """Stage by stage, the coarsest map of each first."""
    levels = head.levels
    places = [start + level for start in range(0, len(features), levels) for level in reversed(range(levels))]
    return [head.maps(features, place) for place in places]


def _offsets(head: HeatmapOffsetHead, features: Features) -> list[Tensor]:
    """The disk of a keypoint, then both its offsets."""
    outputs = head(features)
    return [torch.cat([outputs["heatmap"][:, :, None], outputs["offset"]], 2).flatten(1, 2)]


def _tags(head: AssociativeEmbeddingHead, features: Features) -> list[Tensor]:
    outputs = head(features)
    return [outputs["heatmap"], outputs["tag"][..., 0]]


def _displacements(head: DEKRHead, features: Features) -> list[Tensor]:
    outputs = head(features)
    return [outputs["heatmap"], outputs["displacement"].flatten(1, 2)]


def _people(head: CIDHead, features: Features) -> list[Tensor]:
    """Maps of the people of all inputs, one after the other."""
    return [head(features)["instance_heatmap"].flatten(0, 1)]


def _vectors(head: RegressionHead, features: Features) -> list[Tensor]:
    """Deviations before the sigmoid."""
    return [head.vectors(features)]


def _visible(head: VisibilityHead, features: Features) -> list[Tensor]:
    """Chances, not logits, of keypoints that can be seen."""
    return [*flattened(head.head, features), head.visible(features[-1]).sigmoid()]


def _hands(head: HandsHead, features: Features) -> list[Tensor]:
    """Root depth in cells, from the first."""
    outputs = head(features)
    return [outputs["heatmap"], (outputs["root_depth"] + 0.5) * head.root_cells, outputs["hands"]]


def _levels(maps: dict[str, Sequence[Tensor]]) -> list[Tensor]:
    return [level for levels in maps.values() for level in levels]


OUTPUTS: tuple[tuple[type[Head], Callable[[Any, Features], list[Tensor]]], ...] = (
    (AssociativeEmbeddingHead, _tags),
    (CIDHead, _people),
    (DEKRHead, _displacements),
    (HandsHead, _hands),
    (HeatmapOffsetHead, _offsets),
    (IntegralHead, _in_order("keypoints", "heatmap")),
    (HeatmapHead, _in_order("heatmap")),
    (MultiStageHead, _stages),
    (RegressionHead, _vectors),
    (RTMOHead, lambda head, features: _levels(head.maps(features, regress=False))),
    (VisibilityHead, _visible),
    (YOLOXPoseHead, lambda head, features: _levels(head.maps(features))),
    (Head, _named),
)
"""The first that fits counts; others give their outputs as they come, such as x and y."""


def flattened(head: Head, features: Features) -> list[Tensor]:
    """What MMPose's head of the same kind returns, flattened depth first."""
    return next(give for kind, give in OUTPUTS if isinstance(head, kind))(head, features)
