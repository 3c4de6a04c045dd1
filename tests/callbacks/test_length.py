"""How long runs are that are told in steps or in minutes, through the command."""

import csv

import pytest
import torch

from lightpose.cli import train


@pytest.fixture
def go(run, tiny, people, tmp_path):
    """Trains; gives what was logged, the rows of metrics.csv and the last checkpoint."""

    def call(*arguments):
        code, out, err = run(
            train.main,
            *(option for option in tiny if not option.startswith(("trainer.max_epochs", "data.batch_size"))),
            *(f"data.train={people}", f"data.val={people}", "callbacks.pictures=null", f"output_dir={tmp_path}/run"),
            *arguments,
        )
        assert code == 0, out + err
        [path] = (tmp_path / "run").glob("csv/*/metrics.csv")
        with path.open() as file:
            rows = list(csv.DictReader(file))
        return out + err, rows, torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)

    return call


def validated(rows):
    return [int(row["step"]) + 1 for row in rows if row.get("val/loss")]


def test_an_epoch_of_some_steps(go, people):
    said, rows, last = go("data.epoch_steps=3", "trainer.max_epochs=2", "data.batch_size=4")
    assert validated(rows) == [3, 6]
    assert last["global_step"] == 6
    assert "6 steps of 4 = " in said
    assert "validated every 3 steps" in said


def test_a_run_that_max_steps_ends_is_validated_there(go):
    _, rows, last = go(
        "data.epoch_steps=4", "trainer.max_epochs=-1", "trainer.max_steps=6", "data.batch_size=2",
        "trainer.accumulate_grad_batches=2",
    )  # fmt: skip
    assert validated(rows) == [4, 6]
    assert last["global_step"] == 6


@pytest.mark.parametrize("end", ["trainer.max_epochs=2", "trainer.max_steps=5"])
def test_a_run_shorter_than_the_time_to_its_first_validation_is_validated_at_its_end(go, end):
    said, rows, last = go("data.epoch_steps=3", "trainer.check_val_every_n_epoch=4", end, "data.batch_size=4")
    assert validated(rows) == [last["global_step"]] == [6 if "epochs" in end else 5]
    assert ", validated at the end" in said


def test_a_batch_is_no_larger_than_the_data(go):
    said, _, last = go("data.batch_size=500", "trainer.max_epochs=2")
    assert "data.batch_size=500 is cut to" in said
    assert last["global_step"] == 2


@pytest.mark.parametrize("epochs", [-1, 100000])
def test_the_schedule_ends_with_the_time(go, epochs):
    said, rows, _ = go(
        f"trainer.max_epochs={epochs}", "trainer.max_time={seconds: 3}", "data.batch_size=8", "scheduler=cosine",
        "trainer.log_every_n_steps=1", "optimizer.lr=1", "data.epoch_steps=10",
    )  # fmt: skip
    learning_rates = [float(value) for row in rows for key, value in row.items() if key.startswith("lr") and value]
    assert max(learning_rates) > 0.5
    assert learning_rates[-1] < 0.3  # a slow machine takes its last step a while before the end
    assert "until trainer.max_time has gone" in said
    assert validated(rows)
