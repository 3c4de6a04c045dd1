"""Cameras and streams: the newest frames under their own numbers, and nothing opened but what the user typed."""

import http.server
import json
import os
import signal
import socket
import threading
import time
from itertools import pairwise

import av
import cv2
import numpy as np
import pytest
from videos import COUNT, numbered, shown_number, write_video

from lightpose.cli.predict import main
from lightpose.errors import UserError
from lightpose.inference.sources import open_source
from lightpose.inference.video import live as module
from lightpose.inference.video.live import Camera, Newest, open_camera


@pytest.fixture()
def server(tmp_path):
    """Serves files of ``tmp_path``: under ``/live/`` in pieces without a length, under ``/again/`` for ever."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            name = self.path.rpartition("/")[2].partition("?")[0]
            if name == "moved.ts":
                self.send_response(302)
                self.send_header("Location", f"file://{tmp_path}/film.ts")
                self.end_headers()
                return
            data = (tmp_path / name).read_bytes()
            self.send_response(200)
            endless = self.path.startswith(("/live/", "/again/"))
            if not endless:
                self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            try:
                step = 1880 if endless else len(data) or 1
                while True:
                    for place in range(0, len(data), step):
                        self.wfile.write(data[place : place + step])
                        time.sleep(0.01 if endless else 0)
                    if not self.path.startswith("/again/"):
                        break
            except OSError:
                pass

        def log_message(self, *_):
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads, httpd.asked = True, asked
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield httpd
    httpd.shutdown()
    httpd.server_close()


def address(server, path):
    return f"http://127.0.0.1:{server.server_port}/{path}"


def film(tmp_path, name="film.ts", count=COUNT):
    return write_video(tmp_path / name, "libx264", options={"tune": "zerolatency", "bf": "0"}, times=range(count))


def test_of_a_file_behind_an_address_every_frame_is_read(tmp_path, server, caplog):
    write_video(tmp_path / "film.mkv", "libx264")
    source = open_source(address(server, "film.mkv?key=1"))
    assert (source.stem, source.endless) == ("film", False)
    given = []
    for frame in source.frames(ahead=1):
        given.append((frame.image_id, shown_number(frame.image)))
        time.sleep(0.005)
    assert given == [(number, number) for number in range(1, COUNT + 1)]
    assert not caplog.text
    data = (tmp_path / "film.mkv").read_bytes()
    (tmp_path / "film.mkv").write_bytes(data[: len(data) // 2])
    cut = list(open_source(address(server, "film.mkv")).frames())
    assert f"film.mkv ended after {len(cut) / 30:.1f} of its {COUNT / 30:.1f} s" in caplog.text


def test_a_stream_gives_frames_under_their_numbers_and_times(tmp_path, server):
    film(tmp_path)
    source = open_source(address(server, "live/film.ts"))
    assert (source.stem, source.endless, source.fps) == ("film", True, 30)
    frames = list(source.frames(ahead=COUNT))
    assert [shown_number(frame.image) for frame in frames] == [frame.image_id for frame in frames]
    assert [frame.image_id for frame in frames] == list(range(1, COUNT + 1))
    assert [frame.time_s for frame in frames] == pytest.approx([n / 30 for n in range(COUNT)], abs=1e-3)


def test_who_is_slow_gets_the_newest_frames_and_hears_of_the_others(tmp_path, server, caplog):
    film(tmp_path, count=200)
    given = []
    for frame in open_source(address(server, "live/film.ts")).frames(ahead=2):
        given.append((frame.image_id, shown_number(frame.image)))
        time.sleep(0.05)
    assert all(number == seen for number, seen in given)
    assert all(later > earlier for (earlier, _), (later, _) in pairwise(given))
    assert len(given) < 150 and given[-1][0] == 200
    assert f"{200 - len(given)} of 200 frames came too fast and were left out" in caplog.text


def test_udp(tmp_path):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"udp://127.0.0.1:{probe.getsockname()[1]}"
    stop = threading.Event()

    def send():
        with av.open(f"{url}?pkt_size=1316", "w", format="mpegts") as container:
            stream = container.add_stream("mpeg2video", rate=30)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            number = 0
            while not stop.is_set():
                number += 1
                container.mux(stream.encode(av.VideoFrame.from_ndarray(numbered(number % 256), format="rgb24")))
                time.sleep(0.002)

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    source = open_source(url)
    assert source.endless and source.stem == "127.0.0.1"
    seen = []
    for frame in source.frames():
        seen.append(frame.image_id)
        assert frame.image.shape == (48, 64, 3)
        if len(seen) == 20:
            source.stopped.set()
    stop.set()
    sender.join(5)
    assert 20 <= len(seen) <= 21 and seen == sorted(set(seen))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("list.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{server}/secret.ts\n#EXT-X-ENDLIST\n"),
        ("list.txt", "ffconcat version 1.0\nfile {folder}/film.ts\n"),
        ("session.sdp", "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=a\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"),
        ("moved.ts", ""),
        ("empty.ts", ""),
    ],
)
def test_what_an_address_gives_leads_nowhere_else(tmp_path, server, name, content):
    film(tmp_path)
    (tmp_path / "secret.ts").write_bytes((tmp_path / "film.ts").read_bytes())
    (tmp_path / name).write_text(content.format(server=address(server, "")[:-1], folder=tmp_path))
    with pytest.raises(UserError, match=r"can't be opened .* no playlist"):
        open_source(address(server, name))
    assert {path.strip("/") for path in server.asked} <= {name}


@pytest.mark.parametrize(
    "url", ["ftp://127.0.0.1/a.ts", "concat://a", "file:///etc/passwd", "tcp://127.0.0.1:9", "rtp://a"]
)
def test_other_addresses_are_no_source(url):
    with pytest.raises(UserError, match="there is no source="):
        open_source(url)


def test_passwords_are_not_said():
    with pytest.raises(UserError) as error:
        open_source("http://me:secret@127.0.0.1:9/a.ts")
    assert "secret" not in str(error.value)
    assert "http://127.0.0.1:9/a.ts can't be opened" in str(error.value)


def test_a_server_that_says_nothing_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(module, "_PATIENCE_S", 0.3)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(UserError, match="nothing came for"):
            open_source(f"http://127.0.0.1:{silent.getsockname()[1]}/a.ts")


def test_newest_keeps_so_many_and_counts_the_others():
    stopped, go = threading.Event(), threading.Event()

    def items():
        yield from range(10)
        go.set()

    newest = Newest(items(), 3, stopped)
    assert go.wait(5)
    assert list(newest) == [7, 8, 9]
    assert newest.dropped == 7
    assert list(Newest((n for n in range(10)), 3, stopped, drop=False)) == list(range(10))

    def failing():
        yield 1
        raise UserError("gone")

    newest = Newest(failing(), 3, stopped)
    with pytest.raises(UserError, match="gone"):
        list(newest)


class Device:
    """What OpenCV makes of a camera's number."""

    left = 30

    def __init__(self, number):
        self.number = number

    def isOpened(self):
        return self.number == 7

    def get(self, _):
        return 0.0

    def read(self):
        time.sleep(0.002)
        Device.left -= 1
        return Device.left >= 0, np.full((4, 6, 3), (0, 0, 255), np.uint8)

    def release(self):
        pass


def test_a_camera_gives_rgb_frames_and_times(monkeypatch):
    monkeypatch.setattr(cv2, "VideoCapture", Device)
    camera = open_source("7")
    assert isinstance(camera, Camera) and (camera.stem, camera.fps) == ("camera7", 30)
    frames = list(camera.frames())
    assert frames[0].image[0, 0].tolist() == [255, 0, 0]
    assert frames[0].name == f"camera7_{frames[0].image_id:06d}"
    assert all(later.time_s > earlier.time_s >= 0 for earlier, later in pairwise(frames))
    with pytest.raises(UserError, match="camera 7 gives no frame; another program"):
        list(open_camera(7).frames())
    with pytest.raises(UserError, match="camera 8 can't be opened"):
        open_camera(8)


def test_the_command_records_until_ctrl_c(run, checkpoint, tmp_path, server):
    film(tmp_path, count=200)
    out, over = tmp_path / "out", threading.Event()

    def interrupt():
        while not over.wait(0.05):
            if any(path.stat().st_size > 1000 for path in out.glob(".unfinished-*/predictions.csv")):
                os.kill(os.getpid(), signal.SIGINT)
                return

    threading.Thread(target=interrupt, daemon=True).start()
    options = [f"ckpt={checkpoint}", "device=cpu", f"out={out}", "batch_size=4", "smoothing=one_euro"]
    code, _, err = run(main, *options, f"source={address(server, 'again/film.ts')}")
    over.set()
    assert code == 0, err
    ids = [entry["image_id"] for entry in json.loads((out / "predictions.json").read_text())]
    assert len(ids) >= 64 and ids == sorted(set(ids))
    with av.open(str(out / "overlays" / "film.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == len(ids)
