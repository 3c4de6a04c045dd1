"""Boxes in another format than COCO's are recognised, and COCO's are not suspected."""

import json

import numpy as np
import pytest

from lightpose.cli import predict, train
from lightpose.data.coco.box_formats import box_mistakes
from lightpose.data.coco.index import read_coco
from lightpose.data.report import check

IMAGE_HW = (480, 640)
WRITTEN = {
    "x, y, width, height in pixels": lambda x, y, w, h: [x, y, w, h],
    "x1, y1, x2, y2 in pixels": lambda x, y, w, h: [x, y, x + w, y + h],
    "centre x, centre y, width, height in pixels": lambda x, y, w, h: [x + w / 2, y + h / 2, w, h],
    "x, y, width, height in shares of the image": lambda x, y, w, h: [x / 640, y / 480, w / 640, h / 480],
    "x1, y1, x2, y2 in shares of the image": lambda x, y, w, h: [x / 640, y / 480, (x + w) / 640, (y + h) / 480],
    "centre x, centre y, width, height in shares of the image": lambda x, y, w, h: [
        (x + w / 2) / 640,
        (y + h / 2) / 480,
        w / 640,
        h / 480,
    ],
}


def write(path, to_bbox, people=30, span=(1.0, 1.0), area=0.53, seed=0):
    """People whose keypoints fill their boxes, which lie in the part of the image that ``span`` says."""
    rng = np.random.default_rng(seed)
    images, annotations = [], []
    for number in range(1, people + 1):
        w, h = rng.uniform(40, 160, 2)
        x, y = rng.uniform(0, 1, 2) * span * (np.array(IMAGE_HW[::-1]) - [w, h])
        points = rng.uniform([x, y], [x + w, y + h], (17, 2))
        images.append({"id": number, "file_name": f"{number}.jpg", "width": 640, "height": 480})
        annotations.append(
            {
                "id": number,
                "image_id": number,
                "category_id": 1,
                "bbox": list(map(float, to_bbox(x, y, w, h))),
                "keypoints": np.concatenate([points, np.full((17, 1), 2)], 1).ravel().tolist(),
                **({"area": float(w * h * area)} if area else {}),
            }
        )
    categories = [{"id": 1, "name": "person", "keypoints": [f"p{number}" for number in range(17)]}]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


@pytest.mark.parametrize("people", [1, 2, 30])
@pytest.mark.parametrize("area", [0.53, 1.0, None])
@pytest.mark.parametrize("seed", range(3))
def test_boxes_as_they_should_be_are_not_suspected(tmp_path, people, area, seed):
    path = write(tmp_path / "a.json", WRITTEN["x, y, width, height in pixels"], people, area=area, seed=seed)
    assert box_mistakes(read_coco(path)) == []
    near_the_corner = write(tmp_path / "b.json", lambda *box: list(box), people, (0.1, 0.1), area, seed)
    assert box_mistakes(read_coco(near_the_corner)) == []


@pytest.mark.parametrize("name", list(WRITTEN)[1:])
@pytest.mark.parametrize("area", [0.53, None])
def test_other_formats_are_recognised(tmp_path, name, area):
    path = write(tmp_path / "a.json", WRITTEN[name], area=area)
    [text] = box_mistakes(read_coco(path))
    assert f"they look like {name}" in text and text.endswith("`bbox` must be x, y, width, height in pixels")
    assert text in check(path).warnings


def test_corners_that_leave_no_image_are_told_by_the_areas(tmp_path):
    path = write(tmp_path / "a.json", WRITTEN["x1, y1, x2, y2 in pixels"], span=(0.3, 0.3))
    [text] = box_mistakes(read_coco(path))
    assert text.startswith("the boxes look like x1, y1, x2, y2 in pixels, as which they fit `area` better")


def test_boxes_of_others_are_no_format(tmp_path):
    path = write(tmp_path / "a.json", lambda x, y, w, h: [(x + 320) % 500, (y + 240) % 380, w, h])
    [text] = box_mistakes(read_coco(path))
    assert "look like" not in text and "of their labelled keypoints" in text


def test_files_without_labels_or_boxes_say_nothing(tmp_path):
    path = write(tmp_path / "a.json", lambda *box: [0, 0, 0, 0], people=2)
    assert box_mistakes(read_coco(path)) == []


@pytest.mark.parametrize("command", ["train", "predict"])
def test_commands_warn_once(run, people, trained, tiny, tmp_path, command):
    content = json.loads(people.read_text())
    for annotation in content["annotations"]:
        x, y, width, height = annotation["bbox"]
        annotation["bbox"] = [x, y, x + width, y + height]
    corners = tmp_path / "corners.json"
    corners.write_text(json.dumps(content))
    images = people.parent / "images"
    main, *arguments = {
        "train": (train.main, f"data.train={corners}", f"data.images={images}", *tiny, "trainer.max_steps=1"),
        "predict": (predict.main, f"source={corners}", f"images={images}", "device=cpu", "draw=false"),
    }[command]
    arguments += (
        [f"output_dir={tmp_path / 'run'}"]
        if command == "train"
        else [f"out={tmp_path / 'out'}", f"ckpt={trained / 'checkpoints/last.ckpt'}"]
    )
    code, out, _ = run(main, *arguments)
    said = [line for line in out.splitlines() if "`bbox` must be" in line]
    assert code == 0
    assert len(said) == 1 and str(corners) in said[0] and "x1, y1, x2, y2" in said[0]
