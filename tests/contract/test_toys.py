"""Six paradigms from a folder outside the package, through the package's own commands and base class."""

import csv
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from composition import TOYS, coco17, compose

import lightpose
from lightpose.checkpoint import assemble
from lightpose.cli import eval as eval_command
from lightpose.cli import predict as predict_command
from lightpose.cli import train as train_command
from lightpose.cli.setup import make_estimator
from lightpose.data.pixels.device import collate
from lightpose.data.synthetic.generate import generate
from lightpose.errors import UserError
from lightpose.estimators.base import PoseEstimator
from lightpose.structures import Batch

LEARNING = {  # toy → a figure, what it surpasses once the labels are learnt by heart, and how many epochs that takes
    "toy_lifter": ("MPJPE", 250, 60),  # mm, at 3 to 5 m from the camera
    "toy_priors": ("AP50", 0.05, 150),
    "toy_queries": ("AP50", 0.1, 120),
    "toy_stages": ("AP50", 0.5, 50),
    "toy_tags": ("AR50", 0.0, 80),  # to the nearest of coarse cells
    "toy_visibility": ("AP50", 0.4, 70),
}
WHOLE = ("toy_priors", "toy_queries", "toy_tags")
REPORTED = {"toy_lifter": "<h2>Curves</h2>", "toy_tags": "several people are labelled or found"}
IMAGES = sorted(LEARNING.keys() - {"toy_lifter"})
TRUST = "[toy_data,toy_lifter,toy_priors,toy_queries,toy_stages,toy_tags,toy_visibility]"
QUICK = (
    *("trainer.accelerator=cpu", "trainer.precision=32-true", "trainer.log_every_n_steps=1"),
    *("callbacks.progress=null", "callbacks.last=null", "logger.tensorboard=null"),
    *("optimizer.lr=1e-2", "data.num_workers=0", "data.batch_size=4", "estimator.flip_test=false"),
)
BY_HEART = tuple(f"augment.train.geometry.{name}=null" for name in ("flip", "affine", "half_body"))


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
    if folder.exists():  # pytest sets a fixture up again where tests of another parameter came between
        return folder
    *_, epochs = LEARNING[folder.name]
    call(
        train_command.main,
        *("--config-dir", str(TOYS / "conf"), f"experiment={folder.name}", f"output_dir={folder}"),
        *(f"data.train={annotations}", f"data.val={annotations}", *QUICK),
        *(f"trainer.max_epochs={epochs}", f"trainer.check_val_every_n_epoch={epochs}"),
        *(() if folder.name in REPORTED else ("callbacks.report=null",)),
        *(() if folder.name == "toy_lifter" else BY_HEART if folder.name not in WHOLE else BY_HEART[:2]),
    )
    return folder


def column(run: Path, name: str) -> list[float]:
    """What a run logged under a name, in order."""
    (path,) = run.glob("csv/*/metrics.csv")
    with path.open() as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


def loaded(run: Path) -> PoseEstimator:
    return lightpose.load(run / "checkpoints" / "best.ckpt", trust=TRUST.strip("[]").split(",")).eval()


def validation_batch(estimator: PoseEstimator) -> Batch:
    dataset = assemble(estimator.config["data"], skeleton=estimator.skeleton).dataset("val")
    return collate([dataset[index] for index in range(4)])


def built(*overrides: str) -> PoseEstimator:
    return make_estimator(compose(*overrides), coco17()).eval()


@pytest.mark.parametrize("toy", sorted(LEARNING))
def test_a_paradigm_is_a_small_file_that_the_package_does_not_know(toy: str):
    text = (TOYS / f"{toy}.py").read_text()
    assert len(text.splitlines()) < 80
    source = "".join(path.read_text() for path in Path(lightpose.__file__).parent.rglob("*.py"))
    names = [line.split()[1].partition("(")[0].rstrip(":") for line in text.splitlines() if line.startswith("class ")]
    assert names
    assert not [name for name in [toy, *names] if name in source]


def test_a_toy_learns(run: Path):
    loss = column(run, "train/loss")
    assert loss[-1] < 0.5 * loss[0]
    figure, limit, _ = LEARNING[run.name]
    reached = column(run, f"val/{figure}")[-1]
    assert reached < limit if figure == "MPJPE" else reached > limit


@pytest.mark.parametrize("run", sorted(REPORTED), indirect=True)
def test_a_toy_has_the_report_that_its_poses_allow(run: Path):
    page = (run / "report/index.html").read_text()
    assert REPORTED[run.name] in page
    assert (run / "report/curves.png").is_file()


def test_a_toy_is_loaded_only_when_trusted_and_then_predicts(run: Path):
    with pytest.raises(UserError, match=r"wants to run toy_.*trust=.*toy_"):
        lightpose.load(run / "checkpoints" / "best.ckpt")
    estimator = loaded(run)
    with torch.inference_mode():
        poses = estimator.predict_step(validation_batch(estimator), 0)
    assert poses.keypoints.shape == (len(poses), 17, 3 if run.name == "toy_lifter" else 2)
    if run.name in WHOLE:
        assert len(poses) > 4  # several people an image
        assert poses.batch_index.unique().tolist() == [0, 1, 2, 3]
        estimator.codec.threshold = 1.1
        with torch.inference_mode():
            assert estimator.predict_step(validation_batch(estimator), 0).keypoints.shape == (0, 17, 2)
    else:
        assert poses.batch_index.tolist() == [0, 1, 2, 3]


def test_a_toy_is_evaluated_by_the_command(run: Path, tmp_path: Path):
    call(eval_command.main, f"ckpt={run}/checkpoints/best.ckpt", f"trust={TRUST}", f"out={tmp_path}")
    figures = json.loads((tmp_path / "metrics.json").read_text())
    name = LEARNING[run.name][0]
    assert figures[name] == pytest.approx(column(run, f"val/{name}")[-1], rel=1e-4)


@pytest.mark.parametrize("run", IMAGES, indirect=True)
def test_images_are_predicted_by_the_command(run: Path, annotations: Path, tmp_path: Path):
    checkpoint, out = run / "checkpoints" / "best.ckpt", tmp_path / "out"
    given = f"ckpt={checkpoint}", f"trust={TRUST}", f"source={annotations}", f"out={out}", "device=cpu", "draw=false"
    call(predict_command.main, *given)
    found = json.loads((out / "predictions.json").read_text())
    assert len({pose["image_id"] for pose in found}) == 8
    with (out / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(found)
    if run.name == "toy_visibility":
        assert all(len(pose["visibility"]) == 17 and min(pose["visibility"]) >= 0 for pose in found)
        assert [float(rows[0][f"{name}_visibility"]) for name in coco17().keypoints] == found[0]["visibility"]
    if run.name in WHOLE:
        estimator = loaded(run)
        batch = validation_batch(estimator)
        with torch.inference_mode():
            poses = estimator.predict_step(batch, 0).select(slice(1))
        image_id = int(batch.image_ids[poses.batch_index])
        predicted = torch.tensor([pose["keypoints"] for pose in found if pose["image_id"] == image_id]).view(-1, 17, 3)
        torch.testing.assert_close(predicted[:1, :, :2], poses.keypoints, atol=1e-2, rtol=0)


@pytest.mark.parametrize("run", ["toy_tags"], indirect=True)
def test_tags_stand_side_by_side_and_ignored_pixels_teach_nothing(run: Path):
    estimator = loaded(run)
    batch = validation_batch(estimator)
    estimator.flip_test = True
    with torch.inference_mode():
        outputs = estimator.outputs(batch.inputs)
        assert outputs["tag"].shape == (*outputs["heat"].shape, 2)
        assert len(estimator.predict_step(batch, 0)) > 4
    ignore = torch.zeros(4, *batch.inputs.shape[-2:], dtype=torch.bool)
    ignore[:, :48, :64] = True
    targets = estimator.codec.encode(replace(batch, ignore=ignore))
    heat = torch.zeros_like(targets.maps["heat"]).requires_grad_()
    tag = torch.zeros(*heat.shape, 1)
    estimator.net.head.compare({"heat": heat, "tag": tag}, targets)["heat"].backward()
    assert not heat.grad[..., :6, :8].any()
    assert heat.grad.any()


@pytest.mark.parametrize("run", ["toy_tags"], indirect=True)
def test_tags_group_everyone_on_perfect_maps(run: Path):
    estimator = loaded(run)
    batch = validation_batch(estimator)
    targets = estimator.codec.encode(batch)
    cells, here = targets.maps["cell"], targets.weights["cell"]  # (B, M, K)
    tag = torch.zeros_like(targets.maps["heat"]).flatten(2)
    for person in range(cells.shape[1]):
        own = cells[:, person, :, None]
        tag.scatter_(2, own, torch.where(here[:, person, :, None] > 0, 3.0 * person, tag.gather(2, own)))
    heat = targets.maps["heat"]
    found = estimator.codec.decode({"heat": heat, "tag": tag.view_as(heat)[..., None]})
    truth, labelled = batch.instances.keypoints, here > 0
    for row in range(4):
        people = found.keypoints[found.batch_index == row]
        scored = found.keypoint_scores[found.batch_index == row] > 0
        expected = truth[row][labelled[row].any(-1)]
        assert len(people) == len(expected)
        error_px = (people[:, None] - expected).norm(dim=-1) * scored[:, None]  # everyone with everyone
        assert error_px.amax(-1).amin(1).max() < 4 * 2**0.5 + 0.1  # half a cell


def test_candidates_without_order_are_not_flipped():
    with pytest.raises(UserError, match=r"PeopleCodec can't join .* set estimator\.flip_test=false"):
        built("experiment=toy_queries", "estimator.flip_test=true")


@pytest.mark.parametrize("run", ["toy_queries"], indirect=True)
def test_queries_learn_from_noisy_labels_beside(run: Path):
    denoised = column(run, "train/denoise")
    assert denoised[-1] < 0.5 * denoised[0]


def test_the_network_alone_knows_how_many_priors_there_are():
    estimator = built("experiment=toy_priors")
    for height, width in ((96, 128), (64, 160)):
        inputs = torch.zeros(1, 3, height, width, dtype=torch.uint8)
        count = sum((height // stride) * (width // stride) for stride in (8, 16, 32))
        with torch.inference_mode():
            outputs = estimator.outputs(inputs)
        assert outputs["points"].shape == (1, count, 17, 2)
        estimator.codec.decode(outputs)


@pytest.mark.parametrize("run", ["toy_stages"], indirect=True)
def test_each_stage_has_its_loss(run: Path):
    first, last = column(run, "train/heatmap_0"), column(run, "train/heatmap_1")
    assert first[-1] < 0.5 * first[0]
    assert last[-1] < 0.5 * last[0]


def test_the_plain_heatmap_head_reads_the_last_stage():
    estimator = built("experiment=toy_stages", "head=heatmap")
    features = [
        maps.detach().requires_grad_() for maps in estimator.net.features(torch.ones(1, 3, 96, 64, dtype=torch.uint8))
    ]
    first, last = torch.autograd.grad(estimator.net.head(features)["heatmap"].sum(), features, allow_unused=True)
    assert first is None
    assert last.any()
