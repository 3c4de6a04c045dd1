import copy
import functools
import logging

import pytest
import torch
from torch import nn

from lightpose.errors import UserError
from lightpose.models.backbones.timm import TimmBackbone
from lightpose.models.heads.heatmap import HeatmapHead
from lightpose.models.losses.heatmap import KeypointMSE
from lightpose.models.necks.identity import Identity
from lightpose.models.net import PoseNet
from lightpose.models.preprocessors import Normalize
from lightpose.runtime.graphs import EAGER_CALLS
from lightpose.runtime.speed import speed_up
from lightpose.structures import Spec

ON_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
CPU, GPU = torch.device("cpu"), torch.device("cuda")


class ReadsOnHost(nn.Module):
    """Reads a value on the host, which no graph can replay."""

    def forward(self, inputs):
        return inputs.float() * float(inputs.float().mean())


class DecidesOnHost(nn.Module):
    """Decides in Python what to compute, which a graph would repeat for good."""

    def forward(self, inputs):
        return inputs.float() * (2.0 if torch.rand(1).item() < 0.5 else 1.0)


@pytest.fixture
def net():
    return make_net(Normalize([127.0] * 3, [60.0] * 3))


def make_net(preprocessor):
    torch.manual_seed(0)
    return PoseNet(
        preprocessor,
        TimmBackbone("resnet10t", out_indices=[-1]),
        Identity,
        functools.partial(HeatmapHead, criterion=KeypointMSE(), channels=16),
        Spec({"heatmap": (5, 4, 4)}, (64, 64)),
    ).to(memory_format=torch.channels_last)


def random_inputs(count, seed=0):
    return torch.randint(0, 256, (count, 3, 64, 64), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def gradients(net, inputs):
    net.zero_grad()
    sum(feature.float().square().mean() for feature in net.features(inputs)).backward()
    return [None if parameter.grad is None else parameter.grad.clone() for parameter in net.parameters()]


def test_an_unknown_speed_is_refused(net):
    with pytest.raises(UserError, match="use one of auto, eager, graph, compile"):
        speed_up(net, "warp", CPU)


def test_without_a_gpu_graphs_are_replaced_with_a_sentence(net, caplog):
    speed_up(net, "graph", CPU)
    assert net.fast_features is None
    assert "runs eagerly" in caplog.text


def test_auto_is_silent_without_a_gpu(net, caplog):
    speed_up(net, "auto", CPU)
    assert net.fast_features is None
    assert not caplog.records


def test_a_failed_compilation_falls_back_once_with_a_sentence(net, caplog, monkeypatch):
    def fails(function):
        def call(*args):
            raise RuntimeError("no compiler")

        return call

    monkeypatch.setattr(torch, "compile", fails)
    expected = net.eval()(random_inputs(2))["heatmap"]
    speed_up(net, "compile", CPU)
    for _ in range(2):
        assert torch.equal(net(random_inputs(2))["heatmap"], expected)
    assert caplog.text.count("no compiler") == 2  # trunk and head
    speed_up(net, "eager", CPU)
    assert net.fast_features is None and net.head.fast_call is None


@pytest.mark.slow
def test_compiled_equals_eager(net):
    expected = net.eval()(random_inputs(2))["heatmap"]
    speed_up(net, "compile", CPU)
    torch.testing.assert_close(net(random_inputs(2))["heatmap"], expected, atol=1e-5, rtol=1e-4)


@ON_GPU
@pytest.mark.parametrize("autocast", [False, True])
def test_graph_trains_like_eager(net, autocast):
    plain = net.to(GPU).train()
    graphed = copy.deepcopy(plain)
    speed_up(graphed, "auto", GPU)
    with torch.autocast("cuda", torch.bfloat16, autocast, cache_enabled=False):
        for seed in range(4):
            inputs = random_inputs(4, seed).to(GPU)
            pairs = list(zip(gradients(plain, inputs), gradients(graphed, inputs), strict=True))
            for expected, actual in pairs:
                if expected is not None:
                    torch.testing.assert_close(actual, expected, atol=1e-6, rtol=5e-2 if autocast else 1e-3)
    for expected, actual in zip(plain.buffers(), graphed.buffers(), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4)
    assert len(graphed.fast_features.graphs) == 1


@ON_GPU
@pytest.mark.slow
def test_what_is_compiled_is_replayed_and_trains_like_eager(net):
    plain = net.to(GPU).train()
    compiled = copy.deepcopy(plain)
    speed_up(compiled, "compile", GPU)
    for seed in range(3):
        inputs = random_inputs(8, seed).to(GPU)
        for expected, actual in zip(gradients(plain, inputs), gradients(compiled, inputs), strict=True):
            if expected is not None:
                assert (actual - expected).norm() <= 0.05 * expected.norm() + 1e-6
    for expected, actual in zip(plain.buffers(), compiled.buffers(), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-2, atol=1e-3)
    (_, replay), *_ = compiled.fast_features.graphs.values()
    assert replay.calls == 3


@ON_GPU
def test_graph_serves_smaller_batches_and_follows_the_weights(net):
    net.to(GPU).eval()
    speed_up(net, "auto", GPU)
    with torch.inference_mode():
        for _ in range(EAGER_CALLS):
            net.features(random_inputs(4).to(GPU))
        assert net.fast_features.captures == 0
        for count in (4, 3, 4, 1):
            inputs = random_inputs(count, count).to(GPU)
            # another batch size is another convolution algorithm, in TF32
            torch.testing.assert_close(net.features(inputs), net.plain_features(inputs), rtol=1e-2, atol=2e-3)
            for parameter in net.parameters():
                parameter.mul_(1.01)
    assert net.fast_features.captures == 1


@ON_GPU
def test_what_is_frozen_later_gets_no_gradient(net):
    net.to(GPU).train()
    speed_up(net, "auto", GPU)
    inputs = random_inputs(2).to(GPU)
    first = next(net.backbone.parameters())
    assert gradients(net, inputs) and first.grad is not None
    first.requires_grad_(False)
    gradients(net, inputs)
    assert first.grad is None
    first.requires_grad_(True)
    gradients(net, inputs)
    assert first.grad is not None


@ON_GPU
def test_a_capture_leaves_the_random_numbers_alone(net):
    net.to(GPU).train()
    speed_up(net, "auto", GPU)
    before = torch.cuda.get_rng_state()
    for _ in range(2):
        net.features(random_inputs(2).to(GPU))
    assert torch.equal(torch.cuda.get_rng_state(), before)


@ON_GPU
def test_dropout_is_drawn_anew_at_each_replay_and_follows_the_seed():
    net = make_net(nn.Sequential(Normalize([127.0] * 3, [60.0] * 3), nn.Dropout(0.5))).to(GPU).train()
    speed_up(net, "auto", GPU)
    inputs = random_inputs(2).to(GPU)
    net.features(inputs)

    def draws(seed):
        torch.manual_seed(seed)
        return [net.features(inputs)[0].detach().clone() for _ in range(2)]

    first, again = draws(1), draws(1)
    assert not torch.equal(first[0], first[1])
    torch.testing.assert_close(first, again)


@ON_GPU
def test_without_gradients_no_backward_pass_is_captured(net):
    net.to(GPU).eval()
    speed_up(net, "auto", GPU)
    for _ in range(EAGER_CALLS + 1):
        with torch.inference_mode():
            net.features(random_inputs(2).to(GPU))
    (_, replay), *_ = net.fast_features.graphs.values()
    assert replay.parameters == ()


@ON_GPU
def test_a_second_call_before_the_backward_pass_is_refused(net):
    net.to(GPU).train()
    speed_up(net, "auto", GPU)
    first, _ = (net.features(random_inputs(2, seed).to(GPU)) for seed in range(2))
    with pytest.raises(UserError, match="use speed=eager"):
        first[0].float().sum().backward()


@ON_GPU
def test_modules_that_talk_to_other_processes_are_not_captured(net, caplog):
    speed_up(net, "auto", GPU)
    net.backbone = nn.SyncBatchNorm.convert_sync_batchnorm(net.backbone)  # as Lightning does after callbacks are set up
    net.to(GPU).train()
    gradients(net, random_inputs(2).to(GPU))
    assert "sync_batchnorm" in caplog.text and net.fast_features is None


@ON_GPU
def test_accumulated_gradients_add_up(net):
    net.to(GPU).train()
    inputs = [random_inputs(2, seed).to(GPU) for seed in range(2)]
    expected = [sum(pair) for pair in zip(*(gradients(net, one) for one in inputs), strict=True) if pair[0] is not None]
    speed_up(net, "auto", GPU)
    net.zero_grad()
    for one in inputs:
        sum(feature.float().square().mean() for feature in net.features(one)).backward()
    actual = [parameter.grad for parameter in net.parameters() if parameter.grad is not None]
    torch.testing.assert_close(actual, expected, atol=1e-6, rtol=1e-2)


@ON_GPU
@pytest.mark.parametrize("preprocessor", [ReadsOnHost(), DecidesOnHost()])
def test_a_net_that_needs_the_host_runs_eagerly(caplog, preprocessor):
    net = make_net(preprocessor).to(GPU).train()
    speed_up(net, "auto", GPU)
    with caplog.at_level(logging.WARNING):
        for seed in range(2):
            gradients(net, random_inputs(2, seed).to(GPU))
    assert caplog.text.count("so it runs eagerly") == 1
    torch.rand(3, device=GPU)  # the generator is in order
    gradients(net, random_inputs(2).to(GPU))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_a_device_that_is_not_the_current_one(net):
    second = torch.device("cuda", 1)
    net.to(second).eval()
    speed_up(net, "auto", second)
    with torch.inference_mode():
        for seed in range(EAGER_CALLS + 3):
            inputs = random_inputs(4, seed).to(second)
            torch.testing.assert_close(net.features(inputs), net.plain_features(inputs), rtol=1e-2, atol=2e-3)
    assert net.fast_features.captures == 1
