"""Which runs have whole steps replayed; the replay itself is tested where there is a GPU."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.callbacks import LambdaCallback, ModelCheckpoint
from lightning.pytorch.plugins import Precision
from lightning.pytorch.strategies import SingleDeviceStrategy

from lightpose import testing
from lightpose.callbacks.acceleration import Acceleration, rounded
from lightpose.codecs.heatmap import HeatmapCodec
from lightpose.estimators.topdown import TopDown
from lightpose.models.heads.heatmap import HeatmapHead
from lightpose.models.losses.heatmap import KeypointMSE
from lightpose.runtime.graphs import GraphedTrunk


@pytest.fixture
def estimator():
    made = testing.model(partial(HeatmapHead, criterion=KeypointMSE(), channels=8), HeatmapCodec)
    made.net.fast_features = GraphedTrunk(made.net)
    return made


def run_of(estimator, *callbacks, **settings):
    return SimpleNamespace(
        optimizers=[torch.optim.Adam(estimator.parameters(), fused=True)],
        precision_plugin=Precision(),
        strategy=SingleDeviceStrategy("cpu"),
        fit_loop=SimpleNamespace(_skip_backward=False),
        callbacks=[ModelCheckpoint(), *callbacks],
        **{"accumulate_grad_batches": 1, "gradient_clip_algorithm": None, "gradient_clip_val": 1.0, **settings},
    )


def replays(estimator, *callbacks, **settings):
    Acceleration("auto").on_train_start(run_of(estimator, *callbacks, **settings), estimator)
    return estimator.graphed_step is not None


class OwnSteps(TopDown):
    """A user's estimator, whose step may depend on anything."""

    __module__ = "mine"


def test_a_run_replays_unless_something_looks_into_its_steps(estimator):
    assert replays(estimator)
    estimator.graphed_step = None
    assert not replays(estimator, LambdaCallback(on_after_backward=print))
    assert not replays(estimator, accumulate_grad_batches=2)
    assert not replays(estimator, gradient_clip_algorithm="value")
    estimator.__class__ = OwnSteps
    assert not replays(estimator)


@pytest.mark.parametrize(
    "change",
    [{"accumulate_grad_batches": 4}, {"gradient_clip_val": 0.1}, {"fit_loop": SimpleNamespace(_skip_backward=1)}],
)
def test_what_callbacks_change_during_the_run_is_obeyed(estimator, monkeypatch, change):
    callback, run, taken = Acceleration("auto"), run_of(estimator), []
    batch = testing.random_batch(estimator)
    callback.on_train_start(run, estimator)
    monkeypatch.setattr(estimator.graphed_step, "take", taken.append)
    callback.on_train_batch_start(run, estimator, batch, 0)
    vars(run).update(change)
    callback.on_train_batch_start(run, estimator, batch, 1)
    assert taken == [batch, None]


@pytest.mark.parametrize(("stage", "runs"), [("fit", "eagerly"), ("validate", "compiled")])
def test_a_run_whose_inputs_change_size_is_eager(estimator, caplog, stage, runs):
    trainer = SimpleNamespace(
        strategy=SingleDeviceStrategy("cpu"), datamodule=SimpleNamespace(sizes=[(64, 96), (96, 128)])
    )
    Acceleration("compile").setup(trainer, estimator, stage)
    assert (estimator.net.fast_features is None) == (runs == "eagerly")
    said = "speed=compile needs inputs of one size, not data.input_scale; the network runs eagerly"
    assert (said in caplog.text) == (runs == "eagerly")


@pytest.mark.parametrize(("people", "expected"), [(1, 1), (2, 2), (3, 4), (5, 8)])
def test_people_are_rounded_to_a_power_of_two(estimator, people, expected):
    batch = testing.random_batch(estimator, [people, 0])
    more = rounded(batch).instances
    assert more.keypoints.shape[1] == expected
    for before, after in zip(batch.instances.leaves(), more.leaves(), strict=True):
        assert torch.equal(after[:, :people], before)
    assert not more.valid[:, people:].any()
    assert (more.ids[:, people:] == -1).all()
