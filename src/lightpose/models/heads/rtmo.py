"""The head of RTMO: a dynamic coordinate classifier for each candidate."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from lightpose.codecs.onestage import CANDIDATES, PEOPLE
from lightpose.codecs.people import picked
from lightpose.geometry import Grid
from lightpose.models.base import Head
from lightpose.models.heads.priors import (
    boxes_of,
    branch,
    flat,
    keypoints_of,
    per_level,
    points_of,
    prior_points,
    same_width,
    start_rare,
)
from lightpose.models.heads.rtmcc import GatedAttention
from lightpose.models.losses.oks import closeness, likelihood_loss
from lightpose.models.losses.onestage import Answers, OneStageLoss
from lightpose.models.necks.hybrid_encoder import sine_waves
from lightpose.structures import Spec, Targets

TEMPERATURE = 300.0
"""Of the sines that stand for the places of bins."""


class RTMOHead(Head):
    """Each cell may be somebody: a score, a box, visibility, and a vector that a coordinate classifier reads.

    After RTMO (arXiv:2312.07526). Features are halved: one half makes the scores, the other all the rest. Keypoints are
    computed of the best candidates only. In training, priors also regress keypoints, which assign them to people: to
    the labels at first, and with ``proxy`` to what the classifier finds, where that is nearer to the labels.

    Args:
        in_channels: channels of each feature map, the same for all.
        strides: of each feature map.
        spec: what the codec expects.
        criterion: the loss of all but the classifier.
        depth: convolutions of the branch of the scores; the other has twice as many.
        groups: of convolutions of the other branch.
        group_channels: channels of each group; None takes 36 for each 512 channels of the features.
        bins: of the classifier along x and y.
        tokens: length of what stands for a keypoint in the classifier.
        padding: factor on a box, whose width and height the bins share out.
        candidates: how many of each input get keypoints, the best.
        likelihood: weight of the classifier's loss.
        proxy: regress to what the classifier finds, and let scores learn its OKS.
        grid: which input pixel the offsets of a cell count from.
        stages: how often the features go through these maps; the last counts.
    """

    emits = CANDIDATES
    criterion: OneStageLoss

    def __init__(
        self,
        in_channels: Sequence[int],
        strides: Sequence[int],
        spec: Spec,
        criterion: OneStageLoss,
        depth: int = 2,
        groups: int = 8,
        group_channels: int | None = None,
        bins: Sequence[int] = (192, 256),
        tokens: int = 128,
        padding: float = 1.25,
        candidates: int = 200,
        likelihood: float = 0.01,
        proxy: bool = False,
        grid: Grid = "half_pixel",
        stages: int = 1,
    ) -> None:
        super().__init__()
        self.criterion, self.strides, self.grid = criterion, tuple(strides), grid
        self.candidates, self.likelihood, self.proxy, self.padding = candidates, likelihood, proxy, padding
        keypoints, levels = keypoints_of(spec), len(strides)
        channels = same_width(in_channels, "rtmo", "hybrid_encoder")
        width, inner = channels // 2, groups * (group_channels or max(1, 36 * channels // 512))
        out = partial(nn.Conv2d, inner, kernel_size=1)
        self.conv_cls = per_level(levels, partial(branch, width, width, depth))
        self.conv_pose = per_level(levels, partial(branch, width, inner, 2 * depth, groups))
        self.out_cls = per_level(levels, partial(nn.Conv2d, width, 1, 1))
        self.out_bbox = per_level(levels, partial(out, 4))
        self.out_kpt_reg, self.out_kpt_vis = (per_level(levels, partial(out, n * keypoints)) for n in (2, 1))
        self.out_pose = per_level(levels, partial(out, channels))
        self.dcc = CoordinateClassifier(channels, keypoints, (bins[0], bins[1]), tokens)
        start_rare(self.out_cls)

    @property
    def needs(self) -> frozenset[str]:
        """The people."""
        return PEOPLE

    def maps(self, features: Sequence[Tensor], regress: bool) -> dict[str, list[Tensor]]:
        """The maps of each level by name, before anything is made of them."""
        outs = {"boxes": self.out_bbox, "visibility": self.out_kpt_vis, "poses": self.out_pose}
        outs |= {"points": self.out_kpt_reg} if regress else {}
        levels: dict[str, list[Tensor]] = {name: [] for name in ("scores", *outs)}
        for level, x in enumerate(features[-len(self.strides) :]):
            first, second = x.chunk(2, 1)
            posed = self.conv_pose[level](second)
            levels["scores"].append(self.out_cls[level](self.conv_cls[level](first)))
            for name, convs in outs.items():
                levels[name].append(convs[level](posed))
        return levels

    def everything(self, features: Sequence[Tensor], regress: bool) -> dict[str, Tensor]:
        """What is known of all P priors; ``points`` are those that they regress, if they do."""
        maps = self.maps(features, regress)
        priors = prior_points(maps["scores"], self.strides, self.grid)
        raw = {name: flat(levels) for name, levels in maps.items()}
        regressed = {"points": points_of(raw["points"], priors)} if regress else {}
        return {
            "scores": raw["scores"][..., 0],
            "boxes": boxes_of(raw["boxes"], priors),
            "offsets": raw["boxes"],
            "visibility": raw["visibility"],
            "poses": raw["poses"],
            "priors": priors,
            **regressed,
        }

    def forward(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """Outputs by name, of the N best candidates of each input."""
        outputs = self.everything(features, regress=False)
        if outputs["scores"].shape[1] > self.candidates:
            best = outputs["scores"].topk(self.candidates, 1).indices
            outputs = {name: picked(output, best) for name, output in outputs.items()}
        shape = outputs["scores"].shape
        points = outputs["priors"][..., :2]
        bins = self.dcc.bins(outputs["boxes"].flatten(0, 1), points.flatten(0, 1), self.padding)
        shares = self.dcc(outputs["poses"].flatten(0, 1), bins)
        outputs["points"] = expectation(shares, bins).unflatten(0, shape) + points[..., None, :]
        return {name: outputs[name] for name in sorted(self.emits)}

    def loss(self, features: Sequence[Tensor], targets: Targets) -> dict[str, Tensor]:
        """The losses of `OneStageLoss`, and ``likelihood``, that of the coordinate classifier."""
        outputs, criterion = self.everything(features, regress=True), self.criterion
        with torch.autocast(outputs["boxes"].device.type, enabled=False):
            answers = criterion.match(outputs, targets)
            likelihood, found = self._classified(outputs, answers)
            regressed, similarity = answers.assignment.at(outputs["points"]), answers.assignment.similarity
            wanted, labelled = answers.keypoints, answers.labelled
            if self.proxy:
                off, off_regressed = ((points - wanted).norm(dim=-1) for points in (found, regressed.detach()))
                near = closeness(off.square(), answers.areas[..., None], answers.sigmas)
                similarity = (near * labelled).sum(-1) / labelled.sum(-1).clamp_min(1)
                wanted, labelled = found, labelled * (off < off_regressed)
            return {
                **criterion.of_boxes(outputs, answers),
                "keypoints": criterion.of_answers(regressed, wanted, labelled, answers),
                **criterion.of_distances(outputs["points"], answers),
                "visibility": criterion.of_visibility(outputs["visibility"], answers),
                "scores": criterion.of_scores(outputs["scores"], similarity, answers),
                "likelihood": likelihood,
            }

    def _classified(self, outputs: dict[str, Tensor], answers: Answers) -> tuple[Tensor, Tensor]:
        """The classifier's loss, and without gradient what it finds (B, M, T, K, 2) for priors that answer."""
        taken = answers.taken.flatten()
        used = taken.argsort(descending=True, stable=True)[: max(int(taken.sum()), 2)]  # a batch norm needs two

        def of_used(values: Tensor) -> Tensor:
            return values.expand(*answers.taken.shape, *values.shape[3:]).flatten(0, 2)[used]

        poses, boxes, priors = (of_used(answers.assignment.at(outputs[name])) for name in ("poses", "boxes", "priors"))
        points = priors[..., :2]
        bins = self.dcc.bins(boxes.detach(), points, self.padding)
        shares, sigmas = self.dcc(poses, bins), self.dcc.sigma_fc(poses)
        likely = self.dcc.likely(bins, of_used(answers.keypoints) - points[:, None], sigmas, of_used(answers.areas))
        losses = likelihood_loss(shares, likely) * of_used(answers.labelled)  # (n, K)
        found = (expectation(shares, bins) + points[:, None]).detach()
        everywhere = found.new_zeros(len(taken), *found.shape[1:])
        everywhere[used] = found
        loss = self.likelihood * losses.mean(-1).sum() / answers.count
        return loss, everywhere.unflatten(0, answers.taken.shape)


class CoordinateClassifier(nn.Module):
    """Where each keypoint is, as a distribution over bins that share out a box.

    A vector becomes one token per keypoint; tokens look at each other; a token and the sines of a bin's place give the
    bin's logit.

    Args:
        channels: of a vector.
        keypoints: K.
        bins: along x and y.
        tokens: length of a token.
        attention: of queries and keys.
    """

    def __init__(self, channels: int, keypoints: int, bins: tuple[int, int], tokens: int, attention: int = 128) -> None:
        super().__init__()
        self.counts, self.tokens = bins, tokens
        self.pos_enc = nn.Parameter(torch.randn(keypoints, attention))
        self.gau = GatedAttention(tokens, 2 * tokens, attention)
        self.pose_to_kpts = nn.Sequential(
            nn.Linear(channels, keypoints * tokens), nn.BatchNorm1d(keypoints * tokens, eps=1e-5)
        )
        self.x_fc, self.y_fc = nn.Linear(tokens, tokens), nn.Linear(tokens, tokens)
        self.sigma_fc = nn.Sequential(nn.Linear(channels, keypoints), nn.Sigmoid(), Scale(0.1))

    def bins(self, boxes: Tensor, points: Tensor, padding: float) -> tuple[Tensor, Tensor]:
        """Places (n, bins) along x and y, in pixels from the points (n, 2), that share out padded boxes (n, 4)."""
        low, high = boxes.split(2, -1)
        middle, sides = (low + high) / 2 - points, (high - low) * padding
        steps = [torch.linspace(-0.5, 0.5, count, device=boxes.device) for count in self.counts]
        x, y = (middle[:, axis, None] + sides[:, axis, None] * steps[axis] for axis in (0, 1))
        return x, y

    def forward(self, poses: Tensor, bins: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Vectors (n, C) to shares of probability of each bin, (n, K, bins) for x and for y."""
        tokens = self.pose_to_kpts(poses.to(self.x_fc.weight.dtype)).unflatten(-1, (-1, self.tokens))
        tokens = self.gau(tokens, self.pos_enc)  # (n, K, tokens)
        x, y = (self._shares(tokens, places, fc) for places, fc in zip(bins, (self.x_fc, self.y_fc), strict=True))
        return x, y

    def _shares(self, tokens: Tensor, places: Tensor, fc: nn.Linear) -> Tensor:
        """A layer ``fc`` of the sines would be large, so the tokens go through its transpose."""
        sines = sine_waves(places, self.tokens, TEMPERATURE)  # (n, bins, tokens)
        logits = (tokens @ fc.weight).float() @ sines.mT + (tokens @ fc.bias).float()[..., None]
        return logits.softmax(-1)

    def likely(
        self, bins: tuple[Tensor, Tensor], points: Tensor, sigmas: Tensor, areas: Tensor
    ) -> tuple[Tensor, Tensor]:
        """How likely labels (n, K, 2) are if the keypoint is at a bin, (n, K, bins) for x and for y.

        Args:
            bins: places in the frame of the labels.
            points: the labels.
            sigmas: (n, K), spread relative to the root of the area.
            areas: (n,) square pixels.
        """
        spread = sigmas.clamp_min(1e-3)[..., None]
        root = areas.clamp_min(1).sqrt()[:, None, None]
        x, y = (
            torch.exp(-(points[..., axis, None] - bins[axis][:, None]).abs() / (2 * root * spread)) / spread
            for axis in (0, 1)
        )
        return x, y


class Scale(nn.Module):
    """Times one learnt number."""

    def __init__(self, start: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(start))

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        return x * self.scale


def expectation(shares: tuple[Tensor, Tensor], bins: tuple[Tensor, Tensor]) -> Tensor:
    """(n, K, 2): the mean place of shares (n, K, bins) at places (n, bins)."""
    return torch.stack([(share * place[:, None]).sum(-1) for share, place in zip(shares, bins, strict=True)], -1)
