"""Object keypoint similarity as a loss, and what one-stage models compare beside it."""

import torch
from torch import Tensor
from torch.nn import functional

EPSILON = 1e-16
"""Published, of the IoU."""


def closeness(distance_squared: Tensor, areas: Tensor, sigmas: Tensor) -> Tensor:
    """What a keypoint has of OKS: squared distances, areas and sigmas that broadcast, to the same shape."""
    return torch.exp(-distance_squared / (8 * areas.clamp_min(1) * sigmas.square()))


def oks_loss(
    points: Tensor, targets: Tensor, labelled: Tensor, areas: Tensor, sigmas: Tensor, of_labelled: bool
) -> Tensor:
    """(...): the mean over keypoints of 1 - closeness.

    Args:
        points: (..., K, 2).
        targets: (..., K, 2).
        labelled: (..., K), weights.
        areas: (...), square pixels.
        sigmas: (..., K).
        of_labelled: mean over the labelled keypoints, as OKS is; else over all K, so that a person with few labels
            counts less.
    """
    missed = 1 - closeness((points - targets).square().sum(-1), areas[..., None], sigmas)  # (..., K)
    count = labelled.sum(-1).clamp_min(1) if of_labelled else labelled.shape[-1]
    return (missed * labelled).sum(-1) / count


def box_ious(boxes: Tensor, targets: Tensor) -> Tensor:
    """(...): intersection over union of boxes xyxy (..., 4) with those of the same place."""
    (low, high), (target_low, target_high) = boxes.split(2, -1), targets.split(2, -1)
    shared = (torch.minimum(high, target_high) - torch.maximum(low, target_low)).clamp_min(0).prod(-1)
    union = (high - low).prod(-1) + (target_high - target_low).prod(-1) - shared
    return (shared / union.clamp_min(EPSILON)).clamp_min(EPSILON)


def squared_iou_loss(boxes: Tensor, targets: Tensor) -> Tensor:
    """(...): 1 - IoU², of boxes xyxy (..., 4)."""
    return 1 - box_ious(boxes, targets).square()


def varifocal(logits: Tensor, targets: Tensor, alpha: float = 0.75, gamma: float = 2.0) -> Tensor:
    """Cross-entropy of scores, weighted by the target, or by ``alpha * p**gamma`` where it is 0 (arXiv:2008.13367).

    Args:
        logits: any shape; clipped to +-10, as published.
        targets: the same shape, from 0 to 1.
        alpha: weight of the negatives.
        gamma: how much less of them those count that are surely negative.
    """
    logits = logits.clamp(-10, 10)
    weights = torch.where(targets > 0, targets, alpha * logits.sigmoid() ** gamma)
    return functional.binary_cross_entropy_with_logits(logits, targets, reduction="none") * weights


def likelihood_loss(shares: tuple[Tensor, Tensor], targets: tuple[Tensor, Tensor]) -> Tensor:
    """(..., K): minus the logarithm of how likely a keypoint is where it is, by its distribution over bins of x and y.

    After RTMO (arXiv:2312.07526).

    Args:
        shares: of probability of each bin, (..., K, bins) for x and for y.
        targets: how likely the keypoint is if it truly is at that bin, likewise.
    """
    likely = [(share * target).sum(-1) for share, target in zip(shares, targets, strict=True)]
    return -torch.log(likely[0] * likely[1] + 1e-4)
