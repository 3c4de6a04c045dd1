"""A run that was interrupted and goes on equals one that wasn't, as users start and resume it."""

import pytest
import torch

from lightpose.cli import train
from lightpose.estimators.base import PoseEstimator

EVERY = ["callbacks.last.every_n_epochs=null", "callbacks.last.every_n_train_steps=1", "callbacks.last.save_top_k=-1"]
EVERY += ["callbacks.last.filename='{step}'"]
STEADY = ["scheduler.warmup_steps=0", "scheduler.milestones=[]"]  # the schedule depends on the length of the run
VIT = ["experiment=topdown_vitpose_small", "backbone.model=test_vit", "backbone.num_heads=null"]
VIT += ["backbone.drop_path_rate=0.5", "augment=topdown_photometric"]


@pytest.fixture
def training(run, people, tiny, tmp_path, monkeypatch):
    """Trains with ``options``; gives its weights and (epoch, ids of the people, their keypoints) of each batch."""
    seen = []
    step = PoseEstimator.training_step

    def recorded(self, batch, batch_idx):
        keypoints = batch.instances.keypoints.flatten().tolist()
        seen.append((self.current_epoch, batch.instances.ids.flatten().tolist(), keypoints))
        return step(self, batch, batch_idx)

    monkeypatch.setattr(PoseEstimator, "training_step", recorded)

    def call(name, *options):
        seen.clear()
        tiny_but = [option for option in tiny if "=" in option and not any(map(option.startswith, names(options)))]
        folder = tmp_path / name
        code, out, err = run(train.main, f"data.train={people}", *tiny_but, *options, f"output_dir={folder}")
        assert code == 0, err
        newest = max((folder / "checkpoints").iterdir(), key=lambda path: path.stat().st_mtime_ns)
        return torch.load(newest, weights_only=True)["state_dict"], list(seen), out + err

    return call


@pytest.fixture(scope="module")
def begun(people, tiny, tmp_path_factory):
    """A checkpoint of the first step of an epoch."""
    folder = tmp_path_factory.mktemp("begun")
    with pytest.MonkeyPatch.context() as patch:
        arguments = [f"data.train={people}", *tiny, "trainer.max_steps=1", f"output_dir={folder}"]
        patch.setattr("sys.argv", ["train", *arguments])
        train.main()
    return folder / "checkpoints/last.ckpt"


def names(options):
    """Keys, each with its equals sign."""
    return [option.partition("=")[0] + "=" for option in options if not option.startswith("experiment=")] + (
        ["backbone=", "head.channels="] if any(option.startswith("experiment=") for option in options) else []
    )


def assert_equal(ours, theirs):
    for name, tensor in theirs.items():
        assert torch.allclose(tensor.double(), ours[name].double(), rtol=0, atol=1e-6), name


@pytest.mark.parametrize(
    "options",
    [
        ["trainer.max_epochs=3"],
        ["trainer.max_epochs=2", "data.num_workers=2"],
        ["trainer.max_epochs=3", "data.group_by_image=true", "trainer.limit_train_batches=4"],
        ["trainer.max_epochs=null", "trainer.max_steps=12", "callbacks=ema"],
        ["trainer.max_epochs=2", *VIT],
    ],
    ids=["plain", "workers", "groups", "ema", "dropout"],
)
def test_each_sample_is_seen_once_an_epoch(training, people, tmp_path, options):
    options = [*options, "data.batch_size=4", f"data.val={people}"]
    weights, whole, _ = training("whole", *options, *EVERY)
    epochs = [epoch for epoch, _, _ in whole]
    length = epochs.count(0)
    assert length > 2 and len(set(epochs)) > 1
    for step in (2, length, length + 3):  # within an epoch, at its end, within the next one
        checkpoint = tmp_path / f"whole/checkpoints/step={step}.ckpt"
        resumed, rest, _ = training(f"from_{step}", *options, f"resume='{checkpoint}'")
        assert rest == whole[step:]
        assert_equal(resumed, weights)


def test_a_run_that_max_steps_ended_goes_on_within_its_epoch(training, tmp_path):
    options = ["data.batch_size=4", *STEADY]
    weights, whole, _ = training("whole", *options, "trainer.max_epochs=2")
    _, before, _ = training("begun", *options, "trainer.max_steps=3")
    last = tmp_path / "begun/checkpoints/last.ckpt"
    resumed, rest, _ = training("resumed", *options, "trainer.max_epochs=2", f"resume={last}")
    assert len(before) == 3 and before + rest == whole
    assert_equal(resumed, weights)


def test_accumulated_steps_go_on_and_can_be_cut_otherwise(training, tmp_path):
    options = [*STEADY, "trainer.max_epochs=2"]
    weights, whole, _ = training("whole", *options, "data.batch_size=4", "trainer.accumulate_grad_batches=2", *EVERY)
    resume = f"resume='{tmp_path}/whole/checkpoints/step=1.ckpt'"
    same, rest, _ = training("same", *options, "data.batch_size=4", "trainer.accumulate_grad_batches=2", resume)
    assert rest == whole[2:]
    assert_equal(same, weights)
    _, rest, _ = training("other", *options, "data.batch_size=8", resume)
    ids = [number for epoch, batch, _ in rest if epoch == 0 for number in batch]
    expected = [number for epoch, batch, _ in whole[2:] if epoch == 0 for number in batch]
    assert ids == expected[: len(ids)] and len(expected) - len(ids) < 8


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (["data.batch_size=5"], "8 samples into an epoch, which is no whole number of this run's steps of 5 samples"),
        (["data.batch_size=4", "trainer.accumulate_grad_batches=4"], "steps of 16 samples"),
        (["data.batch_size=4", "trainer.limit_train_batches=2"], "this run's epochs end after 8"),
        (["data.batch_size=4", "data.epoch_steps=1"], "end after 4; give the data, data.epoch_steps, "),
    ],
)
def test_what_can_not_be_gone_on_with_is_refused(run, people, tiny, tmp_path, change, expected):
    common = [f"data.train={people}", *(option for option in tiny if "batch_size" not in option)]
    begun = ["trainer.max_steps=2", "data.batch_size=4", f"output_dir={tmp_path}/begun"]
    assert run(train.main, *common, *begun)[0] == 0
    last = tmp_path / "begun/checkpoints/last.ckpt"
    code, _, err = run(train.main, *common, *change, "trainer.max_epochs=2", f"resume={last}")
    assert code == 1 and expected in err and "Traceback" not in err


def test_another_order_is_announced(training, tmp_path):
    training("begun", "trainer.max_steps=1")
    resume = f"resume={tmp_path}/begun/checkpoints/last.ckpt"
    assert "another order" in training("other", "trainer.max_epochs=1", "seed=1", resume)[2]
    assert "another order" not in training("same", "trainer.max_epochs=1", resume)[2]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: content.pop("optimizer_states"),
        lambda content: content["loops"].clear(),
        lambda content: content["loops"].update(fit_loop=[]),
        lambda content: progress(content)["current"].update(processed=-1),
        lambda content: progress(content)["current"].update(processed="3"),
        lambda content: progress(content)["total"].update(completed=2.5),
        lambda content: progress(content).pop("total"),
        lambda content: progress(content)["current"].update(state_dict=1),
        lambda content: content.update(global_step=None),
        lambda content: content["callbacks"]["Resume"].update(step=-4),
        lambda content: content["callbacks"]["Resume"].update(step="4"),
        lambda content: content["callbacks"]["Resume"].update(step=10**9),
        lambda content: content["callbacks"].pop("Resume"),
    ],
)
def test_a_damaged_state_of_training_is_refused(run, people, tiny, begun, tmp_path, spoil):
    content = torch.load(begun, weights_only=True)
    spoil(content)
    torch.save(content, tmp_path / "spoilt.ckpt")
    options = ["trainer.max_epochs=2", f"resume={tmp_path}/spoilt.ckpt", f"output_dir={tmp_path}/run"]
    code, _, err = run(train.main, f"data.train={people}", *tiny, *options)
    assert code == 1 and err.count("error: ") == 1 and "Traceback" not in err, err


def progress(content):
    return content["loops"]["fit_loop"]["epoch_loop.batch_progress"]
