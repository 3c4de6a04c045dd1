"""What every data set shares: the transforms, and randomness that depends on seed, epoch and index alone."""

import numpy as np
import torch
from torch.utils.data import Dataset

from lightpose.data.pipeline import Pipeline, Transform
from lightpose.structures import Sample


class PoseDataset(Dataset[Sample]):
    """Base of map-style data sets of `Sample`.

    A subclass implements ``__len__`` and `load`. The data module builds it with ``annotations``, ``images``,
    ``skeleton``, ``transforms`` and ``seed`` next to its own options (and ``boxes`` for evaluation in detected boxes).

    Args:
        transforms: applied to what `load` returns; None only decodes the image.
        seed: of the random transforms; together with the epoch and the index it fixes every draw, so neither the number
            of workers nor an interruption changes a run.
    """

    def __init__(self, transforms: Transform | None = None, seed: int = 0) -> None:
        self.transforms = transforms or Pipeline()
        self.seed = seed
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # persistent workers see it change

    def __len__(self) -> int:
        raise NotImplementedError

    def load(self, index: int, rng: np.random.Generator) -> Sample:
        """The sample before any transform."""
        raise NotImplementedError

    def set_epoch(self, epoch: int) -> None:
        """Draw other random numbers from now on, in the workers too."""
        self._epoch.fill_(epoch)

    def __getitem__(self, index: int) -> Sample:
        return self.sample(index, np.random.default_rng([self.seed, int(self._epoch), index]))

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        """The sample after all transforms."""
        return self.transforms(self.load(index, rng), rng)
