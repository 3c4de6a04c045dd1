"""The head of CID: finds people by their centres, then decouples each from all others."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightpose.codecs.base import Codec
from lightpose.codecs.people import gaussians, peaks, smoothed
from lightpose.errors import UserError
from lightpose.models.base import Head
from lightpose.models.heads.finest import Finest
from lightpose.models.heads.heatmap import map_shape
from lightpose.models.losses.cid import CIDLoss
from lightpose.structures import Spec, Targets

LEAST = 1e-4
"""Probabilities stay so far from 0 and from 1."""
REACH = 32
"""Cells that a distance of 1 stands for."""


class CIDHead(Head):
    """``heatmap``, ``instance_heatmap`` and ``score`` from the finest feature map (CID, CVPR 2022).

    The features at a person's centre say, by channel and by place, which of the shared features are that person's.
    They are compared with those of other people in training, for which centres are those of labelled people. What is
    validated is the loss of ``heatmap`` alone: people who are found have no target of their own.

    Args:
        in_channels: channels of each feature map.
        strides: of each feature map.
        spec: what the codec expects.
        criterion: the loss.
        channels: of the features that people share.
        peak_kernel: a centre is the highest of so many cells along each axis; odd.
        jitter: whole cells, at random, by which centres move in training at most, along each axis.
        max_train_people: of a batch, drawn at random; limits memory.
        stages: how often the features go through these maps.

    Raises:
        UserError: when the features are finer than the codec's maps, or for an option that can't be used.
    """

    emits = frozenset({"heatmap", "instance_heatmap", "score"})
    criterion: CIDLoss

    def __init__(
        self,
        in_channels: Sequence[int],
        strides: Sequence[int],
        spec: Spec,
        criterion: CIDLoss,
        channels: int = 32,
        peak_kernel: int = 3,
        jitter: int = 1,
        max_train_people: int = 200,
        stages: int = 1,
    ) -> None:
        super().__init__()
        if peak_kernel % 2 == 0 or jitter < 0 or max_train_people < 1:
            raise UserError(
                f"head.peak_kernel={peak_kernel} must be odd, head.jitter={jitter} at least 0 and "
                f"head.max_train_people={max_train_people} at least 1; 3, 1 and 200 are the published values"
            )
        self.criterion = criterion
        count, *map_hw = map_shape(spec, "heatmap")
        self.people, keypoints = map_shape(spec, "instance_heatmap")[:2]
        self.finest = Finest(in_channels, strides, spec, tuple(map_hw))
        width = self.finest.channels
        self.peak_kernel, self.jitter, self.max_train_people = peak_kernel, jitter, max_train_people
        self.coupled = nn.Conv2d(width, count, 1)
        self.shared = nn.Conv2d(width, channels, 1)
        self.channel, self.spatial = nn.Linear(width, channels), nn.Linear(width, channels)
        self.mask = nn.Conv2d(3, 1, 5, padding=2)
        self.fuse = nn.Conv2d(2 * channels, channels, 1)
        self.final = nn.Conv2d(channels, keypoints, 1)
        nn.init.normal_(self.coupled.weight, std=0.001)
        for conv in (self.shared, self.fuse):
            nn.init.kaiming_normal_(conv.weight)
        for conv in (self.coupled, self.final):
            assert conv.bias is not None
            nn.init.constant_(conv.bias, -math.log(99))  # peaks are rare: one cell in a hundred

    @property
    def needs(self) -> frozenset[str]:
        """Maps of each person are made from keypoints, since only some people are drawn."""
        return frozenset({"heatmap", "people", "sigmas"})

    def forward(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """Outputs by name, shaped (B, *spec.outputs[name])."""
        maps = self.finest(features)  # (B, C, h, w)
        heatmap = _probabilities(self.coupled(maps))
        scores, cells = self._centers(heatmap)
        return {"heatmap": heatmap, "instance_heatmap": self._instances(maps, cells), "score": scores}

    def flip_tested(
        self, outputs: dict[str, Tensor], features: Sequence[Tensor], mirrored: Sequence[Tensor], codec: Codec
    ) -> dict[str, Tensor]:
        """Outputs of an input together with its mirror image, of people whom both together find."""
        maps, other = self.finest(features), self.finest(mirrored)
        plain, turned = {"heatmap": outputs["heatmap"]}, {"heatmap": _probabilities(self.coupled(other))}
        scores, cells = self._centers(codec.merge(plain, codec.flip(turned))["heatmap"])
        plain |= {"instance_heatmap": self._instances(maps, cells), "score": scores}
        cells = torch.stack([maps.shape[-1] - 1 - cells[..., 0], cells[..., 1]], -1)
        turned |= {"instance_heatmap": self._instances(other, cells), "score": scores}
        return codec.merge(plain, codec.flip(turned))

    def loss(self, features: Sequence[Tensor], targets: Targets) -> dict[str, Tensor]:
        """Those of everyone's maps, and of people drawn from all that are labelled."""
        maps = self.finest(features)
        people, there = targets.maps["people"], targets.weights["people"]  # (B, M, K + 1, 2), (B, M, K + 1)
        row, person = there[..., -1].nonzero().unbind(1)
        if len(row) > self.max_train_people:
            drawn = torch.randperm(len(row), device=row.device)[: self.max_train_people]
            row, person = row[drawn], person[drawn]
        points, labels = people[row, person], there[row, person]  # (N, K + 1, 2), (N, K + 1)
        cells = (points[:, -1] + 0.5).floor().long()
        cells = cells + torch.randint(-self.jitter, self.jitter + 1, cells.shape, device=cells.device)
        height, width = maps.shape[-2:]
        cells = torch.stack([cells[:, 0].clamp(0, width - 1), cells[:, 1].clamp(0, height - 1)], -1)
        at_centers = maps[row, :, cells[:, 1], cells[:, 0]]  # (N, C)
        found = self._decoupled(self.shared(maps)[row], at_centers, cells)  # (N, K, h, w)
        sigmas = targets.maps["sigmas"][row, person][:, None]
        rows, columns = gaussians(points[:, :-1], sigmas, (height, width))
        weights = targets.weights["heatmap"][row] * labels[:, :-1, None, None]
        with torch.autocast(maps.device.type, enabled=False):
            return {
                **self.criterion({"heatmap": _probabilities(self.coupled(maps.float()))}, targets),
                **self.criterion.of_people(
                    found, rows[..., :, None] * columns[..., None, :], weights, at_centers.float(), row
                ),
            }

    def _centers(self, heatmap: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (B, P) and cells (B, P, 2) of people."""
        return peaks(smoothed(heatmap[:, -1:], "zero")[:, 0], self.peak_kernel, self.people, every=True)

    def _instances(self, maps: Tensor, cells: Tensor) -> Tensor:
        """(B, P, K, h, w) maps of people whose centres are cells (B, P, 2)."""
        row = torch.arange(maps.shape[0], device=maps.device).repeat_interleave(cells.shape[1])
        flat = cells.flatten(0, 1)
        at_centers = maps[row, :, flat[:, 1], flat[:, 0]]
        return self._decoupled(self.shared(maps)[row], at_centers, flat).unflatten(0, cells.shape[:2])

    def _decoupled(self, shared: Tensor, at_centers: Tensor, cells: Tensor) -> Tensor:
        """(N, K, h, w) from shared features (N, c, h, w), features at centres (N, C) and centres (N, 2)."""
        by_channel = shared * self.channel(at_centers)[..., None, None]
        likeness = (shared * self.spatial(at_centers)[..., None, None]).sum(1, keepdim=True)  # (N, 1, h, w)
        x, y = cells[..., None].unbind(1)  # (N, 1)
        height, width = shared.shape[-2:]
        across = (x - torch.arange(width, device=x.device))[:, None, None] / REACH  # (N, 1, 1, w)
        down = (y - torch.arange(height, device=y.device))[:, None, :, None] / REACH  # (N, 1, h, 1)
        place = [across.expand_as(likeness), down.expand_as(likeness)]
        mask = self.mask(torch.cat([likeness, *place], 1)).sigmoid()
        return _probabilities(self.final(torch.relu(self.fuse(torch.cat([by_channel, shared * mask], 1)))))


def _probabilities(logits: Tensor) -> Tensor:
    return logits.float().sigmoid().clamp(LEAST, 1 - LEAST)
