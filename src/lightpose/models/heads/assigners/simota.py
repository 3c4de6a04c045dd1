"""SimOTA: which priors answer for whom, by how well they guess."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.ops import box_iou

from lightpose.errors import UserError
from lightpose.models.losses.oks import closeness
from lightpose.structures import Targets

Similarity = Literal["oks", "iou"]
FAR = 1e5
"""Cost of a prior that doesn't lie in a person's box and near its middle, beside its other costs."""
TINY = 1e-8


@dataclass(frozen=True, slots=True)
class Assignment:
    """Of M people of each input, the T priors at most that answer for each.

    Attributes:
        priors: (B, M, T) int64, which ones.
        taken: (B, M, T) bool, False where a person has fewer. No prior answers for two.
        similarity: (B, M, T), of the prior's guess and the person.
    """

    priors: Tensor
    taken: Tensor
    similarity: Tensor

    def at(self, values: Tensor) -> Tensor:
        """(B, M, T, ...): what each of the priors has of values (B, P, ...)."""
        rows = torch.arange(len(values), device=values.device)[:, None, None]
        return values[rows, self.priors]

    def spread(self, values: Tensor, count: int) -> Tensor:
        """(B, count): for each prior the value (B, M, T) of the person that it answers for, and 0 for all others."""
        own = torch.where(self.taken, values, 0.0).flatten(1)
        return own.new_zeros(len(own), count).scatter_add(1, self.priors.flatten(1), own)


class SimOTA:
    """Dynamic assignment (arXiv:2107.08430), with OKS beside the boxes' IoU, for all inputs of a batch at once.

    A person gets as many priors as the similarities of its ``most`` best candidates add up to, at least one, those of
    the lowest cost. A prior that several people get stays with the one of the lowest cost.

    Args:
        center_radius: strides from the middle of a box within which priors are candidates, as are all in the box.
        most: priors of a person.
        similarity: what says how many priors a person gets: ``oks`` or ``iou``.
        iou_weight: of -log IoU in the cost.
        oks_weight: of -log OKS.
        score_weight: of -log of the score.
        visibility_weight: of the cross-entropy of the visibility.

    Raises:
        UserError: for an unknown similarity.
    """

    def __init__(
        self,
        center_radius: float = 2.5,
        most: int = 10,
        similarity: Similarity = "oks",
        iou_weight: float = 3.0,
        oks_weight: float = 3.0,
        score_weight: float = 1.0,
        visibility_weight: float = 0.0,
    ) -> None:
        if similarity not in get_args(Similarity):
            raise UserError(f"assigner.similarity={similarity!r} is unknown; use oks or iou")
        self.center_radius, self.most, self.similarity = center_radius, most, similarity
        self.iou_weight, self.oks_weight = iou_weight, oks_weight
        self.score_weight, self.visibility_weight = score_weight, visibility_weight

    @torch.no_grad()
    def __call__(self, outputs: dict[str, Tensor], targets: Targets) -> Assignment:
        """Assign all P priors of all inputs.

        Args:
            outputs: as of `lightpose.codecs.onestage.OneStageCodec`, float32.
            targets: likewise.
        """
        people, weights = targets.maps, targets.weights
        near, far = self._places(outputs["priors"], people["boxes"], weights["boxes"] > 0)  # (B, P, M)
        ious = torch.vmap(box_iou)(outputs["boxes"], people["boxes"]).nan_to_num(0)
        oks = pairwise_oks(outputs["points"], targets)
        candidate = near.any(-1, keepdim=True) & (weights["boxes"] > 0)[:, None]
        cost = self.iou_weight * -(ious + TINY).log() + self.oks_weight * -(oks + TINY).log() + FAR * far
        cost = cost + self.score_weight * functional.softplus(-outputs["scores"]).clamp_max(100)[..., None]
        if self.visibility_weight:
            cost = cost + self.visibility_weight * _visibility_costs(outputs["visibility"], weights["keypoints"])
        cost = torch.where(candidate, cost.nan_to_num(2 * FAR), torch.inf)
        similar = torch.where(candidate, oks if self.similarity == "oks" else ious, 0.0)
        return self._chosen(cost, similar)

    def _places(self, priors: Tensor, boxes: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
        """(B, P, M) each: whether a prior is in the box or near its middle; and whether it is not both."""
        points, reach = priors[:, :, None, :2], self.center_radius * priors[:, :, None, 2:]
        low, high = boxes[:, None].split(2, -1)  # (B, 1, M, 2)
        inside = ((points > low) & (points < high)).all(-1)
        central = ((points - (low + high) / 2).abs() < reach).all(-1)
        return (inside | central) & there[:, None], ~(inside & central)

    def _chosen(self, cost: Tensor, similar: Tensor) -> Assignment:
        """By cost and similarity (B, P, M); a cost of inf rules out."""
        most = min(self.most, cost.shape[1])
        count = similar.topk(most, 1).values.sum(1).int().clamp_min(1)  # (B, M)
        costs, priors = (each.mT for each in cost.topk(most, 1, largest=False))  # (B, M, T)
        chosen = (torch.arange(most, device=cost.device) < count[..., None]) & costs.isfinite()
        wanted = torch.full_like(cost, torch.inf).scatter(
            1, priors.mT, torch.where(chosen, costs, torch.inf).mT
        )  # (B, P, M)
        owner = wanted.argmin(-1)  # (B, P)
        owners = owner.gather(1, priors.flatten(1)).view_as(priors)
        mine = owners == torch.arange(cost.shape[2], device=cost.device)[:, None]
        return Assignment(priors, chosen & mine, similar.mT.gather(2, priors))


def pairwise_oks(points: Tensor, targets: Targets) -> Tensor:
    """(B, P, M): object keypoint similarity of guesses (B, P, K, 2) and people.

    It goes from joint to joint: all at once would need K times the memory.
    """
    people, labelled = targets.maps["keypoints"], targets.weights["keypoints"]  # (B, M, K, 2), (B, M, K)
    areas, sigmas = targets.maps["areas"][:, None], targets.maps["sigmas"]
    total = points.new_zeros(*points.shape[:2], people.shape[1])
    for joint in range(points.shape[2]):
        apart = (points[:, :, None, joint] - people[:, None, :, joint]).square().sum(-1)  # (B, P, M)
        total += closeness(apart, areas, sigmas[:, joint, None, None]) * labelled[:, None, :, joint]
    return total / labelled.sum(-1).clamp_min(1)[:, None]


def _visibility_costs(logits: Tensor, labelled: Tensor) -> Tensor:
    """(B, P, M): mean cross-entropy of logits (B, P, K) with labels (B, M, K)."""
    if_seen, if_hidden = functional.softplus(-logits), functional.softplus(logits)  # (B, P, K)
    return (if_seen @ labelled.mT + if_hidden @ (1 - labelled).mT) / logits.shape[-1]
