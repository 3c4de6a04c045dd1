import errno
import json
import math
import os
import re
from typing import ClassVar

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from omegaconf import OmegaConf

import lightpose
from lightpose.cli import eval, train


class Shown(Callback):
    """Keeps what the progress bar shows of a validation."""

    names: ClassVar[set[str]] = set()

    def on_validation_end(self, trainer, pl_module):
        Shown.names |= trainer.progress_bar_metrics.keys()


def test_a_run_leaves_all_that_it_promises(trained):
    for name in (
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "config.yaml",
        "pictures/epoch_001.png",
        "report/index.html",
    ):
        assert (trained / name).is_file()
    rows = (trained / "csv/version_0/metrics.csv").read_text()
    assert "val/AP" in rows and "val/loss" in rows and "speed/data_wait" in rows


def test_errors_in_pixels_stand_beside_the_figure_that_chooses(run, people, tiny, tmp_path):
    given = [f"data.train={people}", f"data.val={people}", f"output_dir={tmp_path}/run", "trainer.max_epochs=1"]
    code, out, err = run(train.main, *given, *tiny, f"+callbacks.shown={{_target_: {__name__}.Shown}}")
    assert code == 0 and "best val/AP" in out + err
    logged = (tmp_path / "run/csv/version_0/metrics.csv").read_text().splitlines()[0].split(",")
    assert set(logged) >= {f"val/EPE_px{which}" for which in ("", "_median", "_p90", "/nose", "/left_knee")}
    assert {"val/AP", "val/EPE_px"} <= Shown.names and not any("/nose" in name for name in Shown.names)


def test_checkpoint_is_self_contained_plain_data(trained):
    content = torch.load(trained / "checkpoints/last.ckpt", weights_only=True)
    assert content["lightpose"]["version"] == lightpose.__version__
    estimator = lightpose.load(trained / "checkpoints/last.ckpt")
    assert not estimator.training and estimator.skeleton.num_keypoints == 17


def _weights(folder, name="last"):
    return torch.load(folder / f"checkpoints/{name}.ckpt", weights_only=True)["state_dict"]


@pytest.mark.parametrize("callbacks", ["default", "ema"])
def test_resumed_equals_uninterrupted(run, people, tiny, tmp_path, callbacks):
    common = [f"data.train={people}", "trainer.max_epochs=4", f"callbacks={callbacks}", *tiny]
    every = ["callbacks.last.save_top_k=-1", "callbacks.last.filename='{epoch}'", f"output_dir={tmp_path}/whole"]
    code, _, err = run(train.main, *common, *every)
    assert code == 0, err
    interrupted = tmp_path / "whole/checkpoints/epoch=1.ckpt"
    code, _, err = run(train.main, *common, f"resume='{interrupted}'", f"output_dir={tmp_path}/resumed")
    assert code == 0, err
    whole, resumed = _weights(tmp_path / "whole", "epoch=3"), _weights(tmp_path / "resumed")
    for name, tensor in whole.items():
        assert torch.allclose(tensor.double(), resumed[name].double(), rtol=0, atol=1e-6), name


def test_resume_goes_on_in_the_same_folder(run, people, tiny, tmp_path):
    common = [f"data.train={people}", *tiny]
    assert run(train.main, *common, "trainer.max_epochs=1", f"output_dir={tmp_path}/run")[0] == 0
    last = tmp_path / "run/checkpoints/last.ckpt"
    assert run(train.main, *common, "trainer.max_epochs=2", f"resume={last}")[0] == 0
    assert torch.load(last, weights_only=True)["epoch"] == 1
    assert (tmp_path / "run/csv/version_0/metrics.csv").exists()  # the first log is not lost
    code, _, err = run(train.main, *common, "trainer.max_epochs=2", f"resume={last}")
    assert code == 1 and "finished run (2 epochs" in err


def test_a_run_whose_time_has_gone_says_so_when_resumed(run, people, tiny, tmp_path):
    common = [f"data.train={people}", *tiny, "trainer.max_epochs=1000", "trainer.max_time={milliseconds: 100}"]
    assert run(train.main, *common, f"output_dir={tmp_path}/run")[0] == 0
    last = tmp_path / "run/checkpoints/last.ckpt"
    content = last.read_bytes()
    code, _, err = run(train.main, *common, f"resume={last}")
    assert code == 1 and "trainer.max_time counts them" in err and "Traceback" not in err
    assert last.read_bytes() == content


def test_the_best_weights_are_no_state_of_training(run, people, tiny, trained):
    best, last = (trained / f"checkpoints/{name}.ckpt" for name in ("best", "last"))
    assert best.stat().st_size < last.stat().st_size / 2
    assert torch.load(best, weights_only=True).keys() >= {"state_dict", "lightpose", "epoch", "global_step"}
    code, _, err = run(train.main, f"data.train={people}", *tiny, "trainer.max_epochs=4", f"resume={best}")
    assert code == 1 and f"go on with resume={last}, or " in err and "init_from=" in err and "Traceback" not in err


def test_init_from_takes_what_fits(run, people, tiny, trained, tmp_path):
    checkpoint = trained / "checkpoints/last.ckpt"
    common = [f"data.train={people}", *tiny, "trainer.max_epochs=1", f"output_dir={tmp_path}/run"]
    code, out, err = run(train.main, *common, f"init_from={checkpoint}", "optimizer.lr=0", "head.channels=12")
    assert code == 0, err
    assert "skipped" in out + err
    before, after = _weights(trained), _weights(tmp_path / "run")
    kept = [name for name, tensor in before.items() if "backbone" in name and name.endswith("conv1.weight")]
    assert kept and all(torch.equal(before[name], after[name]) for name in kept)


def test_multirun_runs_all_and_prints_their_figures(run, people, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sweep = ["-m", "optimizer.lr=1e-3,5e-4", f"data.train={people}", f"data.val={people}", "trainer.max_epochs=1"]
    code, out, err = run(train.main, *sweep, *tiny)
    assert code == 0, err
    lines = [line.split() for line in out.splitlines() if line.endswith("finished")]
    assert "optimizer.lr" in out and [float(line[1]) >= 0 for line in lines] == [True, True]
    assert [line[2] for line in lines] == ["0.001", "0.0005"]
    [folder] = (tmp_path / "outputs/custom").iterdir()
    assert (folder / "0/checkpoints/best.ckpt").exists() and (folder / "1/checkpoints/best.ckpt").exists()


def test_learning_rate_is_scaled_on_request(run, people, tiny, tmp_path):
    options = ["estimator.base_batch=32", "optimizer.lr=1e-3", "scheduler.warmup_steps=0", "trainer.max_epochs=1"]
    logs = ["trainer.accumulate_grad_batches=2", f"output_dir={tmp_path}/run"]
    code, out, err = run(train.main, f"data.train={people}", *options, *logs, *tiny)
    assert code == 0 and "16 / 32" in out + err
    assert "0.0005" in (tmp_path / "run/csv/version_0/metrics.csv").read_text()
    large = ["data.batch_size=1000", f"output_dir={tmp_path}/large"]
    code, out, err = run(train.main, f"data.train={people}", *tiny, *options, *large)
    cut = re.search(r"batch_size=1000 is cut to (\d+)", out + err)
    assert code == 0 and cut and f"scaled by {cut[1]} / 32" in out + err


def test_full_disk_keeps_the_checkpoint_before(run, people, tiny, tmp_path, monkeypatch):
    saved = tmp_path / "run/checkpoints/last.ckpt"
    common = [f"data.train={people}", f"output_dir={tmp_path}/run", *tiny]
    assert run(train.main, *common, "trainer.max_epochs=1")[0] == 0
    before = saved.read_bytes()

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    code, _, err = run(train.main, *common, "trainer.max_epochs=3", f"resume={saved}")
    assert code == 1 and "disk is full" in err and "resume=" in err
    assert saved.read_bytes() == before and list(saved.parent.iterdir()) == [saved]


def test_eval_writes_what_it_scored_and_scores_it_again(run, people, trained, tmp_path):
    checkpoint = trained / "checkpoints/best.ckpt"
    code, out, err = run(eval.main, f"ckpt={checkpoint}", f"annotations={people}", f"out={tmp_path}", "num_workers=0")
    assert code == 0, err
    figures = json.loads((tmp_path / "metrics.json").read_text())
    assert set(figures) >= {"AP", "AP50", "AP75", "APM", "APL", "AR", "AR50", "AR75", "ARM", "ARL", "loss"}
    header = (tmp_path / "predictions.csv").read_text().splitlines()[0]
    assert "left_ankle_x" in header
    code, out, err = run(eval.main, f"predictions={tmp_path}/predictions.json", f"annotations={people}")
    assert code == 0, err
    again = dict(line.split(maxsplit=1) for line in out.splitlines() if line.startswith("A"))
    assert len(again) == 10
    for name, value in again.items():
        assert (value.startswith("n/a") and figures[name] is None) or math.isclose(
            float(value), figures[name], abs_tol=5e-5
        )


def test_eval_measures_each_person_against_its_own_labels(run, people, trained, tmp_path):
    checkpoint, content = trained / "checkpoints/best.ckpt", json.loads(people.read_text())
    given = [f"annotations={people}", f"out={tmp_path}", "num_workers=0", "precision=32-true"]
    assert run(eval.main, f"ckpt={checkpoint}", *given)[0] == 0
    predict, errors = lightpose.Predictor(checkpoint, device="cpu", precision="32-true"), []
    for image in content["images"]:
        persons = [entry for entry in content["annotations"] if entry["image_id"] == image["id"]]
        labels = np.array([entry["keypoints"] for entry in persons]).reshape(len(persons), -1, 3)
        corners = np.array([entry["bbox"] for entry in persons]).reshape(-1, 2, 2).cumsum(1).reshape(-1, 4)
        [poses] = predict(str(people.parent / "images" / image["file_name"]), boxes=corners)
        distances = np.linalg.norm(poses.keypoints - labels[..., :2], axis=-1)
        errors.append(np.where(labels[..., 2] > 0, distances, np.nan))
    errors, figures = np.concatenate(errors), json.loads((tmp_path / "metrics.json").read_text())
    assert figures["EPE_px"] == pytest.approx(np.nanmean(errors), rel=1e-2)
    assert figures["EPE_px_median"] == pytest.approx(np.nanmedian(errors), rel=1e-2)
    assert figures["EPE_px_p90"] == pytest.approx(np.nanquantile(errors, 0.9), rel=1e-2)
    assert figures["EPE_px/nose"] == pytest.approx(np.nanmean(errors[:, 0]), rel=1e-2)


def test_ground_truth_as_predictions_scores_one(run, people, tmp_path):
    truth = json.loads(people.read_text())["annotations"]
    keys = ("image_id", "category_id", "keypoints")
    perfect = [{**{key: entry[key] for key in keys}, "score": 1.0} for entry in truth if entry["num_keypoints"]]
    (tmp_path / "perfect.json").write_text(json.dumps(perfect))
    code, out, err = run(eval.main, f"predictions={tmp_path}/perfect.json", f"annotations={people}")
    assert code == 0, err
    figures = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert figures["AP"] == "1.0000" and figures["AR"] == "1.0000"


def test_fused_optimizers_clip_under_mixed_precision(run, people, tiny, tmp_path):
    options = ["optimizer=adamw", "trainer.precision=bf16-mixed", "trainer.gradient_clip_val=1", "trainer.max_epochs=1"]
    code, _, err = run(train.main, f"data.train={people}", *tiny, *options, f"output_dir={tmp_path}/run")
    assert code == 0, err
    config = OmegaConf.load(tmp_path / "run/config.yaml")
    assert config.optimizer.fused
