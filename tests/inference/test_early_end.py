"""What ends early leaves the predictions of the frames before, whole, and never in the place of complete ones."""

import csv
import json
import re
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from unittest.mock import Mock

import numpy as np
import pytest
from videos import small_files, write_video

from lightpose.cli import predict as command
from lightpose.errors import UserError
from lightpose.inference.early_end import EarlyEnd
from lightpose.inference.formats.write import Formats
from lightpose.inference.frames import Frame
from lightpose.inference.sources import open_source
from lightpose.inference.writers import write_predictions
from lightpose.runtime.growing import GrowingFile
from lightpose.runtime.signals import Interrupted
from lightpose.skeleton import Skeleton
from lightpose.structures import Poses


def results(count):
    """One pose in each frame but every third."""
    rng = np.random.default_rng(0)
    for number in range(1, count + 1):
        found = int(number % 3 > 0)
        points = rng.uniform(0, 100, (found, 2, 2)).astype(np.float32)
        ones = np.ones(found, np.float32)
        poses = Poses(points, np.ones((found, 2), np.float32), ones, np.zeros(found, np.int64))
        yield Frame(f"f_{number:06d}", np.zeros((2, 2, 3), np.uint8), number), poses


def both(folder):
    """Ids of the frames in the JSON and in the CSV file."""
    listed = [entry["image_id"] for entry in json.loads((folder / "predictions.json").read_text())]
    with (folder / "predictions.csv").open() as file:
        return listed, [int(row["image_id"]) for row in csv.DictReader(file)]


@pytest.mark.parametrize("size", [11_000, 12_345, 20_000, 30_000])
def test_a_full_disk_leaves_both_files_whole_and_of_the_same_frames(tmp_path, size):
    early = EarlyEnd()
    with small_files(size):
        images, _ = write_predictions(tmp_path, results(1000), Skeleton.build(["a", "b"]), early=early)
    assert isinstance(early.cause, UserError) and "File too large" in str(early.cause)
    assert 64 <= images < 1000 and images % 64 == 0
    listed, rows = both(tmp_path)
    assert listed == rows == [number for number in range(1, images + 1) if number % 3]


def test_room_is_made_once_and_what_was_not_written_is(tmp_path):
    calls = []

    def make_room():
        calls.append(1)
        limit.close()
        return True

    with ExitStack() as limit:
        limit.enter_context(small_files(15_000))
        written = write_predictions(tmp_path, results(500), Skeleton.build(["a", "b"]), make_room=make_room)
    assert (written, calls) == ((500, 334), [1])
    listed, rows = both(tmp_path)
    assert listed == rows == [number for number in range(1, 501) if number % 3]


def test_a_growing_file_is_whole_after_each_stretch(tmp_path):
    file = GrowingFile(tmp_path / "a.json", b"[", b"]")
    for content, stretch in (("[]", b"1"), ("[1]", b",2"), ("[1,2]", b"")):
        assert (tmp_path / "a.json").read_text() == content
        file.add(stretch)
    file.cut(2)
    file.close()
    assert (tmp_path / "a.json").read_text() == "[1]"


@pytest.fixture()
def predict(run, checkpoint, tmp_path):
    def call(*arguments):
        code, out, err = run(command.main, f"ckpt={checkpoint}", "device=cpu", f"out={tmp_path / 'out'}", *arguments)
        return code, out + err

    return call


@pytest.fixture()
def failing(monkeypatch):
    """Lets the network fail at a frame."""

    def at(number):
        def broken(given, ckpt):
            for frame, poses in given:
                if frame.image_id == number:
                    raise UserError("the network is broken; mend it")
                yield frame, poses

        monkeypatch.setattr(command, "finite", broken)

    return at


def test_an_error_in_the_middle_leaves_the_frames_before(predict, video, tmp_path, failing):
    failing(31)
    code, said = predict(f"source={video}")
    assert code == 1
    out = tmp_path / "out"
    assert said.count("the network is broken; mend it") == 1
    assert f"The predictions of the first 30 frames that could be read are in {out}" in said
    assert both(out) == (list(range(1, 31)),) * 2
    assert [frame.image_id for frame in open_source(str(out / "overlays" / "clip.mp4")).frames()] == list(range(1, 31))
    assert sorted(path.name for path in out.iterdir()) == ["overlays", "predictions.csv", "predictions.json"]


def test_complete_results_are_never_replaced_by_others(predict, video, tmp_path, failing):
    out = tmp_path / "out"
    assert predict(f"source={video}")[0] == 0
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    failing(11)
    for name in ("unfinished", "unfinished_2"):
        code, said = predict(f"source={video}")
        assert code == 1
        assert f"first 10 frames that could be read are in {out / name}" in said
        assert "holds earlier results, which stay as they are" in said
        assert both(out / name) == (list(range(1, 11)),) * 2
        assert (out / name / "overlays" / "clip.mp4").is_file()
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize(("error", "said"), [(Interrupted(signal.SIGINT), "the"), (UserError("No"), "No. The")])
def test_what_ends_after_the_last_frame_leaves_all(predict, video, tmp_path, monkeypatch, error, said):
    monkeypatch.setattr(Formats, "write", Mock(side_effect=error))
    code, told = predict(f"source={video}", "draw=false")
    assert code != 0 and f"{said} predictions of the first 40 frames that could be read are in" in told
    assert both(tmp_path / "out") == (list(range(1, 41)),) * 2


def test_an_error_at_the_first_frame_leaves_nothing(predict, video, tmp_path, failing):
    failing(1)
    code, said = predict(f"source={video}")
    assert code == 1
    assert "are in" not in said
    assert not (tmp_path / "out").exists()


def test_pictures_are_all_or_none_as_before(predict, folder, tmp_path, failing):
    failing(3)
    assert predict(f"source={folder}")[0] == 1
    assert not (tmp_path / "out").exists()


def test_a_signal_ends_results_after_the_one_that_comes_next():
    early = EarlyEnd()
    seen = []
    for frame, _ in early.guarded(results(9)):
        seen.append(frame.image_id)
        if frame.image_id == 4:
            early.stop(signal.SIGINT)
    assert seen == [1, 2, 3, 4]
    with pytest.raises(Interrupted, match="the predictions of the first 4 frames"):
        early.tell(4)
    early = EarlyEnd()
    early.stop(signal.SIGINT)
    with pytest.raises(Interrupted):
        list(early.guarded(results(9)))


@pytest.mark.slow
def test_ctrl_c_in_a_video_leaves_what_was_done(checkpoint, tmp_path):
    film = write_video(tmp_path / "film.mp4", "libx264", times=range(3000), sound="aac")
    arguments = [f"ckpt={checkpoint}", f"source={film}", "device=cpu", "batch_size=8", f"out={tmp_path / 'out'}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "lightpose.cli.predict", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        written = list((tmp_path / "out").glob(".unfinished-*/predictions.json"))
        if written and written[0].stat().st_size > 5000:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 130
    done = int(re.search(r"stopped by Ctrl-C: the predictions of the first (\d+) frames", said)[1])
    assert 0 < done < 3000
    assert both(tmp_path / "out") == (list(range(1, done + 1)),) * 2
    overlay = tmp_path / "out" / "overlays" / "film.mp4"
    assert [frame.image_id for frame in open_source(str(overlay)).frames()] == list(range(1, done + 1))
    assert "Traceback" not in said
