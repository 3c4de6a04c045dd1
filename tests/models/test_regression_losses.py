"""Losses of coordinates: recorded values and gradients, finite differences, nothing visible, learnt densities."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from recorded import weight
from torch import Tensor, distributions, nn

from lightpose.errors import UserError
from lightpose.models.losses.lifting import MPJPE, BoneLength, JointMSE
from lightpose.models.losses.regression import CoordinateMSE, SmoothL1, SoftWing, Wing
from lightpose.models.losses.rle import RLE, RealNVP
from lightpose.structures import Targets

PARITY = Path(__file__).parents[1] / "data_files/parity"
H36M_PARENTS = [0, 0, 1, 2, 0, 4, 5, 0, 7, 8, 9, 8, 11, 12, 8, 14, 15]
MAKE = {
    "l1": lambda: SmoothL1(beta=0),
    "smooth_l1": SmoothL1,
    "soft_weight_smooth_l1": lambda: SmoothL1(labelled_only=True),
    "wing": Wing,
    "soft_wing": SoftWing,
    "mse": CoordinateMSE,
    "joint_mse": JointMSE,
    "mpjpe": MPJPE,
    "bone": lambda: BoneLength(H36M_PARENTS),
    "rle": RLE,
}
RECORDED = {"joint_mse": "mse"}
each_loss = pytest.mark.parametrize("name", MAKE)


def total(criterion: nn.Module, prediction: Tensor, sigmas: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    names = ("keypoints", "joints")
    outputs = {**dict.fromkeys(names, prediction), "sigmas": sigmas}
    targets = Targets(dict.fromkeys(names, target), dict.fromkeys(names, weights))
    (loss,) = criterion(outputs, targets).values()
    return loss


def with_recorded_weights(criterion: nn.Module) -> nn.Module:
    """A flow's weights follow from their recorded names."""
    renamed = {"flow.scale.": "flow_model.s.", "flow.shift.": "flow_model.t."}
    state = {}
    for name, tensor in criterion.state_dict().items():
        recorded = name
        for ours, theirs in renamed.items():
            recorded = recorded.replace(ours, theirs)
        state[name] = weight(recorded, tuple(tensor.shape))
    criterion.load_state_dict(state)
    return criterion


@each_loss
def test_matches_recorded_value_and_gradient(name):
    figures = {
        key: torch.from_numpy(array) for key, array in np.load(PARITY / f"{RECORDED.get(name, name)}.npz").items()
    }
    prediction = figures["pred_0"].requires_grad_()
    target, *rest = (figures[key] for key in sorted(figures) if key.startswith("arg_"))
    sigmas = torch.ones_like(prediction)
    if name == "rle":
        sigmas, (target, *rest) = target.sigmoid(), rest  # recorded before the sigmoid
    weights = rest[0] if rest else torch.ones(prediction.shape[:2])
    loss = total(with_recorded_weights(MAKE[name]()), prediction, sigmas, target, weights)
    torch.testing.assert_close(loss, figures["loss_0"], rtol=1e-4, atol=0)
    (gradient,) = torch.autograd.grad(loss, prediction)
    recorded = figures["grad_0"]
    torch.testing.assert_close(gradient, recorded, rtol=1e-4, atol=1e-4 * float(recorded.abs().max()))


def random_case(dims: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Prediction, deviations and target of 17 keypoints."""
    generator = torch.Generator().manual_seed(0)
    prediction, target = torch.rand(2, 2, 17, dims, generator=generator, dtype=torch.float64)
    sigmas = torch.rand(2, 17, dims, generator=generator, dtype=torch.float64) * 0.8 + 0.1
    return prediction.requires_grad_(), sigmas.requires_grad_(), target


@each_loss
def test_gradient_matches_finite_differences(name):
    prediction, sigmas, target = random_case()
    weights = torch.rand(2, 17, dtype=torch.float64)
    criterion = MAKE[name]().double()
    inputs = (prediction, sigmas) if name == "rle" else (prediction,)
    assert torch.autograd.gradcheck(
        lambda points, spread=sigmas: total(criterion, points, spread, target, weights), inputs, fast_mode=True
    )


@each_loss
@pytest.mark.parametrize("spread", [0.0, 1e-30, 0.5])
def test_nothing_visible_gives_zero_and_no_gradient(name, spread):
    prediction, _, target = random_case()
    sigmas = torch.full_like(target, spread).float().requires_grad_()
    criterion = MAKE[name]()
    loss = total(criterion, prediction.float(), sigmas, target.float(), torch.zeros(2, 17))
    assert loss == 0
    (gradient,) = torch.autograd.grad(loss, prediction, retain_graph=True)
    assert torch.equal(gradient, torch.zeros_like(gradient))
    if name == "rle":
        own = torch.autograd.grad(loss, [sigmas, *criterion.parameters()])
        assert all(torch.equal(each, torch.zeros_like(each)) for each in own)


@each_loss
def test_gradient_is_finite_where_the_prediction_is_right(name):
    _, _, target = random_case()
    prediction, sigmas = (tensor.float().requires_grad_() for tensor in (target.clone(), torch.zeros_like(target)))
    loss = total(MAKE[name](), prediction, sigmas, target.float(), torch.ones(2, 17))
    assert loss.isfinite()
    (gradient,) = torch.autograd.grad(loss, prediction)
    assert torch.isfinite(gradient).all()


@each_loss
def test_hidden_keypoints_teach_nothing(name):
    prediction, sigmas, target = random_case()
    weights = torch.ones(2, 17)
    weights[:, 3] = 0
    (gradient,) = torch.autograd.grad(total(MAKE[name]().double(), prediction, sigmas, target, weights), prediction)
    assert gradient[:, 3].abs().max() == 0
    assert gradient[:, 16].abs().min() > 0


@pytest.mark.parametrize("name", [name for name in MAKE if name != "bone"])
def test_weights_scale_the_loss(name):
    prediction, sigmas, target = random_case()
    criterion, weights = MAKE[name]().double(), torch.ones(2, 17)
    once, twice = (total(criterion, prediction, sigmas, target, scale * weights) for scale in (1, 2))
    torch.testing.assert_close(twice, 2 * once)


@pytest.mark.parametrize(("loss", "joint"), [(Wing(3.0, 2.0), 3.0), (SoftWing(2.0, 20.0, 0.5), 2.0)])
def test_wings_join_their_two_pieces(loss, joint):
    values = [
        float(total(loss, torch.full((1, 1, 1), joint + side), torch.ones(1), torch.zeros(1, 1, 1), torch.ones(1, 1)))
        for side in (-1e-4, 1e-4)
    ]
    assert values[0] == pytest.approx(values[1], abs=4e-3)


def test_bones_are_compared_with_any_number_of_leading_dimensions():
    target = torch.zeros(2, 5, 3, 3)
    target[..., 1, 0], target[..., 2, 0] = 1, 3  # bones of length 1 and 2
    loss = BoneLength([0, 0, 1])({"joints": 2 * target}, Targets({"joints": target}, {"joints": torch.ones(2, 5, 3)}))
    assert loss["bone"] == pytest.approx((1 + 2) / 2)


def test_the_flow_is_a_density():
    """It integrates to one, whatever its weights."""
    torch.manual_seed(0)
    flow = RealNVP().double()
    for parameter in flow.parameters():
        nn.init.normal_(parameter, std=0.2)
    axis = torch.linspace(-12, 12, 161, dtype=torch.float64)
    with torch.no_grad():
        density = flow.log_density(torch.cartesian_prod(axis, axis)).exp()
    assert float(density.sum()) * 0.15**2 == pytest.approx(1, abs=1e-3)
    assert density.max() > 1.1 / (2 * math.pi)  # of a standard normal one


@pytest.mark.parametrize(("density", "base"), [("laplace", distributions.Laplace), ("gaussian", distributions.Normal)])
def test_a_flow_that_bends_nothing_leaves_two_densities(density, base):
    """That of all errors, and the standard normal one, which counts for both coordinates of a keypoint."""
    criterion = RLE(density=density).double()
    for parameter in criterion.parameters():
        nn.init.zeros_(parameter)
    prediction, sigmas, target = random_case()
    normal = distributions.Normal(0, 1).log_prob((prediction - target) / sigmas).sum(-1, keepdim=True) - sigmas.log()
    expected = -(normal + base(target, sigmas).log_prob(prediction)).sum() / 2
    torch.testing.assert_close(total(criterion, prediction, sigmas, target, torch.ones(2, 17)), expected)


def test_without_residual_the_flow_is_all_of_the_density():
    torch.manual_seed(0)
    criterion = RLE(residual=False)
    prediction, sigmas, target = (tensor.detach().float() for tensor in random_case())
    density = criterion.flow.log_density((prediction - target) / sigmas)[..., None]
    expected = (sigmas.log() - density).sum() / 2
    torch.testing.assert_close(total(criterion, prediction, sigmas, target, torch.ones(2, 17)), expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SmoothL1(beta=-1), "beta=-1 must be at least 0"),
        (lambda: Wing(omega=0), "criterion.omega=0 must be positive"),
        (lambda: SoftWing(epsilon=-1), "criterion.epsilon=-1 must be positive"),
        (lambda: BoneLength([0, 7]), "must name a keypoint, 0 to 1"),
        (lambda: BoneLength([0]), "the root is its own parent"),
        (lambda: RLE(density="cauchy"), "use laplace or gaussian"),
    ],
)
def test_options_that_cannot_be_used_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()
