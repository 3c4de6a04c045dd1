"""Video files, frame by frame: a frame that can't be read costs no other one, and no other one its number."""

from collections.abc import Generator
from itertools import chain
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from lightpose.inference.video.containers import opened, packets
from lightpose.inference.video.timeline import Timeline
from lightpose.structures import Array

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

_TURNS = {90: cv2.ROTATE_90_COUNTERCLOCKWISE, -90: cv2.ROTATE_90_CLOCKWISE, 180: cv2.ROTATE_180, -180: cv2.ROTATE_180}


def read_frames(path: str, timeline: Timeline, hwaccel: str | None = None) -> Generator[tuple[int, Array]]:
    """Number, from 1, and pixels (H, W, 3) uint8 RGB, upright, of every frame that can be decoded whole.

    A frame that the decoder could only patch up is left out. Threads decode several frames at once, and where one
    fails others may be lost with it; then everything is decoded once more, frame by frame.

    Args:
        path: of the file.
        timeline: of the file.
        hwaccel: see `lightpose.inference.video.containers.opened`.
    """
    from av.video.reformatter import VideoReformatter

    reformatter, last = VideoReformatter(), 0
    for threads in ("AUTO", "SLICE") if hwaccel is None else ("NONE",):
        try:
            for count, frame in enumerate(_decoded(path, threads, hwaccel), start=1):
                number = count
                if frame is not None and len(timeline.stamps):
                    number = _number(timeline, frame.pts) or last + 1
                if frame is None or frame.is_corrupt or not last < number <= timeline.announced:
                    continue
                image = upright_rgb(frame, reformatter)
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


def upright_rgb(frame: "VideoFrame", reformatter: Any) -> Array | None:
    """(H, W, 3) uint8 pixels of a frame, or None where damage leaves none."""
    import av

    try:
        image: Array = reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
    except (av.FFmpegError, ValueError):  # damage can also end in pixels of an unknown kind
        return None
    turn = _TURNS.get(round(frame.rotation / 90) * 90)
    return np.ascontiguousarray(image) if turn is None else cv2.rotate(image, turn)


def _decoded(path: str, threads: str, hwaccel: str | None) -> Generator["VideoFrame | None"]:
    """Frames in the order in which they are shown; None for one that can't be decoded.

    Raises:
        _FailedAmongOthers: instead of None, when several are decoded at the same time.
    """
    import av

    with opened(path, threads, hwaccel) as (container, stream):
        for packet in chain(packets(container, stream), [None]):  # None: the frames that the decoder still has
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
