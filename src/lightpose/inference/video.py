"""Video files, frame by frame: a frame that can't be read costs no other one, and no other one its number."""

import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from lightpose.data.pixels.image_header import MAX_PIXELS, check_pixels
from lightpose.errors import UserError
from lightpose.structures import Array

if TYPE_CHECKING:
    from av.codec.hwaccel import HWAccel
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

    from lightpose.inference.timeline import Timeline

CONTAINERS = "mov,avi,matroska,webm,mpeg,mpegvideo,mpegts,m4v,asf,flv,gif"
"""FFmpeg's names of what is read. Others, such as playlists, would open more files, and connections."""
_TRIES = 100
"""Errors in a row after which no more of a container is read."""
_TURNS = {90: cv2.ROTATE_90_COUNTERCLOCKWISE, -90: cv2.ROTATE_90_CLOCKWISE, 180: cv2.ROTATE_180, -180: cv2.ROTATE_180}


def read_frames(path: str, timeline: "Timeline", hwaccel: str | None = None) -> Generator[tuple[int, Array]]:
    """Number, from 1, and pixels (H, W, 3) uint8 RGB, upright, of every frame that can be decoded whole.

    A frame that the decoder could only patch up is left out. Threads decode several frames at once, and where one
    fails others may be lost with it; then everything is decoded once more, frame by frame.

    Args:
        path: of the file.
        timeline: of the file.
        hwaccel: see `opened`.
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


def _number(timeline: "Timeline", stamp: int | None) -> int | None:
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


@contextmanager
def opened(
    path: str, threads: str = "NONE", hwaccel: str | None = None
) -> Iterator[tuple["InputContainer", "VideoStream"]]:
    """A video file and its video; no other file is opened, and no connection.

    Args:
        path: of the file.
        threads: ``AUTO`` for several frames at once, ``SLICE`` for parts of one, ``NONE``.
        hwaccel: what decodes, such as ``cuda``, or ``cuda:1`` for the second; None for the CPU.

    Raises:
        UserError: for a file that is no video, and where ``hwaccel`` can't decode it.
    """
    import av

    # As an absolute path no name is taken for an address.
    options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
    where = os.path.abspath(path)  # noqa: PTH100
    try:
        container = av.open(where, options=options, metadata_errors="replace")
    except (av.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path} can't be opened as a video ({reason}); check that a player shows it") from error
    if hwaccel is not None:
        container.close()
        try:
            container = av.open(where, options=options, metadata_errors="replace", hwaccel=_hardware(hwaccel))
        except (av.FFmpegError, OSError, ValueError, RuntimeError) as error:
            raise _no_hardware(path, hwaccel, str(error)) from error
    with container:
        stream = video_of(container, path)
        if hwaccel is not None and not stream.codec_context.is_hwaccel:
            raise _no_hardware(path, hwaccel, f"it doesn't decode {stream.codec_context.name}")
        stream.codec_context.thread_type = threads
        yield container, stream


def video_of(container: "InputContainer", path: str) -> "VideoStream":
    """The video of a container.

    Raises:
        UserError: where there is none that can be decoded, or its frames are too large.
    """
    stream: Any = container.streams.best("video")
    if stream is None or stream.codec_context is None:
        raise UserError(f"{path} holds no video that FFmpeg can decode; check that a player shows it")
    check_pixels((stream.height, stream.width), path)
    stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
    video: VideoStream = stream
    return video


def _hardware(name: str) -> "HWAccel":
    from av.codec.hwaccel import HWAccel

    kind, _, device = name.partition(":")
    return HWAccel(kind, device or None, allow_software_fallback=False)


def _no_hardware(path: str, hwaccel: str, reason: str) -> UserError:
    from av.codec.hwaccel import hwdevices_available

    return UserError(
        f"hwaccel={hwaccel} can't decode {path} here ({reason}); give one of those that FFmpeg was built with, if this "
        f"machine has its hardware ({', '.join(hwdevices_available())}), or hwaccel=null for the CPU"
    )


def packets(container: "InputContainer", stream: Any) -> Iterator["Packet[Any]"]:
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
