"""A batch on its way from a worker to the device, its small tensors in one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from lightpose.data.pixels.raw import RawBatch, gather
from lightpose.runtime.packing import Layout, layout_of, pack, unpack
from lightpose.structures import Sample

LARGE_BYTES = 2**16
"""Tensors of so many bytes are handed over as they are."""
_NOTHING = np.empty(0, np.uint8)


@dataclass(frozen=True, slots=True)
class Packed:
    """A `RawBatch` whose small tensors lie in one.

    A worker hands over each tensor through a file of its own, and each is pinned and copied to the device by itself.
    For the twenty of a batch this takes longer than a step of a small network.

    Attributes:
        record: the batch, with an empty array in place of each small tensor.
        content: the small tensors, see `lightpose.runtime.packing.pack`.
        layout: of the small tensors.
    """

    record: RawBatch
    content: Tensor
    layout: Layout

    @classmethod
    def of(cls, batch: RawBatch) -> Self:
        """Pack a batch of the CPU."""
        small = [tensor for tensor in batch.leaves() if tensor.nbytes < LARGE_BYTES]
        record = batch.map(lambda tensor: tensor if tensor.nbytes >= LARGE_BYTES else _NOTHING)
        return cls(record, pack(small), layout_of(small))

    def to(self, device: torch.device | str) -> Self:
        """A copy on ``device``; nothing waits for it but on the CPU."""
        return self._with(lambda tensor: tensor.to(device, non_blocking=torch.device(device).type != "cpu"))

    def pin_memory(self) -> Self:
        """A copy in page-locked memory."""
        return self._with(Tensor.pin_memory)

    def _with(self, function: Callable[[Tensor], Tensor]) -> Self:
        record = self.record.map(lambda leaf: function(leaf) if isinstance(leaf, Tensor) else leaf)
        return type(self)(record, function(self.content), self.layout)

    def unpack(self) -> RawBatch:
        """The batch, where the packed one is; its small tensors share their memory."""
        small = unpack(self.content, self.layout)
        return self.record.map(lambda leaf: leaf if isinstance(leaf, Tensor) else next(small))


def packed(samples: Sequence[Sample]) -> Packed:
    """What workers ship of some samples."""
    return Packed.of(gather(samples))
