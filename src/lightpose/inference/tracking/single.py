"""One animal, which is whoever is seen best."""

from dataclasses import replace

import numpy as np

from lightpose.inference.tracking.base import NOBODY
from lightpose.skeleton import Skeleton
from lightpose.structures import Array, Poses


class SingleTracker:
    """The best pose of each frame is track 1, wherever it is; the others have no identity.

    Args:
        skeleton: of the poses.
        fps: frames per second.
    """

    needs_image = False

    def __init__(self, skeleton: Skeleton, fps: float) -> None:
        """Neither is needed: each frame is judged by itself."""

    def __call__(self, poses: Poses[Array], time_s: float, image: Array | None = None) -> Poses[Array]:
        """See `lightpose.inference.tracking.base.Tracker`."""
        ids = np.full(len(poses), NOBODY, np.int64)
        scores = np.where(np.isfinite(poses.scores), poses.scores, -np.inf)
        if len(poses):
            ids[int(scores.argmax())] = 1
        return replace(poses, track_ids=ids)
