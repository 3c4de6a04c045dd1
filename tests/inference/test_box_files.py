import json

import numpy as np
import pytest

from lightpose.errors import UserError
from lightpose.inference.box_files import read_boxes
from lightpose.inference.detections import check_boxes
from lightpose.inference.sources import open_source


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.fixture()
def coco_source(folder, tmp_path):
    listed = {"images": [{"id": 10 + number, "file_name": f"{number}.png"} for number in range(5)]}
    return open_source(str(write(tmp_path / "coco.json", listed)), images=str(folder))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (
            "boxes.json",
            [
                {"file_name": "1.png", "bbox": [10, 20, 30, 40], "score": 0.5, "category_id": 1},
                {"file_name": "1.png", "bbox": [1.5, 2, 3, 4], "score": 0.25, "category_id": 77},
            ],
        ),
        (
            "boxes.json",
            {
                "images": [{"id": 3, "file_name": "1.png"}],
                "annotations": [
                    {"image_id": 3, "bbox": [10, 20, 30, 40], "score": 0.5},
                    {"image_id": 3, "bbox": [1.5, 2, 3, 4], "score": 0.25},
                ],
            },
        ),
        ("boxes.csv", "file_name,x1,y1,x2,y2,score\n1.png,10,20,40,60,0.5\n1.png,1.5,2,4.5,6,0.25\n"),
        ("boxes.csv", "score,x1,y1,x2,y2,file_name,nose_x\n0.5,10,20,40,60,1.png,5\n0.25,1.5,2,4.5,6,1.png,5\n"),
    ],
)
def test_boxes_by_file_name(folder, tmp_path, name, content):
    boxes = read_boxes(write(tmp_path / name, content), open_source(str(folder)))
    assert boxes.keys() == {2}
    assert np.array_equal(boxes[2][0], np.array([[10, 20, 40, 60], [1.5, 2, 4.5, 6]], np.float32))
    assert np.array_equal(boxes[2][1], np.array([0.5, 0.25], np.float32))


def test_scores_default_to_one(folder, tmp_path):
    source = open_source(str(folder))
    for path in (
        write(tmp_path / "boxes.csv", "file_name,x1,y1,x2,y2\n1.png,10,20,40,60\n"),
        write(tmp_path / "boxes.json", [{"file_name": "1.png", "bbox": [10, 20, 30, 40]}]),
    ):
        assert read_boxes(path, source)[2][1].tolist() == [1.0]


def test_image_ids_are_those_of_the_coco_source(coco_source, tmp_path):
    path = write(tmp_path / "boxes.json", [{"image_id": 12, "bbox": [10, 20, 30, 40]}])
    assert read_boxes(path, coco_source).keys() == {12}


def test_image_ids_are_frame_numbers_of_a_video(video, tmp_path):
    path = write(tmp_path / "boxes.json", [{"image_id": 12, "bbox": [10, 20, 30, 40]}])
    assert read_boxes(path, open_source(str(video))).keys() == {12}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("boxes.json", [{"image_id": 1, "bbox": [0, 0, 4, 4]}], "image_id 1, which the source doesn't have"),
        (
            "boxes.json",
            [{"file_name": "9.png", "bbox": [0, 0, 4, 4]}],
            "box for 9.png, which the source doesn't have: its names are like 0.png",
        ),
        ("boxes.json", [{"file_name": "1.png", "bbox": [0, 0, 4]}], "can't be used"),
        ("boxes.json", [{"file_name": "1.png", "bbox": [0, 0, -4, 4]}], "none of the 1 boxes .*x1 < x2"),
        ("boxes.json", "[", "is not JSON"),
        ("boxes.csv", "file,x1,y1,x2,y2\n1.png,10,20,40,60\n", "file_name"),
        ("boxes.csv", "file_name,x1,y1,x2,y2\n1.png,ten,20,40,60\n", "ten"),
        ("boxes.csv", "file_name,x1,y1,x2,y2\n9.png,10,20,40,60\n", "9.png"),
    ],
)
def test_bad_files_are_refused(folder, tmp_path, name, content, message):
    with pytest.raises(UserError, match=message):
        read_boxes(write(tmp_path / name, content), open_source(str(folder)))


def test_unknown_image_ids_of_a_coco_source(coco_source, tmp_path):
    path = write(tmp_path / "boxes.json", [{"image_id": 99, "bbox": [10, 20, 30, 40]}])
    with pytest.raises(UserError, match="image_id 99"):
        read_boxes(path, coco_source)


def test_missing_file(folder, tmp_path):
    with pytest.raises(UserError, match=r"no\.json can't be read"):
        read_boxes(tmp_path / "no.json", open_source(str(folder)))


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([{"file_name": "0.png"}], {5: 1, 7: 1}),  # a name is all images of that file
        ([{"image_id": 7}, {"file_name": "1.png"}], {7: 1, 6: 1}),
        ([{"image_id": 7, "file_name": "0.png"}], {7: 1}),
        ([{"image_id": 6, "file_name": "0.png"}], {5: 1, 7: 1}),  # the id of another image means nothing
    ],
)
def test_boxes_belong_to_images_and_not_to_files(folder, tmp_path, entries, expected):
    content = {
        "images": [{"id": 5, "file_name": "0.png"}, {"id": 6, "file_name": "1.png"}, {"id": 7, "file_name": "0.png"}]
    }
    content["annotations"] = [{"id": n, "image_id": 5 + n, "category_id": 1, "bbox": [n, 1, 9, 9]} for n in range(3)]
    source = open_source(str(write(tmp_path / "coco.json", content)), images=str(folder))
    assert {image_id: boxes.tolist() for image_id, (boxes, _) in source.boxes.items()} == {
        5: [[0, 1, 9, 10]],
        6: [[1, 1, 10, 10]],
        7: [[2, 1, 11, 10]],
    }
    same = read_boxes(tmp_path / "coco.json", source)  # the file's own boxes, once more
    assert {image_id: boxes.tolist() for image_id, (boxes, _) in same.items()} == {
        image_id: boxes.tolist() for image_id, (boxes, _) in source.boxes.items()
    }
    listed = [{**entry, "bbox": [1, 2, 3, 4]} for entry in entries]
    found = read_boxes(write(tmp_path / "boxes.json", listed), source)
    assert {image_id: len(boxes) for image_id, (boxes, _) in found.items()} == expected


@pytest.mark.parametrize(
    "entry", [{"image_id": 0}, {"image_id": 41}, {"image_id": -1}, {"file_name": "clip_7"}, {"image_id": "x"}]
)
def test_frames_that_a_video_does_not_have(video, tmp_path, entry):
    path = write(tmp_path / "boxes.json", [{**entry, "bbox": [10, 20, 30, 40]}])
    with pytest.raises(UserError, match="which the source doesn't have"):
        read_boxes(path, open_source(str(video)))


@pytest.mark.parametrize(
    ("boxes", "scores", "message"),
    [
        ([["a", 0, 4, 4]], None, "the boxes of image 0 are no numbers"),
        ([[0, 0, 4, 4], [0, 0, 4]], None, "the boxes of image 0 are no numbers"),
        ([[0, 0, 4, 10**400]], None, "the boxes of image 0 are no numbers"),
        ([[0, 0, 4, 1e39]], None, "box 0 of image 0 is"),
        ([[0, 0, 4, 4]], ["x"], "the box scores of image 0 are no numbers"),
        ([[0, 0, 4, 4]], [np.nan], "the box scores of image 0 are .*; expected finite numbers"),
    ],
)
def test_what_is_no_box_is_refused(boxes, scores, message):
    with pytest.raises(UserError, match=message):
        check_boxes(boxes, scores, "image 0")


def test_scores_match_boxes():
    with pytest.raises(UserError, match=r"shape \(2,\); expected \(1,\)"):
        check_boxes([[0, 0, 4, 4]], [1, 1], "image 0")
