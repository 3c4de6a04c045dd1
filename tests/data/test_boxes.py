import json
import logging

import numpy as np
import pytest

from lightpose.data.boxes import detected_boxes
from lightpose.data.coco import CocoInstances
from lightpose.data.coco_index import read_coco
from lightpose.errors import UserError

NAMES = ["head", "left_hand", "right_hand", "left_foot", "right_foot"]


def box(image_id, score=0.9, category_id=1, bbox=(10, 10, 20, 30)):
    return {"image_id": image_id, "category_id": category_id, "bbox": list(bbox), "score": score}


@pytest.fixture
def write_boxes(tmp_path):
    def write(boxes):
        (tmp_path / "det.json").write_text(json.dumps(boxes))
        return tmp_path / "det.json"

    return write


@pytest.fixture
def annotations(write_coco, person):
    return write_coco([person(1), person(2, 2)])


def test_samples_of_detected_boxes_have_no_labels(annotations, write_boxes):
    path = write_boxes([box(2, 0.5), box(1, 0.9, bbox=(-5, 1.5, 20, 30)), box(2, 0.01)])
    data = CocoInstances(annotations, boxes=path, min_box_score=0.1)
    assert [data[index].image_id for index in range(len(data))] == [1, 2]
    labels = data[0].instances
    np.testing.assert_allclose(labels.boxes_xyxy, [[-5, 1.5, 15, 31.5]])  # as the detector gave it
    assert labels.scores.tolist() == pytest.approx([0.9])
    assert labels.visible.sum() == 0
    assert labels.ids.tolist() == [-1]
    assert len(data.ground_truth()["annotations"]) == 2


def test_boxes_of_other_categories_are_left_out(annotations, write_boxes, caplog):
    boxes = detected_boxes(write_boxes([box(1), box(1, category_id=3), box(2)]), read_coco(annotations))
    assert boxes.image_rows.tolist() == [0, 1]
    assert "1 boxes of other categories" in caplog.text


def test_when_no_category_matches_all_boxes_count_and_the_log_says_so(annotations, write_boxes, caplog):
    with caplog.at_level(logging.WARNING):
        boxes = detected_boxes(write_boxes([box(1, category_id=0), box(2, category_id=0)]), read_coco(annotations))
    assert len(boxes.scores) == 2
    assert "no box has a category id of [1]" in caplog.text


def test_chosen_category(annotations, write_boxes):
    path, index = write_boxes([box(1, category_id=0), box(2, category_id=7)]), read_coco(annotations)
    assert detected_boxes(path, index, category=7).image_rows.tolist() == [1]
    with pytest.raises(UserError, match=r"none of the 2 boxes .*category ids are \[0 7\]"):
        detected_boxes(path, index, category=5)


def test_boxes_without_extent_are_left_out(annotations, write_boxes, caplog):
    path = write_boxes([box(1, bbox=(1, 1, 0, 5)), box(1)])
    assert len(detected_boxes(path, read_coco(annotations)).scores) == 1
    assert "1 boxes without an extent" in caplog.text


def test_unknown_images_are_refused(annotations, write_boxes):
    with pytest.raises(UserError, match=r"2 images .*e\.g\. image_id 77"):
        detected_boxes(write_boxes([box(1), box(77), box(78)]), read_coco(annotations))


@pytest.mark.parametrize("content", ["", "{}", "[1]", '[{"image_id": 1}]', "[]"])
def test_what_is_no_list_of_boxes_is_refused(annotations, tmp_path, content):
    (tmp_path / "det.json").write_text(content)
    with pytest.raises(UserError, match=r"det\.json"):
        detected_boxes(tmp_path / "det.json", read_coco(annotations))


def test_missing_file(annotations, tmp_path):
    with pytest.raises(UserError, match=r"gone\.json can't be read"):
        detected_boxes(tmp_path / "gone.json", read_coco(annotations))


def test_boxes_may_name_images(annotations, tmp_path, write_boxes):
    (tmp_path / "det.csv").write_text("file_name,x1,y1,x2,y2,score\n2.jpg,10,20,30,40,0.5\n1.jpg,1,2,3,4,0.25\n")
    boxes = detected_boxes(tmp_path / "det.csv", read_coco(annotations))
    assert boxes.image_rows.tolist() == [0, 1]
    assert boxes.boxes_xyxy[1].tolist() == [10, 20, 30, 40]
    assert boxes.scores.tolist() == [0.25, 0.5]
    with pytest.raises(UserError, match=r"1 images .*e\.g\. 9\.jpg"):
        detected_boxes(write_boxes([{"file_name": "9.jpg", "bbox": [1, 1, 5, 5]}]), read_coco(annotations))


def test_each_box_keeps_its_category(write_coco, person, write_boxes):
    categories = [{"id": number, "name": name, "keypoints": NAMES} for number, name in ((3, "cat"), (5, "dog"))]
    path = write_coco([person(1, category_id=3), person(2, 2, category_id=5)], categories=categories)
    data = CocoInstances(path, boxes=write_boxes([box(2, category_id=5), box(1, category_id=3), box(1, category_id=5)]))
    assert [int(data[index].instances.categories[0]) for index in range(3)] == [0, 1, 1]
    data = CocoInstances(path, boxes=write_boxes([box(1, category_id=5), box(1, category_id=3)]), box_category=5)
    assert [int(sample.instances.categories[0]) for sample in data] == [1]
    with pytest.raises(UserError, match=r"has several: 3 \(cat\), 5 \(dog\)"):
        CocoInstances(path, boxes=write_boxes([box(1, category_id=1)]))
