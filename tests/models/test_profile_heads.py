"""Heads of coordinates as classes, and their loss: recorded figures, sizes that follow from strides, gradients."""

from pathlib import Path

import numpy as np
import pytest
import torch
from recorded import record, recorded_input, relative_error, weight
from torch import Tensor, nn

from lightpose.errors import UserError
from lightpose.interop.mmpose.names import BACKBONES, HEADS, Family
from lightpose.models.backbones.cspnext import CSPNeXt
from lightpose.models.backbones.timm import TimmBackbone
from lightpose.models.heads.rtmcc import RTMCCHead, ScaleNorm
from lightpose.models.heads.simcc import SimCCHead
from lightpose.models.losses.profiles import ProfileKL
from lightpose.structures import Spec, Targets

PARITY = Path(__file__).parents[1] / "data_files/parity"


def spec(input_hw: tuple[int, int] = (64, 48), count: int = 5) -> Spec:
    return Spec({"x": (count, input_hw[1] * 2), "y": (count, input_hw[0] * 2)}, input_hw)


def fill(part: nn.Module, prefix: str, family: Family) -> None:
    """Give a part the recorded weights."""
    state = part.state_dict()
    part.load_state_dict({name: weight(prefix + family.published(name), tuple(state[name].shape)) for name in state})


@pytest.mark.parametrize(
    "name",
    [
        "rtmpose_tiny",
        "rtmpose_m",
        "simcc_resnet50",
        pytest.param("simcc_resnet50_deconv", marks=pytest.mark.slow),
    ],
)
def test_matches_the_published_network(name: str) -> None:
    case = record(name)
    sizes = {"rtmpose_tiny": (0.167, 0.375), "rtmpose_m": (0.67, 0.75)}
    backbone = CSPNeXt(*sizes[name]) if name in sizes else TimmBackbone("resnet50")
    given = backbone.out_channels, backbone.strides, spec(tuple(case["input"][2:]), case["head"][0]["shape"][1])
    head: nn.Module
    if name in sizes:
        head, kind = RTMCCHead(*given, ProfileKL()), "RTMCCHead"
    elif name == "simcc_resnet50":
        head, kind = SimCCHead(*given, ProfileKL()), "SimCCHead"
    else:
        head, kind = SimCCHead(*given, ProfileKL(), upsample_to=4), "SimCCHead of deconvolutions"
    fill(backbone, "backbone.", BACKBONES["CSPNeXt" if name in sizes else "ResNet"])
    fill(head, "head.", HEADS[kind])
    with torch.inference_mode():
        outputs = head.eval()(backbone.eval()(recorded_input(case["input"])))
    assert relative_error(outputs["x"], case["head"][0]) < 1e-5
    assert relative_error(outputs["y"], case["head"][1]) < 1e-5
    assert sum(each.numel() for part in (backbone, head) for each in part.parameters()) == case["params"]


@pytest.mark.parametrize("kind", [SimCCHead, RTMCCHead])
@pytest.mark.parametrize(("stride", "input_hw"), [(32, (64, 64)), (32, (80, 48)), (16, (64, 48)), (4, (64, 48))])
def test_profiles_have_the_length_that_the_codec_expects(kind, stride, input_hw):
    """Of the last map, which is rounded up; every parameter trains, and no class stands out at first."""
    torch.manual_seed(0)
    head = kind((6, 8), (2, stride), spec(input_hw), ProfileKL())
    maps = torch.randn(2, 8, -(-input_hw[0] // stride), -(-input_hw[1] // stride))
    outputs = head([torch.randn(2, 6, 3, 3), maps])
    shapes = {name: tuple(output.shape[1:]) for name, output in outputs.items()}
    assert shapes == {"x": (5, input_hw[1] * 2), "y": (5, input_hw[0] * 2)}
    assert all(output.abs().max() < 1 for output in outputs.values())
    targets = Targets(outputs, dict.fromkeys("xy", torch.ones(2, 5)))
    targets = targets.map(lambda each: torch.rand_like(each))
    torch.stack(list(head.loss([maps], targets).values())).sum().backward()
    assert not [name for name, parameter in head.named_parameters() if parameter.grad is None]


@pytest.mark.parametrize(("stride", "steps"), [(32, 3), (8, 1), (4, 0), (2, 0)])
def test_transposed_convolutions_lead_to_the_stride_asked_for(stride, steps):
    head = SimCCHead((8,), (stride,), spec((64, 96)), ProfileKL(), upsample_to=4, channels=12)
    assert sum(isinstance(module, nn.ConvTranspose2d) for module in head.modules()) == steps
    assert head.to_x.in_features == (16 * 24 if stride > 2 else 32 * 48)
    assert head([torch.randn(2, 8, 64 // stride, 96 // stride)])["y"].shape == (2, 5, 128)


def test_attention_lets_keypoints_look_at_each_other():
    """Without it a keypoint's profiles depend on its own map alone."""
    torch.manual_seed(0)
    head = RTMCCHead((8,), (8,), spec(), ProfileKL()).eval()
    maps = torch.randn(1, 8, 8, 6)
    for layer in (head.embed, head.gau.out, head.to_x):
        nn.init.normal_(layer.weight)
    plain = head([maps])["x"]
    with torch.no_grad():
        head.final.bias[0] += 1
    assert (head([maps])["x"] - plain)[0, 1:].abs().max() > 1e-3
    with torch.no_grad():
        head.gau.out.weight.zero_()
        plain = head([maps])["x"]
        head.final.bias[0] += 1
    assert torch.equal(head([maps])["x"][0, 1:], plain[0, 1:])


def test_scale_norm_is_finite_for_zeros_and_half_precision():
    norm = ScaleNorm()
    tokens = torch.randn(2, 3, 8)
    torch.testing.assert_close(norm(1000 * tokens).square().mean(-1), torch.ones(2, 3))
    assert norm((1000 * tokens).half()).isfinite().all()
    zeros = torch.zeros(2, 3, 8, requires_grad=True)
    norm(zeros).sum().backward()
    assert zeros.grad is not None
    assert zeros.grad.isfinite().all()


CASES = {"kl_discret": ProfileKL(), "kl_discret_plain": ProfileKL(beta=1, label_beta=None)}


@pytest.mark.parametrize("name", CASES)
def test_loss_matches_recorded_value_and_gradient(name):
    figures = {key: torch.from_numpy(array) for key, array in np.load(PARITY / f"{name}.npz").items()}
    outputs = {"x": figures["pred_0"].requires_grad_(), "y": figures["pred_1"].requires_grad_()}
    maps = {"x": figures["arg_0_0"], "y": figures["arg_0_1"]}
    losses = CASES[name](outputs, Targets(maps, dict.fromkeys("xy", figures["arg_1"])))
    torch.testing.assert_close(losses["x"] + losses["y"], figures["loss_0"], rtol=1e-5, atol=0)
    gradients = torch.autograd.grad(losses["x"] + losses["y"], list(outputs.values()))
    for gradient, recorded in zip(gradients, (figures["grad_0"], figures["grad_1"]), strict=True):
        torch.testing.assert_close(gradient, recorded, rtol=1e-4, atol=1e-5 * float(recorded.abs().max()))


def profile_loss(output: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    loss: Tensor = ProfileKL()({"x": output}, Targets({"x": target}, {"x": weights}))["x"]
    return loss


def test_gradient_matches_finite_differences_and_follows_the_weights():
    output, target = torch.rand(2, 3, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weights = torch.tensor([[1.0, 2.0, 0.0, 0.5]] * 3, dtype=torch.float64)
    output.requires_grad_()
    assert torch.autograd.gradcheck(lambda each: profile_loss(each, target, weights), output)
    (gradient,) = torch.autograd.grad(profile_loss(output, target, weights), output)
    assert gradient[:, 2].abs().max() == 0
    assert torch.isclose(profile_loss(output, target, 2 * weights), 2 * profile_loss(output, target, weights))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_loss_is_zero_where_right_or_hidden_and_finite_for_large_outputs(dtype):
    target = torch.rand(2, 4, 6)
    assert abs(profile_loss(target, target, torch.ones(2, 4))) < 1e-6
    output = (1e4 * torch.randn(2, 4, 6)).to(dtype).requires_grad_()
    for weights in (torch.zeros(2, 4), torch.ones(2, 4)):
        loss = profile_loss(output, target, weights)
        (gradient,) = torch.autograd.grad(loss, output)
        assert loss.isfinite()
        assert gradient.isfinite().all()
        assert (loss == 0) == (weights.max() == 0)


def test_settings_that_cannot_be_used_are_refused():
    with pytest.raises(UserError, match=r"beta=0 and criterion\.label_beta=10"):
        ProfileKL(beta=0)
    with pytest.raises(UserError, match="no input_hw"):
        SimCCHead((8,), (8,), Spec({"x": (5, 96), "y": (5, 128)}, None), ProfileKL())
