"""People followed by their boxes: the trackers of the ``trackers`` library."""

import importlib
import math
import warnings
from collections.abc import Mapping
from dataclasses import replace
from types import ModuleType
from typing import Any, Literal

import numpy as np

from lightpose.errors import UserError
from lightpose.inference.tracking.base import NOBODY, boxes_of, confidence_of, kept_for
from lightpose.skeleton import Skeleton
from lightpose.structures import Array, Poses

Method = Literal["bytetrack", "ocsort", "botsort"]
_CLASSES: Mapping[Method, str] = {
    "bytetrack": "ByteTrackTracker",
    "ocsort": "OCSORTTracker",
    "botsort": "BoTSORTTracker",
}
_UNIT = 30
"""In so many parts of a second the library counts how long it keeps a track."""


class BoxTracker:
    """ByteTrack (arXiv:2110.06864), OC-SORT (arXiv:2203.14360) or BoT-SORT (arXiv:2206.14651) over boxes.

    Each category is followed by itself. Boxes are those of the poses, or else those around the scored keypoints; their
    confidence is that of the box, or else of the pose.

    Args:
        skeleton: of the poses.
        fps: frames per second.
        method: which of the three.
        keep_s: an identity is kept for so many seconds in which nobody sees the person.
        options: of the library's class.

    Raises:
        UserError: when the library isn't installed, for another method, and for options that the class doesn't take.
    """

    def __init__(
        self,
        skeleton: Skeleton,
        fps: float,
        method: Method,
        keep_s: float = 1.0,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        if method not in _CLASSES:
            raise UserError(f"method={method} is no tracker of boxes; use one of {', '.join(_CLASSES)}")
        self._class = getattr(_library(), _CLASSES[method])
        self._detections: Any = importlib.import_module("supervision").Detections
        kept = math.ceil(_UNIT * kept_for(keep_s, fps))
        self._options = {**(options or {}), "frame_rate": fps, "lost_track_buffer": kept}
        self.needs_image = method == "botsort" and self._options.get("enable_cmc", True)
        self._trackers: dict[int, Any] = {}
        self._numbers: dict[tuple[int, int], int] = {}
        self._tracker_of(0)  # which refuses what can't be

    def __call__(self, poses: Poses[Array], time_s: float, image: Array | None = None) -> Poses[Array]:
        """See `lightpose.inference.tracking.base.Tracker`."""
        boxes, scores = boxes_of(poses), confidence_of(poses)
        categories = np.zeros(len(poses), np.int64) if poses.categories is None else poses.categories
        good = np.isfinite(boxes).all(1) & (boxes[:, 2:] > boxes[:, :2]).all(1)
        ids = np.full(len(poses), NOBODY, np.int64)
        bgr = None if image is None else np.ascontiguousarray(image[..., ::-1])
        for category in sorted({*self._trackers, *categories[good].tolist()}):
            rows = np.flatnonzero(good & (categories == category))
            given = self._detections(
                xyxy=boxes[rows].astype(np.float32), confidence=scores[rows].astype(np.float32), data={"row": rows}
            )
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a frame that comes twice
                found = self._tracker_of(category).update(given, frame=bgr, timestamp=time_s)
            named = found.tracker_id >= 0
            for row, number in zip(
                found.data["row"][named] if named.any() else (), found.tracker_id[named], strict=True
            ):
                ids[row] = self._numbers.setdefault((category, int(number)), len(self._numbers) + 1)
        return replace(poses, track_ids=ids)

    def _tracker_of(self, category: int) -> Any:
        if category not in self._trackers:
            try:
                self._trackers[category] = self._class(**self._options)
            except (TypeError, ValueError) as error:
                raise UserError(f"tracker.options can't be used: {error}") from error
        return self._trackers[category]


def _library() -> ModuleType:
    try:
        return importlib.import_module("trackers")
    except ImportError as error:
        raise UserError(
            f"trackers of boxes need the package trackers, which can't be imported ({error}): pip install "
            '"lightpose[track]", or use tracker=oks. If a server lacks libGL: pip install --force-reinstall --no-deps '
            "opencv-python-headless"
        ) from error
