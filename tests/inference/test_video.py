"""Video files, whole and damaged."""

import logging
import re
import threading
import wave
from fractions import Fraction
from itertools import pairwise

import av
import cv2
import numpy as np
import pytest
from videos import CODECS, COUNT, packets, shown_number, write_video

from lightpose.errors import UserError
from lightpose.inference.sources import open_source
from lightpose.inference.video import containers as module
from lightpose.inference.video.timeline import read_timeline


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """One of every kind."""
    folder = tmp_path_factory.mktemp("films")
    return {name: write_video(folder / name, *how) for name, how in CODECS.items()}


def read(path):
    """Announced frames, and for each one given its own number and the one that it shows."""
    source = open_source(str(path))
    return len(source.image_ids), [(frame.image_id, shown_number(frame.image)) for frame in source.frames()]


def told(caplog):
    """How many frames were said to be missing, and which."""
    found = [re.search(r": (\d+) of (\d+) frames can't be read: ([\d, -]+)", text) for text in caplog.messages]
    (message,) = [match for match in found if match] or [None]
    if message is None:
        return 0, []
    ranges = [list(map(int, part.split("-"))) for part in message[3].split(", ")]
    return int(message[1]), [number for part in ranges for number in range(part[0], part[-1] + 1)]


def overwritten(path, target, places):
    data = bytearray(path.read_bytes())
    for start, size in places:
        data[start : start + size] = bytes(size)
    target.write_bytes(data)
    return target


@pytest.mark.parametrize("name", CODECS)
def test_every_frame_comes_under_its_number(films, name, caplog):
    announced, frames = read(films[name])
    assert announced == COUNT
    assert frames == [(number, number) for number in range(1, COUNT + 1)]
    assert not caplog.messages


@pytest.mark.parametrize("name", ["mjpeg.avi", "mjpeg.mkv"])
def test_damaged_frames_are_named_and_the_others_keep_their_numbers(films, tmp_path, name, caplog):
    lost = [1, 10, 22, 23, 40]
    places = packets(films[name])
    path = overwritten(films[name], tmp_path / name, [places[number - 1] for number in lost])
    announced, frames = read(path)
    assert announced == COUNT
    assert frames == [(number, number) for number in range(1, COUNT + 1) if number not in lost]
    assert told(caplog) == (5, lost)
    assert [record.getMessage() for record in caplog.records if record.name.startswith("lightpose")] == [
        f"{path}: 5 of 40 frames can't be read: 1, 10, 22-23, 40; the others are given under their own numbers"
    ]


def test_frames_whose_place_is_damaged_shift_no_others(films, tmp_path, caplog):
    """Of an AVI, name and size before the data; FFmpeg then counts one frame less."""
    places = packets(films["mjpeg.avi"])
    (start, size), (following, _) = places[14], places[15]
    holes = [(start - 8, size + 8), (following - 8, 8)]
    announced, frames = read(overwritten(films["mjpeg.avi"], tmp_path / "hole.avi", holes))
    assert announced == COUNT
    assert all(number == shown for number, shown in frames)
    assert len(frames) >= COUNT - 3
    assert told(caplog)[1] == sorted(set(range(1, COUNT + 1)) - {number for number, _ in frames})


def test_a_hole_is_found_without_an_index(films, tmp_path):
    data, (start, size) = films["mjpeg.avi"].read_bytes(), packets(films["mjpeg.avi"])[14]
    (tmp_path / "short.avi").write_bytes(data[: start + size // 2] + data[start + size + 20 :])
    announced, frames = read(tmp_path / "short.avi")
    assert announced == COUNT
    assert len(frames) >= COUNT - 3
    assert all(number == shown for number, shown in frames if abs(number - 15) > 1)


@pytest.mark.parametrize("cut", [12, 33, 39])
@pytest.mark.parametrize("name", ["mjpeg.avi", "mpeg4.avi", "mjpeg.mkv", "h264.mkv", "vp9.webm"])
def test_of_a_file_cut_off_the_rest_is_named(films, tmp_path, name, cut, caplog):
    start, size = packets(films[name])[cut]
    data = films[name].read_bytes()
    (tmp_path / name).write_bytes(data[: start + size // 2])
    announced, frames = read(tmp_path / name)
    assert announced == COUNT
    assert all(number == shown for number, shown in frames)
    given = [number for number, _ in frames]
    assert cut - 3 <= len(given) <= cut  # frames that are shown later may be stored before
    assert told(caplog) == (COUNT - len(given), sorted(set(range(1, COUNT + 1)) - set(given)))


def test_a_failure_costs_none_of_the_frames_decoded_beside_it(films, tmp_path):
    """Also not of those that leave the decoder at the end, several in one call."""
    path = films["mjpeg.mkv"]
    places = packets(path)
    for lost in ([36, 38], [39], [2, 20, 38, 39]):
        damaged = overwritten(path, tmp_path / "damaged.mkv", [places[number - 1] for number in lost])
        assert [number for number, _ in read(damaged)[1]] == [n for n in range(1, COUNT + 1) if n not in lost]


def test_a_header_that_says_too_little_is_told(films, tmp_path, caplog):
    data = films["mjpeg.avi"].read_bytes()
    strh = data.index(b"strh")
    assert data[strh + 8 + 32 : strh + 8 + 36] == COUNT.to_bytes(4, "little")
    few = data[: strh + 40] + (10).to_bytes(4, "little") + data[strh + 44 :]
    (tmp_path / "few.avi").write_bytes(few)
    announced, frames = read(tmp_path / "few.avi")
    assert announced == len(frames) == COUNT
    assert caplog.messages == [f"{tmp_path / 'few.avi'} says that it has 10 frames, and holds 40"]


def test_where_the_rate_varies_frames_are_counted(tmp_path, caplog):
    times = np.cumsum([1, 33, 34, 100, 20, 33, 250, 41] * 4).tolist()
    for name in ("a.mp4", "a.mkv"):
        path = write_video(tmp_path / name, "libx264", times=times, rate=Fraction(1000))
        announced, frames = read(path)
        assert announced == 32
        assert frames == [(number, number) for number in range(1, 33)]
    assert not caplog.messages


@pytest.mark.parametrize("rotation", [90, 180, -90])
def test_a_telephone_held_upright_is_turned_as_opencv_does(tmp_path, rotation):
    path = write_video(tmp_path / "a.mp4", "libx264", rotation=rotation)
    capture = cv2.VideoCapture(str(path))
    for frame in open_source(str(path)).frames():
        found, expected = capture.read()
        assert found
        np.testing.assert_array_equal(frame.image, expected[..., ::-1])
    assert frame.image.shape == ((48, 64, 3) if rotation == 180 else (64, 48, 3))
    assert frame.image.flags.c_contiguous


def test_pixels_are_those_of_opencv(films):
    for name in ("h264.mp4", "mjpeg.avi", "vp9.webm"):
        capture = cv2.VideoCapture(str(films[name]))
        for frame in open_source(str(films[name])).frames():
            np.testing.assert_array_equal(frame.image, capture.read()[1][..., ::-1])


def sound(path):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(1600))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("playlist.mp4", "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n"),
        ("list.mp4", "ffconcat version 1.0\nfile whole.mp4\n"),
        ("session.mp4", "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=a\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"),
        ("empty.mp4", ""),
        ("text.avi", "no video"),
        ("sound.avi", None),
    ],
)
def test_what_is_no_video_is_refused_and_opens_nothing_else(films, tmp_path, name, content):
    (tmp_path / "whole.mp4").write_bytes(films["h264.mp4"].read_bytes())
    (tmp_path / name).write_text(content) if content is not None else sound(tmp_path / name)
    with pytest.raises(UserError, match=f"{name} (can't be opened as a video|holds no video)"):
        open_source(str(tmp_path / name))


@pytest.mark.parametrize("name", ["http:a.mp4", "concat:a|b.mp4", "ä b'.mp4", "\udcff.mp4"])
def test_a_name_is_never_an_address(films, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(films["h264.mp4"].read_bytes())
    assert len(list(open_source(name).frames())) == COUNT


def test_frames_over_the_limit_are_refused(films, monkeypatch):
    monkeypatch.setattr("lightpose.data.pixels.image_header.MAX_PIXELS", 1000)
    with pytest.raises(UserError, match=r"h264\.mp4 has 64x48 pixels; expected at most 1000"):
        open_source(str(films["h264.mp4"]))


def test_a_video_of_which_nothing_can_be_decoded_is_an_error(films, tmp_path):
    path = overwritten(films["mjpeg.avi"], tmp_path / "black.avi", packets(films["mjpeg.avi"]))
    with pytest.raises(UserError, match=r"black\.avi gives no frame"):
        list(open_source(str(path)).frames())


def test_damage_of_the_container_never_goes_on_for_ever(films, monkeypatch):
    failures = 0

    class Container:
        def demux(self, stream):
            nonlocal failures
            failures += 1
            raise av.InvalidDataError(1, "damaged")

    assert list(module.packets(Container(), None)) == []
    assert failures == 100


def test_a_video_left_early_leaves_no_thread(films):
    before = set(threading.enumerate())
    frames = open_source(str(films["h264.mp4"])).frames(ahead=4)
    next(frames)
    frames.close()
    assert not set(threading.enumerate()) - before


def test_a_gap_in_the_time_stamps_is_missing_frames_where_the_container_has_no_table(tmp_path, caplog):
    times = [*range(12), *range(17, 40)]
    path = write_video(tmp_path / "gap.mkv", "mjpeg", "yuvj420p", times=times)
    announced, frames = read(path)
    assert announced == 40
    assert [number for number, _ in frames] == [time + 1 for time in times]
    assert told(caplog) == (5, [13, 14, 15, 16, 17])
    caplog.clear()
    path = write_video(tmp_path / "gap.mp4", "mjpeg", "yuvj420p", times=times)
    assert read(path) == (35, [(number, number) for number in range(1, 36)])
    assert not caplog.messages


def test_stamps_and_numbers_of_a_timeline(films):
    timeline = read_timeline(str(films["h264.mkv"]))
    assert timeline.fps == 30
    assert timeline.numbers.tolist() == list(range(1, 41))
    assert all(33 <= later - earlier <= 34 for earlier, later in pairwise(timeline.stamps))


@pytest.mark.parametrize("name", ["nonsense", "vaapi:/dev/none", "drm"])
def test_hardware_that_cant_decode_is_an_error_and_never_the_cpu_instead(films, name):
    with pytest.raises(UserError, match=rf"hwaccel={name} can't decode .*h264\.mp4 here .*hwaccel=null for the CPU"):
        open_source(str(films["h264.mp4"]), hwaccel=name)


def test_a_codec_that_hardware_leaves_to_the_cpu_is_an_error(films, monkeypatch):
    monkeypatch.setattr(module, "_hardware", lambda name: None)
    with pytest.raises(UserError, match=r"hwaccel=cuda can't decode .*mjpeg\.avi here \(it doesn't decode mjpeg\)"):
        open_source(str(films["mjpeg.avi"]), hwaccel="cuda")


def test_frames_have_the_times_of_the_container(films):
    for name in CODECS:
        with av.open(str(films[name])) as container:
            times = [frame.time for frame in container.decode(video=0)]
        if name == "mpeg4.avi":  # FFmpeg counts the decoder's delay in
            times = [number / 30 for number in range(COUNT)]
        found = [frame.time_s for frame in open_source(str(films[name])).frames()]
        assert found == pytest.approx([time - times[0] for time in times], abs=2e-3), name


@pytest.fixture(autouse=True)
def _warnings(caplog):
    caplog.set_level(logging.WARNING)
