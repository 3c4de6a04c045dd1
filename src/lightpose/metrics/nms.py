"""Object keypoint similarity between poses, and the suppression of near-duplicates that rests on it."""

import numpy as np

from lightpose.structures import Array


def pairwise_oks(keypoints: Array, areas: Array, sigmas: Array) -> Array:
    """Object keypoint similarity of every pose to every other.

    All being predictions, distances are taken relative to the mean of the two areas, so that the similarity is
    symmetric.

    Args:
        keypoints: (N, K, 2), image pixels.
        areas: (N,), square pixels.
        sigmas: (K,) falloff constants of the skeleton.

    Returns:
        (N, N) in [0, 1].
    """
    points = keypoints.astype(np.float64)
    squared = ((points[:, None] - points[None]) ** 2).sum(-1)  # (N, N, K)
    mean_areas = (areas[:, None] + areas[None]).astype(np.float64) / 2 + np.spacing(1)
    similarity: Array = np.exp(-squared / (2 * np.asarray(sigmas)) ** 2 / mean_areas[..., None] / 2).mean(-1)
    return similarity


def oks_nms(keypoints: Array, scores: Array, areas: Array, sigmas: Array, threshold: float) -> Array:
    """Drop every pose that resembles a better one.

    Args:
        keypoints: (N, K, 2) poses of one image, image pixels.
        scores: (N,).
        areas: (N,), square pixels.
        sigmas: (K,) falloff constants of the skeleton.
        threshold: similarity above which the lower-scored pose goes.

    Returns:
        Indices of the poses kept, best first.
    """
    oks = pairwise_oks(keypoints, areas, sigmas)
    kept: list[int] = []
    alive = np.ones(len(scores), bool)
    for index in np.argsort(-scores, kind="stable"):
        if alive[index]:
            kept.append(int(index))
            alive &= oks[index] <= threshold
    return np.array(kept, np.int64)


def soft_oks_nms(
    keypoints: Array, scores: Array, areas: Array, sigmas: Array, threshold: float, max_poses: int
) -> Array:
    """Rank poses, each lowered by its resemblance to better ones, and keep the first.

    Every pose taken multiplies the scores of the rest by ``exp(-oks² / threshold)`` (Soft-NMS, arXiv:1704.04503).

    Args:
        keypoints: (N, K, 2) poses of one image, image pixels.
        scores: (N,); not changed.
        areas: (N,), square pixels.
        sigmas: (K,) falloff constants of the skeleton.
        threshold: width of the penalty; smaller is harsher.
        max_poses: how many to keep.

    Returns:
        Indices of the poses kept, in the order taken.
    """
    penalty = np.exp(-(pairwise_oks(keypoints, areas, sigmas) ** 2) / threshold)
    lowered = np.array(scores, np.float64)
    taken = np.zeros(len(scores), bool)
    kept: list[int] = []
    while len(kept) < min(max_poses, len(scores)):
        best = int(np.where(taken, -np.inf, lowered).argmax())
        kept.append(best)
        taken[best] = True
        lowered *= penalty[best]
    return np.array(kept, np.int64)
