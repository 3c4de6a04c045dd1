"""Heads of coordinates: agreement with recorded networks, precision, what trains."""

from typing import Any

import pytest
import torch
from recorded import record, recorded_input, relative_error, weight

from lightpose.errors import UserError
from lightpose.interop.mmpose.names import BACKBONES, HEADS
from lightpose.models.backbones.timm import TimmBackbone
from lightpose.models.heads.regression import RegressionHead, RLEHead
from lightpose.models.losses.regression import SmoothL1
from lightpose.models.losses.rle import RLE
from lightpose.structures import Spec, Targets


def make(rle: bool, count: int = 5, channels: tuple[int, ...] = (8,), strides: tuple[int, ...] = (32,)) -> Any:
    spec = Spec(dict.fromkeys(("keypoints", "sigmas") if rle else ("keypoints",), (count, 2)), (64, 64))
    return RLEHead(channels, strides, spec, RLE()) if rle else RegressionHead(channels, strides, spec, SmoothL1())


@torch.inference_mode()
@pytest.mark.parametrize("rle", [False, True])
def test_the_network_computes_the_recorded_outputs(rle):
    """Deviations are recorded before the sigmoid."""
    case = record("rle_resnet50" if rle else "regression_resnet50")
    backbone = TimmBackbone("resnet50")
    head = make(rle, case["outputs"][0]["shape"][1], backbone.out_channels, backbone.strides)
    for module, prefix, family in (
        (backbone.model, "backbone.", BACKBONES["ResNet"]),
        (head, "head.", HEADS["RLEHead" if rle else "RegressionHead"]),
    ):
        module.load_state_dict(
            {
                name: weight(prefix + family.published(name), tuple(each.shape))
                for name, each in module.state_dict().items()
            }
        )
    assert sum(each.numel() for module in (backbone, head) for each in module.parameters()) == case["params"]
    features = backbone.eval()(recorded_input(case["input"]))
    vectors = head.vectors(features)
    assert relative_error(vectors, case["outputs"][0]) < 1e-5
    outputs = head(features)
    assert torch.equal(outputs["keypoints"], vectors[..., :2])
    if rle:
        assert torch.equal(outputs["sigmas"], vectors[..., 2:].sigmoid())


@pytest.mark.parametrize("rle", [False, True])
def test_the_coarsest_map_of_the_last_stage_is_averaged(rle):
    head = make(rle, channels=(8, 6), strides=(16, 32))
    features = [torch.randn(2, channels, side, side) for channels, side in ((8, 4), (6, 2), (8, 4), (6, 2))]
    outputs = head(features)
    assert outputs.keys() == head.emits
    assert all(output.shape == (2, 5, 2) for output in outputs.values())
    expected = (features[3].mean((-2, -1)) @ head.final.weight.T + head.final.bias).unflatten(1, (5, -1))
    torch.testing.assert_close(outputs["keypoints"], expected[..., :2])


@pytest.mark.parametrize("rle", [False, True])
def test_coordinates_are_not_rounded_under_autocast(rle):
    head = make(rle)
    torch.nn.init.constant_(head.final.bias, 0.7)
    features = [torch.randn(2, 8, 2, 2)]
    with torch.autocast("cpu", torch.bfloat16):
        outputs = head(features)
    for name, output in head(features).items():
        assert outputs[name].dtype == torch.float32
        torch.testing.assert_close(outputs[name], output, atol=1e-6, rtol=0)


def test_the_flow_trains_with_the_head_and_learns_the_spread():
    torch.manual_seed(0)
    head = make(rle=True, count=2)
    features = [torch.ones(64, 8, 1, 1)]
    noise = torch.randn(64, 2, 2) * torch.tensor([0.02, 0.2])[:, None]
    targets = Targets({"keypoints": 0.5 + noise}, {"keypoints": torch.ones(64, 2)})
    optimizer = torch.optim.Adam(head.parameters(), 0.01)
    before = [parameter.detach().clone() for parameter in head.parameters()]
    for _ in range(60):
        optimizer.zero_grad()
        head.loss(features, targets)["keypoints"].backward()
        optimizer.step()
    assert not any(torch.equal(old, new) for old, new in zip(before, head.parameters(), strict=True))
    outputs = head(features)
    torch.testing.assert_close(outputs["keypoints"][0], torch.full((2, 2), 0.5), atol=0.1, rtol=0)
    precise, vague = outputs["sigmas"][0].mean(-1)
    assert vague / precise > 4


@pytest.mark.parametrize("magnitude", [1.0, 1e4])
def test_loss_of_float16_outputs_is_finite_when_nothing_is_visible(magnitude):
    head = make(rle=True)
    logits = torch.randn(2, 5, 2, generator=torch.Generator().manual_seed(0)) * magnitude
    outputs = {"keypoints": logits.half().requires_grad_(), "sigmas": logits.half().sigmoid()}
    loss = head.compare(outputs, Targets({"keypoints": torch.zeros(2, 5, 2)}, {"keypoints": torch.zeros(2, 5)}))
    assert loss["keypoints"] == 0
    gradients = torch.autograd.grad(loss["keypoints"], [outputs["keypoints"], *head.criterion.parameters()])
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("shape", [(5, 3), None, (None, 2)])
def test_other_keypoints_than_those_of_the_plane_are_refused(shape):
    with pytest.raises(UserError, match=r"emits keypoints of shape \(K, 2\), but the codec expects"):
        RegressionHead((8,), (32,), Spec({"keypoints": shape}, (64, 64)), SmoothL1())
