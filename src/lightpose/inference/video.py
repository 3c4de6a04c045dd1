"""Video files, frame by frame: a frame that can't be read costs no other one, and no other one its number."""

import logging
import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np

from lightpose.data.pixels.image_header import MAX_PIXELS, check_pixels
from lightpose.errors import UserError
from lightpose.structures import Array

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

log = logging.getLogger(__name__)

_CONTAINERS = "mov,avi,matroska,webm,mpeg,mpegvideo,mpegts,m4v,asf,flv,gif"
"""FFmpeg's names of what is read. Others, such as playlists, would open more files, and connections."""
_LOSING = ("avi", "matroska", "mpeg", "asf")
"""Containers whose damage can hide that there was a frame; the others have a table of all."""
_UNSTAMPED = ("h264", "hevc", "vvc")
"""Codecs that show frames in another order than AVI stores them, whose time stamps FFmpeg only guesses there."""
_TRIES = 100
"""Errors in a row after which no more of a container is read."""
_TURNS = {90: cv2.ROTATE_90_COUNTERCLOCKWISE, -90: cv2.ROTATE_90_CLOCKWISE, 180: cv2.ROTATE_180, -180: cv2.ROTATE_180}


@dataclass(frozen=True, eq=False, slots=True)
class Timeline:
    """Which frames a video has, by what its container says.

    Attributes:
        fps: frames per second; on average, where the rate varies.
        announced: how many frames there are, by the header and by the container's content, whichever says more.
        stamps: (n,) int64, increasing: time stamps of the frames that the container holds, whole or damaged; n is 0
            where it doesn't say, and frames are counted as they are decoded.
        numbers: (n,) int64, increasing: the number of each, from 1.
    """

    fps: Fraction
    announced: int
    stamps: Array
    numbers: Array


def read_timeline(path: str) -> Timeline:
    """Read the whole container, and decode nothing.

    Raises:
        UserError: for a file that is no video, or one of more than `MAX_PIXELS` a frame.
    """
    held: list[_Held] = []
    discarded = 0
    with _opened(path) as (container, stream):
        index = {entry.pos: entry.timestamp for entry in stream.index_entries}  # before reading adds to it
        for packet in _packets(container, stream):
            if packet.is_discard:
                discarded += 1
            elif packet.size:
                held.append(_Held(packet.pts, packet.dts, packet.pos, packet.size))
        kind, codec = container.format.name, stream.codec_context
        rate = stream.average_rate or stream.guessed_rate or Fraction(30)
        per_stamp = float(rate * (stream.time_base or 0))
        listed = max(stream.frames - discarded, 0)
        by_duration = int(_duration_s(container, stream) * float(rate) + 0.25)  # the last frame may count for less
        alone = len(container.streams) == 1
    stamps = np.array([one.stamp for one in held if one.stamp is not None], np.int64)
    order = np.argsort(stamps, kind="stable")
    numbers = np.arange(1, len(held) + 1)
    guessed = kind == "avi" and codec.name in _UNSTAMPED and codec.has_b_frames
    if guessed or len(np.unique(stamps)) < len(held):
        return Timeline(rate, max(len(held), listed), stamps[:0], numbers[:0])
    if held and any(name in kind for name in _LOSING):
        times = stamps - stamps.min()
        if kind == "avi":
            times = stamps + _avi_shifts(held, index, listed if alone else 0) - _lead(held)
        elif "matroska" in kind and alone:  # there is no sound that it could have begun with
            times = stamps
        by_time = _steady_numbers(times[order] * per_stamp)
        most = max(listed or by_duration, len(held)) + 1
        if by_time is not None and by_time[-1] <= most:
            numbers = by_time
            listed = listed or max(by_duration, int(numbers[-1]))
    last = int(numbers[-1]) if held else 0
    if 0 < listed < last:
        log.warning("%s says that it has %d frames, and holds %d", path, listed, last)
    return Timeline(rate, max(listed, last), stamps[order], numbers)


class _Held(NamedTuple):
    """What a container says of a frame that it holds."""

    pts: int | None
    dts: int | None
    pos: int | None
    size: int

    @property
    def stamp(self) -> int | None:
        return self.dts if self.pts is None else self.pts


def _lead(held: Sequence[_Held]) -> int:
    """By how much frames are shown later than they are decoded."""
    return next((one.pts - one.dts for one in held if one.pts is not None and one.dts is not None), 0)


def _avi_shifts(held: Sequence[_Held], index: Mapping[int, int], listed: int) -> Array:
    """What is to be added to the time stamps of an AVI, (n,), where FFmpeg counted too few before a frame.

    Args:
        held: frames in the order in which they are stored.
        index: place → time stamp, of the file's own index.
        listed: how many frames there are by the header; 0 where other things are stored between the frames.
    """
    shifts = np.zeros(len(held), np.int64)
    known = [index.get((one.pos or 0) - 8) for one in held]  # before the frame come its name and size
    if sum(stamp is not None for stamp in known) > len(held) // 2:
        shift = 0
        for row, (one, stamp) in enumerate(zip(held, known, strict=True)):
            shift = shift if stamp is None or one.dts is None else stamp - one.dts
            shifts[row] = shift
    elif listed > len(held) > 1:  # without an index: those that lack were where most is stored that is no frame
        ends = np.array([(one.pos or 0) + one.size for one in held])
        gaps = np.array([(one.pos or 0) - 8 for one in held])[1:] - ends[:-1]
        if gaps.max() > 1:  # one byte makes sizes even
            shifts[int(gaps.argmax()) + 1 :] = listed - len(held)
    return shifts


def read_frames(path: str, timeline: Timeline) -> Generator[tuple[int, Array]]:
    """Number, from 1, and pixels (H, W, 3) uint8 RGB, upright, of every frame that can be decoded whole.

    A frame that the decoder could only patch up is left out. Threads decode several frames at once, and where one
    fails others may be lost with it; then everything is decoded once more, frame by frame.
    """
    from av.video.reformatter import VideoReformatter

    reformatter, last = VideoReformatter(), 0
    for threads in ("AUTO", "SLICE"):
        try:
            for count, frame in enumerate(_decoded(path, threads), start=1):
                number = count
                if frame is not None and len(timeline.stamps):
                    number = _number(timeline, frame.pts) or last + 1
                if frame is None or frame.is_corrupt or not last < number <= timeline.announced:
                    continue
                image = _upright_rgb(frame, reformatter)
                if image is not None:
                    last = number
                    yield number, image
            return
        except _FailedAmongOthers:
            pass


class _FailedAmongOthers(Exception):
    """One of the frames that are decoded at the same time failed."""


def _number(timeline: Timeline, stamp: int | None) -> int | None:
    """The number of the frame with that time stamp, if the container holds one."""
    if stamp is None:
        return None
    row = int(np.searchsorted(timeline.stamps, stamp))
    return int(timeline.numbers[row]) if row < len(timeline.stamps) and timeline.stamps[row] == stamp else None


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


def _upright_rgb(frame: "VideoFrame", reformatter: Any) -> Array | None:
    import av

    try:
        image: Array = reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
    except (av.FFmpegError, ValueError):  # damage can also end in pixels of an unknown kind
        return None
    turn = _TURNS.get(round(frame.rotation / 90) * 90)
    return np.ascontiguousarray(image) if turn is None else cv2.rotate(image, turn)


@contextmanager
def _opened(path: str, threads: str = "NONE") -> Iterator[tuple["InputContainer", "VideoStream"]]:
    import av

    # As an absolute path no name is taken for an address.
    options = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "file"}
    try:
        container = av.open(os.path.abspath(path), options=options, metadata_errors="replace")  # noqa: PTH100
    except (av.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path} can't be opened as a video ({reason}); check that a player shows it") from error
    with container:
        stream: Any = container.streams.best("video")
        if stream is None or stream.codec_context is None:
            raise UserError(f"{path} holds no video that FFmpeg can decode; check that a player shows it")
        check_pixels((stream.height, stream.width), path)
        stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
        stream.codec_context.thread_type = threads
        yield container, stream


def _packets(container: "InputContainer", stream: "VideoStream") -> Iterator["Packet[VideoStream]"]:
    """Everything that can be read of the container; damage is passed over."""
    import av

    failures = 0
    while failures < _TRIES:
        try:
            for packet in container.demux(stream):
                failures = 0
                yield packet
            return
        except av.FFmpegError:
            failures += 1


def _decoded(path: str, threads: str) -> Generator["VideoFrame | None"]:
    """Frames in the order in which they are shown; None for one that can't be decoded.

    Raises:
        _FailedAmongOthers: instead of None, when several are decoded at the same time.
    """
    import av

    with _opened(path, threads) as (container, stream):
        for packet in chain(_packets(container, stream), [None]):  # None: the frames that the decoder still has
            if packet is not None and packet.is_corrupt:  # cut off
                yield None
                continue
            try:
                frames = stream.codec_context.decode(packet)
            except av.EOFError:  # it has none
                continue
            except av.FFmpegError as error:
                if threads == "AUTO":
                    raise _FailedAmongOthers from error
                yield None
                continue
            yield from frames
