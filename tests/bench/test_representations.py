"""The table of representations: each line is a command that builds, and two of them train."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lightpose.checkpoint import assemble
from lightpose.cli.arguments import with_inner_options
from lightpose.cli.options import check_options
from lightpose.cli.setup import make_estimator

BENCH = Path(__file__).parents[2] / "scripts/bench"
sys.path.append(str(BENCH))

import representations  # noqa: E402
from timing import compose  # noqa: E402

LINES = {**representations.RUNS, **{f"{name}, hidden": run for name, run in representations.VISIBILITY.items()}}


@pytest.mark.parametrize("name", LINES)
def test_each_line_of_the_tables_is_a_network_that_fits(name):
    plain = compose(with_inner_options(["experiment=quickstart", "skeleton=coco17", *LINES[name]]))
    check_options(plain["estimator"], "estimator")
    estimator = make_estimator(plain, assemble(plain["skeleton"]))
    outputs = estimator.net.eval()(torch.zeros(1, 3, 128, 96, dtype=torch.uint8))
    assert {key: tuple(output.shape[1:]) for key, output in outputs.items()} == dict(estimator.codec.spec.outputs)
    assert ("visibility" in outputs) == name.endswith("hidden")


@pytest.mark.slow
def test_two_lines_train_at_once(tmp_path):
    out = tmp_path / "found.json"
    tiny = ["backbone.model=test_resnet", "input_hw=[64,64]", "data.batch_size=4", "trainer.accelerator=cpu"]
    options = ["--only", "RLE,Sim", "--images", "12", "--epochs", "1", "--jobs", "2", "--out", str(tmp_path / "runs")]
    command = [sys.executable, str(BENCH / "representations.py"), *options, "--json", str(out), *tiny]
    done = subprocess.run(command, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert list(found) == ["RLE", "SimCC"]
    assert all(0 <= run["val/AP"] <= 1 and run["seconds"] > 0 for run in found.values())
    assert done.stdout.count("lightpose-train experiment=quickstart") == 2
    again = subprocess.run([*command, "head.nothing=1"], env=os.environ, capture_output=True, text=True)
    assert again.returncode == 1 and "head.nothing" in again.stderr
