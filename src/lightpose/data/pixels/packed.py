"""A batch on its way from a worker to the device, its small tensors in one."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from lightpose.data.pixels.raw import RawBatch, gather
from lightpose.structures import Sample

LARGE_BYTES = 2**16
"""Tensors of so many bytes are handed over as they are."""
_ALIGNED = 8
_NOTHING = np.empty(0, np.uint8)


@dataclass(frozen=True, slots=True)
class Packed:
    """A `RawBatch` whose small tensors lie in one.

    A worker hands over each tensor through a file of its own, and each is pinned and copied to the device by itself.
    For the twenty of a batch this takes longer than a step of a small network.

    Attributes:
        record: the batch, with an empty array in place of each small tensor.
        content: (n,) uint8, the small tensors one after the other.
        layout: type and shape of each.
    """

    record: RawBatch
    content: Tensor
    layout: tuple[tuple[torch.dtype, torch.Size], ...]

    @classmethod
    def of(cls, batch: RawBatch) -> Self:
        """Pack a batch of the CPU."""
        small = [tensor for tensor in batch.leaves() if tensor.nbytes < LARGE_BYTES]
        content = np.zeros(sum(_room(tensor.nbytes) for tensor in small), np.uint8)
        start = 0
        for tensor in small:
            content[start : start + tensor.nbytes] = tensor.contiguous().flatten().view(torch.uint8).numpy()
            start += _room(tensor.nbytes)
        return cls(
            record=batch.map(lambda tensor: tensor if tensor.nbytes >= LARGE_BYTES else _NOTHING),
            content=torch.from_numpy(content),
            layout=tuple((tensor.dtype, tensor.shape) for tensor in small),
        )

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
        small = self._small()
        return self.record.map(lambda leaf: leaf if isinstance(leaf, Tensor) else next(small))

    def _small(self) -> Iterator[Tensor]:
        start = 0
        for dtype, shape in self.layout:
            size = shape.numel() * dtype.itemsize
            yield self.content[start : start + size].view(dtype).view(shape)
            start += _room(size)


def _room(size: int) -> int:
    """Bytes that a tensor takes, so that the next begins where numbers of any type may."""
    return -(-size // _ALIGNED) * _ALIGNED


def packed(samples: Sequence[Sample]) -> Packed:
    """What workers ship of some samples."""
    return Packed.of(gather(samples))
