"""Head and loss of associative embedding: the published network, recorded figures, and nobody."""

from pathlib import Path

import numpy as np
import pytest
import torch
from recorded import record, recorded_input, relative_error, weight
from torch import Tensor

from lightpose.models.backbones.hrnet import HRNet
from lightpose.models.heads.associative_embedding import AssociativeEmbeddingHead
from lightpose.models.losses.associative_embedding import AssociativeEmbeddingLoss
from lightpose.models.losses.heatmap import KeypointMSE
from lightpose.structures import Spec, Targets

PARITY = Path(__file__).parents[1] / "data_files/parity/losses"


def head(strides=(4,), channels=(32,), count: int = 17) -> AssociativeEmbeddingHead:
    spec = Spec({"heatmap": (count, 128, 128), "tag": (count, 128, 128, None)}, (512, 512))
    return AssociativeEmbeddingHead(channels, strides, spec, criterion=AssociativeEmbeddingLoss(KeypointMSE()))


def test_matches_the_published_network():
    case, backbone, own = record("ae_hrnet_w32"), HRNet(32).eval(), head().eval()
    for prefix, part in (("backbone.", backbone), ("head.", own)):
        names = {name: f"{prefix}{name}".replace("head.final.", "head.final_layer.") for name in part.state_dict()}
        part.load_state_dict({name: weight(names[name], tuple(v.shape)) for name, v in part.state_dict().items()})
    assert sum(each.numel() for part in (backbone, own) for each in part.parameters()) == case["params"]
    with torch.inference_mode():
        outputs = own(backbone(recorded_input(case["input"])))
    for output, samples in zip((outputs["heatmap"], outputs["tag"][..., 0]), case["head"], strict=True):
        assert relative_error(output, samples) < 1e-5


def test_coarse_features_are_upsampled_and_tags_have_a_dimension_of_their_own():
    outputs = head((8,), (6,), 3)([torch.randn(1, 6, 64, 64)])
    assert {name: tuple(output.shape) for name, output in outputs.items()} == {
        "heatmap": (1, 3, 128, 128),
        "tag": (1, 3, 128, 128, 1),
    }


def losses(tags: Tensor, cells: Tensor, here: Tensor, **options) -> dict[str, Tensor]:
    """Of tags (B, K, h, w) and cells (B, M, K); maps without error."""
    maps = torch.zeros_like(tags)
    targets = Targets({"heatmap": maps, "cells": cells}, {"heatmap": torch.ones_like(maps), "cells": here})
    return AssociativeEmbeddingLoss(KeypointMSE(), **options)({"heatmap": maps, "tag": tags[..., None]}, targets)


def test_matches_recorded_values_and_gradient():
    """The record is a sum over images; and its push counts each person's pair with himself, a constant."""
    case = {name: torch.from_numpy(array) for name, array in np.load(PARITY / "ae.npz").items()}
    tags, (cells, here) = case["pred_0"].requires_grad_(), case["arg_0"].unbind(-1)
    found = losses(tags, cells * here, here.float())
    images, people = here.shape[:2]
    assert (here.sum(-1) > 0).all()
    torch.testing.assert_close(images * found["pull"], case["loss_0"], rtol=1e-4, atol=0)
    himself = 5e-4 * images / (people - 1)
    torch.testing.assert_close(images * found["push"] + himself, case["loss_1"], rtol=1e-4, atol=0)
    (gradient,) = torch.autograd.grad(images * (found["pull"] + found["push"]), tags)
    torch.testing.assert_close(gradient, case["grad_0"], rtol=1e-4, atol=1e-4 * float(case["grad_0"].abs().max()))


def test_a_person_is_pulled_together_and_two_are_pushed_apart():
    tags = torch.tensor([0.0, 1.0, 4.0, 4.0, 9.0, 9.0]).view(1, 2, 1, 3).requires_grad_()  # (B, K, h, w)
    cells = torch.tensor([[[0, 0], [1, 1], [0, 0]]])  # of the third nothing is labelled
    here = torch.tensor([[[1.0, 1.0], [1.0, 1.0], [0.0, 0.0]]])
    found = losses(tags, cells, here, pull=1.0, push=1.0)
    assert found["pull"].item() == pytest.approx((2**2 + 4**2) / 2)  # of 0 and 4, and of 1 and 9, from their means
    assert found["push"].item() == pytest.approx(np.exp(-(3.0**2)))
    (gradient,) = torch.autograd.grad(found["push"], tags)
    assert gradient[0, :, 0, 0].tolist() == pytest.approx([float(2 * 3 * np.exp(-9.0)) / 2] * 2)
    assert not gradient[..., 2].any()


@pytest.mark.parametrize("people", [0, 1])
def test_nobody_and_somebody_alone_have_finite_losses(people: int):
    tags = torch.randn(2, 3, 4, 4, requires_grad=True)
    here = torch.zeros(2, 2, 3)
    here[:, :people] = 1
    found = losses(tags, torch.ones(2, 2, 3, dtype=torch.int64), here)
    assert found["push"].item() == 0
    assert bool(found["pull"] > 0) == bool(people)
    (gradient,) = torch.autograd.grad(sum(found.values()), tags)
    assert gradient.isfinite().all()
