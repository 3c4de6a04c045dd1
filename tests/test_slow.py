"""What takes longer: the wheel by itself, two processes, learning real photographs by heart, a killed run."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
SMALL = ["input_hw=[128,96]", "data.num_workers=0", "data.batch_size=8", "trainer.accelerator=cpu"]
SMALL += ["trainer.precision=32-true", "callbacks.progress=null", "trainer.enable_model_summary=false"]


def command(module, *arguments, cwd, **environment):
    """Run a console script's module in a process of its own."""
    call = [sys.executable, "-m", f"lightpose.cli.{module}", *map(str, arguments)]
    return subprocess.run(call, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, timeout=900)


def figures(stdout):
    return {line.split()[0]: float(line.split()[1]) for line in stdout.splitlines() if line[:2] in ("AP", "AR")}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Where the built wheel is installed, alone."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "build", "--wheel", "--outdir", folder / "dist", ROOT], check=True)
    [built] = (folder / "dist").glob("*.whl")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder / "site", built]
    subprocess.run(pip, check=True)
    return folder / "site"


def test_wheel_trains_from_an_empty_folder(wheel, people, tmp_path):
    arguments = ["experiment=topdown_hrnet", "backbone=timm/resnet18", f"data.train={people}", "trainer.max_steps=2"]
    done = command("train", *arguments, cwd=tmp_path, PYTHONPATH=str(wheel))
    assert done.returncode == 0, done.stderr
    [checkpoint] = tmp_path.rglob("last.ckpt")
    script = f"import lightpose; print(lightpose.__file__, lightpose.load({str(checkpoint)!r}).input_hw)"
    loaded = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": str(wheel)}, capture_output=True, text=True
    )
    assert str(wheel) in loaded.stdout and "(256, 192)" in loaded.stdout, loaded.stderr


def test_two_processes_train_and_score_as_one(people, tmp_path):
    common = ["backbone=timm/any", "backbone.model=test_resnet", *SMALL, f"data.train={people}", f"data.val={people}"]
    common += ["trainer.max_epochs=1", "trainer.strategy=ddp"]
    two = command("train", *common, "trainer.devices=2", f"output_dir={tmp_path}/two", cwd=tmp_path)
    assert two.returncode == 0, two.stderr
    checkpoint = tmp_path / "two/checkpoints/best.ckpt"
    score = [f"ckpt={checkpoint}", f"annotations={people}", "num_workers=0", f"out={tmp_path}/scored"]
    one = command("eval", *score, cwd=tmp_path)
    assert one.returncode == 0, one.stderr
    both = command("eval", *score, "devices=2", cwd=tmp_path)
    assert both.returncode == 0, both.stderr
    trained = torch.load(checkpoint.with_name("last.ckpt"), weights_only=True)["callbacks"]
    [best] = [
        float(state["best_model_score"]) for state in trained.values() if state.get("best_model_score") is not None
    ]
    assert figures(one.stdout)["AP"] == pytest.approx(best, abs=1e-4)
    assert figures(both.stdout) == pytest.approx(figures(one.stdout), abs=1e-9, nan_ok=True)


def test_real_photographs_are_learnt_by_heart(coco_samples, tmp_path):
    annotations = coco_samples / "test_coco.json"
    arguments = ["experiment=topdown_resnet50", "backbone=timm/resnet18", *SMALL, "data.batch_size=12"]
    arguments += [f"data.train={annotations}", f"data.val={annotations}", "augment=none"]
    arguments += ["estimator.flip_test=false", "head.channels=64", "optimizer.lr=1e-3"]  # nothing is learnt mirrored
    arguments += ["trainer.max_epochs=120", "trainer.check_val_every_n_epoch=30"]
    arguments += ["grid=half_pixel", "codec.refine=dark", "codec.centers=continuous"]
    done = command("train", *arguments, f"output_dir={tmp_path}/run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    scored = command("eval", f"ckpt={tmp_path}/run/checkpoints/best.ckpt", "num_workers=0", cwd=tmp_path)
    assert figures(scored.stdout)["AP"] >= 0.95, scored.stdout + scored.stderr


def test_coordinates_as_classes_are_learnt_by_heart(coco_samples, tmp_path):
    annotations = coco_samples / "test_coco.json"
    arguments = ["head=rtmcc", "codec=simcc", "backbone=timm/resnet18", *SMALL, "data.batch_size=12", "augment=none"]
    arguments += [f"data.train={annotations}", f"data.val={annotations}", "estimator.flip_test=false"]
    arguments += ["trainer.max_epochs=90", "trainer.check_val_every_n_epoch=30", "optimizer.lr=1e-3"]
    done = command("train", *arguments, f"output_dir={tmp_path}/run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    scored = command("eval", f"ckpt={tmp_path}/run/checkpoints/best.ckpt", "num_workers=0", cwd=tmp_path)
    assert figures(scored.stdout)["AP"] >= 0.95, scored.stdout + scored.stderr


def test_killed_run_goes_on(people, tmp_path):
    arguments = ["backbone=timm/any", "backbone.model=test_resnet", *SMALL, f"data.train={people}"]
    arguments += ["trainer.max_epochs=20", f"output_dir={tmp_path}/run"]
    last = tmp_path / "run/checkpoints/last.ckpt"
    call = [sys.executable, "-m", "lightpose.cli.train", *arguments]
    process = subprocess.Popen(call, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not last.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert torch.load(last, weights_only=True)["epoch"] < 19  # it was interrupted, and what it left can be read
    resumed = command("train", *arguments, f"resume={last}", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    whole = command("train", *arguments[:-1], f"output_dir={tmp_path}/whole", cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    ours, theirs = (
        torch.load(path, weights_only=True)["state_dict"] for path in (last, tmp_path / "whole/checkpoints/last.ckpt")
    )
    for name, tensor in theirs.items():
        assert torch.allclose(tensor.double(), ours[name].double(), rtol=0, atol=1e-6), name


def test_a_really_full_disk_keeps_the_checkpoint_before(people, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("may not mount a small file system here")
    try:
        run = ["backbone=timm/any", "backbone.model=test_resnet", "head.channels=8", *SMALL, f"data.train={people}"]
        last = disk / "run/checkpoints/last.ckpt"
        assert command("train", *run, "trainer.max_epochs=1", f"output_dir={disk}/run", cwd=tmp_path).returncode == 0
        before = last.read_bytes()
        space = os.statvfs(disk)
        (disk / "filler").write_bytes(bytes(space.f_bavail * space.f_frsize - len(before) // 2))
        again = command("train", *run, "trainer.max_epochs=2", f"resume={last}", cwd=tmp_path)
        assert again.returncode == 1 and "disk is full" in again.stderr, again.stderr
        assert last.read_bytes() == before and list(last.parent.iterdir()) == [last]
    finally:
        subprocess.run(["umount", disk], check=True)


def test_ground_truth_of_the_photographs_scores_one(coco_samples, tmp_path):
    truth = json.loads((coco_samples / "test_coco.json").read_text())
    keys = ("image_id", "category_id", "keypoints")
    answers = [
        {**{key: one[key] for key in keys}, "score": 1.0} for one in truth["annotations"] if one["num_keypoints"]
    ]
    (tmp_path / "truth.json").write_text(json.dumps(answers))
    done = command(
        "eval", f"predictions={tmp_path}/truth.json", f"annotations={coco_samples}/test_coco.json", cwd=tmp_path
    )
    assert figures(done.stdout)["AP"] == 1.0, done.stderr
