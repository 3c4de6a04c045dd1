"""Which frames of a video, or which pictures of a folder, are worth labelling next."""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from scipy.cluster.vq import kmeans2
from scipy.optimize import linear_sum_assignment

from lightpose.errors import UserError
from lightpose.inference.frames import Frame
from lightpose.inference.prefetch import batched
from lightpose.structures import Array, Poses

POOL, JUMPING = 2.0, 0.5
"""Of how many doubtful frames, and of how many with a jump at most, some are chosen: multiples of their ``count``."""
_LEAST_JUMP, _DEVIATIONS = 0.3, 6.0
"""A jump is farther than this share of the person's size, and than so many deviations from the median of the video."""
_AT_ONCE = 16


@dataclass(slots=True)
class Impressions:
    """What is kept of each frame: numbers, and no pixels.

    Attributes:
        predictor: whose backbone tells what frames look like.
        batch_size: frames that go through the backbone at once.
        names: of the frames.
        image_ids: of the frames.
        poses: of the frames.
        features: (C,) float16 of each frame, the backbone's last map of the whole frame, pooled.
    """

    predictor: Any
    batch_size: int = _AT_ONCE
    names: list[str] = field(default_factory=list)
    image_ids: list[int] = field(default_factory=list)
    poses: list[Poses[Array]] = field(default_factory=list)
    features: list[Array] = field(default_factory=list)

    def note(self, results: Iterable[tuple[Frame, Poses[Array]]]) -> Iterator[Frame]:
        """The frames; what is kept of them is added as they pass."""
        for chunk in batched(results, self.batch_size):
            self.features += list(looks(self.predictor, [frame.pixels() for frame, _ in chunk]))
            for frame, poses in chunk:
                self.names.append(frame.name)
                self.image_ids.append(frame.image_id)
                self.poses.append(poses)
                yield frame


def looks(predictor: Any, images: Sequence[Array]) -> Array:
    """(N, C) float16: the backbone's last map of each whole picture, which is squeezed to its input, pooled.

    Raises:
        UserError: for an exported file, which has no backbone.
    """
    import torch

    net: Any = getattr(predictor.estimator, "net", None)
    if predictor.device is None or not hasattr(net, "backbone"):
        raise UserError("frames are compared by the network's backbone, which an .onnx file doesn't show; give a .ckpt")
    height, width = predictor.estimator.input_hw
    small = np.stack([cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA) for image in images])
    with torch.inference_mode():
        inputs = torch.from_numpy(small).to(predictor.device).permute(0, 3, 1, 2)
        maps = net.backbone(net.preprocessor(inputs))
        pooled: Array = maps[-1].float().mean((-2, -1)).half().cpu().numpy()
    return pooled


def sureness(poses: Sequence[Poses[Array]]) -> Array:
    """(F,) mean score of the keypoints of all people in each frame.

    A frame without a person is as sure as the median, unless there is one in the frame before or after: then 0.
    """
    counts = np.array([len(each) for each in poses])
    found = np.array([each.keypoint_scores.mean() if len(each) else np.nan for each in poses], np.float64)
    empty = counts == 0
    beside = np.concatenate([[0], counts[:-1]]) + np.concatenate([counts[1:], [0]]) > 0
    middle = float(np.median(found[~empty])) if not empty.all() else 0.0
    return np.where(empty, np.where(beside, 0.0, middle), found)


def jumps(poses: Sequence[Poses[Array]], image_ids: Sequence[int]) -> Array:
    """(F,) how far the person that moved most came since the frame before, in shares of the person's size.

    People are the same by their track; those without one by least distance, so that who comes or goes is no jump. 0
    where the frame before is missing.
    """
    found = np.zeros(len(poses))
    for row in range(1, len(poses)):
        before, now = poses[row - 1], poses[row]
        if image_ids[row] == image_ids[row - 1] + 1 and len(before) and len(now):
            found[row] = _farthest(before, now)
    return found


def _farthest(before: Poses[Array], now: Poses[Array]) -> float:
    steps = now.keypoints[:, None, :, :2] - before.keypoints[None, :, :, :2]  # (N, M, K, 2)
    apart = np.median(np.linalg.norm(steps, axis=-1), -1)  # (N, M)
    size = np.maximum(np.ptp(now.keypoints[..., :2], axis=1).max(-1), 1.0)  # (N,)
    shares = apart / size[:, None]
    ids = [np.full(len(each), -1) if each.track_ids is None else each.track_ids for each in (now, before)]
    same = (ids[0][:, None] == ids[1][None]) & (ids[0][:, None] >= 0)
    untracked = shares[ids[0] < 0][:, ids[1] < 0]
    return float(max([*shares[same], *untracked[linear_sum_assignment(untracked)]], default=0.0))


def outliers(moved: Array) -> Array:
    """(F,) how far each jump exceeds what is plausible in this video; 0 where it doesn't."""
    middle = float(np.median(moved))
    spread = 1.4826 * float(np.median(np.abs(moved - middle)))
    return np.maximum(moved - max(_LEAST_JUMP, middle + _DEVIATIONS * spread), 0.0)


def at_less_sure(jumped: Array, sure: Array) -> Array:
    """(F,) each jump at the less sure of its two frames: where poses are wrong in one frame they jump there and back.

    Args:
        jumped: (F,) of each frame from the one before, see `outliers`; 0 of the first.
        sure: (F,), see `sureness`.
    """
    into, first = jumped[1:], sure[:-1] < sure[1:]  # of each two frames: the jump, and whether the first is less sure
    return np.maximum(np.append(np.where(first, into, 0.0), 0.0), np.append(0.0, np.where(first, 0.0, into)))


def choose(sure: Array, jumped: Array, features: Array, count: int) -> tuple[Array, Array]:
    """Frames to label: doubtful ones, of different looks.

    Of the `POOL` · ``count`` frames that are least sure, and of at most `JUMPING` · ``count`` with the farthest jumps,
    k-means makes half as many groups as are wanted by their features. A group has places in proportion to its doubt,
    the sum of what its frames lack to the median (Sainte-Laguë), and these go to the most doubtful frames of as many
    groups within it.

    Args:
        sure: (F,), see `sureness`.
        jumped: (F,), see `at_less_sure`.
        features: (F, C), see `looks`.
        count: how many.

    Returns:
        (n,) increasing rows, and (n,) whether each was taken for its jump; n is ``count``, or F if that is less.
    """
    count = min(count, len(sure))
    by_doubt = np.argsort(sure, kind="stable")
    by_jump = np.argsort(-jumped, kind="stable")[: int(JUMPING * count)]
    by_jump = by_jump[jumped[by_jump] > 0]
    pool = np.unique(np.concatenate([by_doubt[: int(POOL * count)], by_jump]))
    doubt = np.maximum(np.median(sure) - sure, 0.0)
    doubt[by_jump] = np.maximum(doubt[by_jump], doubt.max())  # as much as the least sure
    features = features.astype(np.float64)
    groups = _groups(features[pool], -(-count // 2))
    sizes = np.bincount(groups)
    weights = np.bincount(groups, doubt[pool] + 1e-9)
    places = np.zeros_like(sizes)
    for _ in range(count):
        places[np.where(places < sizes, weights / (places + 0.5), -1.0).argmax()] += 1
    chosen: list[int] = []
    for group, wanted in enumerate(places.tolist()):
        chosen += _most_doubtful(pool[groups == group], doubt, features, wanted)
    rows = np.sort(np.array(chosen, np.int64))
    return rows, np.isin(rows, by_jump)


def _most_doubtful(rows: Array, doubt: Array, features: Array, count: int) -> list[int]:
    """The most doubtful frame of each of ``count`` groups; those without a group leave places to the others."""
    ordered = rows[np.argsort(-doubt[rows], kind="stable")]
    if not count or count >= len(rows):
        return ordered[:count].tolist()
    first = np.unique(_groups(features[ordered], count), return_index=True)[1]
    rest = np.delete(ordered, first)
    return [*ordered[first].tolist(), *rest[: count - len(first)].tolist()]


def _groups(features: Array, count: int) -> Array:
    """(N,) number of the group of each of N frames that look alike, by k-means."""
    if len(features) <= count:
        return np.arange(len(features))
    with warnings.catch_warnings(), np.errstate(invalid="ignore"):
        warnings.simplefilter("ignore")  # of empty groups, as where frames are the same
        groups: Array = kmeans2(features, count, minit="++", seed=0)[1]
    return groups
