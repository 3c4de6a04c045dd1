"""A reader of a stranger's format, and readers that don't go with an estimator."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from csv_reader import CsvPeople

from lightpose.cli import eval as eval_command
from lightpose.cli import train
from lightpose.data.coco.dataset import CocoInstances
from lightpose.errors import UserError

KEYPOINTS = 17
STRANGERS = Path(__file__).parents[1] / "contract/strangers"


@pytest.fixture
def table(people, tmp_path):
    """The drawn people as a table, beside a folder of groups."""
    content = json.loads(people.read_text())
    names = {image["id"]: image["file_name"] for image in content["images"]}
    rows = []
    for entry in content["annotations"]:
        x, y, width, height = entry["bbox"]
        points = np.array(entry["keypoints"]).reshape(-1, 3)[:, :2].ravel().tolist()
        rows.append([names[entry["image_id"]], x, y, x + width, y + height, *points])
    path = tmp_path / "people.csv"
    with path.open("w") as file:
        csv.writer(file).writerows(rows)
    return path


@pytest.fixture
def images(people):
    return people.parent / "images"


def test_a_strangers_reader_trains_validates_and_is_evaluated(run, tiny, table, images, tmp_path):
    given = ("--config-dir", f"{STRANGERS}/conf", "reader=csv", "skeleton=coco17", f"data.images={images}")
    files = (f"data.train={table}", f"data.val={table}", f"output_dir={tmp_path}/run", "trainer.max_epochs=1")
    code, out, err = run(train.main, *given, *files, *tiny)
    assert code == 0, out + err
    code, out, err = run(
        eval_command.main, f"ckpt={tmp_path}/run/checkpoints/best.ckpt", "trust=csv_reader", f"out={tmp_path}/out"
    )
    assert code == 0, out + err
    assert "AP" in json.loads((tmp_path / "out/metrics.json").read_text())
    with (tmp_path / "out/predictions.csv").open() as file:
        names = {Path(row["file_name"]).name for row in csv.DictReader(file)}
    assert names <= {path.name for path in images.iterdir()} and names


def test_its_ground_truth_is_that_of_the_same_people_in_coco(people, table, images):
    expected, reader = CocoInstances(people), CsvPeople(table, images, skeleton=CocoInstances(people).skeleton)
    truth, found = expected.ground_truth(), reader.ground_truth()
    assert reader.ground_truth() is found
    usable = expected.index.ids[expected.index.status == 0].tolist()
    people_of = {entry["id"]: entry for entry in truth["annotations"]}
    assert len(found["annotations"]) == len(people_of) >= len(usable)
    by_box = {tuple(np.round(entry["bbox"], 2)): entry for entry in found["annotations"]}
    for entry in truth["annotations"]:
        mine = by_box[tuple(np.round(entry["bbox"], 2))]
        xy = [np.reshape(one["keypoints"], (-1, 3))[:, :2] for one in (entry, mine)]
        np.testing.assert_allclose(xy[0], xy[1], atol=1e-2)
        assert mine["num_keypoints"] == KEYPOINTS and mine["iscrowd"] == 0
    assert {Path(image["file_name"]).name for image in found["images"]} == {
        image["file_name"] for image in truth["images"]
    }
    assert {(image["height"], image["width"]) for image in found["images"]} == {
        (image["height"], image["width"]) for image in truth["images"]
    }
    assert found["categories"][0]["keypoints"] == list(expected.skeleton.keypoints)


def test_ground_truth_reads_no_pixels(people, monkeypatch):
    data = CocoInstances(people)
    monkeypatch.setattr(data, "folder", Path("/nowhere"))
    sample = data.load(0, np.random.default_rng(0))
    assert sample.image_hw == tuple(data.index.image_hw[0])


def test_skeleton_auto_asks_the_reader(run, tiny, table, images, tmp_path):
    given = ("--config-dir", f"{STRANGERS}/conf", "reader=csv", f"data.images={images}", f"data.train={table}")
    code, _, err = run(train.main, *given, *tiny, f"output_dir={tmp_path}/run")
    assert code == 1 and "CsvPeople can't tell which keypoints" in err and "skeleton=coco17" in err
    with pytest.raises(UserError, match="was given no skeleton"):
        CsvPeople(table, images).ground_truth()


@pytest.mark.parametrize("choice", ["data=bottomup", "reader=coco_images"])
def test_one_person_is_not_taken_out_of_whole_images(run, tiny, people, tmp_path, choice):
    code, _, err = run(train.main, f"data.train={people}", *tiny, f"output_dir={tmp_path}/run", choice)
    assert code == 1
    assert "a sample of CocoImages is whole images, with everyone in them, but TopDown takes one person" in err
    assert "use reader=coco or reader=interhand, or another estimator" in err


def test_grouping_by_image_needs_to_know_the_images(run, tiny, table, images, tmp_path):
    given = ("--config-dir", f"{STRANGERS}/conf", "reader=csv", "skeleton=coco17", f"data.images={images}")
    code, _, err = run(train.main, *given, f"data.train={table}", *tiny, "data.group_by_image=true", "output_dir=run")
    assert code == 1 and "CsvPeople doesn't say which samples are of one image" in err


def test_what_is_no_reader_is_refused(run, tiny, people, tmp_path):
    code, _, err = run(
        train.main, f"data.train={people}", *tiny, f"output_dir={tmp_path}/run", "reader._target_=collections.Counter"
    )
    assert code == 1 and "reader: collections.Counter is no subclass of lightpose.data.base.PoseDataset" in err
