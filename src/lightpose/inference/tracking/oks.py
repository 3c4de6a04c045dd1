"""People followed by their poses."""

from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import linear_sum_assignment

from lightpose.geometry import extents
from lightpose.inference.tracking.base import NOBODY, boxes_of, confidence_of, kept_for
from lightpose.inference.tracking.looks import alike, colors_of, recognised
from lightpose.skeleton import Skeleton
from lightpose.structures import Array, Poses, TensorStruct

_RECENT_S = 0.25
"""Who wasn't seen for longer has perhaps changed direction; and who has no id yet is forgotten."""
_STEADY_S = 0.3
"""Over so long a time speed is averaged."""
_SHRINKING_S = 2.0
"""The same of size where it shrinks, as part of somebody may be hidden or outside the picture."""
_MOST = 0.6
"""Of the keypoints."""
_COASTING_S = 1.0
"""For about so long, who isn't seen is thought to go on as before."""
_BOX_WEIGHT = 0.1
"""Of the middle of the box, relative to a keypoint that is sure; it helps where hardly a keypoint is seen twice."""
_SHORTER = 0.5
"""Of the sides of a box, taken for the shorter relative to the longer one, which changes less as somebody moves."""
_RECOGNISED = 0.5
"""What it counts, relative to an OKS of 1, that somebody who comes back looks like nobody else."""
_UNNAMED = 0.3
"""What the similarity to somebody without an id counts: poses go first to those who have one."""
_FADING = 0.9
"""Of the colours of the frames before, in each frame."""
_LEAST_PX = 10.0
"""Of a box, for a single keypoint without one."""


@dataclass(frozen=True, slots=True)
class _People(TensorStruct):
    """T people in a frame, or those who were seen in the frames before.

    Attributes:
        keypoints: (T, K + 1, 2) image px, and the middle of the box last; that, too, where a keypoint isn't known.
        weights: (T, K + 1) in [0, 1], how sure each is.
        areas: (T,) by the longer sides of the boxes, square px.
        whole: (T,) whether most keypoints were seen; of others nobody knows how large they are, but that they aren't
            smaller.
        categories: (T,).
        speeds: (T, 2) px/s.
        seen_s: (T,) when that was.
        hits: (T,) in how many frames.
        ids: (T,), -1 for who may be a mistake of the detector.
        colors: (T, L, 3) along the links of the skeleton.
        color_weights: (T, L), how sure each is.
    """

    keypoints: Array
    weights: Array
    areas: Array
    whole: Array
    categories: Array
    speeds: Array
    seen_s: Array
    hits: Array
    ids: Array
    colors: Array
    color_weights: Array


class OKSTracker:
    """Joins the poses of a frame to people by object keypoint similarity (OKS) to where each is expected.

    A person is expected to go on at the same speed, and to slow down while nobody sees them; or to be where they were
    last seen, as who leaves the picture comes back there. The longer that was ago, the farther away they may be found,
    and the less a resemblance counts. Poses and people are joined so that the resemblances of all pairs together are as
    large as they can be. Poses of different categories are never joined.

    Colours along the links of the skeleton say what people look like. They count where two could be either, and who
    looks like nobody else is known again wherever they come back.

    Args:
        skeleton: its sigmas say which keypoints to compare more strictly.
        fps: frames per second.
        sigma: mean of the sigmas, to which the skeleton's are scaled. Those of labelling noise, about 0.06, are too
            strict for a person who moves.
        least_oks: poses less similar are never joined.
        spread: how much farther per second a person who isn't seen may be off, in square roots of their box's area.
        start_score: the least confidence of a box, or else of a pose, to begin a track; others only continue one.
        confirm_frames: in so many frames somebody is seen before they get an id; in the first frame at once.
        keep_s: an identity is kept for so many seconds in which nobody sees the person.
        looks: whether colours count.
    """

    def __init__(
        self,
        skeleton: Skeleton,
        fps: float,
        sigma: float = 0.1,
        least_oks: float = 0.3,
        spread: float = 0.3,
        start_score: float = 0.3,
        confirm_frames: int = 2,
        keep_s: float = 3.0,
        looks: bool = True,
    ) -> None:
        self.links = skeleton.links if looks else ()
        self.needs_image = bool(self.links)
        sigmas = np.array(skeleton.sigmas) * (sigma / np.mean(skeleton.sigmas))
        self.sigmas = np.append(sigmas, 2 * sigma)
        self.least_oks, self.spread, self.start_score = least_oks, spread, start_score
        self.confirm_frames, self.keep_s = confirm_frames, kept_for(keep_s, fps)
        self.recent_s = max(_RECENT_S, 2.5 / fps)
        self._people: _People | None = None
        self._given = 0
        self._first_s: float | None = None

    def __call__(self, poses: Poses[Array], time_s: float, image: Array | None = None) -> Poses[Array]:
        """See `lightpose.inference.tracking.base.Tracker`."""
        found = self._seen(_people_in(poses, time_s, len(self.links)), image)
        if self._first_s is None and len(found.ids):
            self._first_s = time_s
        known = found.map(lambda column: column[:0]) if self._people is None else self._people
        ages_s = time_s - known.seen_s
        staying = ages_s <= np.where(known.ids == NOBODY, self.recent_s, self.keep_s) + 1e-9
        known, ages_s = known.map(lambda column: column[staying]), ages_s[staying].clip(0)
        expected = _expected(known, ages_s)
        away = self.spread * ages_s[:, None]
        variances = (2 * self.sigmas) ** 2 + away**2  # (T, K + 1)
        similarity = _similarity(expected, found, variances)
        late = ages_s > self.recent_s + 1e-9
        stayed = _similarity(known.map(lambda column: column[late]), found, variances[late])
        similarity[late] = np.maximum(similarity[late], stayed)
        looks = alike(known.colors, known.color_weights, found.colors, found.color_weights)
        gain = np.where(similarity >= self.least_oks, similarity / (1 + away / (2 * self.sigmas.mean())), 0.0) * looks
        named = (known.ids != NOBODY)[:, None]
        gain = np.where(named, gain, _UNNAMED * gain)
        comparable = named & ((known.color_weights[:, None] * found.color_weights).sum(-1) > 0)
        again = late[:, None] & (known.categories[:, None] == found.categories)
        gain = np.maximum(gain, again * _RECOGNISED * recognised(looks, comparable))
        rows, columns = linear_sum_assignment(gain, maximize=True)
        rows, columns = rows[gain[rows, columns] > 0], columns[gain[rows, columns] > 0]
        matched = self._continued(expected, rows, found, columns, ages_s[rows], time_s)

        beginning = (confidence_of(poses) >= self.start_score) & found.weights[:, :-1].any(1)
        beginning[columns] = False
        new = found.map(lambda column: column[beginning])
        new = replace(new, ids=self._ids(new, time_s))
        track_ids = np.full(len(poses), NOBODY, np.int64)
        track_ids[columns], track_ids[beginning] = matched.ids, new.ids
        waiting = np.ones(len(known.ids), bool)
        waiting[rows] = False
        self._people = _joined([known.map(lambda column: column[waiting]), matched, new])
        return replace(poses, track_ids=track_ids)

    def _seen(self, people: _People, image: Array | None) -> _People:
        """The same people with their colours."""
        if image is None or not len(people.ids):
            return people
        colors, weights = colors_of(image, people.keypoints[:, :-1], people.weights[:, :-1], self.links)
        return replace(people, colors=colors, color_weights=weights)

    def _continued(
        self, expected: _People, rows: Array, found: _People, columns: Array, ages_s: Array, time_s: float
    ) -> _People:
        """Those people who are seen in this frame, as they are now."""
        before, now = expected.map(lambda column: column[rows]), found.map(lambda column: column[columns])
        both = before.weights * now.weights
        off = ((now.keypoints - before.keypoints) * both[..., None]).sum(1) / both.sum(1).clip(1e-9)[:, None]
        gain = np.maximum(1 - np.exp(-ages_s / _STEADY_S), 1 / (1 + before.hits))
        gain = np.where(ages_s > self.recent_s, 0.5, gain)[:, None]
        speeds = before.speeds + gain * off / np.maximum(ages_s, 1e-3)[:, None]
        kept = np.exp(-ages_s / _SHRINKING_S)
        seen = now.weights > 0
        total = _FADING * before.color_weights + now.color_weights
        share = (now.color_weights / np.maximum(total, 1e-9))[..., None]
        joined = _People(
            keypoints=np.where(seen[..., None], now.keypoints, before.keypoints + off[:, None]),
            weights=np.where(seen, now.weights, 0.9 * before.weights),
            areas=np.maximum(now.areas, kept * before.areas + (1 - kept) * now.areas),
            whole=before.whole | now.whole,
            categories=now.categories,
            speeds=np.where(ages_s[:, None] > 0, speeds, before.speeds),
            seen_s=np.full(len(rows), time_s),
            hits=before.hits + 1,
            ids=before.ids,
            colors=before.colors + share * (now.colors - before.colors),
            color_weights=total,
        )
        return replace(joined, ids=self._ids(joined, time_s))

    def _ids(self, people: _People, time_s: float) -> Array:
        """(T,) ids; new ones for those who were seen often enough to get one."""
        ids = people.ids.copy()
        ready = (ids == NOBODY) & ((people.hits >= self.confirm_frames) | (time_s == self._first_s))
        ids[ready] = self._given + 1 + np.arange(ready.sum())
        self._given += int(ready.sum())
        return ids


def _people_in(poses: Poses[Array], time_s: float, links: int) -> _People:
    """What a frame shows, without colours."""
    count = len(poses)
    points = poses.keypoints[..., :2].astype(np.float64)
    known = np.isfinite(points).all(-1) & np.isfinite(poses.keypoint_scores)
    weights = np.where(known, poses.keypoint_scores, 0.0).clip(0, 1)
    sure = (weights > 0) & (weights >= 0.5 * weights.max(1, initial=0, keepdims=True))
    boxes = np.nan_to_num(boxes_of(poses))  # may end where somebody is hidden
    low, high = extents(points, sure)
    longer = np.maximum(boxes[:, 2:] - boxes[:, :2], high - low).max(1, initial=_LEAST_PX)  # (N,)
    middles = ((boxes[:, 2:] + boxes[:, :2]) / 2)[:, None]  # (N, 1, 2)
    return _People(
        keypoints=np.concatenate([np.where(known[..., None], points, middles), middles], 1),
        weights=np.concatenate([weights, np.full((count, 1), _BOX_WEIGHT)], 1),
        areas=_SHORTER * longer**2,
        whole=sure.mean(1) >= _MOST,
        categories=np.zeros(count, np.int64) if poses.categories is None else poses.categories,
        speeds=np.zeros((count, 2)),
        seen_s=np.full(count, time_s),
        hits=np.ones(count, np.int64),
        ids=np.full(count, NOBODY, np.int64),
        colors=np.zeros((count, links, 3)),
        color_weights=np.zeros((count, links)),
    )


def _expected(people: _People, ages_s: Array) -> _People:
    """Where people may be, so many seconds after they were seen."""
    slowing = np.exp(-ages_s / _COASTING_S)[:, None]
    moved = people.speeds * _COASTING_S * (1 - slowing)
    return replace(people, keypoints=people.keypoints + moved[:, None], speeds=people.speeds * slowing)


def _similarity(expected: _People, found: _People, variances: Array) -> Array:
    """(T, N): OKS with variances (T, K + 1), relative to the mean of both areas, and lowered where they differ."""
    squares = ((expected.keypoints[:, None] - found.keypoints) ** 2).sum(-1)  # (T, N, K + 1)
    larger = np.maximum(expected.areas[:, None], found.areas)
    smaller = np.minimum(expected.areas[:, None], found.areas)
    smaller = np.where(expected.whole[:, None] & found.whole, smaller, larger)
    areas = (smaller + larger) / 2
    alike = np.exp(-squares / (2 * areas[..., None] * variances[:, None]))
    weights = expected.weights[:, None] * found.weights
    oks = (weights * alike).sum(-1) / weights.sum(-1).clip(1e-9)
    same: Array = expected.categories[:, None] == found.categories
    return np.where(same, oks * smaller / areas, 0.0)


def _joined(parts: list[_People]) -> _People:
    columns = zip(*(part.leaves() for part in parts), strict=True)
    return parts[0].map(lambda _: np.concatenate(next(columns)))
