"""The benchmarks run on the CPU with a tiny network and print a table of finite numbers."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "scripts/bench"
TINY = ["backbone=timm/any", "backbone.model=test_resnet", "input_hw=[64,64]", "head.channels=8", "data.batch_size=4"]
TRAIN = [*TINY, "data.num_workers=0", "trainer.accelerator=cpu", "trainer.precision=32-true"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """Runs a script of scripts/bench; gives what it printed and what it wrote to its JSON file."""
    folder = tmp_path_factory.mktemp("bench")
    environment = {**os.environ, "TMPDIR": str(folder), "CUDA_VISIBLE_DEVICES": ""}

    def run(script, *arguments):
        out = folder / f"{script}.json"
        command = [sys.executable, str(BENCH / script), *arguments, "--json", str(out)]
        done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout, json.loads(out.read_text())

    return run


def positive(figures):
    return all(math.isfinite(figure) and figure > 0 for figure in figures)


def test_train(bench):
    options = ["--synthetic", "12", "--steps", "3", "--warmup", "2", "--variants", "eager,compiled"]
    printed, found = bench("train.py", *options, *TRAIN)
    train, ceiling = found["train"], found["ceilings"]["eager"]
    assert positive([ceiling["images_per_s"], ceiling["ready_s"], train["images_per_s"], train["first_step_s"]])
    parts = [train[f"{part}_ms"] for part in ("forward", "backward", "optimizer", "rest")]
    assert positive([*parts, train["data wait_ms"]])
    assert sum(parts) == pytest.approx(train["step_ms"])
    assert train["images_per_s"] == pytest.approx(4 * 1000 / train["step_ms"])  # four images a step
    assert train["steps"] == 3
    assert "lightpose-train" in printed
    assert "there is no variant compiled" in printed  # of a ceiling that fails, the reason is said


def test_predict(bench):
    options = ["--synthetic", "12", "--people", "10", "--batch", "4", "--repeats", "3", "--eval", "num_workers=0"]
    printed, found = bench("predict.py", *options, *TINY)
    device, predict, evaluation = found["device"], found["predict"], found["eval"]
    assert predict["poses"] == evaluation["samples"] >= 10
    assert predict["seconds"] < predict["wall_s"]
    assert positive([device["crops_per_s"], predict["seconds"], *evaluation["parts_s"].values()])
    assert sum(evaluation["parts_s"].values()) < evaluation["total_s"] < evaluation["wall_s"]
    assert "everything but the net" in printed


def test_loader(bench):
    options = ["--synthetic", "12", "--no-reading", "--workers", "0,1", "--batches", "2"]
    printed, found = bench("loader.py", *options, *TRAIN)
    assert positive([figure for row in found for figure in row[1:3]])
    assert [row[0] for row in found if row[0].endswith("1 workers")] == [
        "loader, decode=cpu, at random, 1 workers",
        "loader, decode=cpu, group_by_image, 1 workers",
    ]
    assert "640x425" in printed


def test_checkpoints(bench):
    options = ["--device", "cpu", "--steps", "2", "--epochs", "3", "--batch", "2"]
    printed, found = bench("checkpoints.py", *options, *TINY[:-1])
    plain, ours = found["at once"], found["by a thread"]
    assert positive([one[figure] for one in (plain, ours) for figure in ("seconds", "waited_s", "first_s", "end_s")])
    assert found["none"]["seconds"] > 0 and found["none"]["waited_s"] == 0
    assert ours["best_mb"] < ours["last_mb"] / 2 and ours["last_mb"] == pytest.approx(plain["last_mb"], rel=0.01)
    assert "by a thread" in printed


def test_codec(bench):
    printed, found = bench("codec.py", "--batch", "2", "--repeats", "2", *TINY)
    assert positive([found["training_ms"], *(figure for row in found["rows"] for figure in row[1:])])
    assert "refine=dark" in printed
