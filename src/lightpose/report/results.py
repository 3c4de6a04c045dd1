"""What a report tells: curves of the training, and errors of one validation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from lightpose.structures import Array

Curves = Mapping[str, Sequence[tuple[int, float]]]
"""Name of a figure, such as ``train/loss``, ``val/AP`` or ``lr`` → pairs of step and value, in order."""


@dataclass(frozen=True)
class Instance:
    """One validated instance.

    Attributes:
        index: position of its sample in the data set.
        keypoints: (K, 2) predicted, image pixels.
        errors_px: (K,) distances to the labels, NaN where nothing is labelled.
    """

    index: int
    keypoints: Array
    errors_px: Array

    @property
    def mean_px(self) -> float:
        """Over its labelled keypoints."""
        return float(np.nanmean(self.errors_px))


@dataclass(frozen=True)
class Validation:
    """The errors of one validation.

    Attributes:
        step: optimizer steps done before it.
        monitor: the figure that chose it as the best; empty where it is only the last one.
        errors_px: (N, K) float32, image pixels; NaN where nothing is labelled, infinite where nothing finite was
            predicted.
        scores: (N, K) float32, of the predicted keypoints.
        left_out: images left out because several people are labelled or found in them.
        worst: the instances of the largest mean errors, the largest first.
        oks: (N, K) float32, of each keypoint; None where it wasn't measured.
    """

    step: int
    monitor: str
    errors_px: Array
    scores: Array
    left_out: int = 0
    worst: Sequence[Instance] = field(default=())
    oks: Array | None = None

    @property
    def labelled(self) -> Array:
        """(N, K) bool."""
        return ~np.isnan(self.errors_px)


@dataclass(frozen=True)
class Row:
    """A line of the table by keypoint; figures are NaN without labels.

    Attributes:
        name: of the keypoint.
        labels: how many are labelled.
        mean_px: of the errors, image pixels.
        median_px: likewise.
        p90_px: the 90th percentile.
        score: mean of the predicted scores where there are labels.
    """

    name: str
    labels: int
    mean_px: float
    median_px: float
    p90_px: float
    score: float


def table(validation: Validation, names: Sequence[str]) -> list[Row]:
    """The errors of each keypoint, in the order of the skeleton.

    Args:
        validation: errors of K keypoints.
        names: of the K keypoints.
    """
    columns = zip(names, validation.errors_px.T, validation.scores.T, validation.labelled.T, strict=True)
    return [_row(name, errors[labelled], scores[labelled]) for name, errors, scores, labelled in columns]


def overall(validation: Validation) -> Row:
    """The errors of all keypoints together."""
    return _row("all", validation.errors_px[validation.labelled], validation.scores[validation.labelled])


def _row(name: str, errors: Array, scores: Array) -> Row:
    if not len(errors):
        return Row(name, 0, np.nan, np.nan, np.nan, np.nan)
    with np.errstate(invalid="ignore"):  # infinite errors of a model that diverged
        median, p90 = np.quantile(errors, [0.5, 0.9])
    means = [float(values.mean(dtype=np.float64)) for values in (errors, scores)]
    return Row(name, len(errors), means[0], float(median), float(p90), means[1])


def sample(validation: Validation, most: int) -> tuple[Array, Array, int]:
    """Scores and errors of labelled keypoints: all, or ``most`` of them drawn with a fixed seed.

    Returns:
        scores (n,), errors (n,) in image pixels, and how many there are in all. What isn't finite is left out.
    """
    finite = np.isfinite(validation.errors_px) & np.isfinite(validation.scores)
    scores, errors = validation.scores[finite], validation.errors_px[finite]
    if len(scores) <= most:
        return scores, errors, len(scores)
    chosen = np.random.default_rng(0).choice(len(scores), most, replace=False)
    return scores[chosen], errors[chosen], len(scores)
