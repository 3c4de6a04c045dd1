"""Pictures that no command should stumble over, through the commands."""

import json
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from lightpose.cli import data, eval, predict, train
from lightpose.data.pixels.image_header import MAX_PIXELS


def png_header(hw):
    """A PNG that declares a size and holds one row."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", hw[1], hw[0], 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(3000), 9)) + chunk(b"IEND", b"")


def jpeg_header(hw):
    """A small JPEG that declares a size."""
    jpeg = cv2.imencode(".jpg", np.zeros((64, 64, 3), np.uint8))[1].tobytes()
    place = jpeg.index(b"\xff\xc0")
    return jpeg[: place + 5] + struct.pack(">HH", *hw) + jpeg[place + 9 :]


def replaced(people, folder, make, **more):
    """The data set with every image replaced, and other values in ``images``."""
    content = json.loads(people.read_text())
    (folder / "images").mkdir()
    for image in content["images"]:
        (folder / "images" / Path(image["file_name"]).name).write_bytes(make(image))
        image |= {"file_name": Path(image["file_name"]).name, **more}
    (folder / "people.json").write_text(json.dumps(content))
    return folder / "people.json"


@pytest.mark.parametrize(("make", "side"), [(png_header, 30000), (jpeg_header, 32767)])
@pytest.mark.parametrize(
    "command", ["check", "check decode=true", "train", "train device", "preview", "eval", "predict"]
)
def test_pictures_that_declare_too_many_pixels_are_refused_by_every_command(
    run, people, tiny, trained, tmp_path, monkeypatch, command, make, side
):
    monkeypatch.chdir(tmp_path)
    path = replaced(people, tmp_path, lambda image: make((side, side)), width=side, height=side)
    checkpoint = f"ckpt={trained / 'checkpoints' / 'best.ckpt'}"
    training = [f"data.train={path}", *tiny]
    main, *arguments = {
        "check": (data.main, "check", f"data.train={path}"),
        "check decode=true": (data.main, "check", f"data.train={path}", "decode=true"),
        "train": (train.main, *training, "output_dir=run"),
        "train device": (train.main, *training, "output_dir=run", "data.decode=device"),
        "preview": (data.main, "preview", *training, "out=preview.png"),
        "eval": (eval.main, checkpoint, f"annotations={path}", "out=scores", "num_workers=0"),
        "predict": (predict.main, checkpoint, f"source={path}", "out=poses", "device=cpu"),
    }[command]
    code, out, err = run(main, *arguments)
    assert code == 1
    said = out + err
    assert f"has {side}x{side} pixels; expected at most {MAX_PIXELS} pixels" in said
    assert str(tmp_path / "images") in said
    assert "Traceback" not in said


def camera(image):
    """12 bits of 16."""
    rng = np.random.default_rng(image["id"])
    pixels = rng.integers(0, 4096, (image["height"], image["width"], 3)).astype(np.uint16)
    return cv2.imencode(".png", pixels)[1].tobytes()


def test_12_of_16_bits_are_said_by_check_and_kept_by_an_option(run, people, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = replaced(people, tmp_path, camera)
    code, out, _ = run(data.main, "check", f"data.train={path}")
    assert code == 0
    assert "the images have 16 bits and their values 12, so they are read almost black" in out
    assert "set reader.image_bits=12" in out
    code, out, _ = run(data.main, "check", f"data={people}")
    assert "almost black" not in out

    bits = ["reader.image_bits=12", "output_dir=run", "trainer.max_epochs=1"]
    code, out, err = run(train.main, f"data.train={path}", f"data.val={path}", *tiny, *bits)
    assert code == 0
    checkpoint = next((tmp_path / "run" / "checkpoints").glob("*.ckpt"))
    for main, *arguments in (
        (predict.main, f"source={path}", "device=cpu"),
        (eval.main, f"annotations={path}", "num_workers=0"),
    ):
        code, more, _ = run(main, f"ckpt={checkpoint}", "out=out", *arguments)
        assert code == 0
        assert "almost black" not in out + err + more
    code, _, err = run(train.main, f"data.train={path}", *tiny, "reader.image_bits=10", "output_dir=other")
    assert code == 1
    assert "holds values of 12 bits; image_bits=10 must be 12 at least" in err


@pytest.mark.parametrize(
    ("out", "message"),
    [("a.tif", "must end in .png or .jpg"), ("a", "must end in"), ("/proc/a/b.png", "can't be written")],
)
def test_a_preview_that_cant_be_written_is_not_claimed(run, people, tiny, tmp_path, monkeypatch, out, message):
    monkeypatch.chdir(tmp_path)
    code, said, err = run(data.main, "preview", f"data.train={people}", *tiny, f"out={out}")
    assert code == 1
    assert message in err
    assert out not in said
    assert list(tmp_path.iterdir()) == []


def test_a_preview_may_be_a_jpeg(run, people, tiny, tmp_path):
    assert run(data.main, "preview", f"data.train={people}", *tiny, f"out={tmp_path / 'new' / 'a.JPG'}")[0] == 0
    assert cv2.imread(str(tmp_path / "new" / "a.JPG")).mean() > 10


def test_eval_overwrites_no_input(run, people, trained, tmp_path):
    given = [
        f"ckpt={trained / 'checkpoints' / 'best.ckpt'}",
        f"annotations={people}",
        f"out={tmp_path}",
        "num_workers=0",
    ]
    assert run(eval.main, *given)[0] == 0
    before = (tmp_path / "predictions.json").read_bytes()
    code, _, err = run(eval.main, *given, f"boxes={tmp_path / 'predictions.json'}")
    assert code == 1
    assert f"the input {tmp_path / 'predictions.json'} lies where results are written" in err
    assert (tmp_path / "predictions.json").read_bytes() == before
    code, _, err = run(eval.main, *given, "out=/proc/scores")
    assert code == 1
    assert "can't be used" in err
