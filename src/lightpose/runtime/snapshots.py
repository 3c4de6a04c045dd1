"""Copies of the state of a training, taken without waiting for a GPU."""

import copy
from collections import defaultdict
from collections.abc import Hashable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves


class Snapshot(NamedTuple):
    """A copy that is on its way to the host's memory.

    Attributes:
        content: the copy; tensors of a GPU are whole after `wait`.
        arrivals: one event for each GPU.
        buffers: pinned memory that holds the tensors of GPUs, each with what tensors it fits.
    """

    content: Any
    arrivals: list[torch.cuda.Event]
    buffers: list[tuple[Hashable, Tensor]]

    def wait(self) -> None:
        """Return once all is copied."""
        for arrival in self.arrivals:
            arrival.synchronize()


class Snapshots:
    """Takes snapshots. Pinned memory is kept for the next ones, since getting gigabytes of it takes seconds."""

    def __init__(self) -> None:
        self._free: defaultdict[Hashable, list[Tensor]] = defaultdict(list)

    @torch.no_grad()
    def take(self, content: Any) -> Snapshot:
        """A copy that nothing changes which happens to ``content`` from now on.

        Tensors of a GPU are copied to pinned memory in the current stream, and nothing waits for that: what is queued
        in this stream later comes later. A tensor that stands in several places, or shares its memory with one of the
        same shape, is copied once.

        Args:
            content: nested plain data and tensors.
        """
        devices: set[torch.device] = set()
        buffers: list[tuple[Hashable, Tensor]] = []
        copies: dict[Hashable, Tensor] = {}
        memo: dict[int, Any] = {}  # id of a tensor → its copy, for deepcopy
        for tensor in tree_leaves(content):
            if type(tensor) not in (Tensor, nn.Parameter) or tensor.layout != torch.strided:
                continue  # deepcopy knows what to do
            place = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
            if place not in copies and tensor.is_cuda:
                kind = (tensor.dtype, tensor.shape, tensor.stride())
                free = self._free[kind]
                buffer = free.pop() if free else torch.empty_like(tensor, device="cpu", pin_memory=True)
                buffers.append((kind, buffer))
                copies[place] = buffer.copy_(tensor, non_blocking=True)
                devices.add(tensor.device)
            elif place not in copies:
                copies[place] = tensor.detach().clone()
            memo[id(tensor)] = copies[place]
        copied = copy.deepcopy(content, memo)
        return Snapshot(copied, [_recorded(device) for device in devices], buffers)

    def give_back(self, snapshot: Snapshot | None) -> None:
        """Let the next snapshots overwrite ``snapshot``, if there is one."""
        for kind, buffer in snapshot.buffers if snapshot else ():
            self._free[kind].append(buffer)


def _recorded(device: torch.device) -> torch.cuda.Event:
    event = torch.cuda.Event(blocking=True)  # without it, waiting would keep a core busy
    event.record(torch.cuda.current_stream(device))
    return event
