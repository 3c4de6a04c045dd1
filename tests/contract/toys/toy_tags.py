"""Associative embedding (arXiv:1611.05424): joints as peaks, and tags that are alike within a person."""

import torch
import torch.nn.functional as F

from lightpose.codecs.base import Codec
from lightpose.codecs.grid import MapGrid
from lightpose.codecs.maps import counted_cells, labelled_cells
from lightpose.models.base import Head
from lightpose.structures import Poses, Spec, Targets


class TagHead(Head):
    emits = frozenset({"heat", "tag"})
    needs = frozenset({"heat", "cell"})

    def __init__(self, in_channels, strides, stages, spec):
        super().__init__()
        self.final = torch.nn.Conv2d(in_channels[0], 2 * spec.outputs["heat"][0], 1)

    def forward(self, features):
        heat, tag = self.final(features[0]).chunk(2, 1)
        return {"heat": heat, "tag": tag[..., None]}

    def criterion(self, outputs, targets):
        weight, here = targets.weights["heat"], targets.weights["cell"]  # (B, K, h, w), (B, M, K)
        heat = ((outputs["heat"] - targets.maps["heat"]).square() * weight).sum() / weight.sum().clamp_min(1)
        tags = outputs["tag"].flatten(2).gather(2, targets.maps["cell"].mT).mT  # (B, M, K)
        means = (tags * here).sum(-1) / here.sum(-1).clamp_min(1)  # (B, M)
        pull = ((tags - means[..., None]).square() * here).sum() / here.sum().clamp_min(1)
        pairs = (here.amax(-1)[:, :, None] * here.amax(-1)[:, None]).triu(1)
        push = ((-(means[:, :, None] - means[:, None]).square()).exp() * pairs).sum() / pairs.sum().clamp_min(1)
        return {"heat": 100 * heat, "pull": pull, "push": push}


class TagCodec(Codec):
    def __init__(self, skeleton, input_hw, grid, stride=8, sigma=1.0, threshold=0.3, max_people=8):
        self.grid, self.sigma = MapGrid(input_hw, grid, stride), sigma
        self.threshold, self.max_people, self.swap = threshold, max_people, torch.tensor(skeleton.swap)
        self.mirror_lag, maps = self.grid.mirror_lag, (skeleton.num_keypoints, *self.grid.map_hw)
        self.spec = Spec({"heat": maps, "tag": (*maps, None)}, input_hw, targets=frozenset({"heat", "cell"}))

    def encode(self, batch):
        height, width = self.grid.map_hw
        cells, here = labelled_cells(batch.instances, self.grid, reach=0.49)
        x, y = cells.unbind(-1)  # (B, M, K)
        down = torch.arange(height, device=x.device)[:, None] - y[..., None, None]
        square = down**2 + (torch.arange(width, device=x.device) - x[..., None, None]) ** 2
        heat = ((-square / 2 / self.sigma**2).exp() * here[..., None, None]).amax(1)  # (B, K, h, w)
        learnt = counted_cells(batch, (height, width))[:, None].expand_as(heat)
        cell = (y.round() * width + x.round()).long()
        return Targets({"heat": heat, "cell": cell}, {"heat": learnt, "cell": here})

    def decode(self, outputs):
        heat, tag = outputs["heat"].float(), outputs["tag"].float()
        scores, cells = (heat * (heat == F.max_pool2d(heat, 3, 1, 1))).flatten(2).cpu().topk(self.max_people)
        tags = tag.flatten(2, 3).cpu().gather(2, cells[..., None].expand(-1, -1, -1, tag.shape[-1]))
        found = [self.group(*image) for image in zip(scores, cells, tags, strict=True)]
        row = torch.arange(len(found)).repeat_interleave(torch.tensor([len(people) for people in found]))
        certain, cell = torch.cat(found).unbind(-1)
        points = torch.stack([cell % heat.shape[-1], (cell / heat.shape[-1]).floor()], -1)
        return Poses(self.grid.to_input(points, heat.shape[-2:]), certain, certain.mean(-1), row).to(heat.device)

    def group(self, scores, cells, tags):
        """People of an image, (K, 2) of score and cell each: joint by joint, to whose tags a peak's are nearest."""
        people, means = scores.new_zeros(0, len(scores), 2), tags.new_zeros(0, tags.shape[-1])
        for joint, peak in (scores > self.threshold).nonzero().tolist():
            apart = (means - tags[joint, peak]).norm(dim=-1) + 9 * people[:, joint, 0].sign()  # who has none yet
            person = int(apart.argmin()) if (apart < 1).any() else len(people)
            if person == len(people):
                people, means = F.pad(people, (0, 0, 0, 0, 0, 1)), torch.cat([means, tags[joint, peak][None]])
            people[person, joint] = torch.stack([scores[joint, peak], cells[joint, peak].float()])
        return people

    def flip(self, outputs):
        return {name: maps.flip(3)[:, self.swap.to(maps.device)] for name, maps in outputs.items()}

    def merge(self, plain, mirrored):
        return {**super().merge(plain, mirrored), "tag": torch.cat([plain["tag"], mirrored["tag"]], -1)}
