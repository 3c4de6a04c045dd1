"""A video with poses on it: each frame is shown when it was in the source, and the source's sound goes with it."""

import logging
import math
from contextlib import closing, suppress
from fractions import Fraction
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from lightpose.errors import UserError
from lightpose.inference.frames import Frame, Video
from lightpose.inference.overlays import clean
from lightpose.inference.video.decode import read_frames
from lightpose.inference.video.sound import Sound
from lightpose.inference.video.timeline import read_timeline
from lightpose.structures import Array

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.packet import Packet

log = logging.getLogger(__name__)

_CODECS = ("libx264", "libopenh264", "mpeg4")
"""The first that FFmpeg has; H.264 is what every player and browser shows."""
_FINEST = 1_000_000
"""Ticks a second that every player takes."""
_TICK = Fraction(1, 90_000)
"""Of a video whose source has none."""
_WHILE_WRITTEN = {"movflags": "hybrid_fragmented+delay_moov"}
"""What was written plays also if the file is never closed; once it is, it is an ordinary MP4."""


class VideoWriter:
    """An MP4 video, of H.264 where FFmpeg has it.

    It plays from its first seconds on, also where the disk is full or the process is killed.

    Args:
        folder: of the file.
        stem: its name, as far as `lightpose.inference.overlays.SafePaths` would leave it.
        fps: frames per second, any; over 1000 are taken for 1000.
        source: whose time stamps and sound it gets; without one, frames with ``time_s`` are shown then, others by their
            numbers from the first one on.
    """

    threads = 1  # frames come in order

    def __init__(self, folder: Path, stem: str, fps: float, source: Video | None = None) -> None:
        self.path = folder / f"{clean(stem.replace('/', '_')) or 'video'}.mp4"
        self.rate, self.source = video_rate(fps), source
        self._container: OutputContainer | None = None
        self._sound: Sound | None = None
        self._stream: Any = None
        self._time_base = _TICK
        self._one_at_a_time, self._left_off = Lock(), False
        self._first = 0
        self._last: tuple[int, int] | None = None  # number and tick

    def place(self, frame: Frame) -> Path:
        """The video."""
        return self.path

    def write(self, frame: Frame, place: Path, image: Array) -> None:
        """Append a frame; all get the size of the first, made even.

        Raises:
            OSError: when it can't be written.
            ValueError: when FFmpeg encodes no video of that size.
        """
        with self._one_at_a_time:
            if self._left_off:
                raise ValueError("it has been left off")
            self._write(frame, image)

    def _write(self, frame: Frame, image: Array) -> None:
        import av

        if self._container is None:
            self._first = frame.image_id
            self._open(image)
            assert self._container is not None
        height, width = self._stream.height, self._stream.width
        if not (0 <= height - image.shape[0] <= 1 and 0 <= width - image.shape[1] <= 1):
            image = cv2.resize(image, (width, height))
        if image.shape[:2] != (height, width):
            image = np.pad(image, ((0, height - image.shape[0]), (0, width - image.shape[1]), (0, 0)), "edge")
        time_s = (frame.image_id - self._first) / float(self.rate) if frame.time_s is None else frame.time_s
        tick = round(time_s / self._time_base)
        if self._last is not None:
            tick = max(tick, self._last[1] + 1)
        if self._sound is not None:
            self._sound.until(time_s)
        picture = av.VideoFrame.from_ndarray(image, format="rgb24")
        picture.pts, picture.time_base = tick, self._time_base
        self._last = frame.image_id, tick
        self._container.mux(self._stream.encode(picture))

    def close(self) -> None:
        """Complete the file. The last frame is shown as long as in the source, and so is heard the sound.

        Raises:
            OSError: when that can't be written.
        """
        if self._container is None:
            return
        assert self._last is not None
        number, tick = self._last
        until_s, whole = float(tick * self._time_base + 1 / self.rate), False
        if self.source is not None:
            until_s = self.source.timeline.until_s(number)
            whole = number == self.source.timeline.announced
        packets: list[Packet[Any]] = self._stream.encode(None)
        for packet in packets:
            if packet.pts == tick:
                packet.duration = max(round(until_s / self._time_base) - tick, 1)
        self._container.mux(packets)
        if self._sound is not None:
            self._sound.until(math.inf if whole else until_s)
            self._sound.close()
        self._container.close()
        self._container = None

    def abandon(self) -> bool:
        """Leave off after a failure; whether what was written before can be played."""
        with self._one_at_a_time, suppress(OSError):  # the one that was told
            self._left_off = True
            if self._container is not None:
                self._container.close()
        self._container = self._stream = self._sound = None
        try:
            with closing(read_frames(str(self.path), read_timeline(str(self.path)))) as frames:
                return next(frames, None) is not None
        except UserError:
            return False

    def _open(self, image: Array) -> None:
        import av

        height, width = (side + side % 2 for side in image.shape[:2])
        self.path.parent.mkdir(parents=True, exist_ok=True)
        for codec in (name for name in _CODECS if name in av.codecs_available):
            container = av.open(str(self.path), "w", format="mp4", options=dict(_WHILE_WRITTEN))
            stream: Any = container.add_stream(codec, rate=self.rate)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.codec_context.gop_size = min(max(round(2 * self.rate), 1), 250)  # two seconds, for who seeks in it
            self._time_base = 1 / self.rate
            if codec == "libx264":
                # Without frames that are stored in another order, time stamps are those of the source in any player.
                stream.options = {"preset": "veryfast", "bf": "0"}
                self._time_base = _TICK if self.source is None else self.source.timeline.time_base
                self._time_base = _TICK if self._time_base.denominator > _FINEST else self._time_base
                stream.codec_context.time_base = self._time_base
            else:  # whose own rate is that of a stamp
                stream.codec_context.bit_rate = max(1_000_000, round(height * width * self.rate / 5))
            try:
                stream.codec_context.open()
            except av.FFmpegError:
                container.close()
                continue
            if codec != _CODECS[0]:
                log.warning("FFmpeg has no %s here; the overlay video is of %s, at a steady rate", _CODECS[0], codec)
            self._container, self._stream = container, stream
            if self.source is not None:
                self._sound = Sound(self.source.path, self.source.timeline.start_s, container)
            return
        raise ValueError(f"FFmpeg encodes no video of {width}x{height}")


def video_rate(fps: float) -> Fraction:
    """The rate as a fraction that every codec takes: MPEG-4 has 16 bits for its parts."""
    rate = min(Fraction(fps), Fraction(1000))
    return rate.limit_denominator(min(1001, 65535 // math.ceil(rate))) or Fraction(1)
