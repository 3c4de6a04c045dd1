"""What can't wait: cameras and streams, read by a thread that keeps the newest frames and counts those it drops."""

import logging
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from urllib.parse import urlsplit

import cv2

from lightpose.errors import UserError
from lightpose.inference.frames import Frame, Numbered, frame_name
from lightpose.inference.prefetch import AHEAD
from lightpose.inference.video.containers import CONTAINERS, any_text, video_of
from lightpose.inference.video.decode import upright_rgb
from lightpose.structures import Array

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame

log = logging.getLogger(__name__)

SCHEMES = ("rtsp", "rtsps", "http", "https", "udp")
"""Of the addresses that may be a source."""
_WEB = {"protocol_whitelist": "http,https,tls,tcp", "format_whitelist": f"{CONTAINERS},mpjpeg"}
_RTSP = {"protocol_whitelist": "rtsp,rtsps,rtp,tls,tcp,udp", "format_whitelist": "rtsp", "rtsp_flags": "prefer_tcp"}
_OPTIONS: dict[str, dict[str, str]] = {
    "http": _WEB,
    "https": _WEB,
    "rtsp": _RTSP,
    "rtsps": _RTSP,
    "udp": {"protocol_whitelist": "udp", "format_whitelist": "mpegts", "overrun_nonfatal": "1"},
}
"""No playlist is read, which could name files and other addresses."""
_PATIENCE_S = 10.0
"""Of a stream that sends nothing."""
_TRIES = 100
"""Errors in a row after which no more is read."""

T = TypeVar("T")


class Newest(Generic[T]):
    """What a thread takes from an iterator, as it comes; who asks too late gets the newest.

    Args:
        items: any; closed by the thread.
        keep: how many wait at most.
        stopped: when set, there are no more.
        drop: leave out the oldest where more come; else the thread waits.
    """

    def __init__(self, items: Generator[T], keep: int, stopped: threading.Event, drop: bool = True) -> None:
        self._items, self._stopped, self._drop = items, stopped, drop
        self._waiting: deque[T] = deque()
        self._keep = max(keep, 1)
        self._change = threading.Condition()
        self._ended = False
        self._error: BaseException | None = None
        self.dropped = 0
        self._thread = threading.Thread(target=self._read, daemon=True)  # a read may never return
        self._thread.start()

    def __iter__(self) -> Iterator[T]:
        """The items until the last, or until it is stopped."""
        while not self._stopped.is_set():
            with self._change:
                if not self._waiting and not self._ended:
                    self._change.wait(0.1)
                    continue
                if not self._waiting:
                    break
                item = self._waiting.popleft()
                self._change.notify_all()
            yield item
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Stop the thread; one that waits for a camera isn't waited for long."""
        self._stopped.set()
        self._thread.join(timeout=1)

    def _read(self) -> None:
        try:
            for item in self._items:
                with self._change:
                    while not self._drop and len(self._waiting) >= self._keep and not self._stopped.is_set():
                        self._change.wait(0.1)
                    if self._stopped.is_set():
                        return
                    if len(self._waiting) >= self._keep:
                        self._waiting.popleft()
                        self.dropped += 1
                    self._waiting.append(item)
                    self._change.notify_all()
        except BaseException as error:  # told where the items are asked for
            self._error = error
        finally:
            self._items.close()
            with self._change:
                self._ended = True
                self._change.notify_all()


@dataclass(frozen=True, slots=True, kw_only=True)
class Live(Numbered):
    """What a camera and a stream share.

    Attributes:
        image_ids: empty, as nobody knows how many frames there will be.
        stopped: when set, the recording ends.
    """

    image_ids: range = range(0)
    has_ids: bool = True
    boxes: None = None
    category_ids: None = None
    stopped: threading.Event = field(default_factory=threading.Event)

    @property
    def stem(self) -> str:
        """Name that frames begin with."""
        raise NotImplementedError

    def name_of(self, image_id: int) -> str | None:
        """Name of the frame with that number, from 1."""
        return frame_name(self.stem, image_id)

    def frames(self, ahead: int = AHEAD) -> Iterator[Frame]:
        """The frames as they come, at most ``ahead`` of them before they are asked for; older ones are dropped.

        A frame that is dropped leaves a gap in the numbers, and in a message at the end.

        Raises:
            UserError: when there is not even one.
        """
        newest = Newest(self._read(), ahead, self.stopped, self._drops())
        number = 0
        with closing(newest):
            for number, time_s, picture in newest:
                image = picture()
                if image is not None:
                    yield Frame(frame_name(self.stem, number), image, number, time_s=time_s)
        if not number and not newest.dropped and not self.stopped.is_set():
            raise UserError(f"{self.stem} gives no frame")
        if newest.dropped:
            log.warning("%d of %d frames came too fast and were left out", newest.dropped, number)

    def _drops(self) -> bool:
        """Whether frames may be left out, since they come whether they are asked for or not."""
        return True

    def _read(self) -> Generator[tuple[int, float, Callable[[], Array | None]]]:
        """Number, time and pixels of every frame."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Camera(Live):
    """A camera.

    Attributes:
        number: by which OpenCV knows it.
        fps: frames per second, as its driver says.
    """

    number: int
    fps: float

    @property
    def stem(self) -> str:
        """``camera0``."""
        return f"camera{self.number}"

    def _read(self) -> Generator[tuple[int, float, Callable[[], Array | None]]]:
        capture = cv2.VideoCapture(self.number)
        number, start = 0, time.monotonic()
        try:
            while (found := capture.read())[0]:
                number += 1
                start = time.monotonic() if number == 1 else start
                yield number, time.monotonic() - start, partial(cv2.cvtColor, found[1], cv2.COLOR_BGR2RGB)
            if not number:
                raise UserError(f"camera {self.number} gives no frame; another program may use it")
        finally:
            capture.release()


def open_camera(number: int) -> Camera:
    """The camera that OpenCV knows by ``number``.

    Raises:
        UserError: when it can't be opened.
    """
    capture = cv2.VideoCapture(number)
    opened, fps = capture.isOpened(), capture.get(cv2.CAP_PROP_FPS)
    capture.release()
    if not opened:
        raise UserError(f"camera {number} can't be opened; check that a player shows it, or give images")
    return Camera(number, fps if fps > 0 else 30.0)


@dataclass(frozen=True, slots=True)
class Stream(Live):
    """Video from an address that a user has typed; nothing in it leads to a file, or another kind of address.

    Attributes:
        url: the address.
        fps: frames per second, as far as it says.
        endless: whether it says no length, so that it comes at its own pace; else every frame is read, as of a file.
    """

    url: str
    fps: float
    endless: bool

    @property
    def stem(self) -> str:
        """The last part of the address, without suffix; or the host."""
        parts = urlsplit(self.url)
        return PurePosixPath(parts.path).stem or parts.hostname or "stream"

    def _drops(self) -> bool:
        return self.endless

    def _read(self) -> Generator[tuple[int, float, Callable[[], Array | None]]]:
        import av
        from av.video.reformatter import VideoReformatter

        reformatter = VideoReformatter()
        number, failures, last_s = 0, 0, -1 / self.fps
        first_s: float | None = None
        with _connected(self.url) as container:
            stream = video_of(container, shown(self.url))
            stream.codec_context.thread_type = "SLICE"  # several frames at once would come later
            while failures < _TRIES:
                try:
                    for packet in container.demux(stream):
                        for frame in _frames_of(packet):
                            failures, number = 0, number + 1
                            first_s = frame.time if first_s is None else first_s
                            time_s = last_s + 1 / self.fps
                            if frame.time is not None and first_s is not None and frame.time - first_s > last_s:
                                time_s = frame.time - first_s
                            last_s = time_s
                            if not frame.is_corrupt:
                                yield number, time_s, partial(upright_rgb, frame, reformatter)
                    whole_s = float((stream.duration or 0) * (stream.time_base or 0)) or (container.duration or 0) / 1e6
                    if (given_s := last_s + 1 / self.fps) < 0.9 * whole_s:
                        log.warning("%s ended after %.1f of its %.1f s", shown(self.url), given_s, whole_s)
                    return
                except av.InvalidDataError:
                    failures += 1
                except av.FFmpegError as error:
                    log.warning("%s ended: %s", shown(self.url), _reason(error))
                    return


def _frames_of(packet: Any) -> "list[VideoFrame]":
    import av

    try:
        frames: list[VideoFrame] = packet.decode()
        return frames
    except av.FFmpegError:
        return []


def open_stream(url: str) -> Stream:
    """The video at an address.

    Raises:
        UserError: when it can't be opened, or is none.
    """
    with _connected(url) as container:
        stream = video_of(container, shown(url))
        rate = float(stream.average_rate or stream.guessed_rate or 0)
        return Stream(url, rate if 0 < rate <= 1000 else 30.0, container.duration is None)


def is_url(text: str) -> bool:
    """Whether a source is an address, of a kind that may be one."""
    return re.match(rf"({'|'.join(SCHEMES)})://", text, re.IGNORECASE) is not None


def shown(url: str) -> str:
    """An address without its password."""
    return re.sub(r"//[^/?#]*@", "//", url)


def _reason(error: Exception) -> str:
    import av

    if isinstance(error, av.ExitError):
        return f"nothing came for {_PATIENCE_S:.0f} s"
    return str(getattr(error, "strerror", None) or error)


def _connected(url: str) -> "InputContainer":
    import av

    options = dict(_OPTIONS[urlsplit(url).scheme.lower()])
    try:
        return av.open(url, options=options, timeout=_PATIENCE_S, **any_text())
    except (av.FFmpegError, OSError, ValueError) as error:
        raise UserError(
            f"source={shown(url)} can't be opened ({_reason(error)}); check that a player shows it. It must be a video "
            "itself, and no playlist"
        ) from error
