"""Bottom-up in one file: people are peaks of a centre map, and from each peak lead ways to its keypoints."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import nn

from lightpose.codecs.base import Codec
from lightpose.codecs.grid import MapGrid
from lightpose.estimators.base import PoseEstimator
from lightpose.geometry import apply_affine
from lightpose.models.base import Head
from lightpose.structures import Poses, Spec, Targets


class CentreHead(Head):
    emits = frozenset({"center", "way"})

    def __init__(self, in_channels, strides, stages, spec):
        super().__init__()
        self.way_shape = spec.outputs["way"][:2]
        self.final = nn.Conv2d(in_channels[0], 1 + 2 * self.way_shape[0], 1)

    def forward(self, features):
        maps = self.final(features[0])
        return {"center": maps[:, 0], "way": maps[:, 1:].unflatten(1, self.way_shape)}

    def criterion(self, outputs, targets):
        center, way = targets.maps["center"], targets.weights["way"].expand_as(outputs["way"])
        focus = targets.weights["center"][:, None, None] * (1 + 20 * center)
        error = F.smooth_l1_loss(outputs["way"], targets.maps["way"], reduction="none", beta=0.5)
        return {
            "center": F.binary_cross_entropy_with_logits(outputs["center"], center, focus),
            "way": (error * way).sum() / way.sum().clamp_min(1),
        }


class CentreCodec(Codec):
    def __init__(self, skeleton, input_hw, grid, stride=8, sigma=1.0, threshold=0.3, max_people=10):
        self.grid = MapGrid(input_hw, grid, stride)
        self.mirror_lag = self.grid.mirror_lag
        self.spec = Spec({"center": self.grid.map_hw, "way": (skeleton.num_keypoints, 2, *self.grid.map_hw)}, input_hw)
        self.sigma, self.threshold, self.max_people = sigma, threshold, max_people
        self.swap = torch.tensor(skeleton.swap)
        self.cells = torch.cartesian_prod(*map(torch.arange, self.grid.map_hw)).flip(-1).float()  # (hw, 2)

    def encode(self, batch):
        instances, cells, map_hw = batch.instances, self.cells.to(batch.inputs.device), self.grid.map_hw
        centers = self.grid.to_map(instances.boxes_xyxy.unflatten(-1, (2, 2)).mean(-2))  # (B, M, 2)
        distance = (cells - centers[:, :, None]).square().sum(-1)  # (B, M, hw)
        distance, owner = distance.masked_fill(~instances.valid[..., None], torch.inf).min(1)  # (B, hw)
        row = torch.arange(len(owner), device=owner.device)[:, None]
        ways = self.grid.to_map(instances.keypoints)[row, owner] - cells[:, None]  # (B, hw, K, 2)
        near = (instances.visible[row, owner] > 0) & (distance <= (2 * self.sigma) ** 2)[..., None]  # (B, hw, K)
        ways, near = ways.permute(0, 2, 3, 1).unflatten(-1, map_hw), near.mT[:, :, None].unflatten(-1, map_hw)
        center = torch.exp(-distance / (2 * self.sigma**2)).unflatten(-1, map_hw)
        return Targets(
            {"center": center, "way": ways}, {"center": torch.ones_like(center[:, 0, 0]), "way": near.float()}
        )

    def decode(self, outputs):
        heat = outputs["center"].float().sigmoid()
        peaks = heat * (heat == F.max_pool2d(heat[:, None], 3, 1, 1)[:, 0])
        best, cell = peaks.flatten(1).topk(self.max_people)
        row, rank = (best > self.threshold).nonzero().unbind(1)
        scores, cell = best[row, rank], cell[row, rank]
        ways = outputs["way"].float().flatten(-2)[row, :, :, cell]  # (N, K, 2)
        keypoints = self.grid.to_input(self.cells.to(cell.device)[cell][:, None] + ways, outputs["way"].shape[-2:])
        return Poses(keypoints, scores[:, None].expand(-1, keypoints.shape[1]), scores, row)

    def flip(self, outputs):
        way = outputs["way"].flip(-1)[:, self.swap.to(outputs["way"].device)]
        return {"center": outputs["center"].flip(-1), "way": way * way.new_tensor([-1, 1])[:, None, None]}


class CentreEstimator(PoseEstimator):
    def to_image(self, poses, batch):
        return replace(poses, keypoints=apply_affine(batch.image_from_input[poses.batch_index], poses.keypoints))
