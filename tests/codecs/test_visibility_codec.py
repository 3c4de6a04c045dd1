"""Visibility around other codecs: what is labelled, flips, and what is refused."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from codec_samples import batch, instances, points_everywhere, skeleton

from lightpose.codecs.base import Codec
from lightpose.codecs.heatmap import HeatmapCodec
from lightpose.codecs.integral import IntegralCodec
from lightpose.codecs.regression import RegressionCodec
from lightpose.codecs.simcc import SimCCCodec
from lightpose.codecs.visibility import VisibilityCodec
from lightpose.errors import UserError
from lightpose.structures import Spec

HW = (64, 48)
INNER = [HeatmapCodec, IntegralCodec, RegressionCodec, partial(RegressionCodec, sigmas=True), SimCCCodec]


def codec(inner=HeatmapCodec, count=3):
    return VisibilityCodec(skeleton(count), HW, "half_pixel", inner)


def outputs_of(codec):
    generator = torch.Generator().manual_seed(0)
    return {name: torch.rand(4, *shape, generator=generator) for name, shape in codec.spec.outputs.items()}


def test_labels_inside_the_input_count_and_only_the_visible_are_ones():
    points = torch.full((1, 5, 2), 20.0)
    points[0, 4] = torch.tensor([48.5, 20])  # beyond the last pixel
    labels = instances(points, torch.tensor([[0.0, 1.0, 2.0, 2.0, 2.0]]))
    targets = codec(count=5).encode(batch(labels))
    assert targets.weights["visibility"].tolist() == [[0, 1, 1, 1, 0]]
    assert targets.maps["visibility"][0, 1:4].tolist() == [0, 1, 1]
    assert targets.maps.keys() == {"heatmap", "visibility"}


def test_where_nobody_is_nothing_is_visible():
    labels = instances(torch.full((2, 3, 2), 20.0))
    targets = codec().encode(batch(replace(labels, valid=torch.tensor([[False], [True]]))))
    assert targets.weights["visibility"].tolist() == [[1, 1, 1], [1, 1, 1]]
    assert targets.maps["visibility"].tolist() == [[0, 0, 0], [1, 1, 1]]


@pytest.mark.parametrize("inner", INNER)
def test_the_wrapped_codec_decodes_and_flips_as_without(inner):
    wrapped, plain = codec(inner), inner(skeleton(3), HW, "half_pixel")
    outputs = outputs_of(wrapped)
    own = {name: output for name, output in outputs.items() if name != "visibility"}
    poses, expected = wrapped.decode(outputs), plain.decode(own)
    assert torch.equal(poses.keypoints, expected.keypoints) and torch.equal(poses.scores, expected.scores)
    torch.testing.assert_close(poses.visibility, outputs["visibility"].sigmoid())
    flipped, again = wrapped.flip(outputs), wrapped.merge(outputs, wrapped.flip(outputs))
    assert torch.equal(flipped["visibility"], outputs["visibility"][:, [1, 0, 2]])
    torch.testing.assert_close(again["visibility"], (outputs["visibility"] + flipped["visibility"]) / 2)
    for name, output in plain.flip(own).items():
        assert torch.equal(flipped[name], output)
    for name, output in plain.merge(own, plain.flip(own)).items():
        assert torch.equal(again[name], output)


def test_visibility_follows_poses_to_their_rows():
    class Backwards(HeatmapCodec):
        def decode(self, outputs):
            return super().decode(outputs).select(torch.tensor([3, 1]))

    outputs = outputs_of(codec(Backwards))
    poses = codec(Backwards).decode(outputs)
    torch.testing.assert_close(poses.visibility, outputs["visibility"][[3, 1]].sigmoid())


def test_what_it_cannot_wrap_is_refused():
    with pytest.raises(UserError, match="VisibilityCodec predicts visibility itself"):
        codec(partial(VisibilityCodec, codec=HeatmapCodec))

    class People(Codec):
        flips = False
        spec = Spec({"points": (None, 3, 2)}, HW)

        def __init__(self, skeleton, input_hw, grid): ...
        def encode(self, batch): ...
        def decode(self, outputs): ...

    with pytest.raises(UserError, match=r"is a People; use codec\.codec=heatmap"):
        codec(People)
    with pytest.raises(UserError, match="of one person in an image"):
        VisibilityCodec(skeleton(3), None, "half_pixel", type("Sequences", (People,), {"flips": True, "flip": 0}))
    two = instances(points_everywhere(HW)).map(lambda column: torch.cat([column, column], 1))
    with pytest.raises(UserError, match="samples hold up to 2; leave it out"):
        codec().encode(batch(two))
