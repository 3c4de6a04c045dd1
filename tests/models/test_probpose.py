"""ProbPose: sparsemax, the expected OKS, and decoding at its largest."""

import math

import pytest
import torch

from lightpose.codecs.probpose import ProbPoseCodec, best_points, expected_oks
from lightpose.models.heads.probpose import ProbPoseHead, sparsemax
from lightpose.models.losses.probpose import ProbPoseLoss
from lightpose.skeleton import Skeleton
from lightpose.structures import Batch, Instances, Targets

HW = (64, 48)
SKELETON = Skeleton.build(["nose", "left_hip", "right_hip"], sigmas=[0.026, 0.107, 0.107])


def codec(**options):
    return ProbPoseCodec(SKELETON, HW, "half_pixel", **options)


def batch(keypoints, visible, valid=True):
    count = len(keypoints)
    numbers = torch.arange(count)
    instances = Instances(
        keypoints=keypoints[:, None],
        visible=visible[:, None],
        boxes_xyxy=torch.zeros(count, 1, 4),
        areas=torch.ones(count, 1),
        categories=numbers[:, None],
        ids=numbers[:, None],
        scores=torch.ones(count, 1),
        valid=torch.full((count, 1), valid),
    )
    inputs, eye = torch.zeros(count, 3, *HW, dtype=torch.uint8), torch.eye(3).repeat(count, 1, 1)
    return Batch(
        inputs=inputs,
        instances=instances,
        image_from_input=eye,
        image_ids=numbers,
        indices=numbers,
        image_hw=torch.ones(count, 2, dtype=torch.int64),
    )


def test_sparsemax_is_the_nearest_distribution():
    scores = torch.randn(50, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = sparsemax(scores)
    torch.testing.assert_close(found.sum(-1), torch.ones(50, dtype=torch.float64))
    assert (found >= 0).all() and (found == 0).float().mean() > 0.5
    low, high = scores.amax(-1, keepdim=True) - 1, scores.amax(-1, keepdim=True)
    for _ in range(60):  # the threshold at which the rest sums to 1, by bisection
        middle = (low + high) / 2
        over = (scores - middle).clamp_min(0).sum(-1, keepdim=True) > 1
        low, high = torch.where(over, middle, low), torch.where(over, high, middle)
    torch.testing.assert_close(found, (scores - low).clamp_min(0))
    torch.testing.assert_close(sparsemax(torch.tensor([[2.0, 2.0, 0.0]])), torch.tensor([[0.5, 0.5, 0.0]]))


def test_sparsemax_has_the_gradient_of_its_support():
    scores = torch.tensor([[0.6, 0.4, -1.0, 0.3]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(sparsemax, scores)


def test_expected_oks_is_the_mean_over_the_map():
    maps = sparsemax(torch.randn(1, 3, 16 * 12, generator=torch.Generator().manual_seed(1)) * 2).view(1, 3, 16, 12)
    sigmas = torch.tensor([[0.6, 1.5, 3.0]])
    y, x = torch.meshgrid(torch.arange(16.0), torch.arange(12.0), indexing="ij")
    squares = (y[5, 0] - y) ** 2 + (x[0, 7] - x) ** 2
    expected = (maps[0] * torch.exp(-squares / (2 * sigmas[0, :, None, None] ** 2))).sum((-2, -1))
    torch.testing.assert_close(expected_oks(maps, sigmas)[0, :, 5, 7], expected)


def test_the_pose_is_where_the_expected_oks_is_largest_and_not_the_probability():
    maps = torch.zeros(1, 1, 16, 12)
    maps[0, 0, 3, 2] = 0.3  # the likeliest cell
    maps[0, 0, 10, 6:9] = 0.7 / 3
    torch.testing.assert_close(
        best_points(maps, torch.tensor([[2.0]])), torch.tensor([[[7.0, 10.0]]]), atol=1e-3, rtol=0
    )
    torch.testing.assert_close(best_points(maps, torch.tensor([[0.2]])), torch.tensor([[[2.0, 3.0]]]))
    maps = torch.zeros(1, 1, 16, 12)
    maps[0, 0, 10, 6], maps[0, 0, 10, 7] = 0.75, 0.25
    grid = torch.linspace(5, 8, 3001)
    wave = 0.75 * torch.exp(-((grid - 6) ** 2) / 8) + 0.25 * torch.exp(-((grid - 7) ** 2) / 8)
    found = best_points(maps, torch.tensor([[2.0]]))[0, 0]
    assert abs(found - torch.tensor([grid[wave.argmax()], 10.0])).max() < 0.01


def test_encodes_oks_as_it_is_scored():
    points = torch.tensor([[[20.0, 30.0], [25.0, 31.0], [60.0, 10.0]]])
    targets = codec(person_share=0.5).encode(batch(points, torch.tensor([[1.0, 2.0, 2.0]])))
    area = 0.5 * HW[0] * HW[1]
    squared = ((torch.tensor([5 * 4 + 1.5, 8 * 4 + 1.5]) - points[0, 1]) ** 2).sum()  # from cell (5, 8) to a hip
    oks = math.exp(-float(squared) / (2 * area * (2 * SKELETON.sigmas[1]) ** 2))
    assert float(targets.maps["heatmap"][0, 1, 8, 5]) == pytest.approx(oks, rel=1e-4)
    assert targets.maps["presence"].tolist() == [[1, 1, 0]] and targets.weights["presence"].tolist() == [[1, 1, 1]]
    assert targets.maps["visible"].tolist() == [[0, 1, 0]] and targets.weights["visible"].tolist() == [[1, 1, 0]]
    assert targets.weights["heatmap"].tolist() == [[1, 1, 0]]
    nobody = codec().encode(batch(points, torch.zeros(1, 3), valid=False))
    assert nobody.maps["presence"].sum() == 0 and nobody.weights["presence"].sum() == 3
    assert nobody.weights["heatmap"].sum() == nobody.weights["visible"].sum() == 0


def test_a_cell_with_all_probability_comes_back():
    cells = torch.randint(0, 12, (4, 3, 2), generator=torch.Generator().manual_seed(2))
    maps = torch.zeros(4, 3, 16, 12)
    maps[torch.arange(4)[:, None], torch.arange(3), cells[..., 1], cells[..., 0]] = 1
    logits = {name: torch.full((4, 3), value) for name, value in (("presence", 1.0), ("visible", -1.0), ("oks", 2.0))}
    poses = codec().decode({"heatmap": maps, **logits})
    torch.testing.assert_close(poses.keypoints, cells * 4 + 1.5)
    presence, oks = torch.tensor(1.0).sigmoid(), torch.tensor(2.0).sigmoid()
    torch.testing.assert_close(poses.keypoint_scores, (presence * oks).expand(4, 3))
    assert poses.extras.keys() == {"presence", "expected_oks"} and (poses.visibility < 0.5).all()


def test_the_loss_is_what_oks_lacks_and_oks_learns_the_rest():
    made = codec()
    targets = made.encode(batch(torch.full((2, 3, 2), 21.5), torch.full((2, 3), 2.0)))
    sharp = torch.zeros(2, 3, 16, 12)
    sharp[..., 5, 5] = 1  # where the keypoints are
    logits = dict.fromkeys(("presence", "visible", "oks"), torch.full((2, 3), 20.0))
    right = ProbPoseLoss(smoothness=0)({"heatmap": sharp, **logits}, targets)
    assert all(float(loss) == pytest.approx(0, abs=1e-6) for loss in right.values())
    away = ProbPoseLoss(smoothness=0)({"heatmap": sharp.roll(6, -1), **logits}, targets)
    assert away["heatmap"] > 0.85 and away["oks"] > 0.85  # expected to be right, and wrong
    assert ProbPoseLoss()({"heatmap": sharp, **logits}, targets)["heatmap"] > 0
    empty = Targets(targets.maps, {name: torch.zeros(2, 3) for name in targets.weights})
    assert all(loss == 0 for loss in ProbPoseLoss()({"heatmap": sharp, **logits}, empty).values())
    halves = {name: output.half() for name, output in {"heatmap": sharp, **logits}.items()}
    assert all(loss.isfinite() for loss in ProbPoseLoss()(halves, targets).values())


def test_the_head_learns_places_by_heart_and_how_well_it_does():
    torch.manual_seed(0)
    made = codec()
    head = ProbPoseHead((16,), (4,), made.spec, ProbPoseLoss(), width=16)
    features = [torch.randn(6, 16, 16, 12)]
    points = torch.rand(6, 3, 2) * 30 + 8
    targets = made.encode(batch(points, torch.tensor([[2.0, 1.0, 2.0]]).repeat(6, 1)))
    optimizer = torch.optim.Adam([*head.parameters(), features[0].requires_grad_()], 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        losses = head.loss(features, targets)
        sum(losses.values()).backward()
        optimizer.step()
    poses = made.decode(head.eval()(features))
    assert (poses.keypoints - points).norm(dim=-1).median() < 3  # of cells of 4 px
    assert ((poses.visibility > 0.5) == torch.tensor([True, False, True])).all()
    assert (poses.extras["presence"] > 0.9).all()
