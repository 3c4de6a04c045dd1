"""Small tensors in one, so that they are handed over or copied at once."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional

Layout = Sequence[tuple[torch.dtype, torch.Size]]
"""Type and shape of each tensor."""
_ALIGNED = 8


def layout_of(tensors: Sequence[Tensor]) -> Layout:
    """What `unpack` needs to know of tensors that are packed."""
    return tuple((tensor.dtype, tensor.shape) for tensor in tensors)


def pack(tensors: Sequence[Tensor]) -> Tensor:
    """(n,) uint8: tensors of one device, one after the other; each begins where numbers of any type may."""
    if not tensors:
        return torch.empty(0, dtype=torch.uint8)
    parts = [tensor.contiguous().flatten().view(torch.uint8) for tensor in tensors]
    gaps = [-len(part) % _ALIGNED for part in parts]
    return torch.cat([functional.pad(part, (0, gap)) if gap else part for part, gap in zip(parts, gaps, strict=True)])


def unpack(content: Tensor, layout: Layout) -> Iterator[Tensor]:
    """The tensors that `pack` was given, which share the memory of ``content``."""
    start = 0
    for dtype, shape in layout:
        size = shape.numel() * dtype.itemsize
        yield content[start : start + size].view(dtype).view(shape)
        start += size + -size % _ALIGNED
