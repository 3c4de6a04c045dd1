"""Object keypoint similarity between poses, and the suppression of near-duplicates that rests on it."""

import numpy as np

from lightpose.structures import Array


def pairwise_oks(
    keypoints_a: Array,
    areas_a: Array,
    keypoints_b: Array,
    areas_b: Array,
    sigmas: Array,
    visible_a: Array | None = None,
    visible_b: Array | None = None,
) -> Array:
    """Object keypoint similarity of every pose of one set to every pose of another.

    Both sides being predictions, distances are taken relative to the mean of the two areas, so that the similarity is
    symmetric.

    Args:
        keypoints_a: (N, K, 2), image pixels.
        areas_a: (N,), square pixels.
        keypoints_b: (M, K, 2).
        areas_b: (M,).
        sigmas: (K,) falloff constants of the skeleton.
        visible_a: (N, K) bool; a keypoint counts where both poses see it. None is all of them.
        visible_b: (M, K) bool.

    Returns:
        (N, M) in [0, 1]; 0 for two poses that see no keypoint in common.
    """
    squared = ((keypoints_a[:, None].astype(np.float64) - keypoints_b[None]) ** 2).sum(-1)  # (N, M, K)
    areas = (areas_a[:, None] + areas_b[None]).astype(np.float64) / 2 + np.spacing(1)
    similarity = np.exp(-squared / (2 * np.asarray(sigmas)) ** 2 / areas[..., None] / 2)
    counts = np.ones_like(similarity)
    if visible_a is not None:
        counts *= visible_a[:, None]
    if visible_b is not None:
        counts *= visible_b[None]
    return (similarity * counts).sum(-1) / counts.sum(-1).clip(1)


def oks_nms(
    keypoints: Array, scores: Array, areas: Array, sigmas: Array, threshold: float, visible: Array | None = None
) -> Array:
    """Drop every pose that resembles a better one.

    Args:
        keypoints: (N, K, 2) poses of one image, image pixels.
        scores: (N,).
        areas: (N,), square pixels.
        sigmas: (K,) falloff constants of the skeleton.
        threshold: similarity above which the lower-scored pose goes.
        visible: (N, K) bool, see `pairwise_oks`.

    Returns:
        Indices of the poses kept, best first.
    """
    oks = pairwise_oks(keypoints, areas, keypoints, areas, sigmas, visible, visible)
    kept: list[int] = []
    alive = np.ones(len(scores), bool)
    for index in np.argsort(-scores, kind="stable"):
        if alive[index]:
            kept.append(int(index))
            alive &= oks[index] <= threshold
    return np.array(kept, np.int64)


def soft_oks_nms(
    keypoints: Array,
    scores: Array,
    areas: Array,
    sigmas: Array,
    threshold: float,
    max_poses: int,
    visible: Array | None = None,
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
        visible: (N, K) bool, see `pairwise_oks`.

    Returns:
        Indices of the poses kept, in the order taken.
    """
    penalty = np.exp(-(pairwise_oks(keypoints, areas, keypoints, areas, sigmas, visible, visible) ** 2) / threshold)
    lowered = np.array(scores, np.float64)
    taken = np.zeros(len(scores), bool)
    kept: list[int] = []
    while len(kept) < min(max_poses, len(scores)):
        best = int(np.where(taken, -np.inf, lowered).argmax())
        kept.append(best)
        taken[best] = True
        lowered *= penalty[best]
    return np.array(kept, np.int64)
