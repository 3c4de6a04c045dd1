"""Several scales of the input: maps are joined where they lie, and refused where they can't be."""

import functools

import pytest
import torch
from torch import Tensor

from lightpose.codecs.associative_embedding import AssociativeEmbeddingCodec
from lightpose.codecs.grid import MapGrid
from lightpose.codecs.heatmap import HeatmapCodec
from lightpose.errors import UserError
from lightpose.estimators.bottomup import BottomUp
from lightpose.models.heads.associative_embedding import AssociativeEmbeddingHead
from lightpose.models.heads.heatmap import HeatmapHead
from lightpose.models.losses.associative_embedding import AssociativeEmbeddingLoss
from lightpose.models.losses.heatmap import KeypointMSE
from lightpose.testing import model, random_batch

HEAD = functools.partial(AssociativeEmbeddingHead, criterion=AssociativeEmbeddingLoss(KeypointMSE()))


def gaussian(grid: MapGrid, map_hw: tuple[int, int], point: Tensor, sigma_px: float) -> Tensor:
    """(h, w) around a point in input pixels."""
    rows, columns = torch.meshgrid(*(torch.arange(float(side)) for side in map_hw), indexing="ij")
    away = grid.to_input(torch.stack([columns, rows], -1), map_hw) - point
    return torch.exp(-away.square().sum(-1) / (2 * sigma_px**2))


@pytest.mark.parametrize("grid", ["stride", "udp", "half_pixel"])
@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_maps_of_a_resized_input_are_put_where_they_belong(grid: str, scale: float):
    base = MapGrid((256, 320), grid, 4)
    other_hw = int(64 * scale), int(80 * scale)
    point = torch.tensor([133.3, 97.7])
    resized = gaussian(base, other_hw, (point + 0.5) * scale - 0.5, 40 * scale)
    expected = gaussian(base, base.map_hw, point, 40)
    found = base.resampled(resized[None, None], base.map_hw)[0, 0]
    assert (found - expected).abs().max() < 0.012  # of linear interpolation; a shift by half a cell makes 0.03
    torch.testing.assert_close(base.resampled(expected[None, None], base.map_hw)[0, 0], expected, atol=1e-5, rtol=0)


def test_maps_are_the_mean_over_scales_and_tags_those_of_the_input():
    estimator = model(HEAD, AssociativeEmbeddingCodec, input_hw=(64, 96), kind=BottomUp, test_scales=[0.5, 1, 2]).eval()
    inputs = random_batch(estimator).inputs
    with torch.inference_mode():
        joined = estimator.outputs(inputs)
        estimator.other_scales = []
        alone = estimator.outputs(inputs)
        others = [estimator.outputs(estimator._resized(inputs, scale)) for scale in (0.5, 2)]
    assert [other["heatmap"].shape[-2:] for other in others] == [
        (8, 16),
        (32, 48),
    ]  # of 32x64, as 48 is no multiple of 32
    grid = estimator.codec.map_grid
    maps = [alone["heatmap"], *(grid.resampled(other["heatmap"], (16, 24)) for other in others)]
    torch.testing.assert_close(joined["heatmap"], torch.stack(maps).mean(0))
    assert torch.equal(joined["tag"], alone["tag"])


def test_scales_that_mean_nothing_are_refused():
    for scales in ([], [0.5], [1, -1]):
        with pytest.raises(UserError, match="must be positive numbers, one of them 1"):
            model(HEAD, AssociativeEmbeddingCodec, kind=BottomUp, test_scales=scales)
    head = functools.partial(HeatmapHead, criterion=KeypointMSE())
    with pytest.raises(UserError, match=r"HeatmapCodec can't join .* set estimator.test_scales=\[1.0\]"):
        model(head, HeatmapCodec, kind=BottomUp, test_scales=[1, 2])
