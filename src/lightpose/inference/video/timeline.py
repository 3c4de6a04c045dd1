"""Which frames a video file has, and when each is shown, by what its container says."""

import logging
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from lightpose.inference.video.containers import opened, packets
from lightpose.structures import Array

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream

log = logging.getLogger(__name__)

_LOSING = ("avi", "matroska", "mpeg", "asf")
"""Containers whose damage can hide that there was a frame; the others have a table of all."""
_UNSTAMPED = ("h264", "hevc", "vvc")
"""Codecs that show frames in another order than AVI stores them, whose time stamps FFmpeg only guesses there."""
_NONE = -(2**63)
"""Stands for a number that a container doesn't say."""


@dataclass(frozen=True, eq=False, slots=True)
class Timeline:
    """Which frames a video has, by what its container says.

    Attributes:
        fps: frames per second; on average, where the rate varies.
        announced: how many frames there are, by the header and by the container's content, whichever says more.
        stamps: (n,) int64, increasing: time stamps of the frames that the container holds, whole or damaged; n is 0
            where it doesn't say, and frames are counted as they are decoded.
        numbers: (n,) int64, increasing: the number of each, from 1.
        times_s: (n,) float64, increasing: when each is shown, by the container's clock.
        end_s: when the last is no longer shown, by the same clock.
        time_base: seconds of a tick; all times are whole numbers of them.
    """

    fps: Fraction
    announced: int
    stamps: Array
    numbers: Array
    times_s: Array
    end_s: float
    time_base: Fraction

    @property
    def start_s(self) -> float:
        """When frame 1 is shown, or would be, by the container's clock."""
        return float(self.times_s[0]) - (int(self.numbers[0]) - 1) / float(self.fps) if len(self.numbers) else 0.0

    def time_s(self, number: int) -> float:
        """When a frame is shown, counted from frame 1; one that the container doesn't hold, by the average rate."""
        row = int(np.searchsorted(self.numbers, number))
        if row < len(self.numbers) and self.numbers[row] == number:
            return float(self.times_s[row]) - self.start_s
        return (number - 1) / float(self.fps)

    def until_s(self, number: int) -> float:
        """When a frame is followed by the next or, if it is the last, by nothing; counted from frame 1."""
        row = int(np.searchsorted(self.numbers, number, side="right"))
        if row < len(self.numbers):
            return float(self.times_s[row]) - self.start_s
        last = self.time_s(number)
        return max(last, self.end_s - self.start_s) if number == self.announced else last + 1 / float(self.fps)


def read_timeline(path: str) -> Timeline:
    """Read the whole container, and decode nothing.

    Raises:
        UserError: for a file that is no video, or one of more than `MAX_PIXELS` a frame.
    """
    rows, discarded = array("q"), 0  # not tuples, which take ten times as much memory for a video of hours
    with opened(path) as (container, stream):
        kind, codec = container.format.name, stream.codec_context
        entries = stream.index_entries if kind == "avi" else ()
        index = {entry.pos: entry.timestamp for entry in entries}  # before reading adds to it
        for packet in packets(container, stream):
            if packet.is_discard:
                discarded += 1
            elif packet.size:
                rows.extend(_row(packet))
        rate = stream.average_rate or stream.guessed_rate or Fraction(30)
        base = stream.time_base or 1 / rate
        listed = max(stream.frames - discarded, 0)
        by_duration = int(_duration_s(container, stream) * float(rate) + 0.25)  # the last frame may count for less
        alone = len(container.streams) == 1
    held = np.frombuffer(rows, np.int64).reshape(-1, 5)
    pts, dts, *_, durations = held.T
    stamps = np.where(pts == _NONE, dts, pts)
    guessed = kind == "avi" and codec.name in _UNSTAMPED and codec.has_b_frames
    if guessed or len(np.unique(stamps[stamps != _NONE])) < len(held):
        nothing, count = stamps[:0], max(len(held), listed)
        return Timeline(rate, count, nothing, nothing, nothing / 1.0, count / float(rate), 1 / rate)
    order = np.argsort(stamps, kind="stable")
    numbers, times = np.arange(1, len(held) + 1), stamps
    if len(held) and any(name in kind for name in _LOSING):
        if kind == "avi":
            times = stamps + _avi_shifts(held, index, listed if alone else 0) - _lead(held)
        starts = kind == "avi" or ("matroska" in kind and alone)  # there is no sound that it could have begun with
        by_time = _steady_numbers((times - (0 if starts else times.min()))[order] * float(rate * base))
        most = max(listed or by_duration, len(held)) + 1
        if by_time is not None and by_time[-1] <= most:
            numbers = by_time
            listed = listed or max(by_duration, int(numbers[-1]))
    last = int(numbers[-1]) if len(held) else 0
    if 0 < listed < last:
        log.warning("%s says that it has %d frames, and holds %d", path, listed, last)
    times_s = times[order] * float(base)
    end_s = float(times_s[-1]) + (float(durations[order[-1]] * base) or 1 / float(rate)) if len(held) else 0.0
    return Timeline(rate, max(listed, last), stamps[order], numbers, times_s, end_s, base)


def _row(packet: "Packet[VideoStream]") -> tuple[int, ...]:
    """What a container says of a frame that it holds: pts, dts, place and size of its data, and duration."""
    known = (packet.pts, packet.dts, packet.pos, packet.size, packet.duration or 0)
    return tuple(_NONE if value is None else value for value in known)


def _lead(held: Array) -> int:
    """By how much frames are shown later than they are decoded."""
    whole = (held[:, :2] != _NONE).all(1)
    return int(held[whole.argmax(), 0] - held[whole.argmax(), 1]) if whole.any() else 0


def _avi_shifts(held: Array, index: Mapping[int, int], listed: int) -> Array:
    """What is to be added to the time stamps of an AVI, (n,), where FFmpeg counted too few before a frame.

    Args:
        held: (n, 5) of `_row`, in the order in which frames are stored.
        index: place → time stamp, of the file's own index.
        listed: how many frames there are by the header; 0 where other things are stored between the frames.
    """
    shifts = np.zeros(len(held), np.int64)
    _, dts, places, sizes, _ = held.T
    begins = np.where(places == _NONE, 0, places) - 8  # before the frame come its name and size
    known = [index.get(place) for place in begins.tolist()]
    if sum(stamp is not None for stamp in known) > len(held) // 2:
        shift = 0
        for row, (stamp, counted) in enumerate(zip(known, dts.tolist(), strict=True)):
            shift = shift if stamp is None or counted == _NONE else stamp - counted
            shifts[row] = shift
    elif listed > len(held) > 1:  # without an index: those that lack were where most is stored that is no frame
        gaps = begins[1:] - (begins + 8 + sizes)[:-1]
        if gaps.max() > 1:  # one byte makes sizes even
            shifts[int(gaps.argmax()) + 1 :] = listed - len(held)
    return shifts


def _steady_numbers(times: Array) -> Array | None:
    """Numbers, from 1, of frames at these times, (n,) increasing and counted in frames, if these keep a steady rate.

    So there are no numbers for gaps; a time may be a third of a frame off, as some containers count milliseconds.
    """
    numbers = np.round(times).astype(np.int64) + 1
    steps = np.diff(numbers)
    steady = (
        np.abs(times - np.round(times)).max() < 0.35
        and numbers[0] >= 1
        and (steps >= 1).all()
        and (len(steps) < 2 or (steps == 1).mean() > 0.8)
    )
    return numbers if steady else None


def _duration_s(container: "InputContainer", stream: "VideoStream") -> float:
    """Of the frames, as the header says; 0 where it doesn't."""
    text = stream.metadata.get("DURATION", "")  # hours:minutes:seconds, of Matroska
    if text.count(":") == 2 and text.replace(":", "").replace(".", "", 1).isdecimal():
        hours, minutes, seconds = text.split(":")
        return 3600 * float(hours) + 60 * float(minutes) + float(seconds)
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return (container.duration or 0) / 1e6 if len(container.streams) == 1 else 0.0
