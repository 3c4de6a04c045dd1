"""Weights of targets."""

from torch import Tensor


def expand(weights: Tensor, like: Tensor) -> Tensor:
    """``weights`` with trailing dimensions of 1, so that they broadcast over ``like`` from the left."""
    return weights.reshape(*weights.shape, *(1,) * (like.ndim - weights.ndim))
