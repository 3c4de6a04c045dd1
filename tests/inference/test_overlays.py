"""Overlays stay where they belong, and never cost predictions."""

import json
import os
import shutil
from fractions import Fraction
from pathlib import Path, PurePosixPath

import av
import cv2
import pytest
from videos import numbered, shown_number, write_video

from lightpose.cli.predict import main
from lightpose.data.coco.results import read_coco_results
from lightpose.errors import UserError
from lightpose.inference import overlays as module
from lightpose.inference.frames import Frame
from lightpose.inference.overlays import SafePaths
from lightpose.inference.video import writer as video_writer
from lightpose.inference.video.writer import VideoWriter, video_rate
from lightpose.inference.writers import check_out, staged


@pytest.fixture()
def predict(run, checkpoint, tmp_path):
    """Runs the command into ``tmp_path / out``, if it isn't told another folder, and gives (exit code, output)."""

    def call(*arguments):
        code, out, err = run(main, f"ckpt={checkpoint}", "device=cpu", f"out={tmp_path / 'out'}", *arguments)
        return code, out + err

    return call


def listing(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.jpg", "a.jpg"),
        ("day 1/ä (2).PNG", "day 1/ä (2).PNG"),
        ("scan.tif", "scan.tif.png"),
        ("/home/me/a.jpg", "home/me/a.jpg"),
        ("../../a.jpg", "a.jpg"),
        ("a/../../b/./c.jpg", "a/b/c.jpg"),
        ("C:\\photos\\..\\a.jpg", "C_/photos/a.jpg"),
        ("a.jpg/", "a.jpg"),
        ("a\0b\n.jpg", "a_b_.jpg"),
        ("\ud800.jpg", "_.jpg"),
        ("nul:. .jpg", "nul_. .jpg"),
        ("..", "image.png"),
        ("", "image.png"),
        ("folder. /a.jpg", "folder/a.jpg"),
    ],
)
def test_names_become_paths_below_a_folder(name, expected):
    assert SafePaths()(name, 1) == PurePosixPath(expected)


@pytest.mark.parametrize(
    "name", ["n" * 5000 + ".jpg", "ä" * 5000 + ".jpg", "d/" * 5000 + "a.jpg", "." * 5000, "n." * 999]
)
def test_long_names_are_cut(tmp_path, name):
    paths = SafePaths()
    first, second = (tmp_path / paths(name, number) for number in (1, 2))
    for path in (first, second):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    assert first != second


def test_every_path_is_given_once(tmp_path):
    names = [
        "a.jpg",
        "a.jpg",
        "A.JPG",
        "../a.jpg",
        "a.jpg/b.jpg",
        "/a.jpg",
        "c/d.jpg",
        "c.png",
        "c",
        "c/d.jpg/e.jpg",
        "é.png",
    ]
    names += ["e\u0301.png", "a_2.jpg", "a.jpg"]
    paths = SafePaths()
    given = [paths(name, number) for number, name in enumerate(names, start=1)]
    assert given[:2] == [PurePosixPath("a.jpg"), PurePosixPath("a_2.jpg")]
    for path in given:  # on any file system
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        assert not (tmp_path / path).exists()
        (tmp_path / path).write_bytes(b"")
    assert len({str(path).casefold() for path in given}) == len(names)
    again = SafePaths()
    assert len({again("same.jpg", 7) for _ in range(5)}) == 5


def annotations(path, names, **more):
    images = [{"id": number, "file_name": str(name), **more} for number, name in enumerate(names, start=1)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"images": images}))
    return path


def test_nothing_is_written_outside_out_and_no_photograph_is_touched(predict, folder, tmp_path):
    before = {path: path.read_bytes() for path in folder.iterdir()}
    outside = annotations(tmp_path / "a" / "b" / "up.json", [f"../../photos/{n}.png" for n in range(3)])
    absolute = annotations(tmp_path / "absolute.json", [folder / f"{n}.png" for n in range(3)])
    for source, out in ((outside, tmp_path / "a" / "b"), (outside, folder), (absolute, folder), (absolute, tmp_path)):
        listed = set(listing(tmp_path))
        assert predict(f"source={source}", f"out={out}")[0] == 0
        new = set(listing(tmp_path)) - listed
        assert new == {name for name in new if (tmp_path / name).is_relative_to(out)}
        assert len(read_coco_results(out / "predictions.json")) == 3
        assert len(listing(out / "overlays")) >= 3
    assert {path: path.read_bytes() for path in before} == before


def test_every_image_id_has_an_overlay(predict, folder, tmp_path):
    source = annotations(folder / "same.json", ["0.png"] * 3)
    assert predict(f"source={source}")[0] == 0
    assert listing(tmp_path / "out" / "overlays") == ["0.png", "0_2.png", "0_3.png"]


@pytest.mark.parametrize("place", ["overlays", "overlays/deep", "link"])
def test_an_input_where_overlays_go_is_refused_before_anything_runs(predict, folder, tmp_path, place):
    inside = tmp_path / "out" / "overlays" / ("deep" if place == "overlays/deep" else "")
    inside.parent.mkdir(parents=True)
    shutil.copytree(folder, inside, dirs_exist_ok=True)
    source = inside
    if place == "link":
        source = tmp_path / "link"
        source.symlink_to(inside)
    before = listing(tmp_path)
    code, said = predict(f"source={source}", "ckpt=none.ckpt")
    assert code == 1
    assert "lies where results are written" in said
    assert listing(tmp_path) == before
    assert predict(f"source={source}", "draw=false")[0] == 0  # which writes nothing there


def test_boxes_and_videos_are_inputs_too(predict, folder, tmp_path):
    assert predict(f"source={folder}", "draw=false")[0] == 0
    code, said = predict(f"source={folder}", f"boxes={tmp_path / 'out' / 'predictions.csv'}", "draw=false")
    assert code == 1
    assert f"the input {tmp_path / 'out' / 'predictions.csv'} lies where" in said
    (tmp_path / "out" / "overlays").mkdir()
    film = write_video(tmp_path / "out" / "overlays" / "film.mp4", "mpeg4")
    code, said = predict(f"source={film}")
    assert code == 1
    assert "film.mp4 lies where" in said


def test_links_out_of_out_are_not_followed(predict, folder, tmp_path):
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    out.mkdir()
    elsewhere.mkdir()
    (out / "overlays").symlink_to(elsewhere)
    code, said = predict(f"source={folder}")
    assert code == 1
    assert "overlays is a link" in said
    assert listing(tmp_path / "out") == listing(elsewhere) == []
    (out / "overlays").unlink()
    (out / "overlays").mkdir()
    (out / "overlays" / "day").symlink_to(elsewhere)
    (out / "predictions.json").symlink_to(elsewhere / "mine.json")
    (folder / "day").mkdir()
    (folder / "0.png").rename(folder / "day" / "0.png")
    code, said = predict(f"source={folder}/**/*.png")
    assert code == 0
    assert "1 overlays can't be written, such as" in said
    assert listing(elsewhere) == []
    assert listing(out / "overlays") == [f"{n}.png" for n in range(1, 5)]
    assert len(read_coco_results(out / "predictions.json")) == 5


@pytest.mark.parametrize("name", ["predictions.json", "predictions.csv", "overlays"])
def test_what_stands_in_the_way_is_refused_before_anything_runs(predict, folder, tmp_path, name):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("") if name == "overlays" else (tmp_path / "out" / name).mkdir()
    code, said = predict(f"source={folder}", "ckpt=none.ckpt")
    assert code == 1
    assert name in said
    assert "Traceback" not in said


def test_a_failure_in_drawing_costs_one_overlay(predict, folder, tmp_path, monkeypatch):
    draw = module.draw_poses

    def failing(image, *rest, **more):
        return draw(image, *rest, **more) if image.shape[1] != 64 else 1 / 0

    monkeypatch.setattr(module, "draw_poses", failing)
    code, said = predict(f"source={folder}")
    assert code == 0
    assert len(read_coco_results(tmp_path / "out" / "predictions.json")) == 5
    assert listing(tmp_path / "out" / "overlays") == ["0.png", "1.png", "3.png", "4.png"]
    assert "The overlay of 2.png is left out: " in said


@pytest.mark.parametrize("film", [False, True])
def test_a_disk_that_fills_costs_all_overlays_and_no_prediction(
    predict, folder, video, tmp_path, monkeypatch, caplog, film
):
    written = 0

    def full(*_):
        nonlocal written
        written += 1
        if written > 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(VideoWriter if film else module.ImageWriter, "write", full)
    code, said = predict(f"source={video if film else folder}")
    assert code == 0
    assert len(read_coco_results(tmp_path / "out" / "predictions.json")) == (40 if film else 5)
    assert listing(tmp_path / "out") == ["predictions.csv", "predictions.json"]
    assert said.count("There will be no overlays, as they can't be written: [Errno 28]") == 1


def test_without_an_encoder_there_are_predictions(predict, video, tmp_path, monkeypatch):
    monkeypatch.setattr(video_writer, "_CODECS", ("nothing",))
    code, said = predict(f"source={video}")
    assert code == 0
    assert len(read_coco_results(tmp_path / "out" / "predictions.json")) == 40
    assert "FFmpeg encodes no video of 64x48" in said
    assert "overlays\n" not in said


@pytest.mark.parametrize("fps", [66.667, 1000, 29.97002997, 23.976, 12, 0.5, 65.4321, 90000, 1e-9])
def test_every_rate_is_one_that_codecs_take(fps):
    rate = video_rate(fps)
    assert 0 < rate.numerator <= 65535
    assert rate.denominator <= 65535
    if 0.5 <= fps <= 1000:
        assert float(rate) == pytest.approx(fps, rel=1e-3)


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
@pytest.mark.parametrize(
    ("fps", "hw"), [(66.667, (48, 64)), (1000, (47, 63)), (23.976, (49, 65)), (0.5, (1, 1)), (30, (3, 200))]
)
def test_videos_of_any_rate_and_size_play(tmp_path, monkeypatch, fps, hw, codec):
    monkeypatch.setattr(video_writer, "_CODECS", (codec, "mpeg4"))
    writer = VideoWriter(tmp_path / "new", "../film", fps)
    assert writer.path == tmp_path / "new" / ".._film.mp4"
    for number in (3, 4, 6, 7):
        image = cv2.resize(numbered(number), hw[::-1], interpolation=cv2.INTER_AREA)
        writer.write(Frame("", image, number), writer.path, image)
    writer.close()
    with av.open(str(writer.path)) as container:
        stream = container.streams.video[0]
        times = [frame.time for frame in container.decode(stream)]
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert (stream.height, stream.width) == tuple(side + side % 2 for side in hw)
    assert times == pytest.approx([number / fps for number in (0, 1, 3, 4)], rel=2e-3)
    capture, shown = cv2.VideoCapture(str(writer.path)), []
    while (found := capture.read())[0]:
        shown.append(shown_number(cv2.resize(found[1], (64, 48))))
    assert len(shown) == 4
    if min(hw) > 40:
        assert shown == [3, 4, 6, 7]


def test_frames_of_another_size_are_fitted_to_the_first(tmp_path):
    writer = VideoWriter(tmp_path, "film", 25)
    for number, size in enumerate([(64, 48), (128, 96), (63, 47)], start=1):
        image = cv2.resize(numbered(number), size)
        writer.write(Frame("", image, number), writer.path, image)
    writer.close()
    with av.open(str(writer.path)) as container:
        assert [shown_number(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)] == [1, 2, 3]


def test_damaged_frames_leave_the_overlay_in_time(predict, tmp_path):
    path = write_video(
        tmp_path / "film.mkv", "mjpeg", "yuvj420p", times=[*range(10), *range(20, 40)], rate=Fraction(66667, 1000)
    )
    code, _ = predict(f"source={path}")
    assert code == 0
    assert [entry["image_id"] for entry in read_coco_results(tmp_path / "out" / "predictions.json")] == [
        *range(1, 11),
        *range(21, 41),
    ]
    with av.open(str(tmp_path / "out" / "overlays" / "film.mp4")) as container:
        times = [frame.time for frame in container.decode(video=0)]
    assert len(times) == 30
    assert times[-1] == pytest.approx(39 / 66.667, rel=1e-3)


def test_nothing_is_left_of_a_run_that_fails(tmp_path):
    with pytest.raises(KeyError), staged(tmp_path / "a" / "b") as stage:
        (stage / "predictions.json").write_text("")
        raise KeyError
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a").mkdir()
    with pytest.raises(KeyError), staged(tmp_path / "a") as stage:
        (tmp_path / "a" / "theirs.txt").write_text("")
        shutil.rmtree(stage)
        raise KeyError
    assert listing(tmp_path) == ["a/theirs.txt"]
    with pytest.raises(UserError, match=r"can't be written to out=.*No such file"), staged(tmp_path / "gone") as stage:
        shutil.rmtree(tmp_path / "gone")
    assert listing(tmp_path) == ["a/theirs.txt"]


def test_a_full_disk_is_a_sentence(tmp_path):
    with (
        pytest.raises(UserError, match=r"can't be written to out=.* \(No space left on device\)"),
        staged(tmp_path / "out"),
    ):
        raise OSError(28, "No space left on device")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("out", ["/proc/lightpose", "/dev/null/a", "n" * 5000])
def test_a_folder_that_cant_be_made_is_a_sentence(predict, folder, out):
    code, said = predict(f"source={folder}", f"out={out}")
    assert code == 1
    assert "can't be written to out=" in said
    assert "Traceback" not in said


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_a_sentence(predict, folder, tmp_path):
    (tmp_path / "out").mkdir(mode=0o500)
    code, said = predict(f"source={folder}")
    assert code == 1
    assert "Permission denied" in said


def test_names_that_are_no_text_are_written(predict, folder, tmp_path):
    (folder / "0.png").rename(folder / "\udcff.png")
    assert predict(f"source={folder}")[0] == 0
    names = {entry["file_name"] for entry in read_coco_results(tmp_path / "out" / "predictions.json")}
    assert "\udcff.png" in names
    assert "_.png" in listing(tmp_path / "out" / "overlays")
    assert "\\udcff.png" in (tmp_path / "out" / "predictions.csv").read_text(encoding="utf-8")


def test_checking_many_inputs_reads_few_folders(folder, tmp_path, monkeypatch):
    (tmp_path / "out" / "overlays").mkdir(parents=True)
    calls, real = [], os.path.realpath
    monkeypatch.setattr(os.path, "realpath", lambda path: calls.append(path) or real(path))
    check_out(tmp_path / "out", [Path(folder / f"{n % 5}.png") for n in range(1000)], draw=True)
    assert len(calls) < 10
