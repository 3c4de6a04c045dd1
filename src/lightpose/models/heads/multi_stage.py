"""A head for networks that predict again and again: maps, and a loss, from every stage."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from lightpose.errors import UserError
from lightpose.models.backbones.layers import conv_norm
from lightpose.models.base import Criterion, Head
from lightpose.models.heads.heatmap import map_shape, start_small, upsampling
from lightpose.structures import Spec, Targets


class MultiStageHead(Head):
    """One map per keypoint from each feature map of each stage; the finest of the last stage is decoded.

    All are resized to the map that the codec expects, and each has a loss. Where the codec makes ``wider`` targets
    (`lightpose.codecs.megvii.MegviiCodec`), the finest level learns the narrowest, each coarser level the next wider
    one, and all stages but the last one step wider still (arXiv:1901.00148); otherwise all learn the same.

    Args:
        in_channels: channels of each feature map of a stage.
        strides: of each feature map of a stage, finest first.
        spec: what the codec expects.
        criterion: the loss of the finest level of each stage.
        coarse: the loss of all other levels.
        coarse_weight: factor on that loss.
        layers: convolutions of each feature map: 0 where features are the heatmaps (CPM, arXiv:1602.00134), 1 for a
            linear one of 1x1 (hourglasses, arXiv:1603.06937), 2 for 1x1 and 3x3 with batch norms (MSPN).
        refine: weigh the decoded maps by attention to keypoints and places, as RSN's Pose Refine Machine does
            (arXiv:2003.04030).
        stages: how often the features go through these maps.

    Raises:
        UserError: for features that don't lead to the codec's maps, or an unknown number of layers.
    """

    emits = frozenset({"heatmap"})

    def __init__(
        self,
        in_channels: Sequence[int],
        strides: Sequence[int],
        spec: Spec,
        criterion: Criterion,
        coarse: Criterion,
        coarse_weight: float = 0.25,
        layers: Literal[0, 1, 2] = 1,
        refine: bool = False,
        stages: int = 1,
    ) -> None:
        super().__init__()
        self.criterion, self.coarse, self.coarse_weight = criterion, coarse, coarse_weight
        self.levels, self.has_wider = len(strides), "wider" in spec.target_names
        count, *map_hw = map_shape(spec, "heatmap")
        self.map_hw = tuple(map_hw)
        self.factor = upsampling(strides[0], spec, self.map_hw)
        assert spec.input_hw is not None
        self.padded_hw = tuple(int(-(-side // strides[0]) * self.factor) for side in spec.input_hw)
        self.predict = nn.ModuleList(
            _predictor(channels, count, layers) for _ in range(stages) for channels in in_channels
        )
        self.refine = PoseRefine(count) if refine else nn.Identity()

    @property
    def needs(self) -> frozenset[str]:
        """Names of the targets that the loss reads."""
        return self.emits | ({"wider"} if self.has_wider else frozenset())

    def forward(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """``heatmap`` (B, K, h, w), from the finest feature map of the last stage."""
        return {"heatmap": self.maps(features, len(self.predict) - self.levels)}

    def maps(self, features: Sequence[Tensor], index: int) -> Tensor:
        """(B, K, h, w): from the feature map ``index``, counted as in ``features``."""
        finest = features[index - index % self.levels]
        size = [round(side * self.factor) for side in finest.shape[-2:]]
        maps: Tensor = self.predict[index](features[index])
        if list(maps.shape[-2:]) != size:
            maps = functional.interpolate(maps, size, mode="bilinear", align_corners=True)
        if index == len(self.predict) - self.levels:
            maps = self.refine(maps)
        if tuple(size) == self.padded_hw:
            maps = maps[..., : self.map_hw[0], : self.map_hw[1]]
        return maps

    def loss(self, features: Sequence[Tensor], targets: Targets) -> dict[str, Tensor]:
        """``heatmap`` of the decoded maps, and if there are others ``earlier``, their sum."""
        losses = self.compare(self(features), targets)
        earlier = []
        for index in range(len(self.predict)):
            stage, level = divmod(index, self.levels)
            is_last = (stage + 1) * self.levels == len(self.predict)
            if is_last and level == 0:
                continue
            wanted = self._targets(targets, level if is_last else level + 1)
            maps = self.maps(features, index)
            with torch.autocast(maps.device.type, enabled=False):
                criterion, weight = (self.coarse, self.coarse_weight) if level else (self.criterion, 1.0)
                earlier += [weight * loss for loss in criterion({"heatmap": maps.float()}, wanted).values()]
        return {**losses, "earlier": torch.stack(earlier).sum()} if earlier else losses

    def _targets(self, targets: Targets, steps: int) -> Targets:
        """The targets that are ``steps`` wider than the narrowest, or the widest of all."""
        if not steps or not self.has_wider:
            return targets
        maps, weights = targets.maps["wider"], targets.weights["wider"]  # (B, L, K, h, w), (B, L, K)
        index = max(maps.shape[1] - steps, 0)
        return Targets({"heatmap": maps[:, index]}, {"heatmap": weights[:, index]})


class PoseRefine(nn.Module):
    """The Pose Refine Machine of RSN: maps, made stronger by a weight of each keypoint times one of each place."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.maps = conv_norm(count, count, 3, activation=None)
        self.keypoints = nn.Sequential(nn.Conv2d(count, count, 1), nn.ReLU(), nn.Conv2d(count, count, 1), nn.Sigmoid())
        self.places = nn.Sequential(conv_norm(count, count), conv_norm(count, count, 9, groups=count, activation=None))

    def forward(self, x: Tensor) -> Tensor:
        """(B, K, h, w) to the same shape."""
        x = self.maps(x)
        return x * (1 + self.keypoints(x.mean((2, 3), keepdim=True)) * torch.sigmoid(self.places(x)))


def _predictor(channels: int, count: int, layers: int) -> nn.Module:
    if layers == 2:
        return nn.Sequential(conv_norm(channels, channels), conv_norm(channels, count, 3, activation=None))
    if layers == 1:
        conv = nn.Conv2d(channels, count, 1)
        start_small(conv)
        return conv
    if layers != 0:
        raise UserError(f"head.layers={layers} is unknown; use 0, 1 or 2")
    if channels != count:
        raise UserError(
            f"head.layers=0 takes the backbone's {channels} maps as heatmaps, but there are {count} keypoints; set "
            f"backbone.maps={count}, or head.layers=1"
        )
    return nn.Identity()
