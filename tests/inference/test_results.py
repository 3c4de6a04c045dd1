import csv
import json
from pathlib import Path

import pytest
import torch

from lightpose.errors import UserError
from lightpose.inference.results import csv_rows, read_coco_results, write_coco_results, write_csv
from lightpose.metrics.oks import coco_results
from lightpose.skeleton import Skeleton
from lightpose.structures import Poses

SKELETON = Skeleton.build(["nose", "tail"])


def poses(boxes: bool = True) -> Poses:
    return Poses(
        keypoints=torch.tensor([[[1.25, 2.0], [3.0, 4.5]], [[5.0, 6.0], [7.0, 8.0]], [[0.0, 1.0], [2.0, 3.0]]]),
        keypoint_scores=torch.full((3, 2), 0.5),
        scores=torch.tensor([0.75, 0.5, 0.25]),
        batch_index=torch.tensor([0, 1, 0]),
        boxes_xyxy=torch.tensor([[0.0, 1.0, 2.0, 3.0]]).repeat(3, 1) if boxes else None,
    )


def test_json_round_trip(tmp_path: Path) -> None:
    predictions = coco_results(poses(), [7, 8, 7], 1)
    path = tmp_path / "new/predictions.json"
    write_coco_results(path, predictions)
    assert read_coco_results(path) == predictions
    assert [entry.name for entry in path.parent.iterdir()] == ["predictions.json"]


def test_csv_has_joint_names(tmp_path: Path) -> None:
    path = tmp_path / "poses.csv"
    write_csv(path, csv_rows(poses(), [7, 8, 7], {7: "a.jpg", 8: "b, c.jpg"}), SKELETON)
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
    (first, *_) = csv_rows(poses(boxes=False), [7, 8, 7], {7: "a.jpg", 8: "b.jpg"})
    assert first[4:8] == [""] * 4
    write_csv(tmp_path / "none.csv", [], SKELETON)
    assert (tmp_path / "none.csv").read_text().startswith("image_id,file_name,pose,score,x1,y1,x2,y2,nose_x,nose_y,")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "poses.csv"
    path.write_text("old")

    def rows():  # type: ignore[no-untyped-def]
        yield [1]
        raise OSError("disk full")

    with pytest.raises(UserError, match="disk full"):
        write_csv(path, rows(), SKELETON)
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
