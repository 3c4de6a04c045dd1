"""Several data sets in one training: joined by the names of keypoints, drawn from in proportion."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from lightpose.cli import data, train
from lightpose.cli import eval as evaluation
from lightpose.data.base import Late, PoseDataset
from lightpose.data.coco.dataset import CocoInstances
from lightpose.data.coco.index import read_coco
from lightpose.data.combined import CombinedDataset
from lightpose.data.pipeline import Pipeline
from lightpose.data.pixels.loader import EpochSampler
from lightpose.data.transforms import Geometry
from lightpose.errors import UserError
from lightpose.skeleton import Skeleton, joined
from lightpose.structures import Sample

NAMES = ["head", "left_hand", "right_hand", "left_foot", "right_foot"]
OTHERS = ["Right Foot", "Left Foot", "Snout", "tail"]
DRAWS = [(6, 4), (9, 14)]


@pytest.fixture
def files(write_coco, person):
    """Two annotation files: of six people with five keypoints, and of three animals with four."""
    animal = {"keypoints": [36, 40, 2, 24, 40, 1, 30, 6, 2, 10, 10, 2]}
    categories = [
        {"id": 4, "name": "animal", "keypoints": OTHERS, "skeleton": [[3, 4]], "sigmas": [0.1, 0.1, 0.2, 0.3]}
    ]
    return (
        write_coco([person(number, 1 + number % 3) for number in range(6)], images=3, name="people.json"),
        write_coco(
            [person(number, category_id=4, **animal) for number in range(3)],
            images=1,
            name="animals.json",
            folder="zoo/",
            categories=categories,
        ),
    )


def of(dataset_rows, first, last):
    rows = dataset_rows[(dataset_rows[:, 1] >= first) & (dataset_rows[:, 1] < last)]
    return rows[:, 0], rows[:, 1] - first


@pytest.mark.parametrize("batches", [None, 7])
@pytest.mark.parametrize("groups", [None, np.repeat(np.arange(5), 3)])
def test_each_pass_draws_in_proportion_and_no_sample_comes_again_before_all_have_come(batches, groups):
    sampler = EpochSampler(range(15), 0, groups, batch_size=3, batches=batches, draws=DRAWS)
    assert len(sampler) == 18 if batches is None else 21
    row = np.concatenate([sampler._pass(number) for number in range(9)])
    for (length, taken), first in zip(DRAWS, (0, 6), strict=True):
        for number in range(9):
            assert len(of(sampler._pass(number), first, first + length)[0]) == taken
        passes, places = of(row, first, first + length)
        assert (
            len({*zip(passes.tolist(), places.tolist(), strict=True)}) == len(row) * taken // 18
        )  # each is augmented anew
        for own in range(passes.max()):
            assert sorted(places[passes == own]) == list(range(length))
    epochs = np.concatenate([sampler.order(number) for number in range(3)])
    assert (epochs == (row[:63] if batches else row[:54])).all()


def test_processes_and_a_resumed_run_go_on_in_the_same_order():
    def indices(rank, processes, begin=0):
        sampler = EpochSampler(range(15), 0, None, processes, rank, 6 // processes, batches=4, draws=DRAWS)
        sampler.resume(2, begin)
        sampler.set_epoch(2)
        return [row for row, _ in zip(iter(sampler), range(len(sampler) - begin // processes), strict=False)]

    whole = indices(0, 1)
    assert len(whole) == 24
    shared = np.array([indices(rank, 2, begin=12) for rank in (0, 1)])  # (process, sample, 2)
    assert [tuple(row) for row in shared.reshape(2, 2, 3, 2).transpose(1, 0, 2, 3).reshape(-1, 2)] == whole[12:]


def test_people_of_one_image_stay_together_in_the_mixture():
    groups = np.repeat(np.arange(8), 5)
    order = EpochSampler(range(40), 0, groups, draws=[(20, 20), (20, 20)])._pass(0)
    assert (np.diff(groups[order[:, 1]]) != 0).sum() == 7
    assert (np.diff(order[:, 1] // 20) != 0).sum() > 1


class Shift(Geometry):
    """Moves the image by random numbers."""

    def __call__(self, sample, rng):
        moved = np.eye(3)
        moved[:2, 2] = rng.random(2)
        return replace(sample, input_from_image=moved)


def test_samples_keep_their_place_and_their_part_s_labels(files):
    skeleton = joined([CocoInstances(path).skeleton for path in files], {"snout": "head"})
    assert skeleton.keypoints == ("head", "left_hand", "right_hand", "left_foot", "right_foot", "tail")
    parts = [CocoInstances(path, skeleton=skeleton, transforms=Pipeline([Shift()])) for path in files]
    both = CombinedDataset(parts, list(map(str, files)), [1, 2])
    assert len(both) == 9 and both.draws == [(6, 3), (3, 6)]
    samples = [both[index] for index in range(9)]
    assert [sample.index for sample in samples] == list(range(9))
    assert samples[0].instances.visible[0].tolist() == [2, 2, 1, 2, 0, 0]
    assert samples[8].instances.visible[0].tolist() == [2, 0, 0, 1, 2, 2]
    assert samples[8].instances.keypoints[0, 0].tolist() == [30, 6]
    assert both.image_rows.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 3]
    again, other = both[3, 8], both[4, 8]
    assert (again.input_from_image == both[3, 8].input_from_image).all()
    assert (again.input_from_image != other.input_from_image).any()


@pytest.mark.parametrize("ratios", [[1], [1, 0], [1, -1], [1, float("nan")], [1, 2, 3]])
def test_ratios_that_are_none_are_refused(files, ratios):
    parts = [CocoInstances(path) for path in files]
    with pytest.raises(UserError, match=r"data.ratios=\[.*must be 2 positive numbers"):
        CombinedDataset(parts, ["a", "b"], ratios)


def test_what_a_skeleton_takes_of_each():
    people = Skeleton.build(["head", "left_eye", "right_eye"], name="p", links=[[0, 1]], sigmas=[0.1, 0.2, 0.2])
    eyes = [["L eye", "Reye"]]
    cats = Skeleton.build(["Reye", "L eye", "Head"], name="c", swap_pairs=eyes, links=[[1, 2]], upper=["Head"])
    both = joined([people, cats], {"Reye": "right_eye"})
    assert both.name == "p+c" and both.keypoints == people.keypoints and both.sigmas == people.sigmas
    assert both.sigmas_known and both.swap == (0, 2, 1) and both.links == ((1, 0),) and both.upper == (0,)
    assert both.places(["Reye", "left eye", "tail"]) == [2, 1, -1]
    tail = joined([people, Skeleton.build(["head", "tail"], name="t")])
    assert not tail.sigmas_known and tail.sigmas[3] == 0.05
    assert not tail.mirrors  # nobody said that a tail is its own mirror image
    assert joined([people]) is people
    with pytest.raises(UserError, match="head and Head would both be the keypoint head"):
        Skeleton.build(["head"], renames={"Head": "head"}).places(["head", "Head"])


def test_trained_together_through_the_command(files, run, tiny, tmp_path):
    people, animals = files
    renames = "skeleton.renames={Snout: head}"
    given = [f"data.train=[{people}, {animals}]", f"data.images=[{tmp_path},{tmp_path}/zoo]", renames]
    given += ["data.ratios=[0.5,0.5]", f"data.val={animals}", f"output_dir={tmp_path}/run", "trainer.max_steps=2"]
    code, out, err = run(train.main, *given, *tiny, "data.epoch_steps=2")
    assert code == 0, err
    told = out + err
    assert "person+animal: 6 keypoints" in told and "people.json: 6 samples, 50.0 %" in told
    assert "people.json lacks 1 of the 6 keypoints" in told and "no weight there: tail" in told
    assert "animals.json lacks 2 of the 6" in told
    logged = [row.split(",") for row in (tmp_path / "run/csv/version_0/metrics.csv").read_text().splitlines()]
    scored = {name: value for row in logged[1:] for name, value in zip(logged[0], row, strict=True) if value}
    assert scored["val/EPE_px/left_hand"] == "nan" and float(scored["val/EPE_px/tail"]) > 0
    code, out, _ = run(data.main, "check", *given[:3])
    assert code == 0 and out.count("skeleton person+animal: 6 keypoints") == 2


def test_files_without_a_name_in_common(files, write_coco, person, run, tiny, tmp_path):
    strange = write_coco(
        [person(1, keypoints=[1, 2, 2])],
        categories=[{"id": 1, "name": "hand", "keypoints": ["wrist"]}],
        name="hand.json",
    )
    given = [f"data.train=[{files[0]},{strange}]", f"output_dir={tmp_path}/run", "trainer.max_steps=1", *tiny]
    code, _, err = run(train.main, *given)
    assert code == 1 and "people.json has no keypoint of the same name as" in err and "skeleton.renames=" in err
    code, out, err = run(train.main, *given, "skeleton.disjoint=true")
    assert code == 0 and "person+hand: 6 keypoints" in out + err
    for wrong, said in (
        ("data.images=[a,b,c]", "data.images names 3 folders and data.train 2 files"),
        ("data.ratios=[1]", "must be 2 positive numbers"),
    ):
        code, _, err = run(train.main, *given, f"output_dir={tmp_path}/refused", "skeleton.disjoint=true", wrong)
        assert code == 1 and said in err, err
    code, _, err = run(train.main, f"data.train={files[0]}", "data.ratios=[1]", *tiny)
    assert code == 1 and "data.ratios are those of several files" in err


def test_categories_of_different_keypoints_train_and_each_is_scored(write_coco, person, run, tiny, tmp_path):
    categories = [{"id": 1, "name": "person", "keypoints": NAMES}, {"id": 4, "name": "animal", "keypoints": OTHERS}]
    animal = {"keypoints": [36, 40, 2, 24, 40, 1, 30, 6, 2, 10, 10, 2], "category_id": 4}
    path = write_coco([person(1), person(2, 2, **animal)], categories=categories, name="both.json")
    given = [f"data.train={path}", f"data.val={path}", f"output_dir={tmp_path}/run", "trainer.max_steps=1", *tiny]
    code, out, err = run(train.main, *given)
    assert code == 0 and "person+animal: 7 keypoints" in out + err, err
    assert "lacks" not in out + err
    code, out, err = run(evaluation.main, f"ckpt={tmp_path}/run/checkpoints/best.ckpt", f"out={tmp_path}/out")
    assert code == 0 and "AP/person " in out and "AP/animal " in out, err
    for entry in json.loads((tmp_path / "out/predictions.json").read_text()):
        lacks = (0, 1, 2) if entry["category_id"] == 4 else (5, 6)  # the animal has Snout and no head
        assert all(entry["keypoints"][3 * place + 2] == 0 for place in lacks)
    again = run(evaluation.main, f"predictions={tmp_path}/out/predictions.json", f"annotations={path}")[1]
    figures = [[line for line in text.splitlines() if line.startswith("A")] for text in (out, again)]
    assert figures[0] == figures[1] and len(figures[0]) == 12


@pytest.mark.slow
def test_a_resumed_mixture_equals_one_that_was_not_interrupted(files, run, tiny, tmp_path):
    def trained(name, *options):
        given = [f"data.train=[{files[0]},{files[1]}]", "skeleton.renames={Snout: head}", "data.ratios=[1,2]"]
        given += [f"data.images=[{tmp_path},{tmp_path}/zoo]", "data.epoch_steps=4", f"output_dir={tmp_path}/{name}"]
        steady = ["scheduler.warmup_steps=0", "scheduler.milestones=[]"]
        code, _, err = run(train.main, *given, *tiny, "data.batch_size=2", *steady, *options)
        assert code == 0, err
        return torch.load(tmp_path / name / "checkpoints/last.ckpt", weights_only=True)["state_dict"]

    whole = trained("whole", "trainer.max_epochs=2")
    trained("begun", "trainer.max_steps=5")  # within the second epoch
    resumed = trained("resumed", "trainer.max_epochs=2", f"resume={tmp_path}/begun/checkpoints/last.ckpt")
    for name, value in whole.items():
        assert torch.allclose(resumed[name].double(), value.double(), rtol=0, atol=1e-6), name


def test_whole_body_files_have_133_keypoints(write_coco, person):
    body = [f"joint{number}" for number in range(17)]
    parts = {"foot_kpts": 6, "face_kpts": 68, "lefthand_kpts": 21, "righthand_kpts": 21}
    lists = {key: [float(number % 3 + 1) for number in range(3 * count)] for key, count in parts.items()}
    entries = [
        person(1, keypoints=[5, 6, 2] * 17, **lists),
        person(2, keypoints=[5, 6, 2] * 17, **{**lists, "face_kpts": [1, 2]}),
        person(3, keypoints=[5, 6, 2]),
    ]
    index = read_coco(write_coco(entries, categories=[{"id": 1, "name": "person", "keypoints": body}]))
    assert index.num_keypoints == 133 and len(index.keypoint_names) == 133 and not index.other_keypoints
    assert (index.visible > 0).sum(1).tolist() == [133, 65, 0]
    assert index.reasons() == {"keypoints other than x, y and visibility of each": 1}
    assert index.keypoints[0, [16, 17, 132]].tolist() == [[5, 6], [1, 2], [1, 2]]
    del entries[0]["foot_kpts"], entries[1]["foot_kpts"]
    path = write_coco(entries, categories=[{"id": 1, "name": "person", "keypoints": body}], name="part.json")
    assert read_coco(path).num_keypoints == 17  # other lists of one's own


def test_the_end_of_a_run_has_the_late_transforms_of_each_data_set():
    class Constant(PoseDataset):
        def __len__(self):
            return 2

        def sample(self, index, rng):
            return Sample(None, None, np.eye(3), image_id=self.transforms, index=index, image_hw=(1, 1))

    skeleton = Skeleton.build(NAMES, name="any")
    parts = [Constant(skeleton, 1, 0), Constant(skeleton, 2, 0)]
    for part in parts:
        part.late_transforms = 10 * part.transforms
    joined_parts = CombinedDataset(parts, ["a", "b"])
    assert [joined_parts[0, row].image_id for row in range(4)] == [1, 1, 2, 2]
    assert [joined_parts[Late(0, row)].image_id for row in range(4)] == [10, 10, 20, 20]
