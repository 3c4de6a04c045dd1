"""Several data sets of one skeleton, trained on together in given proportions."""

import copy
import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Self

import numpy as np

from lightpose.data.base import PoseDataset
from lightpose.errors import UserError
from lightpose.structures import Array, Sample

log = logging.getLogger(__name__)


class CombinedDataset(PoseDataset):
    """The samples of several data sets in a row, to train on.

    Args:
        parts: data sets of the same skeleton, and of the same kind of samples.
        names: of the parts, for messages.
        ratios: how often a sample is drawn from each, relative to the others; None draws each sample once in a pass.

    Attributes:
        draws: for each part how many samples it has, and how many of them a pass takes. A pass has about as many
            samples as all parts together; of a part that gives more than it has, some come several times.

    Raises:
        UserError: for ratios that are not a positive number for each part.
    """

    def __init__(self, parts: Sequence[PoseDataset], names: Sequence[str], ratios: Sequence[float] | None = None):
        super().__init__(parts[0].skeleton, parts[0].transforms, parts[0].seed)
        self.one_person, self.whole_image = parts[0].one_person, parts[0].whole_image  # type: ignore[misc]
        self.sequences = parts[0].sequences  # type: ignore[misc]
        self.parts = list(parts)
        lengths = [len(part) for part in parts]
        self._ends = np.cumsum(lengths)
        self.draws = list(zip(lengths, _taken(lengths, ratios), strict=True))
        for name, (length, taken) in zip(names, self.draws, strict=True):
            share = taken / sum(taken for _, taken in self.draws)
            log.info("%s: %d samples, %.1f %% of those that are drawn", name, length, 100 * share)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def load(self, index: int, rng: np.random.Generator) -> Sample:
        """The sample before any transform."""
        part, first = self._place(index)
        return _moved(part.load(index - first, rng), first)

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        """The sample after the transforms of its data set."""
        part, first = self._place(index)
        return _moved(part.sample(index - first, rng), first)

    def _place(self, index: int) -> tuple[PoseDataset, int]:
        """The data set of a sample, and the index of its first one."""
        row = int(np.searchsorted(self._ends, index, side="right"))
        return self.parts[row], int(self._ends[row]) - len(self.parts[row])

    def _with_late_transforms(self) -> Self:
        if self._late is None:
            self._late = copy.copy(self)
            self._late.parts = [part._with_late_transforms() for part in self.parts]
        return self._late

    @property
    def image_rows(self) -> Array | None:
        """(N,) a number for the image of each sample; None if one of the data sets doesn't tell."""
        rows, first = [], 0
        for part in self.parts:
            if part.image_rows is None:
                return None
            rows.append(part.image_rows + first)
            first += int(part.image_rows.max()) + 1
        return np.concatenate(rows)

    @property
    def bad_images(self) -> list[str]:
        """Names of the images that were skipped so far since they can't be read."""
        return [name for part in self.parts for name in part.bad_images]

    def keep_decoded(self, limit_gb: float) -> None:
        """See `PoseDataset.keep_decoded`; each data set gets its share of the memory by its number of samples."""
        for part in self.parts:
            part.keep_decoded(limit_gb * len(part) / len(self))


def _moved(sample: Sample, first: int) -> Sample:
    return replace(sample, index=sample.index + first)


def _taken(lengths: Sequence[int], ratios: Sequence[float] | None) -> list[int]:
    """How many samples a pass takes of each data set."""
    if ratios is None:
        return list(lengths)
    if len(ratios) != len(lengths) or not all(math.isfinite(ratio) and ratio > 0 for ratio in ratios):
        raise UserError(
            f"data.ratios={list(ratios)} must be {len(lengths)} positive numbers, one for each file of data.train, "
            f"such as data.ratios=[{','.join(['1'] * len(lengths))}]; leave out a file of which nothing is to be drawn"
        )
    return [max(1, round(sum(lengths) * ratio / sum(ratios))) for ratio in ratios]
