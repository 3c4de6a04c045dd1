"""Poses on their way from the device to the CPU."""

import torch

from lightpose.runtime.packing import layout_of, pack, unpack
from lightpose.structures import Array, Poses


class Transfer:
    """One copy of all fields of some poses, which nothing waits for until `wait`.

    Args:
        poses: on any device; a GPU may still be computing them.
    """

    def __init__(self, poses: Poses) -> None:
        self.poses, self.done = poses, None
        if poses.keypoints.is_cuda:
            columns = poses.leaves()
            self.layout = layout_of(columns)
            self.packed = pack(columns).to("cpu", non_blocking=True)  # into pinned memory
            self.done = torch.cuda.Event()
            self.done.record(torch.cuda.current_stream(poses.keypoints.device))

    def wait(self) -> Poses[Array]:
        """The poses as arrays."""
        if self.done is None:
            return self.poses.numpy()
        self.done.synchronize()
        columns = unpack(self.packed, self.layout)
        return self.poses.map(lambda _: next(columns).clone()).numpy()  # so the pinned memory is free for others
