"""Bottom-up models learn a few pictures of several people by heart, through the command that trains."""

import csv
import sys
from pathlib import Path

import pytest
from composition import TOYS

from lightpose.cli import train as train_command
from lightpose.data.synthetic.generate import generate

SETUP = (
    *("trainer.accelerator=cpu", "trainer.precision=32-true", "trainer.log_every_n_steps=1"),
    *(f"callbacks.{name}=null" for name in ("progress", "last", "pictures", "report")),
    *("logger.tensorboard=null", "data.num_workers=0"),
    *("augment.train.geometry.affine=null", "augment.train.geometry.flip=null", "estimator.flip_test=false"),
    *("metric.oks.score_mode=keypoint", "metric.oks.nms=none"),
)
ONE_STAGE = (
    *("codec=onestage", "backbone.levels=2", "neck=toy_levels", "metric.oks.score_mode=bbox", "data.batch_size=8"),
    *("head.criterion.keypoints=10", "head.criterion.distances=5", "optimizer.lr=5e-3", "scheduler=cosine"),
)
FAMILIES = {  # options, epochs, and the AP that they reach
    "dekr": (
        *("head=dekr", "codec=displacement", "codec.stride=8", "codec.sigma=1", "codec.center_sigma=1.5"),
        *("head.branch_channels=4", "head.criterion.displacement_weight=0.05"),
        *("optimizer.lr=1e-2", "data.batch_size=4"),
        *(45, 0.05),
    ),
    "cid": ("head=cid", "codec=cid", "optimizer.lr=5e-3", "data.batch_size=8", 80, 0.05),
    "yoloxpose": ("head=yoloxpose", *ONE_STAGE, 160, 0.7),
    "rtmo": (
        *("head=rtmo", "head.group_channels=4", "head.bins=[24,32]", "head.tokens=32", "head.likelihood=5"),
        *(*ONE_STAGE, 160, 0.4),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_learns_by_heart(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    annotations = generate(tmp_path / "data", images=8, seed=0, image_hw=(96, 128))
    *options, epochs, expected = FAMILIES[family]
    length = (f"trainer.max_epochs={epochs}", f"trainer.check_val_every_n_epoch={epochs}")
    files = (f"data.train={annotations}", f"data.val={annotations}", f"output_dir={tmp_path / 'run'}")
    toy = ("--config-dir", str(TOYS / "conf"), "experiment=toy_tags")
    monkeypatch.setattr(sys, "argv", ["lightpose", *toy, *SETUP, *options, *length, *files])
    train_command.main()
    (path,) = (tmp_path / "run").glob("csv/*/metrics.csv")
    with path.open() as file:
        rows = list(csv.DictReader(file))
    losses = [float(row["train/loss"]) for row in rows if row["train/loss"]]
    assert losses[-1] < 0.3 * losses[0]
    (found,) = [{name: float(row[f"val/{name}"]) for name in ("AP", "AP50")} for row in rows if row["val/AP"]]
    assert found["AP"] > expected
    assert found["AP50"] > 0.4
