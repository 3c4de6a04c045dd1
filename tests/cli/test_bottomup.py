"""Whole images with everyone in them, from the command line: real crowds, nobody at all, and what is refused."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import lightpose
from lightpose.checkpoint import eval_transforms
from lightpose.cli import eval as eval_command
from lightpose.cli import predict, train
from lightpose.data.coco.dataset import CocoImages
from lightpose.data.pixels.device import collate
from lightpose.data.synthetic.generate import generate
from lightpose.structures import Poses

SAMPLES = Path(__file__).parents[2] / "../shared/samples"
SMALL = [
    *("experiment=quickstart_bottomup", "backbone.model=test_resnet", "neck.out_channels=8"),
    *("data.num_workers=0", "data.batch_size=4", "trainer.accelerator=cpu", "trainer.precision=32-true"),
    *("callbacks.progress=null", "callbacks.report=null", "logger.tensorboard=null", "trainer.log_every_n_steps=1"),
    *("trainer.enable_model_summary=false", "trainer.check_val_every_n_epoch=1"),
]


@pytest.fixture(scope="module")
def content(people) -> dict:
    """The drawn people; the first four images show nobody."""
    made = json.loads(people.read_text())
    bare = {image["id"] for image in made["images"][:4]}
    made["annotations"] = [entry for entry in made["annotations"] if entry["image_id"] not in bare]
    return made


@pytest.fixture
def annotations(people, content, tmp_path) -> Path:
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(content))
    (tmp_path / "images").symlink_to(people.parent / "images")
    return path


def test_images_without_people_train_and_are_evaluated(run, annotations, tmp_path):
    """A batch of nobody at all has a finite loss; of four images each batch of the first epoch may be one."""
    bare = json.loads(annotations.read_text())
    bare["images"] = bare["images"][:5]
    bare["annotations"] = [entry for entry in bare["annotations"] if entry["image_id"] == bare["images"][4]["id"]]
    few = annotations.with_name("few.json")
    few.write_text(json.dumps(bare))
    folder = tmp_path / "run"
    given = (f"data.train={few}", f"data.val={annotations}", f"output_dir={folder}", "reader.empty_images=true")
    code, out, err = run(train.main, *SMALL, *given, "data.batch_size=2", "trainer.max_epochs=2")
    assert code == 0, out + err
    with next(folder.glob("csv/*/metrics.csv")).open() as file:
        losses = [row[name] for row in csv.DictReader(file) for name in ("train/loss", "val/loss") if row[name]]
    assert len(losses) > 4
    assert np.isfinite([float(loss) for loss in losses]).all()
    checkpoint = folder / "checkpoints/best.ckpt"
    estimator = lightpose.load(checkpoint, training=True)
    dataset = CocoImages(few, empty_images=True, transforms=eval_transforms(estimator))
    nobody = collate([dataset[index] for index in range(4)])
    assert not nobody.instances.valid.any()
    losses = estimator.train().losses(nobody)
    assert all(loss.isfinite() for loss in losses.values())
    losses["loss"].backward()
    assert all(each.grad.isfinite().all() for each in estimator.parameters() if each.grad is not None)

    code, out, err = run(eval_command.main, f"ckpt={checkpoint}", f"out={tmp_path / 'out'}")
    assert code == 0, out + err
    assert len(evaluated_images(annotations)) == 12
    assert (tmp_path / "out/predictions.json").is_file()


def evaluated_images(annotations: Path) -> list[int]:
    """Those that are evaluated on, with and without people."""
    dataset = CocoImages(annotations)
    dataset.training = False
    return list(dataset.image_rows)


def test_an_image_without_people_yields_no_pose_and_imagined_ones_cost_precision(run, annotations, tmp_path):
    """The maps of a new network are flat, so it finds nobody; one that sees people everywhere loses precision."""
    folder = tmp_path / "run"
    files = (f"data.train={annotations}", f"data.val={annotations}", f"output_dir={folder}")
    code, out, err = run(train.main, *SMALL, *files, "trainer.max_epochs=1", "optimizer.lr=1e-9")
    assert code == 0, out + err
    checkpoint = folder / "checkpoints/last.ckpt"
    code, _, err = run(predict.main, f"ckpt={checkpoint}", f"source={annotations}", f"out={tmp_path / 'out'}")
    assert code == 0, err
    assert json.loads((tmp_path / "out/predictions.json").read_text()) == []
    assert len(list((tmp_path / "out/overlays").iterdir())) == 12

    estimator = lightpose.load(checkpoint, training=True)
    [metric] = [metric for metric in estimator.metrics if hasattr(metric, "set_ground_truth")]
    dataset = CocoImages(annotations, transforms=eval_transforms(estimator))
    dataset.training = False
    metric.set_ground_truth(dataset.ground_truth())
    batch = collate([dataset[index] for index in range(12)])
    rows, people = batch.instances.valid.nonzero().unbind(-1)
    keypoints = batch.instances.keypoints[rows, people]

    def precision(imagined: int) -> float:
        """Of perfect poses, and of so many more with the highest scores, in images without people."""
        index = torch.cat([rows, torch.arange(imagined) % 4])
        points = torch.cat([keypoints, keypoints[:1].expand(imagined, -1, -1)])
        ones = torch.ones(len(index), 17)
        scores = torch.cat([torch.full([len(rows)], 0.5), torch.ones(imagined)])
        metric.reset()
        metric.update(estimator.to_image(Poses(points, ones, scores, index), batch), batch)
        return metric.compute()["AP"]

    assert precision(0) == pytest.approx(1.0)
    assert precision(4) < 0.9


@pytest.mark.parametrize("name", ["crowdpose", "ochuman"])
def test_real_crowds_load_and_train(run, tmp_path, name):
    folder = SAMPLES / name
    if not folder.is_dir():
        pytest.skip("real samples are not here")
    file = (folder / f"test_{name}.json").resolve()
    given = (f"data.train={file}", f"data.val={file}", f"output_dir={tmp_path / 'run'}", "augment=bottomup_published")
    code, out, err = run(train.main, *SMALL, *given, "data.batch_size=2", "trainer.max_epochs=1")
    assert code == 0, out + err
    figures = (next((tmp_path / "run").glob("csv/*/metrics.csv"))).read_text()
    assert ("val/AP_M" in figures) == (name == "crowdpose")
    dataset = CocoImages(file)
    assert sum(len(dataset.load(index, np.random.default_rng(0)).instances.ids) for index in range(len(dataset))) >= 4


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            ["data=bottomup", "augment=bottomup", "backbone=timm/any", "backbone.model=test_resnet"],
            "a sample of CocoImages is whole images, with everyone in them, but TopDown takes one person in a box; "
            "use reader=coco",
        ),
        (
            ["experiment=quickstart_bottomup", "data=topdown"],
            "a sample of CocoInstances is one person in a box, but BottomUp takes whole images, with everyone in them; "
            "use reader=coco_images",
        ),
        (["experiment=quickstart_bottomup", "augment=topdown"], "is for samples of one person"),
        (
            ["experiment=bottomup_ae_hrnet", "backbone=timm/any", "backbone.model=test_resnet", "head=heatmap"],
            "head=associative_embedding",
        ),
        (["experiment=quickstart_bottomup", "codec=heatmap", "~codec.score_threshold"], "codec=associative_embedding"),
        (
            ["experiment=quickstart_bottomup", "head=heatmap"],
            "head.criterion.pull=0.001 head.criterion.push=0.001: lightpose.models.losses.heatmap.KeypointMSE has no "
            "such option; it has none. experiment=quickstart_bottomup has another head, and sets head.criterion.pull "
            "and head.criterion.push for it; remove that with '~head.criterion.pull' '~head.criterion.push'",
        ),
        (
            [
                *("experiment=quickstart_bottomup", "head=heatmap"),
                *("~head.criterion.pull", "~head.criterion.push"),
            ],
            "use head=associative_embedding or codec=heatmap",
        ),
        (
            ["experiment=bottomup_yoloxpose_m", "neck=fpn"],
            "sets neck.blocks for it; remove that with '~neck.blocks'",
        ),
        (
            ["experiment=quickstart", "codec=simcc", "head=simcc"],
            "codec.sigma=0.9: expected a list, each of it a number or null. experiment=quickstart has another codec, "
            "and sets codec.sigma for it; remove that with '~codec.sigma'",
        ),
        (
            ["experiment=quickstart_bottomup", "head=heatmap", "head.criterion.pull=1"],
            "has another head, and sets head.criterion.push for it; remove that with '~head.criterion.push'",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(run, people, tmp_path, monkeypatch, given, said):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(train.main, *given, f"data.train={people}", "trainer.accelerator=cpu", "data.num_workers=0")
    assert code == 1 and "Traceback" not in err
    assert said in " ".join(err.split())


@pytest.mark.slow
def test_associative_embedding_learns_people_by_heart(run, tmp_path):
    annotations = generate(tmp_path / "data", images=8, seed=0, image_hw=(96, 128))
    given = (f"data.train={annotations}", f"data.val={annotations}", f"output_dir={tmp_path / 'run'}")
    own = ("input_hw=[96,128]", "trainer.max_epochs=150", "trainer.check_val_every_n_epoch=150", "data.batch_size=8")
    own += ("augment.train.geometry.affine=null", "augment.train.geometry.flip=null", "estimator.flip_test=false")
    code, out, err = run(train.main, *SMALL[:2], *SMALL[3:-1], "data.num_workers=0", *given, *own, "optimizer.lr=1e-2")
    assert code == 0, out + err
    with next((tmp_path / "run").glob("csv/*/metrics.csv")).open() as file:
        [precision] = [float(row["val/AP"]) for row in csv.DictReader(file) if row.get("val/AP")]
    assert precision > 0.5
