import copy
import functools
from contextlib import nullcontext
from dataclasses import dataclass

import pytest
import torch
from test_speed import GPU, ON_GPU, make_net, random_inputs
from torch import Tensor, nn

from lightpose.cli import train
from lightpose.models.preprocessors import Normalize
from lightpose.runtime.speed import speed_up
from lightpose.runtime.steps import OWN_STEPS, GraphedStep, may_be_graphed
from lightpose.structures import TensorStruct


@dataclass(frozen=True, slots=True)
class Images(TensorStruct):
    inputs: Tensor


@pytest.fixture
def net():
    return make_net(Normalize([127.0] * 3, [60.0] * 3))


def losses(net, batch):
    heatmap = net(batch.inputs)["heatmap"].float()
    terms = {"size": heatmap.square().mean(), "sum": heatmap.mean().abs()}
    return {"loss": sum(terms.values()), **terms}


def adam(net):
    # With a smaller eps a gradient of almost nothing moves its weight as far as any other, in a direction by chance.
    return torch.optim.AdamW(net.parameters(), lr=1e-2, eps=1e-2, fused=True)


def one_by_one(net, optimizer, batch, clip_norm):
    optimizer.zero_grad()
    found = losses(net, batch)
    found["loss"].backward()
    nn.utils.clip_grad_norm_(net.parameters(), clip_norm)
    optimizer.step()
    return found


@ON_GPU
def test_replayed_steps_are_those_done_one_by_one(net):
    plain = net.to(GPU).train()
    graphed = copy.deepcopy(plain)
    speed_up(graphed, "auto", GPU)
    graphed.fast_features.patience_in_training = OWN_STEPS
    optimizers = adam(plain), adam(graphed)
    step = GraphedStep(functools.partial(losses, graphed), graphed, optimizers[1], 0.1, nullcontext)
    replays = 0
    for number in range(9):  # of two kinds in turn, with an ordinary step between
        batch = Images(random_inputs(4 if number != 5 else 3, number).to(GPU))
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = 1e-3 * (1 + number)
        expected = one_by_one(plain, optimizers[0], batch, 0.1)
        step.take(None if number == 7 else batch)
        replays += step.taken is not None
        actual = step.replay() if step.taken is not None else one_by_one(graphed, optimizers[1], batch, 0.1)
        assert list(actual) == list(expected)
        for name, value in expected.items():
            torch.testing.assert_close(actual[name], value, rtol=2e-3, atol=1e-5)
    assert replays == 9 - OWN_STEPS - 1
    assert len(step.graphs) == 2
    for expected, actual in zip(plain.state_dict().values(), graphed.state_dict().values(), strict=True):
        assert (actual.float() - expected.float()).norm() <= 2e-2 * expected.float().norm() + 1e-4
    assert [group["lr"] for group in optimizers[1].param_groups] == [pytest.approx(9e-3)]
    assert not optimizers[1].param_groups[0]["capturable"]
    assert {int(state["step"]) for state in optimizers[1].state.values()} == {9}


@ON_GPU
def test_a_step_that_needs_the_host_takes_the_ordinary_way(net):
    def reads(batch):
        found = losses(net, batch)
        return found if float(found["loss"]) < 1e9 else {}

    net.to(GPU).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    step = GraphedStep(reads, net, adam(net), None, nullcontext)
    for number in range(OWN_STEPS + 2):
        step.take(Images(random_inputs(4, number).to(GPU)))
        assert step.taken is None
    assert step.failed
    for name, value in net.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    assert one_by_one(net, adam(net), Images(random_inputs(4).to(GPU)), 1.0)["loss"].isfinite()


@ON_GPU
def test_a_run_replays_steps_and_ends_as_an_eager_one(run, people, tiny, tmp_path, monkeypatch):
    replay, replayed = GraphedStep.replay, []
    monkeypatch.setattr(GraphedStep, "replay", lambda self: replayed.append(1) or replay(self))
    figures = {}
    for speed in ("eager", "graph"):
        options = ["trainer.max_steps=12", "trainer.accelerator=gpu", "trainer.precision=bf16-mixed", f"speed={speed}"]
        folder = tmp_path / speed
        code, _, err = run(train.main, *tiny, f"data.train={people}", f"output_dir={folder}", *options)
        assert code == 0, err
        content = torch.load(folder / "checkpoints/last.ckpt", weights_only=True, map_location="cpu")
        figures[speed] = content["state_dict"]
        assert content["global_step"] == 12
        assert len(replayed) == (0 if speed == "eager" else 12 - OWN_STEPS)
    for name, expected in figures["eager"].items():
        if expected.is_floating_point():
            assert (figures["graph"][name] - expected).norm() <= 0.05 * expected.norm() + 1e-3


def test_a_users_own_code_and_other_optimizers_take_the_ordinary_way(net):
    assert may_be_graphed(adam(net), [net.head, net.head.criterion])
    assert not may_be_graphed(adam(net), [net.head, functools.partial(losses, net)])
    assert not may_be_graphed(torch.optim.AdamW(net.parameters()), [net.head])
    assert not may_be_graphed(torch.optim.SGD(net.parameters(), 0.1, foreach=True), [net.head])
