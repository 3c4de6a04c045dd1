"""People as candidates: whom encoding counts, and which candidates become poses."""

from dataclasses import replace

import codec_samples
import pytest
import torch
from torch import Tensor

from lightpose.codecs.onestage import OneStageCodec
from lightpose.errors import UserError

HW = (64, 96)


def codec(**options: float) -> OneStageCodec:
    return OneStageCodec(codec_samples.skeleton(3), HW, "half_pixel", **options)


def candidates(boxes: list[list[float]], scores: list[float]) -> dict[str, Tensor]:
    """One input's outputs, with keypoints in the boxes' middle."""
    corners = torch.tensor(boxes).view(1, -1, 4)
    middle = (corners[..., :2] + corners[..., 2:]) / 2
    return {
        "scores": torch.tensor(scores).logit()[None],
        "boxes": corners,
        "points": middle[:, :, None].expand(-1, -1, 3, -1).clone(),
        "visibility": torch.zeros(1, len(scores), 3),
        "priors": torch.zeros(1, len(scores), 3),
    }


def test_of_overlapping_candidates_the_best_stays_and_inputs_do_not_meet():
    near, far = [10.0, 10.0, 30.0, 50.0], [60.0, 10.0, 80.0, 50.0]
    first = candidates([near, [11.0, 10.0, 31.0, 50.0], far], [0.6, 0.9, 0.3])
    second = candidates([near, near, far], [0.05, 0.7, 0.05])
    poses = codec().decode({name: torch.cat([first[name], second[name]]) for name in first})
    assert poses.batch_index.tolist() == [0, 0, 1]
    assert poses.scores.tolist() == pytest.approx([0.9, 0.3, 0.7])
    assert poses.boxes_xyxy[:, 0].tolist() == [11, 60, 10]
    torch.testing.assert_close(poses.keypoints[:, 1, 0], torch.tensor([21.0, 70.0, 20.0]))
    assert torch.equal(poses.visibility, torch.full((3, 3), 0.5))
    assert torch.equal(poses.box_scores, poses.scores)


def test_nobody_is_an_ordinary_case():
    for outputs in (candidates([[0.0, 0.0, 9.0, 9.0]], [0.05]), candidates([], [])):
        poses = codec().decode(outputs)
        assert len(poses) == 0
        assert poses.keypoints.shape == (0, 3, 2)
        assert poses.boxes_xyxy.shape == (0, 4)


def test_only_the_best_candidates_are_compared():
    apart = [[20.0 * i, 0.0, 20.0 * i + 9, 9.0] for i in range(5)]
    poses = codec(most_candidates=2).decode(candidates(apart, [0.2, 0.9, 0.3, 0.8, 0.4]))
    assert poses.scores.tolist() == pytest.approx([0.9, 0.8])


def test_encoding_counts_labelled_keypoints_inside_of_the_input():
    points = torch.tensor([[[5.0, 5.0], [-1.0, 5.0], [95.0, 63.0]], [[-5.0, 0.0], [96.0, 3.0], [4.0, 64.0]]])
    labels = codec_samples.instances(points, torch.tensor([[2.0, 2.0, 1.0], [2.0, 2.0, 2.0]]))
    labels = replace(labels, boxes_xyxy=torch.tensor([[[-10.0, 2.0, 40.0, 80.0]], [[0.0, 0.0, 9.0, 9.0]]]))
    batch = replace(codec_samples.batch(labels), inputs=torch.zeros(2, 3, *HW, dtype=torch.uint8))
    targets = codec().encode(batch)
    assert targets.weights["keypoints"][:, 0].tolist() == [[1, 0, 1], [0, 0, 0]]
    assert targets.weights["boxes"][:, 0].tolist() == [1, 0]  # nobody is there of whom nothing can be seen
    assert targets.maps["boxes"][0, 0].tolist() == [0, 2, 40, 63]
    assert targets.maps["keypoints"][0, 0].tolist() == [[5, 5], [0, 0], [95, 63]]


def test_regions_to_ignore_count_nothing():
    batch = codec_samples.batch(codec_samples.instances(torch.zeros(1, 3, 2)))
    ignore = torch.zeros(1, *HW, dtype=torch.bool)
    ignore[:, 16:24, 40:41] = True
    batch = replace(batch, inputs=torch.zeros(1, 3, *HW, dtype=torch.uint8), ignore=ignore)
    counted = codec().encode(batch).maps["counted"]
    assert counted.shape == (1, 8, 12)
    assert (counted == 0).nonzero().tolist() == [[0, 2, 5]]


@pytest.mark.parametrize("options", [{"score_threshold": 2}, {"nms_threshold": -1}, {"most_candidates": 0}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(UserError, match=f"codec.{next(iter(options))}="):
        codec(**options)


def test_a_mirrored_input_cannot_be_joined():
    assert not codec().flips
