"""Damaged files of boxes and of predictions: read rightly, or refused by a sentence, and soon."""

import csv
import io
import json
import logging
import math
import random
import time

import cv2
import numpy as np
import pytest
from mutate import changed, changed_text, damaged_json

from lightpose.data.coco.boxes import detected_boxes
from lightpose.data.coco.index import read_coco
from lightpose.data.coco.results import read_coco_results
from lightpose.errors import UserError
from lightpose.inference.box_files import read_boxes
from lightpose.inference.detections import check_boxes
from lightpose.inference.sources import open_source
from lightpose.metrics.oks import evaluate_oks

pytestmark = pytest.mark.slow

MOST_SECONDS = 10
NAMES = ["nose", "left_eye", "right_eye"]


@pytest.fixture
def truth(tmp_path, monkeypatch):
    """An annotation file of two images."""
    monkeypatch.setenv("LIGHTPOSE_CACHE", str(tmp_path / "cache"))
    person = {"category_id": 1, "bbox": [10, 5, 40, 36], "area": 700.0, "iscrowd": 0}
    points = [20, 12, 2, 25, 30, 1, 40, 22, 2]
    for number in (1, 2):
        cv2.imwrite(str(tmp_path / f"{number}.jpg"), np.zeros((48, 64, 3), np.uint8))
    content = {
        "images": [{"id": n, "file_name": f"{n}.jpg", "width": 64, "height": 48} for n in (1, 2)],
        "annotations": [{"id": n, "image_id": n, "keypoints": points, **person} for n in (1, 2)],
        "categories": [{"id": 1, "name": "face", "keypoints": NAMES}],
    }
    (tmp_path / "truth.json").write_text(json.dumps(content))
    return tmp_path / "truth.json"


def boxes_json(rng):
    entry = {"image_id": 1, "category_id": 1, "bbox": [10, 5, 40.5, 36], "score": 0.5}
    named = {"file_name": "2.jpg", "bbox": [1, 2, 30, 40]}
    return damaged_json([entry, {**entry, "image_id": 2}, named], rng)


def boxes_csv(rng):
    rows = [["file_name", "x1", "y1", "x2", "y2", "score"], ["1.jpg", 10, 5, 50, 41, 0.5], ["2.jpg", 1, 2, 30, 40, ""]]
    if rng.random() < 0.7:
        rows = changed(rows, rng)
    text = io.StringIO()
    writer = csv.writer(text, rng.choice(["excel", "excel-tab", "unix"]) if rng.random() < 0.1 else "excel")
    for row in rows if isinstance(rows, list) else [rows]:
        writer.writerow(row if isinstance(row, list) else [row])
    encoded = text.getvalue().encode(errors="replace")
    return changed_text(encoded, rng) if rng.random() < 0.4 else encoded


@pytest.mark.parametrize("kind", ["json", "csv"])
def test_300_damaged_files_of_boxes(truth, kind, caplog):
    rng, path = random.Random(kind), truth.with_name(f"boxes.{kind}")
    index, source = read_coco(truth), open_source(str(truth))
    caplog.set_level(logging.CRITICAL)
    read = 0
    for number in range(300):
        path.write_bytes(boxes_json(rng) if kind == "json" else boxes_csv(rng))
        start, found = time.process_time(), None
        for use in (lambda: read_boxes(path, source), lambda: detected_boxes(path, index)):
            try:
                found = use()
            except UserError as error:
                str(error).encode(errors="backslashreplace")
            except Exception as error:
                raise AssertionError(f"file {number}: {path.read_bytes()[:2000]!r}") from error
            if isinstance(found, dict):
                for image_id, boxes in found.items():
                    check_boxes(*boxes, str(image_id))
            elif found:
                check_boxes(found.boxes_xyxy, found.scores, "found")
        assert time.process_time() - start < MOST_SECONDS, number
        read += found is not None
    assert 30 < read < 270


def test_600_damaged_files_of_predictions(truth, caplog):
    rng, path = random.Random(1), truth.with_name("predictions.json")
    ground_truth = read_coco(truth).ground_truth()
    answer = {"image_id": 1, "category_id": 1, "keypoints": [20, 12, 0.9, 25, 30.5, 0.9, 40, 22, 0.9], "score": 0.5}
    caplog.set_level(logging.CRITICAL)
    read = 0
    for number in range(600):
        path.write_bytes(damaged_json([answer, {**answer, "image_id": 2, "score": 0.25}], rng))
        start = time.process_time()
        try:
            predictions = read_coco_results(path)
            figures = evaluate_oks(ground_truth, predictions, [0.05] * 3)
        except UserError as error:
            str(error).encode(errors="backslashreplace")
        except Exception as error:
            raise AssertionError(f"file {number}: {path.read_bytes()[:2000]!r}") from error
        else:
            read += 1
            assert all(0 <= value <= 1 or math.isnan(value) for value in figures.values())
            assert all(
                np.isfinite(np.array([entry["score"], *entry["keypoints"]], float)).all() for entry in predictions
            )
        assert time.process_time() - start < MOST_SECONDS, number
    assert 60 < read < 540
