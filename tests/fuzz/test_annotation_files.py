"""Damaged annotation files, through all that reads them: read rightly, or refused by a sentence, and soon."""

import json
import logging
import random
import sys
import time

import cv2
import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from mutate import damaged_json
from omegaconf import OmegaConf

from lightpose.checkpoint import assemble
from lightpose.cli import data, predict, train
from lightpose.cli.groups import conf_dir
from lightpose.cli.setup import make_skeleton
from lightpose.data.coco.index import read_coco
from lightpose.data.pixels.device import collate
from lightpose.data.pixels.pieces import fill
from lightpose.data.report import check
from lightpose.errors import UserError
from lightpose.inference.detections import check_boxes
from lightpose.inference.sources import open_source
from lightpose.metrics.oks import evaluate_oks

pytestmark = pytest.mark.slow

MOST_SECONDS = 10
NAMES = ["nose", "left_eye", "right_eye"]


def content():
    """Three images, two of one file; four people, two of them crowds."""
    size = {"width": 64, "height": 48}
    person = {"category_id": 1, "bbox": [10, 5, 40.5, 36], "area": 700.0, "iscrowd": 0, "num_keypoints": 3}
    points = [20.0, 12, 2, 25, 30.5, 1, 40, 22, 2]
    return {
        "info": {"year": 2026},
        "images": [{"id": n, "file_name": f"{n % 2}.jpg", **size} for n in (1, 2, 3)],
        "annotations": [
            {
                **{"id": 10 * n, "image_id": image_id, **person, "keypoints": points, "iscrowd": int(n % 2 == 0)},
                "segmentation": [[1, 2.5, 30, 4, 22, 40]] if n < 4 else {"size": [48, 64], "counts": [9, 200, 2863]},
            }
            for n, image_id in enumerate((1, 1, 2, 3), 1)
        ],
        "categories": [
            {"id": 1, "name": "face", "keypoints": NAMES, "skeleton": [[1, 2], [1, 3]], "sigmas": [0.02, 0.03, 0.03]},
            {"id": 2, "name": "car"},
        ],
    }


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where the images are, and the cache of what is parsed."""
    monkeypatch.setenv("LIGHTPOSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "argv", ["train"])  # where options of the skeleton are looked for
    for name in ("0.jpg", "1.jpg"):
        cv2.imwrite(str(tmp_path / name), np.full((48, 64, 3), 90, np.uint8))
    return tmp_path


@pytest.fixture(scope="module")
def settings():
    """The configuration of a small training."""
    return configuration()


@pytest.fixture(scope="module")
def whole_images():
    """That of one which needs no boxes."""
    return configuration("reader=coco_frames", "augment=whole_image")


def configuration(*options):
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        composed = compose("train", ["input_hw=[64,64]", "data.num_workers=0", "data.batch_size=4", *options])
    return OmegaConf.to_container(composed, resolve=True)


def starts_training(path, settings):
    """As far as the first batch, and what evaluation does with the file."""
    skeleton = make_skeleton(settings, str(path))
    datamodule = assemble({**settings["data"], "train": str(path), "val": str(path)}, skeleton=skeleton)
    datamodule.setup("fit")
    dataset = datamodule.train_dataset
    batch = collate([dataset[number] for number in range(min(len(dataset), 3))])
    for numbers in (batch.instances.keypoints, batch.instances.boxes_xyxy, batch.instances.areas):
        assert numbers.isfinite().all()
    for row in range(len(dataset.index.image_ids)):
        assert fill(dataset.index.ignored(row), np.eye(3), (48, 64)).shape == (48, 64)
    truth = dataset.ground_truth()
    json.dumps(truth["annotations"], allow_nan=False)
    evaluate_oks(truth, [], skeleton.sigmas)
    return dataset.index


def opens_as_source(path):
    """As far as the boxes of every picture."""
    source = open_source(str(path))
    for image_id, boxes in (source.boxes or {}).items():
        check_boxes(*boxes, source.name_of(image_id))
    return source


@pytest.mark.parametrize("seed", range(3))
def test_200_damaged_files(folder, settings, whole_images, seed, caplog):
    rng, path = random.Random(seed), folder / "damaged.json"
    read = refused = 0
    caplog.set_level(logging.CRITICAL)
    for number in range(200):
        path.write_bytes(damaged_json(content(), rng))
        start, trained, source = time.process_time(), None, None
        try:
            report = check(path)
            str(report).encode()
            try:
                trained = starts_training(path, settings)
            except UserError as error:
                str(error).encode(errors="backslashreplace")
            try:
                source = opens_as_source(path)
            except UserError as error:
                str(error).encode(errors="backslashreplace")
        except Exception as error:
            raise AssertionError(f"file {number} of seed {seed}: {path.read_bytes()[:2000]!r}") from error
        where = f"file {number} of seed {seed}"
        assert time.process_time() - start < MOST_SECONDS, where
        if trained and all((folder / trained.file_name(row)).is_file() for row in range(len(trained.image_ids))):
            assert source, f"{where} is trained on, but not predicted on"
        if not report.has_errors and "experiment=single_animal needs none" in str(report):
            assert starts_training(path, whole_images), f"{where} is said to do for whole images"
        elif not report.has_errors:
            assert trained, f"{where} passes the check, and is not trained on"
        if trained:
            listed = json.loads(path.read_bytes())["annotations"]
            assert report.usable + sum(report.dropped.values()) == len(listed) == report.total, where
        read, refused = read + (trained is not None), refused + (trained is None)
    assert read > 20 and refused > 20  # or the damage is too small, or too great


def test_damaged_files_through_the_commands(folder, run, tiny, trained):
    rng, path = random.Random(7), folder / "damaged.json"
    codes = []
    for number in range(25):
        path.write_bytes(damaged_json(content(), rng))
        given = [f"data.train={path}", f"data.val={path}", "trainer.max_steps=1", f"output_dir={folder}/run{number}"]
        ckpt = f"ckpt={trained}/checkpoints/last.ckpt"
        out = [f"out={folder}/out{number}", "draw=false"]
        for main, *arguments in (
            (data.main, "check", f"data.train={path}"),
            (train.main, *tiny, *given),
            (predict.main, ckpt, f"source={path}", "device=cpu", *out),
        ):
            start = time.process_time()
            code, _, err = run(main, *arguments)
            assert code in (0, 1) and "Traceback" not in err, (number, err)
            assert time.process_time() - start < 3 * MOST_SECONDS
            codes.append(code)
    assert 0 in codes and 1 in codes


def test_a_damaged_cache_is_as_good_as_none(folder):
    path, rng = folder / "sound.json", random.Random(3)
    path.write_text(json.dumps(content()))
    expected = read_coco(path)
    expected = {name: np.array(getattr(expected, name)) for name in ("ids", "keypoints", "areas", "image_ids")}
    [kept] = (folder / "cache" / "coco").iterdir()
    names = sorted(file.name for file in kept.iterdir())
    for _ in range(300):
        file = kept / rng.choice(names)
        sound = file.read_bytes()
        place = rng.randrange(min(len(sound), 128))  # in the header
        middle = rng.choice([b"", b"\xff", b"(" * 200, b"9" * 30, sound])
        file.write_bytes(rng.choice([sound[:place] + middle + sound[place + 1 :], b"", b"null", middle]))
        found = read_coco(path)
        for name, values in expected.items():
            np.testing.assert_array_equal(getattr(found, name), values)
        assert found.categories[0]["keypoints"] == NAMES
