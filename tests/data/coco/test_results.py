import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lightpose.data.coco.boxes import BoxedImage, parse_boxes
from lightpose.data.coco.results import (
    check_extras,
    coco_results,
    csv_rows,
    read_coco_results,
    text_of,
    write_coco_results,
    write_csv,
)
from lightpose.errors import UserError
from lightpose.structures import Array, Poses

KEYPOINTS = ("nose", "tail")
FILES = {7: "a.jpg", 8: "b, c.jpg"}


def poses(boxes: bool = True, **further: Any) -> Poses[Array]:
    found = Poses(
        keypoints=torch.tensor([[[1.25, 2.0], [3.0, 4.5]], [[5.0, 6.0], [7.0, 8.0]], [[0.0, 1.0], [2.0, 3.0]]]),
        keypoint_scores=torch.full((3, 2), 0.5),
        scores=torch.tensor([0.75, 0.5, 0.25]),
        batch_index=torch.tensor([0, 1, 0]),
        boxes_xyxy=torch.tensor([[0.0, 1.0, 2.0, 3.0]]).repeat(3, 1) if boxes else None,
        **further,
    )
    return found.numpy()


def test_json_round_trip(tmp_path: Path) -> None:
    predictions = coco_results(poses(), [7, 8, 7])
    path = tmp_path / "new/predictions.json"
    write_coco_results(path, predictions)
    assert read_coco_results(path) == predictions
    assert [entry.name for entry in path.parent.iterdir()] == ["predictions.json"]


def test_csv_has_joint_names(tmp_path: Path) -> None:
    path = tmp_path / "poses.csv"
    write_csv(path, csv_rows([(poses(), [7, 8, 7], FILES)], KEYPOINTS))
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["image_id"], row["file_name"], row["pose"]) for row in rows] == [
        ("7", "a.jpg", "0"),
        ("8", "b, c.jpg", "0"),
        ("7", "a.jpg", "1"),
    ]
    assert {name: float(rows[0][name]) for name in ("score", "x2", "nose_x", "tail_y", "tail_score")} == {
        "score": 0.75,
        "x2": 2.0,
        "nose_x": 1.25,
        "tail_y": 4.5,
        "tail_score": 0.5,
    }


def test_csv_without_boxes_or_poses(tmp_path: Path) -> None:
    (header, first, *_) = csv_rows([(poses(boxes=False), [7, 8, 7], FILES)], KEYPOINTS)
    assert len(header) == len(first)
    assert first[4:8] == [""] * 4
    write_csv(tmp_path / "none.csv", csv_rows([(poses().select(slice(0)), [], {})], KEYPOINTS))
    assert (tmp_path / "none.csv").read_text().startswith("image_id,file_name,pose,score,x1,y1,x2,y2,nose_x,nose_y,")


def test_optional_fields_and_extras_are_keys_and_columns() -> None:
    found = poses(
        visibility=torch.tensor([[0.5, 1.0]] * 3),
        track_ids=torch.tensor([4, 5, 6]),
        extras={
            "age": torch.tensor([1.5, torch.nan, 3.0]),
            "depth": torch.arange(6.0).view(3, 2),
            "color": torch.tensor([[1, 2, 3]] * 3),
        },
    )
    entries = coco_results(found, [7, 8, 7])
    further = [{key: entry[key] for key in list(entry)[4:]} for entry in entries]
    assert further[0] == {"track_id": 4, "visibility": [0.5, 1.0], "age": 1.5, "depth": [0.0, 1.0], "color": [1, 2, 3]}
    assert further[1]["age"] is None
    json.dumps(entries, allow_nan=False)
    nobody = found.select(slice(0)), [], {}
    header, *rows = csv_rows([nobody, (found, [7, 8, 7], FILES)], KEYPOINTS)
    names = ["track_id", "nose_visibility", "tail_visibility", "age", "nose_depth", "tail_depth"]
    assert header[14:] == [*names, "color_0", "color_1", "color_2"]
    assert rows[2][14:] == [6, 0.5, 1.0, 3.0, 4.0, 5.0, 1, 2, 3]
    for name in ("score", "visibility", "bbox", "file_name", "pose", "x1", "nose_x", "nose_visibility", "batch_index"):
        with pytest.raises(UserError, match=f"the extra '{name}' has the name of another field"):
            check_extras({name: torch.zeros(3)}, KEYPOINTS)
    check_extras({"age": torch.zeros(3)}, KEYPOINTS)


def test_each_pose_has_the_id_of_its_category() -> None:
    found = poses(categories=torch.tensor([1, 0, 1]))
    for given, category_ids in (([9, 4], [4, 9, 4]), (None, [2, 1, 2])):
        assert [entry["category_id"] for entry in coco_results(found, [7, 8, 7], given)] == category_ids
        header, *rows = csv_rows([(found, [7, 8, 7], FILES)], KEYPOINTS, given)
        assert header[14:] == ["category_id"] and [row[14] for row in rows] == category_ids
    for given, category_id in (([9, 4], 9), (None, 1)):
        assert {entry["category_id"] for entry in coco_results(poses(), [7, 8, 7], given)} == {category_id}
        assert len(next(csv_rows([(poses(), [7, 8, 7], FILES)], KEYPOINTS, given))) == 14
    for wrong in (1, -1):
        with pytest.raises(UserError, match=rf"poses of category {wrong}, counted from 0, .* has 1 categories"):
            coco_results(poses(categories=torch.tensor([0, 0, wrong])), [7, 8, 7], [9])


def test_no_cell_is_a_formula(tmp_path: Path) -> None:
    texts = ["=1+1", "+x", "-x", "@x", "\t=1", "\r=1", "'=x", "''-x", "-", "nose", "it's", "'", "", "-1.5", "+2"]
    path = tmp_path / "poses.csv"
    write_csv(path, [texts, [-1.5, 2, "a"]])
    with path.open(newline="") as file:
        cells, numbers = csv.reader(file)
    assert cells == [f"'{text}" for text in texts[:9]] + texts[9:]
    assert numbers == ["-1.5", "2", "a"]
    assert [text_of(cell) for cell in cells] == texts
    header, row = list(csv_rows([(poses().select(slice(1)), [7], {7: "@a.jpg"})], ["=HYPERLINK(1)", "nose"]))
    write_csv(path, [header, row])
    with path.open(newline="") as file:
        [written] = csv.DictReader(file)
    assert written["'=HYPERLINK(1)_x"] == "1.25" and written["nose_x"] == "3.0" and written["file_name"] == "'@a.jpg"
    assert parse_boxes(path).images == [BoxedImage("7", "@a.jpg")]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "poses.csv"
    path.write_text("old")

    def rows():  # type: ignore[no-untyped-def]
        yield [1]
        raise OSError("disk full")

    with pytest.raises(UserError, match="disk full"):
        write_csv(path, rows())
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_malformed_predictions_are_explained(tmp_path: Path) -> None:
    path = tmp_path / "predictions.json"
    with pytest.raises(UserError, match="can't be read"):
        read_coco_results(path)
    path.write_text("[{")
    with pytest.raises(UserError, match="not JSON"):
        read_coco_results(path)
    path.write_text("{}")
    with pytest.raises(UserError, match="holds an object"):
        read_coco_results(path)
    path.write_text(json.dumps([{"image_id": 1, "category_id": 1, "keypoints": []}]))
    with pytest.raises(UserError, match=r"entry 0 .* has no score"):
        read_coco_results(path)


ANSWER = {"image_id": 1, "category_id": 1, "keypoints": [1, 2.5, 0.5, 3, 4, 0.5], "score": 0.5}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"score": float("nan")}, "has the score NaN"),
        ({"score": float("inf")}, "has the score Infinity"),
        ({"score": None}, "has the score null"),
        ({"score": "0.5"}, 'has the score "0.5"'),
        ({"score": True}, "has the score true"),
        ({"score": [0.5]}, r"has the score \[0.5\]"),
        ({"score": 10**400}, "has the score 1000"),
        ({"image_id": None}, "has the image_id null"),
        ({"image_id": "a"}, 'has the image_id "a"'),
        ({"image_id": 1.5}, "has the image_id 1.5"),
        ({"image_id": 2**63}, "has the image_id 9223372036854775808"),
        ({"image_id": [1]}, r"has the image_id \[1\]"),
        ({"category_id": True}, "has the category_id true"),
        ({"category_id": {}}, "has the category_id an object"),
        ({"keypoints": None}, "has the keypoints null"),
        ({"keypoints": 3}, "has the keypoints 3"),
        ({"keypoints": "1 2 1"}, 'has the keypoints "1 2 1"'),
        ({"keypoints": {"nose": [1, 2, 1]}}, "has the keypoints an object"),
        ({"keypoints": [[1, 2, 0.5], [3, 4, 0.5]]}, r"keypoints with \[1, 2, 0.5\], expected finite numbers"),
        ({"keypoints": [1, 2, None, 3, 4, 0.5]}, "keypoints with null"),
        ({"keypoints": [1, 2, True, 3, 4, 0.5]}, "keypoints with true"),
        ({"keypoints": [1, 2, "0.5", 3, 4, 0.5]}, 'keypoints with "0.5"'),
        ({"keypoints": [1, float("nan"), 0.5, 3, 4, 0.5]}, "keypoints with NaN"),
        ({"keypoints": [1, 10**400, 0.5, 3, 4, 0.5]}, "keypoints with 1000"),
    ],
)
def test_an_entry_that_is_no_prediction_is_refused_by_place(tmp_path: Path, changes: Any, message: str) -> None:
    path = tmp_path / "predictions.json"
    path.write_text(json.dumps([ANSWER, ANSWER | changes]))
    with pytest.raises(UserError, match=rf"entry 1 of the predictions file .*predictions\.json .*{message}"):
        read_coco_results(path)


@pytest.mark.parametrize("entry", [None, 3, "x", [], True])
def test_an_entry_that_is_no_object_is_refused(tmp_path: Path, entry: Any) -> None:
    path = tmp_path / "predictions.json"
    path.write_text(json.dumps([ANSWER, entry]))
    with pytest.raises(UserError, match=r"entry 1 of the predictions file .* is "):
        read_coco_results(path)


def test_ids_whose_meaning_is_plain_are_read(tmp_path: Path) -> None:
    path = tmp_path / "predictions.json"
    path.write_text(json.dumps([ANSWER | {"image_id": "7", "category_id": 1.0}]))
    assert read_coco_results(path) == [ANSWER | {"image_id": 7}]
    path.write_text(json.dumps([ANSWER | {"image_id": "img_7"}]))
    assert read_coco_results(path, {"img_7": 3}) == [ANSWER | {"image_id": 3}]
    with pytest.raises(UserError, match='has the image_id "img_7"'):
        read_coco_results(path, {"img_8": 3})
