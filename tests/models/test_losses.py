"""Heatmap losses: recorded values and gradients, finite differences, and nothing visible."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightpose.errors import UserError
from lightpose.models.losses.heatmap import AdaptiveWing, HeatmapOffsetMSE, KeypointMSE, KeypointOHKM
from lightpose.structures import Targets

PARITY = Path(__file__).parents[1] / "data_files/parity"
LOSSES = {
    "keypoint_mse": KeypointMSE(),
    "keypoint_ohkm_mse": KeypointOHKM(),
    "adaptive_wing": AdaptiveWing(),
    "combined_target_mse": HeatmapOffsetMSE(),
}
each_loss = pytest.mark.parametrize("name", LOSSES)


def by_name(name: str, maps: Tensor) -> dict[str, Tensor]:
    """Maps under the names of the head's outputs; the combined ones interleave (disk, dx, dy) in (B, 3K, h, w)."""
    if name != "combined_target_mse":
        return {"heatmap": maps}
    triples = maps.unflatten(1, (-1, 3))
    return {"heatmap": triples[:, :, 0], "offset": triples[:, :, 1:]}


def total(name: str, prediction: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    maps = by_name(name, target)
    losses = LOSSES[name](by_name(name, prediction), Targets(maps, dict.fromkeys(maps, weights)))
    assert set(losses) == set(maps)
    return torch.stack(list(losses.values())).sum()


def random_case(name: str, batch: int, count: int, side: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    channels = count * 3 if name == "combined_target_mse" else count
    prediction, target = torch.rand(2, batch, channels, side, side, generator=generator, dtype=torch.float64)
    return prediction.requires_grad_(), target


@each_loss
def test_matches_recorded_value_and_gradient(name):
    """(Predictions, targets and weights are recorded once where the cases share them, the last gradient in part.)"""
    arrays = {**np.load(PARITY / "keypoint_mse.npz"), **np.load(PARITY / f"{name}.npz")}
    figures = {key: torch.from_numpy(array) for key, array in arrays.items()}
    prediction = figures["pred_0"].requires_grad_()
    loss = total(name, prediction, figures["arg_0"], figures["arg_1"])
    torch.testing.assert_close(loss, figures["loss_0"], rtol=1e-4, atol=0)
    (gradient,) = torch.autograd.grad(loss, prediction)
    recorded = figures["grad_0"]
    if recorded.ndim == 1:
        gradient = gradient.flatten()[::16]
    torch.testing.assert_close(gradient, recorded, rtol=1e-4, atol=1e-4 * float(recorded.abs().max()))


@each_loss
def test_gradient_matches_finite_differences(name):
    prediction, target = random_case(name, 2, 8, 3)
    weights = torch.rand(2, 8, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda maps: total(name, maps, target, weights), prediction)


@each_loss
def test_nothing_visible_gives_zero_and_no_gradient(name):
    prediction, target = random_case(name, 2, 8, 4)
    loss = total(name, prediction, target, torch.zeros(2, 8))
    assert loss == 0
    (gradient,) = torch.autograd.grad(loss, prediction)
    assert torch.equal(gradient, torch.zeros_like(gradient))


@each_loss
def test_gradient_is_finite_where_the_prediction_is_right(name):
    _, target = random_case(name, 2, 8, 4)
    target[:, :2], target[:, 2:4] = 0, 1
    prediction = target.clone().requires_grad_()
    loss = total(name, prediction, target, torch.ones(2, 8))
    assert loss == 0
    (gradient,) = torch.autograd.grad(loss, prediction)
    assert torch.isfinite(gradient).all()


@each_loss
def test_weights_scale_the_loss_and_hide_keypoints(name):
    prediction, target = random_case(name, 2, 8, 4)
    weights = torch.ones(2, 8)
    assert torch.isclose(total(name, prediction, target, 2 * weights), 2 * total(name, prediction, target, weights))
    weights[:, 3] = 0
    (gradient,) = torch.autograd.grad(total(name, prediction, target, weights), prediction)
    assert by_name(name, gradient)["heatmap"][:, 3].abs().max() == 0


def test_hard_keypoints_are_those_with_the_largest_error():
    prediction = torch.zeros(1, 10, 2, 2, requires_grad=True)
    target = torch.arange(10.0)[None, :, None, None].expand(1, 10, 2, 2)
    loss = KeypointOHKM(top_k=3)({"heatmap": prediction}, Targets({"heatmap": target}, {"heatmap": torch.ones(1, 10)}))
    assert loss["heatmap"] == (49 + 64 + 81) / 3


def test_adaptive_wing_joins_its_two_pieces():
    target = torch.tensor([0.0, 0.5, 1.0]).view(1, 3, 1, 1)
    values = []
    for error in (0.5 - 1e-4, 0.5 + 1e-4):
        maps = target + error
        maps.requires_grad_()
        targets = Targets({"heatmap": target}, {"heatmap": torch.ones(1, 3)})
        loss = AdaptiveWing()({"heatmap": maps}, targets)["heatmap"]
        values.append((loss.detach(), torch.autograd.grad(loss, maps)[0]))
    torch.testing.assert_close(values[0], values[1], rtol=1e-3, atol=1e-3)


def make_ohkm(count: int) -> nn.Module:
    loss = KeypointOHKM(top_k=8)
    maps = torch.zeros(1, count, 2, 2)
    loss({"heatmap": maps}, Targets({"heatmap": maps}, {"heatmap": torch.ones(1, count)}))
    return loss


def test_settings_that_cannot_be_used_are_refused():
    with pytest.raises(UserError, match="at least 1"):
        KeypointOHKM(top_k=0)
    with pytest.raises(UserError, match="5 or less"):
        make_ohkm(count=5)
    with pytest.raises(UserError, match="alpha > 2"):
        AdaptiveWing(alpha=1.5)
