"""A head around others: it adds visibility and changes nothing else."""

import copy
from functools import partial

import pytest
import torch

from lightpose.errors import UserError
from lightpose.models.heads.heatmap import HeatmapHead
from lightpose.models.heads.regression import RegressionHead, RLEHead
from lightpose.models.heads.visibility import VisibilityHead
from lightpose.models.losses.heatmap import KeypointMSE
from lightpose.models.losses.regression import SmoothL1
from lightpose.models.losses.rle import RLE
from lightpose.models.net import PairError
from lightpose.structures import Spec, Targets

SPEC = Spec({"heatmap": (5, 16, 12), "visibility": (5,)}, (64, 48))
FEATURES = [torch.randn(3, 8, 16, 12, generator=torch.Generator().manual_seed(0))]


def built(spec=SPEC, head=HeatmapHead, criterion=None, **options):
    torch.manual_seed(0)
    inner = partial(head, criterion=criterion or KeypointMSE())
    return VisibilityHead((8,), (4,), spec, inner, **options)


def targets(visible, weights):
    maps = torch.rand(3, 5, 16, 12, generator=torch.Generator().manual_seed(1))
    return Targets({"heatmap": maps, "visibility": visible}, {"heatmap": torch.ones(3, 5), "visibility": weights})


def test_the_wrapped_head_learns_what_it_would_alone():
    head = built()
    alone = copy.deepcopy(head.head)
    labels = targets(torch.ones(3, 5), torch.ones(3, 5))
    features = [each.clone().requires_grad_() for each in FEATURES]
    losses = head.loss(features, labels)
    assert losses.keys() == {"heatmap", "visibility"}
    sum(losses.values()).backward()
    own = [each.clone().requires_grad_() for each in FEATURES]
    alone.loss(own, labels)["heatmap"].backward()
    assert torch.equal(features[0].grad, own[0].grad)
    for mine, theirs in zip(head.head.parameters(), alone.parameters(), strict=True):
        assert torch.equal(mine.grad, theirs.grad)
    assert all(parameter.grad.any() for parameter in head.visible.final.parameters())


def test_the_loss_is_the_weighted_mean_of_cross_entropy():
    head = built(loss_weight=0.5)
    generator = torch.Generator().manual_seed(2)
    logits, visible = torch.randn(3, 5, generator=generator), torch.randint(0, 2, (3, 5), generator=generator).float()
    weights = torch.randint(0, 2, (3, 5), generator=generator).float()
    outputs = {"heatmap": torch.zeros(3, 5, 16, 12), "visibility": logits}
    found = head.compare(outputs, targets(visible, weights))["visibility"]
    chance = torch.where(visible > 0, logits.sigmoid(), 1 - logits.sigmoid())
    torch.testing.assert_close(found, -0.5 * chance.log()[weights > 0].mean())
    half = head.criterion({"visibility": 100 * logits.half()}, targets(visible, weights))["visibility"]
    assert half.isfinite() and half.dtype == torch.float32
    assert head.criterion(outputs, targets(visible, torch.zeros(3, 5)))["visibility"] == 0


def test_it_finds_what_one_place_shows():
    """Whether a bright spot is somewhere on the map can't be told from the mean of a noisy map."""
    generator = torch.Generator().manual_seed(3)
    spec = Spec({"keypoints": (2, 2), "visibility": (2,)}, (64, 48), frozenset({"keypoints", "visibility"}))
    head = built(spec, RegressionHead, SmoothL1(), width=16)
    optimizer = torch.optim.Adam(head.parameters(), 1e-2)

    def draw():
        maps = torch.randn(64, 8, 16, 12, generator=generator)
        seen = torch.randint(0, 2, (64, 2), generator=generator).float()
        places = torch.randint(0, 16 * 12, (64,), generator=generator)
        for joint in range(2):
            maps.flatten(2)[torch.arange(64), joint, places] += 8 * seen[:, joint]
        return maps, seen

    for _ in range(60):
        maps, seen = draw()
        labels = Targets({"visibility": seen}, {"visibility": torch.ones(64, 2)})
        optimizer.zero_grad()
        head.criterion({"visibility": head.visible(maps)}, labels)["visibility"].backward()
        optimizer.step()
    maps, seen = draw()
    assert ((head.eval().visible(maps) > 0) == (seen > 0)).float().mean() > 0.95


def test_what_does_not_fit_is_refused():
    with pytest.raises(PairError, match="head asks for the shape of 'visibility' but codec expects") as plain:
        built(Spec({"heatmap": (5, 16, 12)}, (64, 48)))
    assert "codec=visibility" in plain.value.ways[0]
    with pytest.raises(PairError, match=r"^head\.head asks for the shape of 'keypoints' but codec\.codec") as inside:
        built(head=RegressionHead)
    assert inside.value.place == "head.head" and inside.value.spec.outputs.keys() == {"heatmap"}
    with pytest.raises(PairError, match=r"^head\.head emits \['keypoints', 'sigmas'\] but codec\.codec expects"):
        built(Spec({"keypoints": (5, 2), "visibility": (5,)}, (64, 48)), RLEHead, RLE())
    with pytest.raises(UserError, match="pools feature maps of images"):
        built(Spec({"keypoints": (5, 2), "visibility": (5,)}, None), RegressionHead, SmoothL1())
