"""Integral heads and the loss of their maps: agreement with recorded figures, means, gradients."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from recorded import record, recorded_input, relative_error, weight
from torch import Tensor

from lightpose.errors import UserError
from lightpose.models.backbones.timm import TimmBackbone
from lightpose.models.heads.integral import IntegralHead
from lightpose.models.losses.heatmap import KeypointMSE
from lightpose.models.losses.integral import JensenShannon, KeypointsAndHeatmap
from lightpose.models.losses.regression import SmoothL1
from lightpose.structures import Spec, Targets

PARITY = Path(__file__).parents[1] / "data_files/parity"
CRITERION = KeypointsAndHeatmap(SmoothL1(), JensenShannon())


def make_head(width: int, strides: tuple[int, ...], input_hw: tuple[int, int], count: int, **options) -> IntegralHead:
    shapes = {"heatmap": (count, input_hw[0] // 4, input_hw[1] // 4), "keypoints": (count, 2)}
    return IntegralHead((width,), strides, Spec(shapes, input_hw), CRITERION, **options)


class Logits(IntegralHead):
    """Its feature map is its logits."""

    def __init__(self, count: int, **options) -> None:
        shapes = {"heatmap": (count, 16, 12), "keypoints": (count, 2)}
        super().__init__((count,), (4,), Spec(shapes, (64, 48)), CRITERION, **options)
        torch.nn.init.dirac_(self.final.weight)


def js_total(prediction: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    targets = Targets({"heatmap": target}, {"heatmap": weights})
    return JensenShannon()({"heatmap": prediction}, targets)["heatmap"]


def test_divergence_matches_recorded_value_and_gradient():
    """(Of the gradient, every 16th value is kept. It is recorded as NaN for keypoints of weight 0.)"""
    figures = {key: torch.from_numpy(array) for key, array in np.load(PARITY / "js_discret.npz").items()}
    prediction = figures["pred_0"].requires_grad_()
    loss = js_total(prediction, figures["arg_0"], figures["arg_1"])
    torch.testing.assert_close(loss, figures["loss_0"], rtol=1e-4, atol=0)
    (gradient,) = torch.autograd.grad(loss, prediction)
    gradient, recorded = gradient.flatten()[::16], figures["grad_0"]
    assert gradient.isfinite().all()
    gradient, recorded = gradient[recorded.isfinite()], recorded[recorded.isfinite()]
    torch.testing.assert_close(gradient, recorded, rtol=1e-4, atol=1e-4 * float(recorded.abs().max()))


def test_divergence_is_zero_for_equal_maps_and_log_2_for_disjoint_ones():
    maps = torch.zeros(1, 2, 4, 4)
    maps[0, 0, 1, 2] = maps[0, 1, 3, 3] = 1
    weights = torch.ones(1, 2)
    assert js_total(maps, maps, weights) == pytest.approx(0, abs=1e-6)
    assert js_total(maps, maps[:, [1, 0]], weights) == pytest.approx(2 * math.log(2))
    assert js_total(maps, maps[:, [1, 0]], torch.tensor([[1.0, 0.0]])) == pytest.approx(math.log(2))
    assert js_total(maps, maps[:, [1, 0]], 0 * weights) == 0


def test_divergence_of_float16_maps_has_finite_gradients():
    logits = (torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 200).half().requires_grad_()
    head = Logits(3)
    maps = logits.flatten(-2).softmax(-1).view_as(logits)
    targets = {"heatmap": torch.zeros(2, 3, 8, 8), "keypoints": torch.zeros(2, 3, 2)}
    losses = head.compare(
        {"heatmap": maps, "keypoints": torch.zeros(2, 3, 2).half()},
        Targets(targets, dict.fromkeys(targets, torch.ones(2, 3))),
    )
    assert losses.keys() == {"heatmap", "keypoints"}
    assert all(loss.isfinite() and loss.dtype == torch.float32 for loss in losses.values())
    (gradient,) = torch.autograd.grad(losses["heatmap"], logits)
    assert gradient.isfinite().all()


@torch.inference_mode()
def test_the_network_computes_the_recorded_outputs():
    """Its recorded coordinates are sums over recorded factors of columns and rows, in place of 0/w, 1/w and so on."""
    case = record("integral_resnet50")
    backbone = TimmBackbone("resnet50")
    head = make_head(backbone.out_channels[0], backbone.strides, tuple(case["input"][2:]), 17)
    renamed = {"upsample.": "deconv_layers.", "final.": "final_layer."}
    for module, prefix in ((backbone.model, "backbone."), (head, "head.simplebaseline_head.")):
        state = {}
        for name, tensor in module.state_dict().items():
            recorded = name
            for ours, theirs in renamed.items() if module is head else ():
                recorded = recorded.replace(ours, theirs)
            state[name] = weight(prefix + recorded, tuple(tensor.shape))
        module.load_state_dict(state)
    count = sum(parameter.numel() for module in (backbone, head) for parameter in module.parameters())
    assert count + 64 + 64 == case["params"]
    maps = head.eval()(backbone.eval()(recorded_input(case["input"])))["heatmap"]
    keypoints, heatmap = case["outputs"]
    assert relative_error(maps, heatmap) < 1e-4
    x, y = (weight(f"head.linspace_{axis}", shape) for axis, shape in (("x", (1, 1, 1, 64)), ("y", (1, 1, 64, 1))))
    assert relative_error(torch.stack([(maps * each).sum((-2, -1)) for each in (x, y)], -1), keypoints) < 1e-4


@pytest.mark.parametrize("debiased", [False, True])
def test_keypoints_are_means_of_the_maps(debiased):
    logits = torch.randn(2, 5, 16, 12, generator=torch.Generator().manual_seed(0)) + 20  # without a background
    outputs = Logits(5, beta=2.0, debiased=debiased)([logits])
    maps = outputs["heatmap"]
    torch.testing.assert_close(maps, (2 * logits).flatten(-2).softmax(-1).view_as(maps))
    x, y = (maps.sum(-2) * torch.arange(12) / 12).sum(-1), (maps.sum(-1) * torch.arange(16) / 16).sum(-1)
    torch.testing.assert_close(outputs["keypoints"], torch.stack([x, y], -1), atol=1e-6, rtol=0)


def test_a_background_of_zeros_pulls_only_the_plain_mean():
    logits = torch.zeros(1, 1, 16, 12)
    logits[0, 0, 14, 1] = 8.0
    place = torch.tensor([1 / 12, 14 / 16])
    plain, debiased = (Logits(1, debiased=each)([logits])["keypoints"][0, 0] for each in (False, True))
    assert (plain - place).abs().min() > 0.01
    torch.testing.assert_close(debiased, place, atol=1e-5, rtol=0)


@pytest.mark.parametrize("level", [0.0, -20.0, 1e4])
def test_flat_maps_have_their_mean_in_the_middle_and_finite_gradients(level):
    logits = torch.full((1, 1, 16, 12), level, requires_grad=True)
    keypoints = Logits(1, beta=10.0, debiased=True)([logits])["keypoints"]
    torch.testing.assert_close(keypoints[0, 0], torch.tensor([5.5 / 12, 7.5 / 16]), atol=1e-4, rtol=0)
    (gradient,) = torch.autograd.grad(keypoints.sum(), logits)
    assert gradient.isfinite().all()


def test_means_are_exact_under_autocast():
    logits = torch.randn(2, 5, 16, 12, generator=torch.Generator().manual_seed(0)).bfloat16().float()
    head = Logits(5)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = head([logits])
    assert all(output.dtype == torch.float32 for output in outputs.values())
    torch.testing.assert_close(outputs["keypoints"], head([logits])["keypoints"], atol=1e-5, rtol=0)


def test_it_learns_where_a_pattern_lies():
    torch.manual_seed(0)
    head = make_head(4, (8,), (64, 48), 1, channels=8)
    features = torch.zeros(12, 4, 8, 6)
    places = torch.stack([torch.arange(12) % 6, torch.arange(12) * 5 % 8], -1)
    features[torch.arange(12), :, places[:, 1], places[:, 0]] = 1
    target = ((places + 0.5) / torch.tensor([6, 8]))[:, None]
    even = torch.full((12, 1, 16, 12), 1 / (16 * 12))
    targets = Targets(
        {"keypoints": target, "heatmap": even}, {"keypoints": torch.ones(12, 1), "heatmap": torch.zeros(12, 1)}
    )
    optimizer = torch.optim.Adam(head.parameters(), 0.005)
    for _ in range(60):
        optimizer.zero_grad()
        torch.stack(list(head.loss([features], targets).values())).sum().backward()
        optimizer.step()
    error = (head([features])["keypoints"] - target).abs()
    assert error.mean() < 0.05  # 0.2 at the middle of the map


def test_a_factor_that_cannot_be_used_is_refused():
    with pytest.raises(UserError, match=r"head\.beta=0 must be positive"):
        Logits(1, beta=0)


def test_integral_regression_takes_the_squared_error_of_maps_as_well():
    criterion = KeypointsAndHeatmap(SmoothL1(), KeypointMSE())
    maps = {"keypoints": torch.rand(2, 3, 2), "heatmap": torch.rand(2, 3, 4, 4)}
    targets = Targets(
        {name: torch.zeros_like(value) for name, value in maps.items()}, dict.fromkeys(maps, torch.ones(2, 3))
    )
    losses = criterion(maps, targets)
    torch.testing.assert_close(losses["keypoints"], maps["keypoints"].square().mean() / 2)
    torch.testing.assert_close(losses["heatmap"], maps["heatmap"].square().mean())
