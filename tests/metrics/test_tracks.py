"""HOTA, MOTA and IDF1 of predictions files against annotations with identities."""

import copy
import json
import sys

import numpy as np
import pytest

from lightpose.cli.eval import main
from lightpose.data.coco.tracks import in_regions, read_tracks
from lightpose.errors import UserError
from lightpose.metrics.tracks import evaluate_tracks
from lightpose.skeleton import Skeleton

pytest.importorskip("trackeval")
NAMES = ["nose", "left_hand", "right_hand"]
SKELETON = Skeleton.build(NAMES)
FRAMES = 10


def keypoints(x, y=100.0):
    return [x, y, 2, x - 20, y + 40, 2, x + 20, y + 40, 2]


@pytest.fixture()
def content():
    """Two people in ten frames of each of two videos."""
    images, annotations = [], []
    for video in ("a", "b"):
        for frame in range(FRAMES):
            image_id = len(images) + 1
            images.append(
                {"id": image_id, "file_name": f"{video}{frame}", "height": 300, "width": 400, "vid_id": video}
                | {"frame_id": 1000 + frame, "is_labeled": True}
            )
            for person, x in enumerate((100 + 5 * frame, 300 - 5 * frame)):
                annotations.append(
                    {"id": len(annotations) + 1, "image_id": image_id, "category_id": 1, "track_id": person}
                    | {"keypoints": keypoints(x), "bbox": [x - 25, 95, 50, 50], "area": 2500, "iscrowd": 0}
                )
    category = {"id": 1, "name": "person", "keypoints": NAMES}
    return {"images": images, "annotations": annotations, "categories": [category]}


def predictions_of(content):
    keys = ("image_id", "category_id", "keypoints", "track_id")
    return [{**{key: entry[key] for key in keys}, "score": 1.0} for entry in content["annotations"]]


@pytest.fixture()
def score(tmp_path):
    def call(content, predictions):
        path = tmp_path / "truth.json"
        path.write_text(json.dumps(content))
        return evaluate_tracks(read_tracks(path, SKELETON)[1], predictions, SKELETON.sigmas)

    return call


def test_the_truth_scores_one(content, score):
    found = score(content, predictions_of(content))
    assert found == {"HOTA": 1, "DetA": 1, "AssA": 1, "MOTA": 1, "IDF1": 1, "IDSW": 0}


def test_an_exchange_in_the_middle_is_two_switches(content, score):
    predictions = predictions_of(content)
    for entry in predictions:
        if 5 < entry["image_id"] <= FRAMES:  # the second half of the first of two videos
            entry["track_id"] = 1 - entry["track_id"]
    found = score(content, predictions)
    people = 2 * 2 * FRAMES
    assert found["DetA"] == 1 and found["IDSW"] == 2
    assert found["MOTA"] == pytest.approx(1 - 2 / people)
    assert found["IDF1"] == pytest.approx(0.75)
    assert found["AssA"] == pytest.approx((1 + 1 / 3) / 2)  # of the first video 5 of 15 are alike
    assert found["HOTA"] == pytest.approx(np.sqrt(2 / 3))


def test_misses_and_false_poses_cost_detection_alone(content, score):
    predictions = [entry for entry in predictions_of(content) if entry["image_id"] not in (3, 4)]
    predictions.append({**predictions[0], "keypoints": keypoints(200, 250), "track_id": 7})
    found = score(content, predictions)
    assert found["DetA"] == pytest.approx(36 / 41)
    assert found["MOTA"] == pytest.approx(1 - 5 / 40)
    assert found["IDSW"] == 0


def test_poses_without_identity_are_left_out_and_files_without_any_refused(content, score):
    predictions = predictions_of(content)
    assert score(content, [*predictions, {**predictions[0], "track_id": -1}])["MOTA"] == 1
    with pytest.raises(UserError, match="tracker=oks"):
        score(content, [{**entry, "track_id": -1} for entry in predictions])
    assert score(content, [])["HOTA"] == 0


@pytest.mark.parametrize("nested", [True, False])
def test_poses_in_ignored_regions_and_unlabelled_frames_dont_count(content, score, nested):
    predictions = predictions_of(content)
    predictions.append({**predictions[0], "keypoints": keypoints(200, 250), "track_id": 7})
    assert score(content, predictions)["MOTA"] < 1
    columns = {"ignore_regions_x": [150, 250, 250, 150], "ignore_regions_y": [200, 200, 299, 299]}
    ignoring = copy.deepcopy(content)
    ignoring["images"][0] |= {key: [column] if nested else column for key, column in columns.items()}
    assert score(ignoring, predictions)["MOTA"] == 1
    unlabelled = copy.deepcopy(content)
    unlabelled["images"][0]["is_labeled"] = False
    assert score(unlabelled, predictions)["MOTA"] == 1


def test_a_hole_in_a_region_is_not_of_it():
    ring, hole = [[0, 0], [10, 0], [10, 10], [0, 10]], [[4, 4], [6, 4], [6, 6], [4, 6]]
    region = np.array([*ring, [np.nan, np.nan], *hole], float)
    points = np.array([[[5, 5], [2, 2]], [[20, 5], [8, 5]]], float)
    assert in_regions(points, [region]).tolist() == [[False, True], [False, True]]
    assert not in_regions(points, []).any()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda content: content["annotations"][0].pop("track_id"), "no track_id"),
        (lambda content: content["annotations"][0].update(track_id=1), "track_id of another"),
        (lambda content: content["annotations"].clear(), "nobody is labelled"),
    ],
)
def test_annotations_without_clear_identities_are_refused(content, score, change, words):
    predictions = predictions_of(content)
    change(content)
    with pytest.raises(UserError, match=words):
        score(content, predictions)


def test_predictions_that_cant_be_are_refused(content, score, monkeypatch):
    predictions = predictions_of(content)
    with pytest.raises(UserError, match="one track_id"):
        score(content, [*predictions, predictions[0]])
    with pytest.raises(UserError, match="12 numbers"):
        score(content, [{**predictions[0], "keypoints": [1.0] * 12}])
    monkeypatch.setitem(sys.modules, "trackeval.metrics", None)
    with pytest.raises(UserError, match=r"lightpose\[track\]"):
        score(content, predictions)


def test_the_command_prints_the_figures(run, content, tmp_path):
    truth, found = tmp_path / "truth.json", tmp_path / "predictions.json"
    truth.write_text(json.dumps(content))
    found.write_text(json.dumps(predictions_of(content)))
    code, out, _ = run(main, f"predictions={found}", f"annotations={truth}", "tracks=true")
    assert code == 0 and "HOTA                 1.0000" in out
    code, _, err = run(main, "ckpt=model.ckpt", f"annotations={truth}", "tracks=true")
    assert code == 1 and "predictions=" in err
    for key, words in (("image_id", "image ids"), ("category_id", "category ids")):
        others = predictions_of(content)
        others[3][key] = 77
        found.write_text(json.dumps(others))
        code, _, err = run(main, f"predictions={found}", f"annotations={truth}", "tracks=true")
        assert code == 1 and f"name 1 {words} that the ground truth lacks (77)" in err
