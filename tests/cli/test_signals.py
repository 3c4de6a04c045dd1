"""Ctrl-C and SIGTERM: what is printed, the exit code, what is left, and that the run goes on as if nothing happened."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from lightpose.cli import eval, predict, train
from lightpose.estimators.base import PoseEstimator

SIGNALS = pytest.mark.parametrize(("number", "name"), [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM")])


@pytest.fixture
def sent(monkeypatch):
    """``sent(method, at, number)`` has this process get a signal in the call number ``at`` of an estimator's method."""

    def arrange(method, at, number):
        original, calls = getattr(PoseEstimator, method), []

        def call(*arguments):
            calls.append(method)
            if len(calls) == at:
                os.kill(os.getpid(), number)
            return original(*arguments)

        monkeypatch.setattr(PoseEstimator, method, call)

    return arrange


def weights(folder, name="last"):
    return torch.load(folder / f"checkpoints/{name}.ckpt", weights_only=True)["state_dict"]


@pytest.mark.parametrize(
    ("number", "name", "callbacks", "method", "at", "where"),
    [
        (signal.SIGINT, "Ctrl-C", "default", "training_step", 6, "epoch 1, step 6"),
        (signal.SIGTERM, "SIGTERM", "ema", "training_step", 2, "epoch 0, step 2"),
        (signal.SIGINT, "Ctrl-C", "ema", "validation_step", 2, "epoch 0, step 4"),
        (signal.SIGTERM, "SIGTERM", "default", "training_step", 4, "epoch 0, step 4"),
    ],
)
def test_an_interrupted_run_goes_on(run, people, tiny, tmp_path, sent, number, name, callbacks, method, at, where):
    common = [f"data.train={people}", f"data.val={people}", *tiny, "trainer.max_epochs=2"]
    common += ["trainer.limit_train_batches=4"]
    common += ["data.batch_size=4", "data.eval_batch_size=4", f"callbacks={callbacks}"]
    assert run(train.main, *common, f"output_dir={tmp_path}/whole")[0] == 0
    sent(method, at, number)
    code, _, err = run(train.main, *common, f"output_dir={tmp_path}/run")
    last = tmp_path / "run/checkpoints/last.ckpt"
    assert code == 128 + number and "Traceback" not in err
    [said] = [line for line in err.splitlines() if line.startswith("stopped by")]
    assert f"stopped by {name}: {where}" in said and said.endswith(f"resume={last}")
    code, _, err = run(train.main, *common, f"resume={last}")
    assert code == 0, err
    for checkpoint in ("last", "best"):
        whole, resumed = weights(tmp_path / "whole", checkpoint), weights(tmp_path / "run", checkpoint)
        for key, tensor in whole.items():
            assert torch.allclose(tensor.double(), resumed[key].double(), rtol=0, atol=1e-6), key


@SIGNALS
def test_before_the_first_step_nothing_is_left(run, people, tiny, tmp_path, sent, number, name):
    sent("configure_optimizers", 1, number)
    code, _, err = run(train.main, f"data.train={people}", *tiny, f"output_dir={tmp_path}/made/run")
    assert code == 128 + number and f"stopped by {name}: before the first step" in err and "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_job_ends_the_sweep(run, people, tiny, tmp_path, sent):
    sent("training_step", 1, signal.SIGINT)
    options = ["-m", "seed=1,2", f"data.train={people}", *tiny, "trainer.max_epochs=2", f"output_dir={tmp_path}/sweep"]
    code, _, err = run(train.main, *options)
    assert code == 130 and f"resume={tmp_path}/sweep/0/checkpoints/last.ckpt" in err
    assert not (tmp_path / "sweep/1").exists()


def test_a_run_that_has_just_finished_says_so(run, people, tiny, tmp_path, sent):
    sent("training_step", 2, signal.SIGTERM)
    options = [f"data.train={people}", *tiny, "trainer.max_steps=2", f"output_dir={tmp_path}/run"]
    code, _, err = run(train.main, *options)
    assert code == 143 and "the run had just finished" in err
    assert (tmp_path / "run/checkpoints/last.ckpt").is_file()


@SIGNALS
def test_other_commands_leave_nothing_half_done(run, people, trained, tmp_path, sent, number, name):
    checkpoint = f"ckpt={trained}/checkpoints/last.ckpt"
    sent("validation_step", 1, number)
    code, _, err = run(eval.main, checkpoint, f"annotations={people}", f"out={tmp_path}/scored", "num_workers=0")
    assert code == 128 + number and f"stopped by {name}: nothing was scored" in err and "Traceback" not in err
    sent("outputs", 1, number)
    images = ["device=cpu", "num_workers=0", f"source={people.parent}/images", f"out={tmp_path}/found"]
    code, _, err = run(predict.main, checkpoint, *images)
    assert code == 128 + number and f"stopped by {name}: nothing was written to out=" in err and "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


# -- processes ---------------------------------------------------------------------------------------------------


def started(call, folder, until):
    """A process group whose output stands in ``folder/log``, once it has printed ``until``."""
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            list(map(str, call)), cwd=folder, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    deadline = time.monotonic() + 120
    while until not in (folder / "log").read_text() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    return process


def ended(process, folder):
    """Exit code and what was printed."""
    try:
        return process.wait(timeout=120), (folder / "log").read_text()
    finally:
        process.kill()


SHOW = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[2] / "src")!r})
from lightpose.estimators.base import PoseEstimator
step = PoseEstimator.training_step
def shown(self, batch, batch_idx):
    print("STEP", self.global_step, self.trainer.global_rank, batch.instances.ids.flatten().tolist(), flush=True)
    return step(self, batch, batch_idx)
PoseEstimator.training_step = shown
from lightpose.cli.train import main
main()
"""


@pytest.fixture
def command(people, tiny, tmp_path):
    """A training that shows its steps, as a list to start; it would take long."""
    (tmp_path / "show.py").write_text(SHOW)
    options = [f"data.train={people}", *tiny, "data.batch_size=4", "trainer.max_epochs=5000", "output_dir=run"]
    return [sys.executable, tmp_path / "show.py", *options]


@pytest.mark.slow
@SIGNALS
@pytest.mark.parametrize("workers", [0, 2])
def test_a_group_of_processes_gets_the_signal(command, tmp_path, number, name, workers):
    process = started([*command, f"data.num_workers={workers}"], tmp_path, "STEP 9 ")
    os.killpg(process.pid, number)
    code, printed = ended(process, tmp_path)
    lines = [line for line in printed.splitlines() if line and not line.startswith("STEP")]
    assert code == 128 + number and f"stopped by {name}: epoch" in lines[-1] and len(lines) < 10, printed
    assert torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)["global_step"] >= 9


@pytest.mark.slow
@SIGNALS
def test_the_second_kills_at_once(command, tmp_path, number, name):
    slow = "import time; time.sleep(60)"
    (tmp_path / "show.py").write_text(SHOW.replace("    return step", f"    {slow}\n    return step"))
    process = started(command, tmp_path, "STEP 0 ")
    process.send_signal(number)
    time.sleep(1)
    assert process.poll() is None
    process.send_signal(number)
    assert ended(process, tmp_path)[0] == -number


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "name", "group"), [(signal.SIGINT, "Ctrl-C", True), (signal.SIGTERM, "SIGTERM", False)]
)
def test_two_processes_end_together_and_one_goes_on(command, tmp_path, number, name, group):
    both = ["trainer.devices=2", "trainer.strategy=ddp", "data.batch_size=2"]
    process = started([*command, *both], tmp_path, "STEP 9 ")
    (os.killpg if group else os.kill)(process.pid, number)
    code, printed = ended(process, tmp_path)
    assert code == 128 + number and printed.count("stopped by") == 1 and "Traceback" not in printed, printed
    step = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)["global_step"]
    one = started(
        [*command, "trainer.max_epochs=null", f"trainer.max_steps={step + 4}", "output_dir=one"], tmp_path, "~"
    )
    whole = ids(ended(one, tmp_path)[1])
    resume = ["trainer.max_epochs=null", f"trainer.max_steps={step + 4}", "resume=run/checkpoints/last.ckpt"]
    alone = started([*command, *resume], tmp_path, "~")
    assert ids(ended(alone, tmp_path)[1]) == whole[step:]


def ids(printed):
    return [line.partition("[")[2] for line in printed.splitlines() if line.startswith("STEP")]


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.0, 1.0, 4.0])
def test_two_processes_that_have_not_begun_end_together(command, tmp_path, delay):
    process = started([*command, "trainer.devices=2", "trainer.strategy=ddp"], tmp_path, "run folder")
    time.sleep(delay)
    os.killpg(process.pid, signal.SIGTERM)
    code, printed = ended(process, tmp_path)
    assert code == 143 and printed.count("stopped by SIGTERM") == 1 and "Traceback" not in printed, printed
