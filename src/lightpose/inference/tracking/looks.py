"""What people look like: the colours along the links of their skeletons."""

from collections.abc import Sequence

import cv2
import numpy as np

from lightpose.structures import Array

_SHARES = (0.25, 0.5, 0.75)
"""Places along a link, whose ends lie near the border of a body."""
_SPREAD = 40.0
"""Of the colours of one person, of 255: light and compression change them."""
_LEAST = 0.3
"""Less alike people are never taken for one."""
_SECOND = 0.5
"""How alike the next one may be, relative to the best."""


def colors_of(image: Array, keypoints: Array, weights: Array, links: Sequence[tuple[int, int]]) -> tuple[Array, Array]:
    """Mean colours (N, L, 3) along the links of poses, and how sure each is (N, L).

    Args:
        image: (H, W, 3) uint8 RGB.
        keypoints: (N, K, 2) image px.
        weights: (N, K) in [0, 1], how sure each is.
        links: L pairs of keypoints.
    """
    ends = np.array(links, np.int64).reshape(-1, 2)
    first, second = keypoints[:, ends[:, 0], None], keypoints[:, ends[:, 1], None]  # (N, L, 1, 2)
    shares = np.array(_SHARES)[:, None]
    places = np.rint(first + shares * (second - first))  # (N, L, S, 2)
    x, y = places.clip(-1, np.array(image.shape[1::-1])).astype(np.int64).T  # (S, L, N)
    inside = (x >= 0) & (y >= 0) & (x < image.shape[1]) & (y < image.shape[0])
    smooth = cv2.blur(image, (3, 3))
    colors = smooth[np.where(inside, y, 0), np.where(inside, x, 0)].astype(np.float64)  # (S, L, N, 3)
    count = inside.sum(0)  # (L, N)
    mean = (colors * inside[..., None]).sum(0) / np.maximum(count, 1)[..., None]
    # Who hides a keypoint gives the colours there, hence the square.
    return mean.transpose(1, 0, 2), weights[:, ends].prod(-1) ** 2 * (count.T > 0)


def alike(colors: Array, weights: Array, others: Array, of_others: Array) -> Array:
    """(T, N) in [0, 1]: how alike people look, of their colours (T, L, 3) and (N, L, 3); 1 where nobody can tell."""
    shared = weights[:, None] * of_others  # (T, N, L)
    squares = ((colors[:, None] - others) ** 2).sum(-1)
    total = shared.sum(-1)
    mean = (shared * squares).sum(-1) / np.maximum(total, 1e-9)
    return np.where(total > 0, np.exp(-mean / (2 * _SPREAD**2)), 1.0)


def recognised(looks: Array, known: Array) -> Array:
    """(T, N): the same, but 0 where a pose looks at least half as much like somebody else, or like nobody.

    Args:
        looks: (T, N) of `alike`.
        known: (T, N) whether there was anything to compare, with somebody who has an identity.
    """
    looks = np.where(known, looks, 0.0)
    if known.any(1).sum() < 2:
        return np.zeros_like(looks)  # what is special about the only one isn't known
    best, second = np.sort(looks, 0)[-1], np.sort(looks, 0)[-2]
    return np.where((looks == best) & (looks >= _LEAST) & (second < _SECOND * best), looks, 0.0)
