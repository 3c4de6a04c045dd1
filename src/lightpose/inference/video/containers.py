"""Opens the files that videos come in, and nothing that these may name."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lightpose.data.pixels.image_header import MAX_PIXELS, check_pixels
from lightpose.errors import UserError

if TYPE_CHECKING:
    from av.codec.hwaccel import HWAccel
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream

CONTAINERS = "mov,avi,matroska,webm,mpeg,mpegvideo,mpegts,m4v,asf,flv,gif"
"""FFmpeg's names of what is read. Others, such as playlists, would open more files, and connections."""
_TRIES = 100
"""Errors in a row after which no more of a container is read."""


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
        container = av.open(where, options=options, **any_text())
    except (av.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path} can't be opened as a video ({reason}); check that a player shows it") from error
    if hwaccel is not None:
        container.close()
        try:
            container = av.open(where, options=options, hwaccel=_hardware(hwaccel), **any_text())
        except (av.FFmpegError, OSError, ValueError, RuntimeError) as error:
            raise _no_hardware(path, hwaccel, str(error)) from error
    with container:
        stream = video_of(container, path)
        if hwaccel is not None and not stream.codec_context.is_hwaccel:
            raise _no_hardware(path, hwaccel, f"it doesn't decode {stream.codec_context.name}")
        stream.codec_context.thread_type = threads
        yield container, stream


def any_text() -> dict[str, Any]:
    """The options of `av.open` for files whose titles and notes are not UTF-8; PyAV 19 opens them without."""
    import av

    return {"metadata_errors": "replace"} if int(av.__version__.partition(".")[0]) < 19 else {}


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
