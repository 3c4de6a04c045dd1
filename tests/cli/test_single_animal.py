"""Images of one subject each and no boxes, through the commands."""

import json
import subprocess
import sys

import numpy as np
import pytest

import lightpose
from lightpose.checkpoint import read
from lightpose.cli import data, predict, train
from lightpose.cli import eval as eval_command
from lightpose.data.coco.results import read_coco_results

NETWORK = ["backbone=timm/any", "backbone.model=test_resnet", "max_input_pixels=4096"]


@pytest.fixture(scope="module")
def frames(people, tmp_path_factory):
    """The drawn people, one of each image, without boxes; in the first image nobody is labelled."""
    content = json.loads(people.read_text())
    lone = {entry["image_id"]: entry for entry in content["annotations"]}
    del lone[content["images"][0]["id"]]
    content["annotations"] = [
        {key: value for key, value in entry.items() if key not in ("bbox", "area")} for entry in lone.values()
    ]
    path = tmp_path_factory.mktemp("frames") / "frames.json"
    path.write_text(json.dumps(content))
    return path


@pytest.fixture(scope="module")
def given(people, frames, tiny):
    """Arguments of a small training."""
    small = [option for option in tiny if not option.startswith(("backbone", "input_hw"))] + NETWORK
    files = [f"data.train={frames}", f"data.val={frames}", f"data.images={people.parent / 'images'}"]
    return ["experiment=single_animal", *files, *small]


def test_it_trains_predicts_and_is_evaluated_on_whole_images(run, given, people, frames, tmp_path):
    images = people.parent / "images"
    code, said, err = run(train.main, *given, "trainer.max_epochs=1", f"output_dir={tmp_path}/run")
    assert code == 0, err
    assert "nothing is labelled in 1 of 12 images" in said
    checkpoint = tmp_path / "run/checkpoints/last.ckpt"
    config = read(checkpoint)["lightpose"]["config"]
    height, width = config["input_hw"]
    assert f"input {height}x{width} for images of" in said and height * width <= 4096
    assert config["data"]["input_hw"] == config["estimator"]["input_hw"] == [height, width]

    evaluated = f"ckpt={checkpoint}", f"annotations={frames}", f"images={images}", f"out={tmp_path}/scored"
    code, out, err = run(eval_command.main, *evaluated)
    assert code == 0 and "EPE_px" in out, err
    found = {}
    for source in (people, frames, images):  # with boxes, without, and no annotations at all
        to = tmp_path / source.name
        shown = [f"images={images}"] if source.suffix else []
        code, said, err = run(predict.main, f"ckpt={checkpoint}", f"source={source}", f"out={to}", "draw=false", *shown)
        assert code == 0 and "left out" not in said, err
        poses = read_coco_results(to / "predictions.json")
        assert len(poses) == 12
        found[source] = np.array([pose["keypoints"] for pose in poses]).reshape(12, -1, 3)[..., :2]
    for source in (frames, images):
        np.testing.assert_allclose(found[source], found[people], atol=1e-3)
    scored = {pose["image_id"]: pose for pose in read_coco_results(tmp_path / "scored/predictions.json")}
    points = [scored[image["id"]]["keypoints"] for image in json.loads(people.read_text())["images"]]
    np.testing.assert_allclose(np.array(points).reshape(12, -1, 3)[..., :2], found[people], atol=1e-2)

    code, _, err = run(predict.main, f"ckpt={checkpoint}", f"source={images}", "detector=whole_image")
    assert code == 1 and "takes whole images; leave detector= out" in err
    with pytest.raises(lightpose.errors.UserError, match="takes whole images; leave boxes out"):
        lightpose.Predictor(checkpoint, device="cpu")(str(next(images.iterdir())), boxes=[[1, 1, 9, 9]])


def test_one_image_trains(run, given, frames, tmp_path):
    content = json.loads(frames.read_text())
    content["annotations"] = content["annotations"][:1]
    shown = content["annotations"][0]["image_id"]
    content["images"] = [image for image in content["images"] if image["id"] == shown]
    (tmp_path / "one.json").write_text(json.dumps(content))
    files = [f"data.train={tmp_path}/one.json", f"data.val={tmp_path}/one.json", f"output_dir={tmp_path}/run"]
    code, _, err = run(train.main, *given, *files, "trainer.max_epochs=1")
    assert code == 0, err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["reader=coco"], "a sample of CocoInstances is a box; give height and width, such as input_hw=[256,256]"),
        (
            ["reader=coco", "input_hw=[64,64]"],
            "WholeImage takes a whole image with one person in it; use reader=coco_fra",
        ),
        (["estimator=topdown"], "a sample of CocoFrames is a whole image with one person in it, but TopDown takes one"),
        (["input_hw=large"], "input_hw=large is no size of images; give height and width"),
        (["max_input_pixels=2000", "max_input_pixels=1000"], "max_input_pixels=1000: expected at least 1024"),
        (["data.train=null"], "data.train is not given"),
    ],
)
def test_parts_that_do_not_fit_are_refused(run, given, tmp_path, options, said):
    changed = [option.partition("=")[0] for option in options]
    kept = [option for option in given if option.partition("=")[0] not in changed]
    code, _, err = run(train.main, *kept, *options, f"output_dir={tmp_path}/run")
    assert code == 1 and said in err.replace("\n", " "), err
    assert not (tmp_path / "run").exists()


def test_samples_are_shown_and_files_checked(run, given, frames, people, tmp_path):
    out = tmp_path / "preview.png"
    code, _, err = run(data.main, "preview", *given, f"out={out}", "count=4")
    assert code == 0 and out.is_file(), err
    images = people.parent / "images"
    code, found, err = run(data.main, "check", f"data.train={frames}", f"data.images={images}")
    assert code == 0 and "11 usable" in found and "no annotation has a box; experiment=single_animal" in found, err


def test_the_machine_chooses_the_network_and_a_cpu_does_not_wait_for_torch(run, tmp_path):
    code = "import sys; from lightpose.cli.train import main; main(); print('torch' in sys.modules)"
    chosen = ["experiment=single_animal", "trainer.accelerator=cpu"]
    made = subprocess.check_output([sys.executable, "-c", code, *chosen, "--cfg", "job"], text=True, cwd=tmp_path)
    assert "model: regnetx_002" in made and made.endswith("False\n")
    assert not list(tmp_path.iterdir())
    assert "model: resnet18" in run(train.main, *chosen, "backbone=timm/resnet18", "--cfg", "job")[1]


def test_other_callbacks_can_be_chosen(run, given, tmp_path):
    steps = "trainer.max_steps=1", "callbacks.report=null", "callbacks.pictures=null"
    code, _, err = run(train.main, *given, "callbacks=default", *steps, f"output_dir={tmp_path}/run")
    assert code == 0, err
    code, out, err = run(train.main, *given, "+callbacks.mine.a=1", *steps, f"output_dir={tmp_path}/other")
    assert code == 1 and "Error getting object" not in out + err
    assert "+callbacks.mine.a=1: expected a part with its _target_" in err or "callbacks.mine={'a': 1}" in err
