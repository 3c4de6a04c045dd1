"""Representations learn drawn people by heart, through the command; too long for the default tests."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

COMMON = [
    *("augment=none", "estimator.flip_test=false", "optimizer=adamw", "scheduler=cosine", "scheduler.warmup_steps=20"),
    *("input_hw=[96,72]", "grid=half_pixel", "codec.stride=2", "data.batch_size=16", "data.num_workers=0"),
    *("trainer.max_epochs=120", "trainer.check_val_every_n_epoch=60", "trainer.accelerator=cpu"),
    *("trainer.precision=32-true", "trainer.enable_model_summary=false", "callbacks.progress=null"),
    *("callbacks.report=null", "logger.tensorboard=null"),
]
STAGES = ["backbone.stages=2", "backbone.blocks=[1,1,1,1]", "backbone.channels=[24,32,48,64]", "backbone.width=32"]
LEARNERS = {
    "megvii, RSN of two stages": [
        *("experiment=topdown_rsn18", *STAGES, "codec.kernels=[15,11,9,7,5]", "~scheduler.milestones"),
        "optimizer.lr=1e-2",
    ],
}


@pytest.mark.parametrize("name", LEARNERS)
def test_people_are_learnt_by_heart(name: str, people: Path, tmp_path: Path) -> None:
    run = [*LEARNERS[name], *COMMON, f"data.train={people}", f"data.val={people}", f"output_dir={tmp_path}/run"]
    call = [sys.executable, "-m", "lightpose.cli.train", *run]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr
    score = [f"ckpt={tmp_path}/run/checkpoints/best.ckpt", "num_workers=0", f"out={tmp_path}/scored"]
    call = [sys.executable, "-m", "lightpose.cli.eval", *score]
    scored = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    figures = {line.split()[0]: float(line.split()[1]) for line in scored.stdout.splitlines() if line[:2] == "AP"}
    print(f"{name:30} AP {figures['AP']:.3f}")
    assert figures["AP"] > 0.6, scored.stdout + scored.stderr
