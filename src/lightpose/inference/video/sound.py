"""The sound of a video file, on its way to another beside the frames."""

import logging
from collections.abc import Iterator
from contextlib import ExitStack
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from lightpose.inference.video.containers import opened, packets

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.packet import Packet

log = logging.getLogger(__name__)

_COPIED = ("aac", "mp3", "alac", "opus", "flac")
"""Codecs whose packets players take in an MP4; others are encoded anew, to AAC."""
_BEFORE_S = 0.1
"""Sound that begins before the video by more is left out; a player cuts the rest, which the first packets need."""


class Sound:
    """Gives the sound of a video file to a container, a stretch at a time; what is damaged is left out.

    Args:
        path: of the video file.
        start_s: when its first frame is shown, by its own clock.
        container: where the sound goes, before anything is written to it.
    """

    def __init__(self, path: str, start_s: float, container: "OutputContainer") -> None:
        import av

        self.path, self.start_s, self._container = path, start_s, container
        self._rest = ExitStack()
        self._waiting: Packet[Any] | None = None
        self._last: int | None = None
        self._packets: Iterator[Packet[Any]] = iter(())
        self._out: Any = None
        source, _ = self._rest.enter_context(opened(path))
        self._in: Any = source.streams.best("audio")
        if self._in is None:
            return
        try:
            codec: Any = self._in.codec_context
            if codec is None:
                raise ValueError("FFmpeg doesn't know its codec")
            # MPEG streams say what an MP4 must know at its beginning only in the packets.
            name = codec.codec.canonical_name
            self._copied = name in _COPIED and (codec.extradata is not None or name == "mp3")
            if self._copied:
                self._out = container.add_stream_from_template(self._in)
            else:
                rates = av.Codec("aac", "w").audio_rates or []
                self._out = container.add_stream("aac", rate=codec.sample_rate if codec.sample_rate in rates else 48000)
                self._out.layout = codec.layout
                self._out.codec_context.open()
        except (av.FFmpegError, ValueError) as error:
            log.warning("The overlay video has no sound, as that of %s can't be written as AAC: %s", path, error)
            self._out = None
            return
        self._packets = iter(packets(source, self._in))

    def until(self, time_s: float) -> None:
        """Write what is heard before a time, counted from the first frame.

        Raises:
            OSError: when it can't be written.
        """
        while self._out is not None:
            packet = self._waiting or next(self._packets, None)
            self._waiting = None
            if packet is None:
                self._finish()
                return
            if not packet.size or packet.pts is None:
                continue
            heard_s = float(packet.pts * packet.time_base) - self.start_s
            if heard_s < -_BEFORE_S:
                continue
            if heard_s >= time_s:
                self._waiting = packet
                return
            self._write(packet)

    def close(self) -> None:
        """Write what the encoder still has."""
        self._finish()
        self._rest.close()

    def _write(self, packet: "Packet[Any]") -> None:
        import av

        if self._copied:
            packet.pts = packet.dts = stamp = (packet.pts or 0) - round(self.start_s / packet.time_base)
            if self._last is None or stamp > self._last:
                self._last = stamp
                packet.stream = self._out
                self._container.mux(packet)
            return
        try:
            frames: list[Any] = [*packet.decode()]
        except av.FFmpegError:
            return
        for frame in frames:
            if frame.time is not None:  # in samples; some containers count only packets
                frame.pts = round((frame.time - self.start_s) * frame.sample_rate)
                frame.time_base = Fraction(1, frame.sample_rate)
            self._encode(frame)

    def _encode(self, frame: Any) -> None:
        try:
            made = self._out.encode(frame)
        except ValueError:  # damage can end in another kind of sound
            return
        self._container.mux(made)

    def _finish(self) -> None:
        if self._out is not None and not self._copied:
            self._encode(None)
        self._out = None
