"""Image files, whose crops are made by worker processes."""

import json
import os
import pickle
import time
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

import lightpose
from lightpose.cli.predict import main
from lightpose.data.coco.dataset import CocoInstances
from lightpose.errors import UserError
from lightpose.inference import predictor as module
from lightpose.inference.crops import CropTasks, Job
from lightpose.inference.sources import open_source

PEOPLE = [2, 0, 5, 1, 0, 0, 3, 1, 0]


@pytest.fixture()
def photos(tmp_path, images):
    """A COCO file of nine JPEGs, most of them far larger than the network's input, some without people."""
    rng = np.random.default_rng(0)
    content = {
        "images": [{"id": 10 * number, "file_name": f"{number}.jpg"} for number in range(len(PEOPLE))],
        "categories": [{"id": 1, "name": "face", "keypoints": ["nose", "left_eye", "right_eye"]}],
        "annotations": [],
    }
    for number, count in enumerate(PEOPLE):
        factor = 1 + number % 4
        picture = cv2.resize(images[number % 5], None, fx=factor, fy=factor)
        cv2.imwrite(str(tmp_path / f"{number}.jpg"), picture)
        content["images"][number] |= {"width": picture.shape[1], "height": picture.shape[0]}
        for _ in range(count):
            x, y, width, height = rng.uniform([0, 0, 20, 20], [30, 30, 60, 40]) * factor
            box = {"bbox": [x, y, width, height], "keypoints": [x, y, 2] * 3, "num_keypoints": 3, "area": width}
            content["annotations"].append({"id": len(content["annotations"]), "category_id": 1, **box})
            content["annotations"][-1]["image_id"] = 10 * number
    (tmp_path / "people.json").write_text(json.dumps(content))
    return tmp_path / "people.json"


@pytest.fixture()
def started(monkeypatch):
    """How many processes each run asked for."""
    counts = []
    make = module.made_by_processes
    monkeypatch.setattr(
        module, "made_by_processes", lambda tasks, workers, pin: counts.append(workers) or make(tasks, workers, pin)
    )
    return counts


def test_processes_write_what_threads_write(run, checkpoint, photos, tmp_path, started):
    written = {}
    for name, options in {
        "threads": ["num_workers=0", "draw=false"],
        "processes": ["num_workers=2", "draw=false"],
        "drawn": ["num_workers=2"],
    }.items():
        given = [f"ckpt={checkpoint}", "device=cpu", f"source={photos}", "batch_size=4", f"out={tmp_path / name}"]
        assert run(main, *given, *options)[0] == 0
        files = [tmp_path / name / f"predictions.{kind}" for kind in ("json", "csv")]
        written[name] = [file.read_text() for file in files]
    assert started == [2, 2]
    assert len(json.loads(written["threads"][0])) == sum(PEOPLE)
    assert written["threads"] == written["processes"] == written["drawn"]
    assert len(list((tmp_path / "drawn" / "overlays").iterdir())) == len(PEOPLE)


def test_images_without_boxes_come_out_in_order(checkpoint, photos):
    predictor = lightpose.Predictor(checkpoint, device="cpu")
    source = open_source(str(photos))
    results = list(predictor.stream_files(source, source.boxes, batch_size=4, num_workers=2))
    assert [(frame.image_id, len(poses)) for frame, poses in results] == [
        (10 * number, count) for number, count in enumerate(PEOPLE)
    ]
    boxes = [source.boxes.get(frame.image_id, (np.zeros((0, 4)), None))[0] for frame, _ in results]
    assert all(np.array_equal(poses.boxes_xyxy, rows) for (_, poses), rows in zip(results, boxes, strict=True))
    assert [len(poses) for _, poses in predictor.stream_files(source, {}, num_workers=1)] == [0] * len(PEOPLE)
    whole = list(predictor.stream_files(source, batch_size=2, num_workers=2))
    assert [len(poses) for _, poses in whole] == [1] * len(PEOPLE)
    assert whole[3][1].boxes_xyxy[0].tolist() == [0, 0, *whole[3][0].pixels().shape[1::-1]]


def test_crops_are_those_of_evaluation(checkpoint, photos):
    cropper = lightpose.Predictor(checkpoint, device="cpu").cropper
    dataset = CocoInstances(photos, transforms=cropper.transforms)
    for row in range(len(dataset)):
        file = photos.with_name(dataset.index.file_name(dataset.image_row(row)))
        one = dataset.annotations_of(row)
        (sample,) = cropper.samples(Job(file, (one.boxes_xyxy, one.scores), 0))
        assert np.array_equal(sample.image, dataset[row].image)
    assert len(dataset) == sum(PEOPLE)


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_image_is_named_as_ever(run, checkpoint, photos, tmp_path, workers):
    photos.with_name("6.jpg").write_bytes(photos.with_name("6.jpg").read_bytes()[:300])
    given = [f"ckpt={checkpoint}", "device=cpu", f"source={photos}", f"out={tmp_path / 'out'}", "draw=false"]
    code, _, err = run(main, *given, f"num_workers={workers}", "batch_size=2")
    assert code == 1
    assert err.startswith(f"error: image {photos.with_name('6.jpg')} (300 bytes) is truncated or not an image; ")
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_handful_of_images_starts_no_process(checkpoint, photos, started):
    predictor = lightpose.Predictor(checkpoint, device="cpu")
    source = open_source(str(photos))
    few = list(predictor.stream_files(source, source.boxes))
    assert started == []
    many = list(predictor.stream_files(source, source.boxes, batch_size=1))
    assert len(started) == 1
    assert [len(poses) for _, poses in few] == [len(poses) for _, poses in many] == PEOPLE
    with pytest.raises(UserError, match="num_workers=-1"):
        next(predictor.stream_files(source, num_workers=-1))


def test_tasks_can_be_sent_to_a_fresh_process(checkpoint, photos):
    source = open_source(str(photos))
    jobs = [Job(file, None, number) for number, file in enumerate(source.files.values())]
    tasks = CropTasks(lightpose.Predictor(checkpoint, device="cpu").cropper, jobs, 4)
    sent = pickle.dumps(tasks)
    assert len(sent) < 5000
    assert torch.equal(pickle.loads(sent)[1].batch.inputs, tasks[1].batch.inputs)


@pytest.mark.parametrize("meanwhile_s", [0, 2])
def test_a_killed_process_is_said(checkpoint, photos, monkeypatch, meanwhile_s):
    predictor = lightpose.Predictor(checkpoint, device="cpu")
    monkeypatch.setattr(predictor.estimator, "warm_up", lambda *_: time.sleep(meanwhile_s))
    predictor.cropper = replace(predictor.cropper, transforms=lambda sample, rng: os._exit(1))
    with pytest.raises(UserError, match="num_workers, or 0"):
        list(predictor.stream_files(open_source(str(photos)), num_workers=1))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_batches_of_processes_reach_the_gpu_pinned(checkpoint, photos, monkeypatch):
    predictor = lightpose.Predictor(checkpoint, device="cuda", precision="32-true")
    source = open_source(str(photos))
    submit, pinned = predictor._submit, []
    monkeypatch.setattr(
        predictor, "_submit", lambda crops: pinned.append(crops.batch.inputs.is_pinned()) or submit(crops)
    )
    made = [list(predictor.stream_files(source, source.boxes, 4, workers)) for workers in (0, 2)]
    assert pinned == [True] * 6
    for (_, one), (_, other) in zip(*made, strict=True):
        assert np.abs(one.keypoints - other.keypoints).max(initial=0) < 1e-3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_what_is_captured_while_processes_start_is_what_is_replayed(checkpoint, photos):
    predictor = lightpose.Predictor(checkpoint, device="cuda")
    source = open_source(str(photos))
    with predictor._context():
        predictor.estimator.warm_up(4, 100)
    for _ in range(2):
        list(predictor.stream_files(source, source.boxes, 4, 2))
    assert predictor.estimator.net.fast_features.captures == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_images_are_skipped_by_threads_and_processes(run, checkpoint, photos, tmp_path, workers):
    for number in (0, 2):  # a bad one of two people, and one of five, who fill more than two batches
        path = photos.with_name(f"{number}.jpg")
        path.write_bytes(path.read_bytes()[:300])
    given = [f"ckpt={checkpoint}", "device=cpu", f"source={photos}", "batch_size=2", f"num_workers={workers}"]
    assert run(main, *given, f"out={tmp_path / 'bad'}")[0] == 1
    code, said, _ = run(main, *given, f"out={tmp_path / 'out'}", "on_bad_image=skip")
    assert code == 0
    assert [line.split(" (")[0] for line in said.splitlines() if "Skipped" in line] == [
        f"Skipped: image {photos.with_name('0.jpg')}",
        f"Skipped: image {photos.with_name('2.jpg')}",
    ]
    assert "2 of 9 images can't be read and were skipped" in said
    assert "7 images, 5 poses in" in said
    found = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [entry["image_id"] for entry in found] == [30, 60, 60, 60, 70]
    overlays = {path.name for path in (tmp_path / "out" / "overlays").iterdir()}
    assert overlays == {f"{number}.jpg" for number in range(9)} - {"0.jpg", "2.jpg"}

    boxes = open_source(str(photos)).boxes
    whole = lightpose.Predictor(checkpoint, device="cpu")([photos.with_name("6.jpg")], [boxes[60][0]])[0]
    points = np.array([entry["keypoints"] for entry in found[1:4]]).reshape(3, 3, 3)
    assert np.median(np.abs(points[..., :2] - whole.keypoints)) < 0.01


@pytest.mark.parametrize("workers", [0, 2])
def test_where_no_image_can_be_read_it_is_an_error(run, checkpoint, folder, tmp_path, workers):
    for path in folder.glob("*.png"):
        path.write_bytes(b"")
    given = [f"ckpt={checkpoint}", "device=cpu", f"source={folder}", "batch_size=1", f"num_workers={workers}"]
    code, _, err = run(main, *given, f"out={tmp_path / 'out'}", "on_bad_image=skip")
    assert code == 1
    assert err.startswith("error: none of the 5 images can be read")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("how", [["num_workers=0"], ["num_workers=2", "batch_size=1"], ["detector=whole_image"]])
def test_16_bit_files_of_12_bits_are_posed_as_8_bit_ones_are(run, checkpoint, folder, images, tmp_path, how):
    plain, deep = tmp_path / "plain", tmp_path / "deep"
    deep.mkdir()
    folder.rename(plain)
    for number, image in enumerate(images):
        cv2.imwrite(str(deep / f"{number}.png"), image[..., ::-1].astype(np.uint16) * 16)
    found = {}
    for source, bits in ((plain, []), (deep, ["image_bits=12"])):
        given = [f"ckpt={checkpoint}", "device=cpu", f"source={source}", f"out={tmp_path / 'out'}", *how, *bits]
        code, said, _ = run(main, *given)
        assert code == 0
        assert "almost black" not in said
        overlays = [cv2.imread(str(tmp_path / "out" / "overlays" / f"{n}.png")) for n in range(5)]
        found[source] = (tmp_path / "out" / "predictions.json").read_text(), overlays
    assert found[plain][0] == found[deep][0]
    assert all(np.array_equal(*pair) for pair in zip(found[plain][1], found[deep][1], strict=True))
    code, _, err = run(main, f"ckpt={checkpoint}", "device=cpu", f"source={deep}", "image_bits=7")
    assert code == 1
    assert "image_bits=7 must be 8 to 16" in err
