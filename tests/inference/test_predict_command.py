import csv
import json
import os
import signal
import threading
import tracemalloc
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from tiny_checkpoint import config, save

import lightpose
from lightpose.cli.predict import main, until_interrupt
from lightpose.codecs.heatmap import HeatmapCodec
from lightpose.data.coco.results import read_coco_results
from lightpose.runtime.signals import watched


@pytest.fixture()
def predict(run, checkpoint, tmp_path):
    """Runs the command into ``tmp_path / out`` and gives (exit code, stderr)."""

    def call(*arguments):
        code, _, err = run(main, f"ckpt={checkpoint}", "device=cpu", f"out={tmp_path / 'out'}", *arguments)
        return code, err

    return call


def listing(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_folder_with_boxes_writes_json_csv_and_overlays(predict, checkpoint, folder, images, tmp_path):
    boxes = {"0.png": [[10, 10, 60, 80], [50.5, 5, 100, 60]], "3.png": [[5, 5, 30, 140]]}
    (tmp_path / "boxes.csv").write_text(
        "file_name,x1,y1,x2,y2,score\n"
        + "".join(f"{name},{','.join(map(str, box))},0.5\n" for name, rows in boxes.items() for box in rows)
    )
    assert predict(f"source={folder}", f"boxes={tmp_path / 'boxes.csv'}", "batch_size=2") == (0, "")

    out = tmp_path / "out"
    assert listing(out) == [*(f"overlays/{n}.png" for n in range(5)), "predictions.csv", "predictions.json"]
    expected = lightpose.Predictor(checkpoint, device="cpu")(images, [boxes.get(f"{n}.png", []) for n in range(5)])
    found = read_coco_results(out / "predictions.json")
    assert [(entry["file_name"], entry["image_id"]) for entry in found] == [("0.png", 1), ("0.png", 1), ("3.png", 4)]
    points = np.array([entry["keypoints"] for entry in found]).reshape(3, 3, 3)
    assert np.abs(points[:2, :, :2] - expected[0].keypoints).max() < 1e-3
    assert np.allclose([entry["score"] for entry in found[:2]], expected[0].scores / 2, atol=1e-5)

    rows = list(csv.DictReader((out / "predictions.csv").open()))
    assert [row["file_name"] for row in rows] == ["0.png", "0.png", "3.png"]
    assert [float(rows[1][key]) for key in ("x1", "y1", "x2", "y2")] == boxes["0.png"][1]
    assert float(rows[2]["left_eye_x"]) == pytest.approx(points[2, 1, 0], abs=1e-3)

    overlays = [cv2.imread(str(out / "overlays" / f"{n}.png"))[..., ::-1] for n in range(5)]
    assert [not np.array_equal(*pair) for pair in zip(overlays, images, strict=True)] == [
        True,
        False,
        False,
        True,
        False,
    ]


def test_predictions_csv_serves_as_boxes(predict, folder, tmp_path):
    predict(f"source={folder}", "draw=false")
    first = (tmp_path / "out" / "predictions.csv").replace(tmp_path / "boxes.csv")
    assert predict(f"source={folder}", "draw=false", f"boxes={first}")[0] == 0
    columns = [
        [(row["file_name"], row["x2"]) for row in csv.DictReader(path.open())]
        for path in (first, tmp_path / "out" / "predictions.csv")
    ]
    assert columns[0] == columns[1]


def test_coco_json_poses_its_annotated_people_under_its_ids(predict, folder, tmp_path):
    coco = {
        "images": [{"id": 70, "file_name": "2.png"}, {"id": 7, "file_name": "0.png"}],
        "annotations": [
            {"image_id": 7, "category_id": 9, "bbox": [10, 20, 30, 40]},
            {"image_id": 7, "category_id": 4, "bbox": [20, 20, 30, 40]},
        ],
        "categories": [
            {"id": 9, "name": "face", "keypoints": ["nose", "left_eye", "right_eye"]},
            {"id": 4, "name": "snout", "keypoints": ["nose"]},
        ],
    }
    (folder / "coco.json").write_text(json.dumps(coco))
    assert predict(f"source={folder / 'coco.json'}")[0] == 0
    found = read_coco_results(tmp_path / "out" / "predictions.json")
    assert [(entry["image_id"], entry["category_id"]) for entry in found] == [(7, 9), (7, 4)]

    assert predict(f"source={folder / 'coco.json'}", "detector=whole_image")[0] == 0
    found = read_coco_results(tmp_path / "out" / "predictions.json")
    assert [entry["image_id"] for entry in found] == [70, 7]


class TwoKinds(HeatmapCodec):
    """Every other pose is of the second category."""

    def decode(self, outputs):
        poses = super().decode(outputs)
        return replace(poses, categories=torch.arange(len(poses)) % 2)


def test_poses_of_several_categories_have_the_ids_of_the_file(run, folder, tmp_path):
    settings = config()
    settings["estimator"]["codec"]["_target_"] = f"{__name__}.TwoKinds"
    given = [f"ckpt={save(tmp_path / 'kinds.ckpt', settings, (__name__,))}", f"trust={__name__}", "device=cpu"]
    given += [f"source={folder / 'coco.json'}", f"out={tmp_path / 'out'}", "draw=false"]
    names = ["nose", "left_eye", "right_eye"]
    coco = {
        "images": [{"id": 7, "file_name": "0.png"}],
        "annotations": [{"image_id": 7, "category_id": 9, "bbox": [10, 20, 30, 40]}] * 3,
        "categories": [{"id": 9, "keypoints": names}, {"id": 5}, {"id": 2, "keypoints": names}],
    }

    def ids(content):
        (folder / "coco.json").write_text(json.dumps(content))
        code, _, err = run(main, *given)
        assert code == 0, err
        found = [entry["category_id"] for entry in read_coco_results(tmp_path / "out/predictions.json")]
        with (tmp_path / "out/predictions.csv").open() as file:
            assert [int(row["category_id"]) for row in csv.DictReader(file)] == found
        return found

    assert ids(coco) == [9, 2, 9]
    assert ids({key: value for key, value in coco.items() if key != "categories"}) == [1, 2, 1]
    (folder / "coco.json").write_text(json.dumps({**coco, "categories": coco["categories"][:2]}))
    code, _, err = run(main, *given, f"out={tmp_path / 'wrong'}")
    assert code == 1 and "poses of category 1, counted from 0" in err and "has 1 categories" in err
    assert not (tmp_path / "wrong").exists()


def test_video_gives_a_video_of_as_many_frames(predict, video, tmp_path):
    assert predict(f"source={video}", "batch_size=7") == (0, "")
    assert listing(tmp_path / "out") == ["overlays/clip.mp4", "predictions.csv", "predictions.json"]
    capture = cv2.VideoCapture(str(tmp_path / "out" / "overlays" / "clip.mp4"))
    assert capture.get(cv2.CAP_PROP_FPS) == 12
    count = 0
    while capture.read()[0]:
        count += 1
    assert count == 40
    found = read_coco_results(tmp_path / "out" / "predictions.json")
    assert [entry["image_id"] for entry in found] == list(range(1, 41))
    assert found[11]["file_name"] == "clip_000012"


def test_no_boxes_at_all_give_empty_files(predict, folder, tmp_path):
    (tmp_path / "boxes.json").write_text("[]")
    assert predict(f"source={folder}", f"boxes={tmp_path / 'boxes.json'}")[0] == 0
    assert read_coco_results(tmp_path / "out" / "predictions.json") == []
    assert len((tmp_path / "out" / "predictions.csv").read_text().splitlines()) == 1


def test_corrupt_image_leaves_nothing_half_written(predict, folder, tmp_path):
    (folder / "4.png").write_bytes(b"no picture")
    code, err = predict(f"source={folder}", "batch_size=2")
    assert code == 1
    assert "4.png" in err
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()

    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("kept")
    assert predict(f"source={folder}", "batch_size=2")[0] == 1
    assert listing(tmp_path / "out") == ["mine.txt"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "source not given"),
        (["source={folder}", "boxes=no.json"], "no.json can't be read"),
        (["source={folder}", "boxes=no.json", "detector=whole_image"], "not from both"),
        (["source=nowhere"], "there is no source=nowhere"),
        (["source={folder}", "device=nonsense"], "device=nonsense"),
        (["source={folder}", "batch_size=0"], "batch_size=0"),
        (["source={folder}", "detector=torchvision", "detector.weights=no.pth"], "detector.weights=no.pth"),
        (["source={folder}", "detector=torchvison"], "torchvision"),
        (["source={folder}", "out={folder}/notes.txt"], "out="),
        (["sorce={folder}"], "did you mean source"),
    ],
)
def test_mistakes_are_one_paragraph(predict, folder, tmp_path, arguments, message):
    code, err = predict(*(argument.format(folder=folder) for argument in arguments))
    assert code == 1
    assert message in err
    assert err.startswith("error: ")
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_interrupt_ends_a_recording():
    stopped = threading.Event()
    with watched():
        until_interrupt(stopped)
        os.kill(os.getpid(), signal.SIGINT)
        assert stopped.wait(5)


def test_video_memory_is_bounded(predict, folder, tmp_path):
    """The clip's frames would fill 216 MB; three batches of four, and what is read ahead, fill 15 to 40."""
    writer = cv2.VideoWriter(str(tmp_path / "long.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 25, (600, 400))
    for _ in range(300):
        writer.write(np.zeros((400, 600, 3), np.uint8))
    writer.release()
    predict(f"source={folder}")  # imports what is imported once
    tracemalloc.start()
    try:
        assert predict(f"source={tmp_path / 'long.avi'}", "batch_size=4") == (0, "")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert 3e6 < peak < 50e6
