"""Small videos whose frames show their own numbers, so that a frame under a wrong one is seen."""

import resource
from contextlib import contextmanager
from fractions import Fraction

import av
import numpy as np

CODECS = {
    "mjpeg.avi": ("mjpeg", "yuvj420p", {}),
    "mpeg4.avi": ("mpeg4", "yuv420p", {"bf": "2"}),
    "h264.mp4": ("libx264", "yuv420p", {"bf": "2"}),
    "mpeg4.mov": ("mpeg4", "yuv420p", {"bf": "2"}),
    "mjpeg.mkv": ("mjpeg", "yuvj420p", {}),
    "h264.mkv": ("libx264", "yuv420p", {"bf": "2"}),
    "vp9.webm": ("libvpx-vp9", "yuv420p", {"deadline": "realtime", "cpu-used": "8"}),
    "mpeg2.mpg": ("mpeg2video", "yuv420p", {"bf": "2"}),
    "msmpeg4.wmv": ("msmpeg4v3", "yuv420p", {}),
    "film.gif": ("gif", "rgb8", {}),
}
"""Name → codec, pixel format and options."""

COUNT = 40


def numbered(number: int) -> np.ndarray:
    """(48, 64, 3) uint8: eight bars, bright where the number has a bit."""
    image = np.full((48, 64, 3), 40, np.uint8)
    for bit in range(8):
        if number >> bit & 1:
            image[8:40, 8 * bit : 8 * bit + 8] = 220
    return image


def shown_number(image: np.ndarray) -> int:
    """The number that a frame shows."""
    return sum(int(image[16:32, 8 * bit + 2 : 8 * bit + 6].mean() > 130) << bit for bit in range(8))


def write_video(
    path, codec, pix_fmt="yuv420p", options=None, times=range(COUNT), rate=Fraction(30), rotation=0, sound=None
):
    """Frames that show 1, 2, ... at the given times, in units of ``1 / rate``; ``sound``: codec of a tone."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.width, stream.height, stream.pix_fmt = 64, 48, pix_fmt
        stream.codec_context.gop_size = 12
        if rotation:
            stream.set_display_rotation(rotation)
        if sound:
            audio = container.add_stream(sound, rate=48000, layout="mono")
        for number, time in enumerate(times, start=1):
            frame = av.VideoFrame.from_ndarray(numbered(number), format="rgb24")
            frame.pts, frame.time_base = time, 1 / Fraction(rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if sound:
            count = round(48000 * (times[-1] + 1) / rate)
            tone = (8000 * np.sin(np.arange(count) * (2 * np.pi * 440 / 48000))).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(tone[None], format="s16", layout="mono")
            frame.sample_rate, frame.pts = 48000, 0
            container.mux(audio.encode(frame))
            container.mux(audio.encode(None))
    return path


def heard(path):
    """Codec of the sound, when it begins and ends in seconds, and its loudness; or None."""
    with av.open(str(path)) as container:
        if not container.streams.audio:
            return None
        name = container.streams.audio[0].codec_context.codec.canonical_name
        frames = list(container.decode(audio=0))
        tone = np.concatenate([frame.to_ndarray().mean(0) for frame in frames])
        tone = tone / 32768 if tone.dtype == np.int16 or np.abs(tone).max() > 2 else tone
        return name, frames[0].time, frames[-1].time + frames[-1].samples / frames[-1].rate, float(tone.std())


def shown(path):
    """When each frame is shown, by PyAV, which number it shows, and when the video ends."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [(frame.time, shown_number(frame.to_ndarray(format="rgb24"))) for frame in container.decode(stream)]
        ends = (stream.start_time + stream.duration) * stream.time_base if stream.duration else 0
        return frames, float(ends)


def packets(path):
    """Place and size in the file of every frame's data, in the order in which they are stored."""
    content, places = path.read_bytes(), []
    with av.open(str(path)) as container:
        for packet in container.demux(video=0):
            if packet.size:
                start = content.index(bytes(packet), sum(places[-1]) if places else 0)
                places.append((start, packet.size))
    return places


@contextmanager
def small_files(size):
    """No file grows over a size in here, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
