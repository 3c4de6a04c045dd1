"""Losses of joints in sequences: recorded values and gradients, weights, and nothing labelled."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from lightpose.models.losses.lifting import MotionLoss
from lightpose.structures import Targets

PARITY = Path(__file__).parents[1] / "data_files/parity"


def losses(criterion: MotionLoss, given: Tensor, target: Tensor, weights: Tensor) -> dict[str, Tensor]:
    return criterion({"motion": given}, Targets({"motion": target}, {"motion": weights}))


def random_case(frames: int = 5) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    given, target = torch.randn(2, 3, frames, 4, 3, generator=draw, dtype=torch.float64)
    return given.requires_grad_(), target


def test_the_sum_matches_the_recorded_value_and_gradient():
    figures = {key: torch.from_numpy(array) for key, array in np.load(PARITY / "mpjpe_velocity_joint.npz").items()}
    given = figures["pred_0"].requires_grad_()
    loss = sum(losses(MotionLoss(), given, figures["arg_0"], torch.ones(given.shape[:-1])).values())
    torch.testing.assert_close(loss, figures["loss_0"].squeeze(), rtol=1e-4, atol=0)
    (gradient,) = torch.autograd.grad(loss, given)
    recorded = figures["grad_0"]
    torch.testing.assert_close(gradient, recorded, rtol=1e-4, atol=1e-4 * float(recorded.abs().max()))


def test_each_error_is_what_it_says():
    _, target = random_case()
    moved = losses(MotionLoss(1, 1), target + torch.tensor([3, 4, 0]), target, torch.ones(3, 5, 4))
    assert moved["position"] == pytest.approx(5) and moved["velocity"] == pytest.approx(0)
    larger = losses(MotionLoss(1, 1), 2 * target, target, torch.ones(3, 5, 4))
    assert larger["scaled"] == pytest.approx(0) and larger["position"] == pytest.approx(target.norm(dim=-1).mean())
    assert larger["velocity"] == pytest.approx(target.diff(dim=1).norm(dim=-1).mean())


def test_what_is_not_labelled_teaches_nothing():
    given, target = random_case()
    weights = torch.ones(3, 5, 4, dtype=torch.float64)
    weights[:, 2, 1] = 0
    found = losses(MotionLoss(), given, target, weights)
    for loss in found.values():
        (gradient,) = torch.autograd.grad(loss, given, retain_graph=True)
        assert not gradient[:, 2, 1].any() and gradient[:, 2, 0].abs().min() > 0
    nothing = losses(MotionLoss(), given, target, 0 * weights)
    (gradient,) = torch.autograd.grad(sum(nothing.values()), given)
    assert all(loss == 0 for loss in nothing.values()) and not gradient.any()


@pytest.mark.parametrize("frames", [1, 4])
def test_the_gradient_is_that_of_finite_differences(frames: int):
    given, target = random_case(frames)
    weights = torch.rand(3, frames, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda points: torch.stack(list(losses(MotionLoss(), points, target, weights).values())), given, fast_mode=True
    )


def test_a_right_prediction_has_a_finite_gradient():
    _, target = random_case()
    for given in (target.float().requires_grad_(), torch.zeros_like(target).float().requires_grad_()):
        found = losses(MotionLoss(), given, target.float(), torch.ones(3, 5, 4))
        (gradient,) = torch.autograd.grad(sum(found.values()), given)
        assert gradient.isfinite().all()
