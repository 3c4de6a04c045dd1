"""Poses on their way from the device to the CPU."""

import torch
from torch import Tensor

from lightpose.structures import Array, Poses


class Transfer:
    """One copy of all fields of some poses, which nothing waits for until `wait`.

    Args:
        poses: on any device; a GPU may still be computing them.
    """

    def __init__(self, poses: Poses) -> None:
        self.poses, self.done = poses, None
        if poses.keypoints.is_cuda:
            packed = torch.cat([column.contiguous().flatten().view(torch.uint8) for column in poses.leaves()])
            self.packed = packed.to("cpu", non_blocking=True)  # into pinned memory
            self.done = torch.cuda.Event()
            self.done.record(torch.cuda.current_stream(packed.device))

    def wait(self) -> Poses[Array]:
        """The poses as arrays."""
        if self.done is None:
            return self.poses.numpy()
        self.done.synchronize()
        start = 0

        def unpacked(column: Tensor) -> Tensor:
            nonlocal start
            start, first = start + column.nbytes, start
            part = self.packed[first:start].clone()  # so the pinned memory is free for others
            return part.view(column.dtype).view(column.shape)

        return self.poses.map(unpacked).numpy()
