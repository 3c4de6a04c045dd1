"""Files as people bring them, through the commands with their defaults."""

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torchmetrics import Metric

import lightpose
from lightpose.cli import data, eval, predict, train

SAMPLES = Path(__file__).parents[2] / "../shared/samples"
FLY = ["eye{}", "wing{}", *(f"{leg}leg{{}}{i}" for leg in ("fore", "mid", "hind") for i in "1234")]
PAWS = [f"{end}_{joint}" for end in "FB" for joint in ("Elbow", "Knee", "Paw")]
LABELS = [58.0, 45.0, 2, 75.0, 67.0, 2, 32.0, 27.0, 2]


class EachKeypoint(Metric):
    """A figure of each keypoint, K numbers, beside one of the whole."""

    def __init__(self, skeleton):
        super().__init__()
        self.add_state("poses", torch.zeros(()), dist_reduce_fx="sum")
        self.count = skeleton.num_keypoints

    def update(self, poses, batch):
        self.poses += len(poses)

    def compute(self):
        return {"Place": torch.arange(self.count) * 1.0, "Poses": self.poses}


class Square(EachKeypoint):
    def compute(self):
        return {"Square": torch.zeros(2, 2)}


@pytest.fixture
def write(tmp_path):
    """Writes a file of one image and one person each, or with lists of one's own."""

    def make(people=1, names=("patte_gauche", "patte_droite", "nez"), **lists):
        for number in range(people):
            picture = cv2.resize(np.random.default_rng(number).integers(0, 255, (6, 8, 3), np.uint8), (128, 96))
            cv2.imwrite(str(tmp_path / f"{number}.jpg"), picture)
        ids = range(1, people + 1)
        person = {"category_id": 1, "bbox": [20, 10, 80, 70], "area": 3000.0, "iscrowd": 0}
        content = {
            "images": [{"id": id, "file_name": f"{id - 1}.jpg", "width": 128, "height": 96} for id in ids],
            "annotations": [{"id": id, "image_id": id, "keypoints": LABELS[: 3 * len(names)], **person} for id in ids],
            "categories": [{"id": 1, "name": "thing", "keypoints": list(names), "skeleton": []}],
        }
        (tmp_path / "train.json").write_text(json.dumps(content | lists))
        return tmp_path / "train.json"

    return make


@pytest.fixture
def trains(run, tiny, tmp_path):
    """Trains two steps on a file, validates on it, and scores the checkpoint; gives all that was said."""

    def call(path, *arguments):
        given = [f"data.train={path}", f"data.val={path}", f"output_dir={tmp_path / 'run'}", "trainer.max_steps=2"]
        code, out, err = run(train.main, *tiny, *given, *arguments)
        assert code == 0, err
        scored = run(eval.main, f"ckpt={tmp_path}/run/checkpoints/last.ckpt", "num_workers=0", f"trust=[{__name__}.]")
        assert scored[0] == 0, scored
        return out + err, scored[1]

    return call


@pytest.mark.parametrize("names", [("nose", "tail", "ear"), ("nose",)])
def test_one_pose_of_few_keypoints_trains_and_has_figures(trains, write, names):
    _, figures = trains(write(names=names))
    assert {line.split()[0] for line in figures.splitlines() if line.startswith("A")} >= {"AP", "AP50", "AR"}


@pytest.mark.parametrize(
    ("names", "argument", "mirrors"),
    [
        (["nose", "ear", "tail"], None, False),
        (["nose"], None, False),
        (["nose", "ear", "tail"], "skeleton.swap_pairs=[]", True),
        (["nose", "ear", "tail"], "skeleton.swap_pairs=[[ear,tail]]", True),
        (["nose", "ear left", "ear right"], None, True),
        (["nose", "Ohr (a)", "耳-b"], "skeleton.swap_pairs=[['Ohr (a)','耳-b']]", True),
    ],
)
def test_only_what_has_pairs_or_needs_none_is_mirrored(trains, write, run, tmp_path, names, argument, mirrors):
    path, told = write(names=names), [argument] if argument else []
    said, _ = trains(path, *told)
    estimator = lightpose.load(tmp_path / "run/checkpoints/last.ckpt")
    assert estimator.skeleton.mirrors == estimator.flip_test == mirrors
    code, out, _ = run(data.main, "check", f"data.train={path}", *told)
    for words in ("nothing is mirrored", "skeleton.swap_pairs=[[A,B],...]", "skeleton.swap_pairs=[]"):
        assert code == 0 and (words in said) == (words in out) == (not mirrors)
    assert ("mirrored is unknown" in out) != mirrors


@pytest.mark.parametrize(
    ("file", "pairs"),
    [
        ("mirror_mouse/train.json", []),
        ("zebra/test_zebra.json", ["forelegL1 forelegR1", "hindlegL1 hindlegR1"]),
        ("fly/test_fly.json", [f"{part.format('L')} {part.format('R')}" for part in FLY]),
        ("animalpose/test_animalpose.json", [f"L_{part} R_{part}" for part in ("Eye", "EarBase", *PAWS)]),
    ],
)
def test_check_says_which_pairs_it_finds_in_real_names(run, file, pairs):
    if not (SAMPLES / file).is_file():
        pytest.skip("real samples are not here")
    _, out, _ = run(data.main, "check", f"data.train={SAMPLES / file}")
    found = [line.split()[0] + " " + line.split()[-1] for line in out.splitlines() if "mirrored is " in line]
    both = [pair for pair in found if pair.split()[1] not in ("itself", "unknown")]
    assert sorted(both) == sorted(pairs + [" ".join(pair.split()[::-1]) for pair in pairs])
    assert ("nothing is mirrored" in out) == (not pairs)


@pytest.mark.parametrize("prefix", ["", "+"])
def test_swap_pairs_of_ones_own_are_obeyed(run, write, tiny, tmp_path, prefix):
    path, pairs = write(), f"{prefix}skeleton.swap_pairs=[[patte_gauche,patte_droite]]"
    code, out, err = run(data.main, "preview", f"data.train={path}", f"out={tmp_path}/preview.png", *tiny, pairs)
    assert code == 0 and "flips exchange patte_gauche ↔ patte_droite" in out + err
    assert "nothing is mirrored" not in out + err
    code, out, err = run(data.main, "check", f"data.train={path}", pairs)
    assert code == 0 and "mirrored is patte_droite" in out


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        (
            "skeleton.swap_pairs=[[patte_gauche,patte]]",
            "has no keypoint 'patte'; it has patte_gauche, patte_droite, nez",
        ),
        ("+skeleton.swap_pair=[[patte_gauche,patte_droite]]", "skeleton has no key swap_pair; name, swap_pairs, links"),
        ("skeleton.sigmas=[0.1]", "has 3 keypoints but 1 sigmas"),
        ("skeleton.swap_pairs=[[耳,patte]]", "can't be read; put what has odd characters in quotes, as in"),
        ("skeleton.swap_pairs=[[x=y,patte]]", "can't be read; put what has odd characters in quotes, as in"),
    ],
)
def test_what_cannot_be_obeyed_is_refused(run, write, tiny, argument, message):
    path = write()
    for main, *given in ((train.main, f"data.train={path}", *tiny), (data.main, "check", f"data.train={path}")):
        code, _, err = run(main, *given, argument)
        assert code == 1 and message in err and "Traceback" not in err


def test_a_split_of_transforms_that_does_not_exist_is_refused(run, write, tiny):
    code, _, err = run(train.main, f"data.train={write()}", *tiny, "+augment.val={}")
    assert code == 1 and "augment has no key val; its keys are train, eval and late" in err


@pytest.mark.parametrize(
    ("links", "warning"),
    [
        ([["patte_gauche", "nez"]], None),
        ([[0, 1], [1, 2]], None),
        ([[3, 4], [1, 2]], "has 1 links (`skeleton` of the category) that join no two of its 3 keypoints, e.g. [3, 4]"),
        ([1, 2, 2, 3], "has 4 links (`skeleton` of the category) that join no two of its 3 keypoints, e.g. 1;"),
        ("patte_gauche", 'has 1 links (`skeleton` of the category) that join no two of its 3 keypoints, e.g. "patte_'),
    ],
)
def test_links_only_draw(run, write, tiny, tmp_path, links, warning):
    names = ["patte_gauche", "patte_droite", "nez"]
    path = write(categories=[{"id": 1, "name": "thing", "keypoints": names, "skeleton": links}])
    code, out, err = run(data.main, "preview", f"data.train={path}", f"out={tmp_path}/preview.png", *tiny)
    assert code == 0 and (warning is None or warning in out + err)
    code, out, _ = run(data.main, "check", f"data.train={path}")
    assert code == 0 and ("links (`skeleton`" in out) == (warning is not None)


def test_keypoints_without_names_get_numbers_and_a_notice(trains, write, run):
    path = write(2, categories=[{"id": 1, "name": "face"}])
    said, _ = trains(path)
    assert f"`categories` of {path} name no keypoints, so these are called 0 to 2" in said
    assert "nothing is mirrored" in said and "skeleton.swap_pairs=" in said
    code, out, _ = run(data.main, "check", f"data.train={path}", "skeleton.swap_pairs=[[0,2]]")
    assert code == 0 and "mirrored is 2" in out and "called 0 to 2" in out and "nothing is mirrored" not in out


def test_a_figure_of_each_keypoint_is_shown_by_name(trains, write, run, tiny):
    metric = f"{{_target_: {__name__}.EachKeypoint, _partial_: true}}"
    _, figures = trains(write(), f"+metric.each={metric}", "monitor=val/Poses", "monitor_mode=max")
    found = dict(line.split() for line in figures.splitlines() if line.startswith("P"))
    places = {"Place/patte_gauche": "0.0000", "Place/patte_droite": "1.0000", "Place/nez": "2.0000"}
    assert found == {**places, "Poses": "1.0000"}

    given = [f"data.train={write()}", f"data.val={write()}", "trainer.max_steps=1"]
    code, _, err = run(train.main, *tiny, *given, f"+metric.each={metric.replace('EachKeypoint', 'Square')}")
    assert code == 1 and "Square computes a figure Square of shape (2, 2); expected a number, or one for each of" in err


@pytest.fixture
def predicted(run, trained, tmp_path):
    """Predicts from a file; gives the image ids of the poses, and what was said."""

    def call(path, *arguments):
        given = [f"ckpt={trained}/checkpoints/last.ckpt", "device=cpu", f"source={path}", f"out={tmp_path / 'out'}"]
        code, out, err = run(predict.main, *given, "draw=false", *arguments)
        assert code == 0, err
        with (tmp_path / "out" / "predictions.csv").open() as file:
            return [int(row["image_id"]) for row in csv.DictReader(file)], out + err

    return call


def test_what_training_accepts_prediction_accepts(predicted, write, tmp_path):
    path = write(4)
    content = json.loads(path.read_text())
    del content["annotations"][1]["bbox"]
    content["annotations"][2] |= {"keypoints": None, "iscrowd": "0", "area": "x"}
    path.write_text(json.dumps(content | {"annotations": [*content["annotations"], None]}))
    ids, said = predicted(path)
    assert ids == [1, 3, 4]
    assert f"{path}: 2 annotations are left out: 1 box missing, empty or outside the image; 1 not an object" in said


def test_images_of_one_file_keep_their_people_apart(predicted, write, tmp_path):
    path = write(3)
    content = json.loads(path.read_text())
    for image in content["images"]:
        image["file_name"] = "0.jpg"
    path.write_text(json.dumps(content))
    for boxes in ([], [f"boxes={path}"], ["num_workers=2", "batch_size=1"]):
        assert predicted(path, *boxes)[0] == [1, 2, 3]


def test_annotations_of_which_none_gives_a_box_are_no_images_without_people(run, trained, write, predicted, tmp_path):
    path = write(2, annotations=[{"image_id": 1, "category_id": 1, "keypoints": LABELS}])
    code, _, err = run(
        predict.main, f"ckpt={trained}/checkpoints/last.ckpt", f"source={path}", f"out={tmp_path / 'out'}"
    )
    assert code == 1 and "has annotations, but none that gives a box" in err and "detector=whole_image" in err
    assert predicted(path, "detector=whole_image")[0] == [1, 2]
    assert predicted(write(2, annotations=[]))[0] == [1, 2]


def test_names_from_files_give_the_terminal_no_commands(run, people, tiny, trained, tmp_path):
    content = json.loads(people.read_text())
    for image in content["images"]:
        image["file_name"] = f"\x1b]0;x\x07{image['file_name']}"
    bad = tmp_path / "bad.json"
    bad.write_text(json.dumps(content))
    images, checkpoint = people.parent / "images", trained / "checkpoints/last.ckpt"
    for main, *arguments in (
        (data.main, "check", f"data={bad}", f"images={images}"),
        (train.main, f"data.train={bad}", f"data.images={images}", *tiny, f"output_dir={tmp_path}/run"),
        (predict.main, f"ckpt={checkpoint}", f"source={bad}", f"images={images}", f"out={tmp_path}/out"),
    ):
        code, out, err = run(main, *arguments)
        assert code == 1 and "\\x1b]0;x" in out + err and "\x1b]0;x" not in out + err
