import json

import cv2
import numpy as np
import pytest

NAMES = ["head", "left_hand", "right_hand", "left_foot", "right_foot"]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("LIGHTPOSE_CACHE", str(folder))
    return folder


@pytest.fixture
def person():
    """An annotation of five keypoints on a 64x48 image."""

    def make(id, image_id=1, **changes):
        keypoints = [30, 6, 2, 20, 20, 2, 40, 20, 1, 24, 40, 2, 36, 40, 0]
        entry = {"id": id, "image_id": image_id, "category_id": 1, "bbox": [16, 4, 28, 40], "area": 600, "iscrowd": 0}
        return {**entry, "keypoints": keypoints, **changes}

    return make


@pytest.fixture
def write_coco(tmp_path):
    """Writes annotations and noisy 64x48 JPEG images; returns the path of the JSON file."""

    def write(annotations, images=2, name="train.json", folder="", cameras=None, **changes):
        rng = np.random.default_rng(0)
        entries = []
        for image_id in range(1, images + 1):
            file_name = f"{folder}{image_id}.jpg"
            (tmp_path / folder).mkdir(exist_ok=True)
            pixels = cv2.resize(rng.integers(0, 255, (6, 8, 3), np.uint8), (64, 48))
            cv2.imwrite(str(tmp_path / file_name), pixels)
            entries.append({"id": image_id, "width": 64, "height": 48, "file_name": f"{image_id}.jpg"})
            entries[-1] |= {"cam_param": cameras[image_id - 1]} if cameras else {}
        content = {
            "images": entries,
            "annotations": annotations,
            "categories": [{"id": 1, "name": "person", "keypoints": NAMES, "skeleton": [[1, 2], [1, 3]]}],
        }
        path = tmp_path / name
        path.write_text(json.dumps({**content, **changes}))
        return path

    return write
