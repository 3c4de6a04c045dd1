"""The network that scores DEKR's poses anew: its inputs, what its factors do to poses, that it doesn't train."""

from functools import partial

import pytest
import torch
from torch import nn

from lightpose import testing
from lightpose.codecs.displacement import DisplacementCodec
from lightpose.errors import UserError
from lightpose.estimators.base import PoseEstimator
from lightpose.estimators.bottomup import BottomUp
from lightpose.models.heads.dekr import DEKRHead
from lightpose.models.heads.rescoring import Rescoring
from lightpose.models.losses.displacement import DisplacementLoss

OPTIONS = {"links": [[0, 1], [2, 1], [3, 0]], "norm": [0, 2]}


def expected_features(pose: torch.Tensor, scores: torch.Tensor) -> list[float]:
    ways = [(pose[first] - pose[second]).tolist() for first, second in OPTIONS["links"]]
    lengths = [(x * x + y * y) ** 0.5 for x, y in ways]
    size = max(1.0, sum(lengths[index] for index in OPTIONS["norm"]) / 2)
    return [step / size for way in ways for step in way] + [each / size for each in lengths] + scores.tolist()


def test_features_are_ways_lengths_and_scores_as_a_loop_finds_them():
    draw = torch.Generator().manual_seed(0)
    poses, scores = 50 * torch.rand(2, 3, 4, 2, generator=draw), torch.rand(2, 3, 4, generator=draw)
    poses[0, 1] /= 200  # smaller than a pixel
    poses[1, 2] = 7.0
    found = Rescoring(4, **OPTIONS).features(poses, scores)
    for row in range(2):
        for person in range(3):
            expected = expected_features(poses[row, person], scores[row, person])
            assert found[row, person].tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    "options", [{"links": [[0, 4]], "norm": [0]}, {"links": [[0, 1]], "norm": [1]}, {"links": [[0, 1]], "norm": []}]
)
def test_links_that_are_not_there_are_refused(options):
    with pytest.raises(UserError, match="give two of the indices 0 to 3"):
        Rescoring(4, **options)


def model(rescoring: dict[str, list] | None = None) -> PoseEstimator:
    head = partial(DEKRHead, criterion=DisplacementLoss(), rescoring=rescoring)
    codec = partial(DisplacementCodec, published=True, threshold=1e-6)
    return testing.model(head, codec, grid="stride", kind=BottomUp)


def test_a_factor_of_each_pose_is_on_its_scores_and_1_without_weights():
    estimator, plain = model(OPTIONS).eval(), model().eval()
    draw = torch.Generator().manual_seed(3)
    outputs = {"heatmap": torch.rand(2, 6, 16, 24, generator=draw)}
    outputs["displacement"] = 4 * torch.randn(2, 5, 2, 16, 24, generator=draw)
    before = plain.codec.decode(outputs)
    assert torch.equal(estimator.codec.decode(outputs).keypoint_scores, before.keypoint_scores)
    seen = []
    rescoring = estimator.net.head.rescoring
    for each in rescoring.layers:
        if isinstance(each, nn.Linear):
            nn.init.normal_(each.weight, std=0.3, generator=draw)
    rescoring.register_forward_hook(lambda _, given, factors: seen.append((*given, factors)))
    found = estimator.codec.decode(outputs)
    [(keypoints, scores, factors)] = seen
    valid = plain.codec.candidates(outputs)["valid"]
    torch.testing.assert_close(keypoints[valid], found.keypoints)
    assert torch.equal(found.keypoints, before.keypoints)
    torch.testing.assert_close(found.scores, before.scores * factors[valid])
    torch.testing.assert_close(found.keypoint_scores, before.keypoint_scores * factors[valid][:, None])
    assert factors.min() == 0 < factors.max() and factors[valid].unique().numel() > 10
    expected = rescoring.layers(torch.tensor(expected_features(keypoints[1, 2], scores[1, 2]))).clamp_min(0)
    torch.testing.assert_close(factors[1, 2], expected[0])
    # a keypoint outside scores 0, but the network sees what the border has there, times no centre
    outside = (keypoints[..., 0] < -4) & (keypoints[..., 1] < -4)
    assert outside.any()
    corner = outputs["heatmap"][:, None, :5, 0, 0].expand_as(scores)
    torch.testing.assert_close(scores[outside], corner[outside])


def test_it_is_left_out_of_training():
    estimator = model(OPTIONS)
    testing.check_training(estimator)
    assert not any(each.requires_grad for each in estimator.net.head.rescoring.parameters())
    assert {name for name in estimator.state_dict() if "rescoring" in name} == {
        f"net.head.rescoring.layers.{layer}.{kind}" for layer in (0, 2, 4) for kind in ("weight", "bias")
    }
