"""Overlay videos keep the time and the sound of their source, and play also where they end early."""

from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
from videos import COUNT, heard, numbered, packets, shown, small_files, write_video

from lightpose.inference.frames import Frame
from lightpose.inference.sources import open_source
from lightpose.inference.video import writer as module
from lightpose.inference.video.sound import Sound
from lightpose.inference.video.writer import VideoWriter

UNEVEN = np.cumsum([20, 33, 34, 100, 20, 33, 250, 41, 500, 33] * 3).tolist()


def copied(path, folder, upto=None):
    """An overlay video of nothing but the frames."""
    source = open_source(str(path))
    writer = VideoWriter(folder, source.stem, source.fps, source)
    for frame in source.frames():
        if upto is None or frame.image_id <= upto:
            writer.write(frame, writer.path, frame.image)
    writer.close()
    return writer.path


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.mpg"])
def test_a_frame_is_shown_when_and_as_long_as_in_the_source(tmp_path, name):
    codec = "mpeg2video" if name.endswith("mpg") else "libx264"
    rate = Fraction(30) if name.endswith("mpg") else Fraction(1000)
    times = range(30) if name.endswith("mpg") else UNEVEN
    path = write_video(tmp_path / name, codec, times=times, rate=rate)
    source, _ = shown(path)
    found, end = shown(copied(path, tmp_path / "out"))
    assert [number for _, number in found] == list(range(1, 31))
    first = source[0][0]
    assert [time for time, _ in found] == pytest.approx([time - first for time, _ in source], abs=1e-6)
    timeline = open_source(str(path)).timeline
    assert end == pytest.approx(timeline.end_s - timeline.start_s, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "codec", "kept"),
    [
        ("a.mp4", "aac", "aac"),
        ("a.mkv", "libopus", "opus"),
        ("a.mov", "pcm_s16le", "aac"),
        ("a.mp4", "libmp3lame", "mp3"),
        ("a.avi", "ac3", "aac"),
        ("a.mkv", "flac", "flac"),
    ],
)
def test_sound_is_kept(tmp_path, name, codec, kept):
    path = write_video(tmp_path / name, "mpeg4", sound=codec)
    out = copied(path, tmp_path / "out")
    assert len(shown(out)[0]) == COUNT
    _, begins, ends, loud = heard(path)
    found, begins_there, ends_there, loud_there = heard(out)
    assert found == kept
    assert begins_there == pytest.approx(begins, abs=0.03)
    assert ends_there == pytest.approx(ends, abs=0.05)
    assert loud_there == pytest.approx(loud, rel=0.05)


def test_sound_of_a_transport_stream_that_begins_late_fits_the_frames(tmp_path):
    path = tmp_path / "a.mpg"
    with av.open(str(write_video(tmp_path / "a.ts", "libx264", sound="aac"))) as container:
        start = container.streams.video[0].start_time / 90000
    (tmp_path / "a.ts").rename(path)
    assert start > 0
    frames, _ = shown(copied(path, tmp_path / "out"))
    assert frames == [(pytest.approx((n - 1) / 30, abs=1e-4), n) for n in range(1, COUNT + 1)]
    codec, begins, ends, _ = heard(tmp_path / "out" / "a.mp4")
    assert (codec, begins) == ("aac", 0)
    ends_before = heard(path)[2]
    assert ends == pytest.approx(ends_before - start, abs=0.05)


def test_frames_that_cant_be_read_shift_no_others_nor_the_sound(tmp_path):
    path = write_video(tmp_path / "a.mkv", "mjpeg", "yuvj420p", sound="aac")
    data = bytearray(path.read_bytes())
    for start, size in packets(path)[:1] + packets(path)[9:15]:
        data[start : start + size] = bytes(size)
    path.write_bytes(data)
    frames, end = shown(copied(path, tmp_path / "out"))
    read = [number for number in range(2, COUNT + 1) if not 10 <= number <= 15]
    assert [number for _, number in frames] == read
    assert [time for time, _ in frames] == pytest.approx([(number - 1) / 30 for number in read], abs=2e-3)
    assert end == pytest.approx(COUNT / 30, abs=2e-3)
    assert heard(tmp_path / "out" / "a.mp4")[2] == pytest.approx(heard(path)[2], abs=0.03)


def test_a_video_left_early_ends_with_its_last_frame_and_so_does_its_sound(tmp_path):
    path = write_video(tmp_path / "a.mp4", "libx264", sound="aac")
    out = copied(path, tmp_path / "out", upto=15)
    assert shown(out)[1] == pytest.approx(0.5, abs=1e-3)
    assert heard(out)[2] == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("rotation", [90, 180])
def test_what_was_held_upright_comes_out_upright(tmp_path, rotation):
    path = write_video(tmp_path / "a.mp4", "libx264", rotation=rotation)
    expected = next(iter(open_source(str(path)).frames())).image
    with av.open(str(copied(path, tmp_path / "out"))) as container:
        frame = next(container.decode(video=0))
    assert frame.rotation == 0
    assert (frame.height, frame.width) == expected.shape[:2] == ((48, 64) if rotation == 180 else (64, 48))
    assert np.abs(frame.to_ndarray(format="rgb24").astype(int) - expected).mean() < 6


def test_sound_that_cant_be_written_is_told_and_costs_no_video(tmp_path, monkeypatch, caplog):
    path = write_video(tmp_path / "a.mov", "mpeg4", sound="pcm_s16le")

    class Refusing:
        def __init__(self, container):
            self.container = container

        def add_stream(self, name, **more):
            raise av.FFmpegError(22, "no such encoder")

    monkeypatch.setattr(module, "Sound", lambda path, start, container: Sound(path, start, Refusing(container)))
    assert len(shown(copied(path, tmp_path / "out"))[0]) == COUNT
    assert heard(tmp_path / "out" / "a.mp4") is None
    assert "has no sound, as that of" in caplog.text


def limited(folder, size):
    """Whether what can be written before a file may grow no more can be played."""
    writer, rng = VideoWriter(folder, "full", 30), np.random.default_rng(0)
    with small_files(size):
        try:
            for number in range(1, 2000):
                image = rng.integers(0, 255, (48, 64, 3), np.uint8)
                writer.write(Frame("", image, number), writer.path, image)
            writer.close()
        except OSError:
            return writer.abandon()
    raise AssertionError("it should not fit")


def test_what_was_written_before_the_disk_was_full_plays(tmp_path):
    assert limited(tmp_path, 400_000)
    numbers = [frame.image_id for frame in open_source(str(tmp_path / "full.mp4")).frames()]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) >= 60
    assert not limited(tmp_path, 1000)


def test_without_h264_the_codec_is_told(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(module, "_CODECS", ("nothing", "mpeg4"))
    writer = VideoWriter(tmp_path, "film", 25)
    for number in range(1, 4):
        writer.write(Frame("", numbered(number), number, time_s=number / 10), writer.path, numbered(number))
    writer.close()
    assert "FFmpeg has no nothing here; the overlay video is of mpeg4" in caplog.text
    assert [number for _, number in shown(writer.path)[0]] == [1, 2, 3]
    assert cv2.VideoCapture(str(writer.path)).read()[0]
