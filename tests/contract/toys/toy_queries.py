"""People as queries (DETR, arXiv:2005.12872): matched in the loss, beside queries made of noisy labels."""

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import nn
from torchvision.ops import batched_nms

from lightpose.codecs.base import Codec
from lightpose.models.base import Head
from lightpose.structures import Poses, Spec, Targets


class PeopleCodec(Codec):
    """Candidates in no order: keypoints as shares of the input, and a logit for whether there is somebody."""

    flips = False

    def __init__(self, skeleton, input_hw, grid, threshold=0.5):
        shapes = {"points": (None, skeleton.num_keypoints, 2), "score": (None,)}
        self.spec = Spec(shapes, input_hw, frozenset({"people"}))
        self.sides, self.threshold = torch.tensor([input_hw[1], input_hw[0]]).float(), threshold

    def encode(self, batch):
        labelled = (batch.instances.visible > 0) & batch.instances.valid[..., None]
        people = torch.where(labelled[..., None], batch.instances.keypoints / self.sides.to(labelled.device), 0)
        return Targets({"people": people}, {"people": labelled.float()})  # (B, M, K, 2), (B, M, K)

    def decode(self, outputs):
        scores = outputs["score"].float().sigmoid()
        row, place = (scores > self.threshold).nonzero().unbind(1)
        keypoints = outputs["points"].float()[row, place] * self.sides.to(row.device)
        boxes, scores = torch.cat([keypoints.amin(1), keypoints.amax(1)], -1), scores[row, place]
        poses = Poses(keypoints, scores[:, None].expand(-1, keypoints.shape[1]), scores, row, boxes_xyxy=boxes)
        return poses.select(batched_nms(boxes, scores, row, 0.7))


class QueryHead(Head):
    emits = frozenset({"points", "score"})
    needs = frozenset({"people"})

    def __init__(self, in_channels, strides, stages, spec, queries=12, noise=0.05):
        super().__init__()
        width, self.keypoints, self.noise = in_channels[-1], spec.outputs["points"][1], noise
        self.queries = nn.Parameter(torch.randn(queries, width))
        self.place, self.person = nn.Linear(2, width), nn.Linear(2 * self.keypoints, width)
        self.decoder = nn.TransformerDecoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True)
        self.final = nn.Linear(width, 2 * self.keypoints + 1)

    def answer(self, features, queries):
        maps = features[-1]
        rows, columns = (torch.linspace(0, 1, side, device=maps.device) for side in maps.shape[-2:])
        memory = maps.flatten(2).mT + self.place(torch.cartesian_prod(rows, columns))  # (B, hw, width)
        apart = ~torch.eye(queries.shape[1], dtype=torch.bool, device=maps.device)
        numbers = self.final(self.decoder(queries, memory, tgt_mask=apart))
        return {"points": numbers[..., 1:].unflatten(-1, (self.keypoints, 2)) + 0.5, "score": numbers[..., 0]}

    def forward(self, features):
        return self.answer(features, self.queries.expand(len(features[-1]), -1, -1))

    def loss(self, features, targets):
        people, weight = targets.maps["people"], targets.weights["people"]
        noisy = self.person((people + self.noise * torch.randn_like(people)).flatten(2))
        denoised = self.answer(features, noisy)["points"].float()
        error = ((denoised - people).abs().sum(-1) * weight).sum() / weight.sum().clamp_min(1)
        return {**super().loss(features, targets), "denoise": error}

    def criterion(self, outputs, targets):
        people, weight = targets.maps["people"], targets.weights["people"]
        distance = (outputs["points"][:, :, None] - people[:, None]).abs().sum(-1)  # (B, Q, M, K)
        distance = (distance * weight[:, None]).sum(-1) / weight.sum(-1).clamp_min(1)[:, None]  # (B, Q, M)
        there, matched, error = (weight > 0).any(-1), torch.zeros_like(outputs["score"]), 0 * distance.sum()
        cost = (distance - outputs["score"][..., None].sigmoid()).detach().cpu()
        for row in range(len(cost)):
            query, person = linear_sum_assignment(cost[row][:, there[row].cpu()])
            matched[row, query] = 1
            error = error + distance[row][:, there[row]][query, person].sum()
        missed = F.binary_cross_entropy_with_logits(outputs["score"], matched)
        return {"points": error / there.sum().clamp_min(1), "score": missed}
