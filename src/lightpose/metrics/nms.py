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
    return _similarity(keypoints[:, None], keypoints[None], areas[:, None], areas[None], sigmas)


def oks_nms(
    keypoints: Array, scores: Array, areas: Array, sigmas: Array, threshold: float, groups: Array | None = None
) -> Array:
    """Drop every pose that resembles a better one of its group.

    Args:
        keypoints: (N, K, 2), image pixels.
        scores: (N,).
        areas: (N,), square pixels.
        sigmas: (K,) falloff constants of the skeleton.
        threshold: similarity above which the lower-scored pose goes.
        groups: (N,) integers, such as the image of each pose; None for a single group.

    Returns:
        Indices of the poses kept, by group, the best of a group first.
    """
    groups = np.zeros(len(scores), np.int64) if groups is None else groups
    order = np.lexsort((-scores, groups))
    keypoints, areas, groups = keypoints[order], areas[order], groups[order]
    alike = [np.empty((0, 2), np.int64)]
    for gap in range(1, len(order)):
        better = np.flatnonzero(groups[gap:] == groups[:-gap])
        if not len(better):  # no group is as large
            break
        worse = better + gap
        oks = _similarity(keypoints[better], keypoints[worse], areas[better], areas[worse], sigmas)
        alike.append(np.stack([better, worse], -1)[~(oks <= threshold)])
    kept = np.ones(len(order), bool)
    for better_one, worse_one in sorted(np.concatenate(alike).tolist()):
        if kept[better_one]:
            kept[worse_one] = False
    survivors: Array = order[kept]
    return survivors


def soft_oks_nms(
    keypoints: Array,
    scores: Array,
    areas: Array,
    sigmas: Array,
    threshold: float,
    max_poses: int,
    groups: Array | None = None,
) -> Array:
    """Rank the poses of each group, each lowered by its resemblance to better ones, and keep the first.

    Every pose taken multiplies the scores of the rest by ``exp(-oks² / threshold)`` (Soft-NMS, arXiv:1704.04503).

    Args:
        keypoints: (N, K, 2), image pixels.
        scores: (N,); not changed.
        areas: (N,), square pixels.
        sigmas: (K,) falloff constants of the skeleton.
        threshold: width of the penalty; smaller is harsher.
        max_poses: how many of each group to keep.
        groups: as in `oks_nms`.

    Returns:
        Indices of the poses kept, by group, in the order taken.
    """
    if groups is not None:
        order = np.argsort(groups, kind="stable")
        members = np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)
        columns = [(keypoints[rows], scores[rows], areas[rows]) for rows in members]
        kept_of = [soft_oks_nms(*column, sigmas, threshold, max_poses) for column in columns]
        return np.concatenate([rows[kept] for rows, kept in zip(members, kept_of, strict=True)])
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


def _similarity(keypoints: Array, other_keypoints: Array, areas: Array, other_areas: Array, sigmas: Array) -> Array:
    """OKS of poses (..., K, 2) of the areas (...) to others."""
    squared = ((keypoints.astype(np.float64) - other_keypoints.astype(np.float64)) ** 2).sum(-1)
    mean_areas = (areas + other_areas).astype(np.float64) / 2 + np.spacing(1)
    similarity: Array = np.exp(-squared / (2 * np.asarray(sigmas)) ** 2 / mean_areas[..., None] / 2).mean(-1)
    return similarity
