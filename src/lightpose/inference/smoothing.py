"""Smoother poses over the frames of a video: One-Euro without delay, or Savitzky-Golay with frames that come later."""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from lightpose.errors import UserError
from lightpose.inference.frames import Frame
from lightpose.structures import Array, Poses

Results = Iterable[tuple[Frame, Poses[Array]]]


class Smoother(Protocol):
    """What ``smoothing=`` chooses."""

    def __call__(self, results: Results) -> Iterator[tuple[Frame, Poses[Array]]]:
        """The same frames and people with smoother keypoints, in order.

        People are told apart by their track ids; those with -1 stay as they are. A keypoint whose score is below the
        threshold is missing: in a short gap it is filled in, and gets a score of those around it; in a longer one it
        stays as it is.

        Raises:
            UserError: for two people in a frame without track ids, and for pictures that are no video's.
        """
        ...


@dataclass(frozen=True, slots=True)
class OneEuro:
    """The One-Euro filter, which smooths more the slower a keypoint moves; no frame waits for another.

    A keypoint that moves at v pixels a second lags by 1 / (2 pi (min_cutoff + beta v)) seconds.

    From Casiez et al., "1 € Filter: A Simple Speed-based Low-pass Filter for Noisy Input in Interactive Systems" (CHI
    2012), for each coordinate.

    Args:
        min_cutoff: frequency in Hz from which on the movement of a keypoint at rest is taken for noise.
        beta: by how many Hz that rises for each pixel a second.
        d_cutoff: that of the speed, Hz.
        threshold: a keypoint of a lower score is missing.
        longest_gap: for so many frames a missing keypoint stays where it was; after more, the filter begins anew.
    """

    min_cutoff: float = 2.0
    beta: float = 0.3
    d_cutoff: float = 1.0
    threshold: float = 0.3
    longest_gap: int = 5

    def __post_init__(self) -> None:
        for name in ("min_cutoff", "d_cutoff"):
            _check(getattr(self, name) > 0, f"{name}={getattr(self, name)} must be over 0")
        _check(self.beta >= 0, f"beta={self.beta} must be at least 0")
        _check_gap(self.longest_gap)

    def arrays(self, keypoints: Array, times_s: Array, scores: Array | None = None) -> tuple[Array, Array]:
        """Smooth one person's keypoints.

        Args:
            keypoints: (T, K, D) in frames in a row; NaN where one isn't known.
            times_s: (T,) increasing.
            scores: (T, K); None for 1.

        Returns:
            (T, K, D) keypoints and (T, K) scores, which differ from those given where a gap was filled.
        """
        points, certain = keypoints.astype(np.float64), _scores(keypoints, scores).astype(np.float64)
        state = _State.of(keypoints.shape[1:])
        for row, time_s in enumerate(times_s):
            points[row], certain[row] = self._step(state, row, points[row], certain[row], time_s)
        return points, certain

    def __call__(self, results: Results) -> Iterator[tuple[Frame, Poses[Array]]]:
        """See `Smoother.__call__`."""
        states: dict[int, _State] = {}
        for row, (frame, poses) in enumerate(results):
            keypoints, scores = poses.keypoints.copy(), poses.keypoint_scores.copy()
            for track, place in tracks_in(frame, poses).items():
                state = states.setdefault(track, _State.of(keypoints.shape[1:]))
                given = keypoints[place], scores[place], time_of(frame)
                keypoints[place], scores[place] = self._step(state, row, *given)
            for track in [track for track, state in states.items() if row - state.row > self.longest_gap]:
                del states[track]  # it would begin anew
            yield frame, replace(poses, keypoints=keypoints, keypoint_scores=scores)

    def _step(self, state: "_State", row: int, points: Array, scores: Array, time_s: float) -> tuple[Array, Array]:
        """One frame: (K, D) and (K,)."""
        known = np.isfinite(points).all(-1) & (scores >= self.threshold)
        followed = row - state.rows <= self.longest_gap + 1
        new, old = known & ~followed, known & followed
        elapsed = np.maximum(time_s - state.times, 1e-6)[:, None]  # (K, 1)
        speed = (points - state.raw) / elapsed
        speed = state.speed + _share(self.d_cutoff, elapsed) * (speed - state.speed)
        share = _share(self.min_cutoff + self.beta * np.abs(speed), elapsed)
        smooth = state.smooth + share * (points - state.smooth)
        state.smooth = np.where(old[:, None], smooth, np.where(new[:, None], points, state.smooth))
        state.speed = np.where(old[:, None], speed, np.where(new[:, None], 0.0, state.speed))
        state.raw = np.where(known[:, None], points, state.raw)
        state.scores = np.where(known, scores, state.scores)
        state.times, state.rows = np.where(known, time_s, state.times), np.where(known, row, state.rows)
        state.row = row
        shown = known | (row - state.rows <= self.longest_gap)
        return np.where(shown[:, None], state.smooth, points), np.where(shown, state.scores, scores)


@dataclass(slots=True)
class _State:
    """What One-Euro knows of a person: the last of each keypoint, smoothed and not, its speed, score, time and row."""

    smooth: Array
    raw: Array
    speed: Array
    scores: Array
    times: Array
    rows: Array
    row: int = 0

    @classmethod
    def of(cls, shape: tuple[int, ...]) -> "_State":
        """Of a person with (K, D) keypoints who wasn't seen before."""
        nothing = np.zeros(shape)
        return cls(nothing, nothing, nothing, nothing[:, 0], nothing[:, 0], np.full(shape[0], -(10**9)))


def _share(cutoff: float | Array, elapsed: Array) -> Array:
    """How much of a new value a low-pass filter takes."""
    made: Array = 1 / (1 + 1 / (2 * np.pi * cutoff * elapsed))
    return made


@dataclass(frozen=True, slots=True)
class SavitzkyGolay:
    """A polynomial through the frames around each frame, by least squares; at a steady rate that of Savitzky and Golay.

    Times of frames count, so the rate may vary. Short gaps are filled on a straight line before. A frame waits for
    ``window // 2 + longest_gap`` others, with its pixels. At the ends of a track the window has fewer frames.

    Args:
        window: frames, an odd number.
        order: degree of the polynomial.
        threshold: a keypoint of a lower score is missing.
        longest_gap: frames for which a missing keypoint is filled in; after more, and after as many frames of the video
            that can't be read, the polynomial begins anew.
    """

    window: int = 9
    order: int = 2
    threshold: float = 0.3
    longest_gap: int = 5

    def __post_init__(self) -> None:
        _check(self.window % 2 == 1 and self.window > 0, f"window={self.window} must be an odd number of frames")
        _check(
            0 <= self.order <= self.window // 2,
            f"order={self.order} must be from 0 to {self.window // 2}, half of window={self.window}",
        )
        _check_gap(self.longest_gap)

    def arrays(
        self, keypoints: Array, times_s: Array, scores: Array | None = None, numbers: Array | None = None
    ) -> tuple[Array, Array]:
        """Smooth one person's keypoints.

        Args:
            keypoints: (T, K, D) in frames in a row; NaN where one isn't known.
            times_s: (T,) increasing.
            scores: (T, K); None for 1.
            numbers: (T,) of the frames, increasing; None for no gaps.

        Returns:
            (T, K, D) keypoints and (T, K) scores, which differ from those given where a gap was filled.
        """
        count = len(keypoints)
        numbers = np.arange(count) if numbers is None else numbers
        return self._rows(keypoints, _scores(keypoints, scores), times_s, numbers, np.arange(count))

    def __call__(self, results: Results) -> Iterator[tuple[Frame, Poses[Array]]]:
        """See `Smoother.__call__`."""
        reach = self.window // 2 + self.longest_gap
        waiting: deque[tuple[Frame, Poses[Array]]] = deque()
        seen: deque[_Seen] = deque(maxlen=2 * reach + 1)  # the last of them wait
        for result in results:
            seen.append(_Seen.of(*result))
            waiting.append(result)
            if len(waiting) > reach:
                yield self._smoothed(waiting[0], seen, len(seen) - len(waiting))
                waiting.popleft()
        while waiting:
            yield self._smoothed(waiting[0], seen, len(seen) - len(waiting))
            waiting.popleft()

    def _smoothed(
        self, result: tuple[Frame, Poses[Array]], seen: "deque[_Seen]", place: int
    ) -> tuple[Frame, Poses[Array]]:
        frame, poses = result
        keypoints, scores = poses.keypoints.copy(), poses.keypoint_scores.copy()
        times, numbers = (np.array([getattr(each, name) for each in seen]) for name in ("time_s", "number"))
        absent = np.full(keypoints.shape[1:], np.nan), np.zeros(keypoints.shape[1])
        for track, row in tracks_in(frame, poses).items():
            found = [each.people.get(track, absent) for each in seen]
            points, certain = (np.stack(column) for column in zip(*found, strict=True))
            made, sure = self._rows(points, certain, times, numbers, np.array([place]))
            keypoints[row], scores[row] = made[0], sure[0]
        return frame, replace(poses, keypoints=keypoints, keypoint_scores=scores)

    def _rows(self, points: Array, scores: Array, times: Array, numbers: Array, rows: Array) -> tuple[Array, Array]:
        """Keypoints (R, K, D) and scores (R, K) of some rows of (T, K, D) and (T, K)."""
        known = np.isfinite(points).all(-1) & (scores >= self.threshold)  # (T, K)
        filled, certain, usable = self._filled(points, scores, times, numbers, known)
        steps = np.diff(numbers, prepend=numbers[:1]) - 1 > self.longest_gap
        stretch = np.cumsum(~usable | steps[:, None], 0)
        half = self.window // 2
        around = rows[:, None] + np.arange(-half, half + 1)  # (R, W)
        inside = (around >= 0) & (around < len(points))
        around = around.clip(0, len(points) - 1)
        weights = (inside[..., None] & usable[around] & (stretch[around] == stretch[rows][:, None])).astype(float)
        offsets = times[around] - times[rows][:, None]
        offsets = offsets / np.abs(offsets).max(1, keepdims=True).clip(1e-9)
        powers = offsets[..., None] ** np.arange(self.order + 1)  # (R, W, P)
        normal = np.einsum("rwk,rwp,rwq->rkpq", weights, powers, powers)
        right = np.einsum("rwk,rwp,rwkd->rkpd", weights, powers, filled[around])
        fits = usable[rows] & (weights.sum(1) > self.order)  # (R, K)
        normal[~fits] = np.eye(self.order + 1)
        made = np.linalg.solve(normal, right)[..., 0, :]  # at the frame itself only the constant counts
        shown = usable[rows]
        found = np.where(shown[..., None], filled[rows], points[rows])
        return np.where(fits[..., None], made, found), np.where(shown, certain[rows], scores[rows])

    def _filled(
        self, points: Array, scores: Array, times: Array, numbers: Array, known: Array
    ) -> tuple[Array, Array, Array]:
        """Keypoints with short gaps filled on a straight line, zero where unknown; scores; and which are of use."""
        row = np.arange(len(points))[:, None]
        before = np.maximum.accumulate(np.where(known, row, -1), 0)
        after = np.minimum.accumulate(np.where(known, row, len(points))[::-1], 0)[::-1]
        between = (before >= 0) & (after < len(points))
        before, after = before.clip(0), after.clip(None, len(points) - 1)
        usable = between & (numbers[after] - numbers[before] - 1 <= self.longest_gap)
        ends = np.where(known[..., None], points, 0.0)
        first, last = (np.take_along_axis(ends, place[..., None], 0) for place in (before, after))
        length = times[after] - times[before]
        share = np.where(length > 0, (times[:, None] - times[before]) / np.where(length > 0, length, 1), 0.0)
        certain = np.minimum(*(np.take_along_axis(scores, place, 0) for place in (before, after)))
        return first + share[..., None] * (last - first), certain, usable


@dataclass(frozen=True, slots=True)
class _Seen:
    """What is kept of a frame without its pixels: track → keypoints (K, D) and scores (K,)."""

    number: int
    time_s: float
    people: Mapping[int, tuple[Array, Array]] = field(default_factory=dict)

    @classmethod
    def of(cls, frame: Frame, poses: Poses[Array]) -> "_Seen":
        """Of everyone who is told apart."""
        rows = tracks_in(frame, poses)
        people = {track: (poses.keypoints[row], poses.keypoint_scores[row]) for track, row in rows.items()}
        return cls(frame.image_id, time_of(frame), people)


def tracks_in(frame: Frame, poses: Poses[Array]) -> dict[int, int]:
    """Track → row of the poses of a frame, for those who are told apart.

    Raises:
        UserError: for several people without track ids.
    """
    if poses.track_ids is None:
        if len(poses) > 1:
            raise UserError(
                f"{frame.name} shows {len(poses)} people, and smoothing= must know who is who from frame to frame; "
                "choose tracker=, or smoothing=null"
            )
        return dict.fromkeys([0] * len(poses), 0)
    return {track: row for row, track in enumerate(poses.track_ids.tolist()) if track >= 0}


def time_of(frame: Frame) -> float:
    """When a frame is shown.

    Raises:
        UserError: for a picture that isn't a video's.
    """
    if frame.time_s is None:
        raise UserError(f"{frame.name} has no time, and smoothing= is for videos and cameras; give smoothing=null")
    return frame.time_s


def _scores(keypoints: Array, scores: Array | None) -> Array:
    return np.ones(keypoints.shape[:2]) if scores is None else scores


def _check(right: bool, said: str) -> None:
    if not right:
        raise UserError(f"smoothing.{said}")


def _check_gap(longest_gap: int) -> None:
    _check(longest_gap >= 0, f"longest_gap={longest_gap} must be at least 0")
