"""Hands in space: the figures of points that were put there, and what has no such figures."""

from dataclasses import replace

import pytest
import torch
from metric_samples import batch_of, poses_of

from lightpose.errors import UserError
from lightpose.metrics.hands import HandsMPJPE
from lightpose.skeleton import Skeleton

HANDS = Skeleton.build(["right_tip", "right_wrist", "left_tip", "left_wrist"])
CAMERA = torch.tensor([[500.0, 0.0, 40.0], [0.0, 400.0, 30.0], [0.0, 0.0, 1.0]])
VISIBLE = torch.tensor([[2.0, 2, 2, 2], [2, 2, 0, 0], [2, 2, 2, 0], [0, 0, 0, 0]])
"""Two hands, a right one, two of which one has no root, none."""


def drawn(seed: int) -> torch.Tensor:
    """(4, 4, 3) mm before the camera."""
    draw = torch.Generator().manual_seed(seed)
    return 60 * torch.randn(4, 4, 3, generator=draw) + torch.tensor([0.0, 0.0, 1000.0])


def seen(points: torch.Tensor) -> torch.Tensor:
    """Image pixels of points in space."""
    projected = points @ CAMERA.T
    return projected[..., :2] / projected[..., 2:]


def samples(truth: torch.Tensor):
    batch = batch_of(seen(truth), [0, 1, 2, 3], visible=VISIBLE)
    keypoints = torch.cat([batch.instances.keypoints, truth[:, None, :, 2:]], -1)
    return replace(batch, instances=replace(batch.instances, keypoints=keypoints), cameras=CAMERA.expand(4, 3, 3))


def found(points: torch.Tensor, truth: torch.Tensor, right: list[float], left: list[float]):
    """What finds ``points``: the depth of a hand counts from its true root, that of the left root from the right."""
    roots = truth[:, [1, 1, 3, 3], 2]
    extras = {
        "depth_mm": points[..., 2] - roots,
        "root_depth_mm": truth[:, 3, 2] - truth[:, 1, 2],
        "right_hand": torch.tensor(right),
        "left_hand": torch.tensor(left),
    }
    return poses_of(seen(points), extras=extras)


def figures(poses, batch):
    metric = HandsMPJPE(HANDS)
    metric.update(poses, batch)
    return {name: pytest.approx(float(value), abs=0.02) for name, value in metric.compute().items()}


def test_points_in_space_have_the_distances_that_they_have():
    points, truth = drawn(1), drawn(2)
    found_hands = figures(found(points, truth, [0.9, 0.6, 0.9, 0.2], [0.8, 0.7, 0.9, 0.1]), samples(truth))
    own, wanted = points.unflatten(1, (2, 2)), truth.unflatten(1, (2, 2))  # (sample, hand, tip and wrist, 3)
    errors = ((own - own[:, :, 1:]) - (wanted - wanted[:, :, 1:])).norm(dim=-1)
    pair, single, rootless = errors[0].flatten(), errors[1, 0], errors[2, 0]
    assert found_hands["MPJPE_mm"] == float(torch.cat([pair, single, rootless]).mean())
    assert found_hands["MPJPE_mm/single"] == float(single.mean())
    assert found_hands["MPJPE_mm/interacting"] == float(torch.cat([pair, rootless]).mean())
    between = (points[0, 3] - points[0, 1]) - (truth[0, 3] - truth[0, 1])
    assert found_hands["MRRPE_mm"] == float(between.norm())
    assert found_hands["handedness_accuracy"] == 2 / 3  # of the second a left hand is expected, too


def test_what_is_right_has_no_error_and_nothing_has_no_figure():
    truth = drawn(3)
    exact = found(truth, truth, [0.9, 0.9, 0.9, 0.1], [0.9, 0.1, 0.9, 0.1])
    right = figures(exact, samples(truth))
    assert all(right[name] == 0 for name in HandsMPJPE.figures[:4]) and right["handedness_accuracy"] == 1
    nothing = HandsMPJPE(HANDS).compute()
    assert all(bool(value.isnan()) for value in nothing.values())


def test_other_poses_and_other_data_are_refused():
    truth = drawn(4)
    exact, batch = found(truth, truth, [1.0] * 4, [1.0] * 4), samples(truth)
    with pytest.raises(UserError, match="codec=hands"):
        HandsMPJPE(HANDS).update(poses_of(seen(truth)), batch)
    with pytest.raises(UserError, match="the camera of each image"):
        HandsMPJPE(HANDS).update(exact, replace(batch, cameras=None))
