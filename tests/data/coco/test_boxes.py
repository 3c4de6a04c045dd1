import json
import logging

import numpy as np
import pytest

from lightpose.data.coco.boxes import detected_boxes, parse_boxes
from lightpose.data.coco.dataset import CocoInstances
from lightpose.data.coco.index import read_coco
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


NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, (1, 1, [10, 10, 30, 40], 0.9)),
        ({"image_id": "1", "category_id": "1", "score": "0.5"}, ("1", 1, [10, 10, 30, 40], 0.5)),
        ({"image_id": 1.0, "category_id": 1.0, "bbox": [10.0, 10, "20", 30]}, (1, 1, [10, 10, 30, 40], 0.9)),
        ({"image_id": "img", "category_id": None, "score": None}, ("img", -1, [10, 10, 30, 40], 1.0)),
    ],
)
def test_plain_results_are_read(write_boxes, changes, expected):
    listed = parse_boxes(write_boxes([box(1) | changes]))
    found = (listed.images[0].image_id, listed.category_ids[0], listed.boxes_xyxy[0].tolist(), listed.scores[0])
    assert found[:3] == expected[:3]
    assert found[3] == pytest.approx(expected[3])


@pytest.mark.parametrize(
    "changes",
    [
        {"score": NAN},
        {"score": INFINITY},
        {"bbox": [10, NAN, 20, 30]},
        {"bbox": [10, 10, INFINITY, 30]},
        {"bbox": [10, 10, 1e300, 30]},
        {"bbox": [10, 10, 20, -30]},
        {"score": 1e39},
    ],
)
def test_boxes_and_scores_that_are_not_finite_are_left_out_and_counted(write_boxes, changes, caplog):
    listed = parse_boxes(write_boxes([box(1), box(2) | changes, box(2)]))
    assert [image.image_id for image in listed.images] == [1, 2]
    assert np.isfinite(listed.scores).all() and np.isfinite(listed.boxes_xyxy).all()
    assert "1 boxes without an extent or a finite score are left out, e.g. number 2" in caplog.text
    with pytest.raises(UserError, match="none of the 1 boxes"):
        parse_boxes(write_boxes([box(2) | changes]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"score": "high"}, 'entry 1 has "high" for a number'),
        ({"score": True}, "entry 1 has true for a number"),
        ({"score": [1]}, r"entry 1 has \[1\] for a number"),
        ({"score": 10**400}, "entry 1 has 1000.* for a number"),
        ({"bbox": None}, "entry 1 has the bbox null"),
        ({"bbox": "10 10 20 30"}, 'entry 1 has the bbox "10 10'),
        ({"bbox": [10, 10, 20]}, r"entry 1 has the bbox \[10, 10, 20\]"),
        ({"bbox": [[10, 10], [20, 30]]}, "entry 1 has the bbox a list of 2"),
        ({"bbox": [10, None, 20, 30]}, "entry 1 has null for a number"),
        ({"bbox": {"x": 1}}, "entry 1 has the bbox an object"),
        ({"category_id": "person"}, 'entry 1 has the category_id "person"'),
        ({"category_id": True}, "entry 1 has the category_id true"),
        ({"category_id": 2**63}, "entry 1 has the category_id 9223372036854775808"),
        ({"image_id": None}, "entry 1 has the image_id null and no file_name"),
        ({"image_id": 2**63}, "entry 1 has the image_id 9223372036854775808"),
        ({"image_id": True, "file_name": 7}, "entry 1 has the image_id true"),
    ],
)
def test_an_entry_that_is_no_box_is_refused_by_place(write_boxes, changes, message):
    with pytest.raises(UserError, match=f"can't be used: {message}.*; expected a list of COCO results"):
        parse_boxes(write_boxes([box(1), box(1) | changes]))


@pytest.mark.parametrize("entry", [None, 3, "x", [1, 2, 3, 4]])
def test_an_entry_that_is_no_object_is_refused(write_boxes, entry):
    with pytest.raises(UserError, match="entry 1 is"):
        parse_boxes(write_boxes([box(1), entry]))


HEADER = "file_name,x1,y1,x2,y2,score\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "its header .* must have file_name and x1 and y1 and x2 and y2 once"),
        ("file_name;x1;y1;x2;y2\n", 'header "file_name;x1;y1;x2;y2" must have'),
        ("file_name,x1,x1,y1,x2,y2\n", "must have x1 once"),
        (HEADER + "1.jpg,1,2,3\n", "line 2 has 4 cells, but the header 6"),
        (HEADER + "a,1.jpg,1,2,3,4,5\n", "line 2 has 7 cells"),
        (HEADER + "1.jpg,1,2,30,40,1\n\n1.jpg,one,2,3,4,5\n", "line 4: could not convert string to float: 'one'"),
        (HEADER + "1.jpg,1,2,30,40,good\n", "line 2: could not convert string to float: 'good'"),
        (HEADER + "1.jpg,1,,30,40,1\n", "line 2: could not convert"),
        (HEADER + ",1,2,30,40,1\n", "line 2 has no file_name"),
        (HEADER + "1.jpg,1,2,30,40," + "1" * 200_000, "line 2: field larger than field limit"),
        (b"\xff\x00\xd8 no text", "it is no text in UTF-8"),
        (b"\x89PNG\r\n\x1a\n", "it is no text in UTF-8"),
    ],
)
def test_tables_that_are_none_are_refused_by_line(tmp_path, text, message):
    (tmp_path / "det.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=message):
        parse_boxes(tmp_path / "det.csv")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
def test_tables_in_the_encodings_of_spreadsheets(tmp_path, encoding):
    text = HEADER.replace(",", ", ") + '"\u00e9, 1.jpg",1,2,30,40,\r\n,,,,,\r\n'
    mark = "\ufeff" if encoding == "utf-16-le" else ""
    (tmp_path / "det.csv").write_bytes((mark + text).encode(encoding))
    listed = parse_boxes(tmp_path / "det.csv")
    assert [image.file_name for image in listed.images] == ["\u00e9, 1.jpg"]
    assert listed.scores.tolist() == [1]


def test_a_name_means_all_images_of_that_file_and_an_id_one_of_them(write_coco, person, write_boxes):
    path = write_coco([person(1)], images=3)
    content = json.loads(path.read_text())
    for image in content["images"]:
        image["file_name"] = "1.jpg"
    path.write_text(json.dumps(content))
    index = read_coco(path)
    named = write_boxes([{"file_name": "1.jpg", "bbox": [1, 1, 5, 5]}])
    assert detected_boxes(named, index).image_rows.tolist() == [0, 1, 2]
    both = write_boxes([{"file_name": "1.jpg", "image_id": 2, "bbox": [1, 1, 5, 5]}])
    assert detected_boxes(both, index).image_rows.tolist() == [1]
    assert detected_boxes(path, index).image_rows.tolist() == [0]  # an annotation file has both


def test_ids_that_are_text_are_found(write_coco, person, write_boxes):
    path = write_coco([person(1, "b")])
    path.write_text(path.read_text().replace('"id": 1, "width"', '"id": "b", "width"'))
    index = read_coco(path)
    assert index.image_ids.tolist() == [3, 2]
    boxes = detected_boxes(write_boxes([box("b"), box(3), box(2), box("2")]), index)
    assert boxes.image_rows.tolist() == [0, 0, 1, 1]
    with pytest.raises(UserError, match='image_id "3"'):
        detected_boxes(write_boxes([box("3")]), index)
