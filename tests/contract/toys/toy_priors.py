"""One stage, three levels: each cell of each level may be somebody; how many cells there are only the network knows."""

import torch
import torch.nn.functional as F
from torch import nn

from lightpose.models.base import Head

NEAREST = 3  # cells of all levels that answer for a person


class PriorHead(Head):
    """For the codec of toy_queries; each person is assigned the cells that are nearest and guess best."""

    emits = frozenset({"points", "score"})
    needs = frozenset({"people"})

    def __init__(self, in_channels, strides, stages, spec):
        super().__init__()
        self.strides, self.input_hw, self.keypoints = strides, spec.input_hw, spec.outputs["points"][1]
        self.finals = nn.ModuleList(nn.Conv2d(width, 1 + 2 * self.keypoints, 1) for width in in_channels)

    def centers(self, maps, stride):
        """(1, hw, 1, 2): the middle of each cell, as a share of the input."""
        rows, columns = (torch.arange(side, device=maps.device) for side in maps.shape[-2:])
        cells = torch.cartesian_prod(rows, columns).flip(-1).float()  # (hw, 2)
        return ((cells + 0.5) * stride / cells.new_tensor(self.input_hw[::-1]))[None, :, None]

    def forward(self, features):
        points, scores = [], []
        for maps, final, stride in zip(features, self.finals, self.strides, strict=True):
            numbers = final(maps).flatten(2).mT  # (B, hw, 1 + 2K)
            ways = numbers[..., 1:].unflatten(-1, (self.keypoints, 2))
            points.append(self.centers(maps, stride) + ways * stride / 16)
            scores.append(numbers[..., 0])
        return {"points": torch.cat(points, 1), "score": torch.cat(scores, 1)}

    def criterion(self, outputs, targets):
        people, weight = targets.maps["people"], targets.weights["people"]  # (B, M, K, 2), (B, M, K)
        distance = (outputs["points"][:, :, None] - people[:, None]).abs().sum(-1)  # (B, P, M, K)
        distance = (distance * weight[:, None]).sum(-1) / weight.sum(-1).clamp_min(1)[:, None]  # (B, P, M)
        there = (weight > 0).any(-1)  # (B, M)
        best = distance.detach().masked_fill(~there[:, None], torch.inf).topk(NEAREST, 1, largest=False).indices
        mine = torch.zeros_like(distance).scatter_(1, best, 1) * there[:, None]  # (B, P, M)
        score = F.binary_cross_entropy_with_logits(outputs["score"], mine.amax(-1), reduction="sum")
        return {"points": (distance * mine).sum() / mine.sum().clamp_min(1), "score": score / len(people) / NEAREST}
