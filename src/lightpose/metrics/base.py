"""What the metrics share: rows of tensors, one per pose, gathered once when the epoch ends."""

import math
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lightpose.structures import Batch, Poses


@runtime_checkable
class NamesFigures(Protocol):
    """A metric that says what it computes, so that a run can choose what to monitor before anything is computed.

    Attributes:
        figures: names of what ``compute`` gives, the main one first.
        higher_is_better: whether high figures are good.
    """

    figures: tuple[str, ...]
    higher_is_better: bool | None


@runtime_checkable
class NeedsGroundTruth(Protocol):
    """A metric that scores against all that the validation set holds, and not only against what is in the batches."""

    def set_ground_truth(self, coco: Mapping[str, Any]) -> None:
        """Take `lightpose.data.base.PoseDataset.ground_truth`; called before each ``compute``."""
        ...


class PoseMetric(Metric):
    """Collects rows, one per pose, and hands each back once, in the order of the data set.

    Rows stay on the device, and no process waits for another, until the figures are computed. Samplers of several
    processes repeat samples so that all get equally many; a repeated pose is known by the position of its sample in the
    data set and its ordinal within the sample.

    Args:
        columns: name → tensor without rows, (0, ...), that gives each column its shape and type.

    Attributes:
        figures: names of what `compute` gives, the main one first.
    """

    full_state_update = False
    higher_is_better: bool | None = True
    figures: tuple[str, ...]

    def __init__(self, **columns: Tensor) -> None:
        super().__init__()
        self._columns = {"sample_keys": torch.empty(0, 2, dtype=torch.int64), **columns}
        for name in self._columns:
            self.add_state(name, [], dist_reduce_fx="cat")
        self.reset()

    def reset(self) -> None:
        """Forget all rows. Each column keeps a tensor of no rows, so a process without poses can gather with others."""
        super().reset()
        for name, empty in self._columns.items():
            getattr(self, name).append(empty.to(self.device))

    def append(self, poses: Poses, batch: Batch, **columns: Tensor) -> Tensor:
        """Keep the columns, each (N, ...), of N poses; gives what a pose is known by, (N, 2)."""
        keys = torch.stack([batch.indices[poses.batch_index], ordinals(poses.batch_index)], -1)
        for name, column in {"sample_keys": keys, **columns}.items():
            getattr(self, name).append(column.detach().to(self._columns[name].dtype))
        return keys

    def rows(self) -> dict[str, Tensor]:
        """The columns on the CPU: ordered by sample and ordinal, repeats dropped."""
        columns = {name: dim_zero_cat(getattr(self, name)).cpu() for name in self._columns}
        _, first = np.unique(columns["sample_keys"].numpy(), axis=0, return_index=True)
        return {name: column[torch.from_numpy(first)] for name, column in columns.items()}


def ordinals(groups: Tensor) -> Tensor:
    """How many earlier elements of ``groups`` (N,) equal each element: ``[4, 7, 4, 4]`` gives ``[0, 0, 1, 2]``."""
    ordered, order = groups.sort(stable=True)
    ranks = torch.arange(len(groups), device=groups.device) - torch.searchsorted(ordered, ordered)
    return torch.empty_like(ranks).scatter_(0, order, ranks)


def format_figure(value: float) -> str:
    """A figure for people; NaN means that there was nothing to measure."""
    return "n/a (0 instances)" if math.isnan(value) else f"{value:.4f}"
