"""Where everybody of a video was in the last frames, to be drawn."""

from collections import deque

import numpy as np

from lightpose.inference.tracking.base import NOBODY
from lightpose.structures import Array, Poses


class Tails:
    """The ways of those who have an identity and were seen not long ago.

    Args:
        frames: over how many frames a tail reaches back.
        threshold: the least score of a keypoint to count as found.
    """

    def __init__(self, frames: int, threshold: float) -> None:
        self.frames, self.threshold = frames, threshold
        self._places: dict[int, deque[tuple[int, Array]]] = {}

    def __call__(self, number: int, poses: Poses[Array]) -> dict[int, Array]:
        """Track id → (P, 2) image px, the middles of the found keypoints up to the frame of that number."""
        ids = np.full(len(poses), NOBODY) if poses.track_ids is None else poses.track_ids
        found = np.isfinite(poses.keypoints).all(-1) & (poses.keypoint_scores >= self.threshold)  # (N, K)
        for row in np.flatnonzero((ids != NOBODY) & found.any(1)).tolist():
            place = poses.keypoints[row, found[row], :2].mean(0)
            self._places.setdefault(int(ids[row]), deque()).append((number, place))
        for track_id, places in list(self._places.items()):
            while places and places[0][0] <= number - self.frames:
                places.popleft()
            if not places:
                del self._places[track_id]
        return {track_id: np.stack([place for _, place in places]) for track_id, places in self._places.items()}
