"""Two paradigms from a folder outside the package, through the package's own commands and base class."""

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from composition import TOYS

import lightpose
from lightpose.checkpoint import assemble
from lightpose.cli import eval as eval_command
from lightpose.cli import predict as predict_command
from lightpose.cli import train as train_command
from lightpose.data.pixels.device import collate
from lightpose.data.synthetic.generate import generate
from lightpose.errors import UserError
from lightpose.estimators.base import PoseEstimator
from lightpose.structures import Batch

TRUST = ("toy_bottomup", "toy_lifter", "toy_data")
LEARNING = {  # by heart, so without mirror images
    "toy_bottomup": ("data.batch_size=4", "augment.train.geometry.flip=null", "estimator.flip_test=false"),
    "toy_lifter": ("data.batch_size=8", "estimator.flip_test=false"),
}
QUICK = (
    *("trainer.accelerator=cpu", "trainer.precision=32-true", "trainer.log_every_n_steps=1"),
    *("callbacks.progress=null", "callbacks.last=null", "logger.tensorboard=null"),
    *("trainer.max_epochs=50", "trainer.check_val_every_n_epoch=25", "optimizer.lr=1e-2", "data.num_workers=0"),
)


def call(main: Callable[[], None], *arguments: str) -> None:
    """A command as its console script runs it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["lightpose", *arguments])
        main()


@pytest.fixture(scope="module")
def annotations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate(tmp_path_factory.mktemp("toys") / "data", images=8, seed=0, image_hw=(96, 128))


@pytest.fixture(scope="module", params=sorted(LEARNING))
def run(request: pytest.FixtureRequest, annotations: Path) -> Path:
    """The folder of a run of ``lightpose-train``; its name is that of the toy."""
    folder = annotations.parents[1] / str(request.param)
    data = (f"data.train={annotations}", f"data.val={annotations}")
    toy = ("--config-dir", str(TOYS / "conf"), f"experiment={folder.name}", f"output_dir={folder}")
    call(train_command.main, *toy, *data, *QUICK, *LEARNING[folder.name])
    return folder


def column(run: Path, name: str) -> list[float]:
    """What a run logged under a name, in order."""
    (path,) = run.glob("csv/*/metrics.csv")
    with path.open() as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


def validation_batch(estimator: PoseEstimator) -> Batch:
    dataset = assemble(estimator.config["data"], skeleton=estimator.skeleton).dataset("val")
    return collate([dataset[index] for index in range(4)])


@pytest.mark.parametrize("toy", sorted(LEARNING))
def test_a_paradigm_is_a_small_file(toy: str):
    assert len((TOYS / f"{toy}.py").read_text().splitlines()) < 80


def test_a_toy_learns(run: Path):
    loss = column(run, "train/loss")
    assert loss[-1] < 0.5 * loss[0]
    if run.name == "toy_lifter":
        assert column(run, "val/MPJPE")[-1] < 130  # mm; the mean of these bodies is 221 mm off
    else:
        assert column(run, "val/AP50")[-1] > 0.5


def test_a_toy_is_loaded_only_when_trusted_and_then_predicts(run: Path):
    checkpoint = run / "checkpoints" / "best.ckpt"
    with pytest.raises(UserError, match=r"wants to run toy_.*trust=\[toy_"):
        lightpose.load(checkpoint)
    estimator = lightpose.load(checkpoint, trust=TRUST)
    batch = validation_batch(estimator)
    with torch.inference_mode():
        poses = estimator.predict_step(batch, 0)
    if run.name == "toy_lifter":
        assert poses.keypoints.shape == (4, 17, 3)
        assert poses.keypoints.mean(1).abs().max() < 200  # mm: around the body's middle
    else:
        assert poses.keypoints.shape == (len(poses), 17, 2)
        assert len(poses) > 4  # several people an image
        assert poses.batch_index.unique().tolist() == [0, 1, 2, 3]
        estimator.codec.threshold = 1.1
        assert estimator.predict_step(batch, 0).keypoints.shape == (0, 17, 2)


def test_a_toy_is_evaluated_by_the_command(run: Path, tmp_path: Path):
    call(
        eval_command.main,
        f"ckpt={run}/checkpoints/best.ckpt",
        f"trust=[{','.join(TRUST)}]",
        f"out={tmp_path}",
    )
    figures = json.loads((tmp_path / "metrics.json").read_text())
    name, best = ("MPJPE", min) if run.name == "toy_lifter" else ("AP", max)
    assert figures[name] == pytest.approx(best(column(run, f"val/{name}")), rel=1e-4)


@pytest.mark.parametrize("run", ["toy_bottomup"], indirect=True)
def test_bottom_up_predicts_whole_images_by_the_command(run: Path, annotations: Path, tmp_path: Path):
    checkpoint, out = run / "checkpoints" / "best.ckpt", tmp_path / "out"
    call(
        predict_command.main,
        *(
            f"ckpt={checkpoint}",
            f"trust=[{','.join(TRUST)}]",
            f"source={annotations}",
            f"out={out}",
            "device=cpu",
            "draw=false",
        ),
    )
    found = json.loads((out / "predictions.json").read_text())
    assert len({pose["image_id"] for pose in found}) == 8
    batch = validation_batch(estimator := lightpose.load(checkpoint, trust=TRUST))
    with torch.inference_mode():
        poses = estimator.predict_step(batch, 0)
    image_id = int(batch.image_ids[0])
    expected = poses.keypoints[poses.batch_index == 0]
    predicted = [torch.tensor(pose["keypoints"]).view(17, 3) for pose in found if pose["image_id"] == image_id]
    torch.testing.assert_close(torch.stack(predicted)[..., :2], expected, atol=1e-2, rtol=0)


@pytest.mark.parametrize("run", ["toy_bottomup"], indirect=True)
def test_bottom_up_finds_everyone_on_perfect_maps(run: Path, annotations: Path):
    estimator = lightpose.load(run / "checkpoints" / "best.ckpt", trust=TRUST)
    batch = validation_batch(estimator)
    targets = estimator.codec.encode(batch)
    certain = {**targets.maps, "center": torch.logit(targets.maps["center"], eps=1e-6)}
    poses = estimator.to_image(estimator.codec.decode(certain), batch)
    file = json.loads(annotations.read_text())
    for row, image_id in enumerate(batch.image_ids.tolist()):
        people = [entry["keypoints"] for entry in file["annotations"] if entry["image_id"] == image_id]
        truth = torch.tensor(people).view(-1, 1, 17, 3)
        found = poses.keypoints[poses.batch_index == row]
        assert len(found) == len(truth)
        error_px = ((truth[..., :2] - found).norm(dim=-1) * (truth[..., 2] > 0)).amax(-1)  # everyone with everyone
        assert error_px.amin(1).max() < 1e-2
