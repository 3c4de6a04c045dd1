"""DEKR and CID: agreement with the published networks, losses, branches, people who are told apart."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from recorded import record, recorded_input, relative_error, weight
from torch import Tensor, nn

from lightpose import testing
from lightpose.codecs.cid import CIDCodec
from lightpose.codecs.displacement import DisplacementCodec
from lightpose.errors import UserError
from lightpose.estimators.base import PoseEstimator
from lightpose.estimators.bottomup import BottomUp
from lightpose.interop.mmpose.names import HEADS, Family
from lightpose.models.backbones.hrnet import HRNet
from lightpose.models.heads.cid import CIDHead
from lightpose.models.heads.dekr import AdaptiveBlock, DEKRHead
from lightpose.models.losses.cid import CIDLoss, focal_loss, info_nce
from lightpose.models.losses.displacement import DisplacementLoss
from lightpose.models.necks.concat import Concat
from lightpose.skeleton import Skeleton
from lightpose.structures import Targets

PARITY = Path(__file__).parents[1] / "data_files/parity"
PAIRS = {
    "dekr": (partial(DEKRHead, criterion=DisplacementLoss()), DisplacementCodec),
    "cid": (partial(CIDHead, criterion=CIDLoss()), CIDCodec),
}
CASES = record("people_heads")


def with_recorded_weights(module: nn.Module, prefix: str) -> nn.Module:
    family = HEADS[type(module).__name__] if prefix == "head" else Family()
    state = {
        name: weight(f"{prefix}.{family.published(name)}", tuple(value.shape))
        for name, value in module.state_dict().items()
    }
    module.load_state_dict(state)
    return module.eval()


def model(family: str, **parts) -> PoseEstimator:
    head, codec = PAIRS[family]
    return testing.model(head, parts.pop("codec", codec), kind=BottomUp, **parts)


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(
            case, id=case["name"].rpartition("/")[2], marks=[pytest.mark.slow] if case["input"][2] > 256 else []
        )
        for case in CASES
    ],
)
def test_matches_the_published_network(case):
    """(Less DEKR's network that rescores poses.)"""
    family = case["name"].split("/")[1]
    head, codec = PAIRS[family]
    people = Skeleton.build([f"point{index}" for index in range(case["keypoints"])])
    backbone = HRNet(case["width"], out_indices=None)
    neck = Concat(backbone.out_channels, backbone.strides)
    spec = codec(people, tuple(case["input"][2:]), "half_pixel").spec
    width = {"dekr": "heatmap_channels", "cid": "channels"}[family]
    net = head(in_channels=neck.out_channels, strides=neck.strides, spec=spec, **{width: case["width"]})
    assert sum(each.numel() for part in (backbone, net) for each in part.parameters()) == case["params"]
    with_recorded_weights(backbone, "backbone")
    with_recorded_weights(net, "head")
    with torch.inference_mode():
        outputs = net(neck(backbone(recorded_input(case["input"]))))
    names = ("heatmap", "displacement") if family == "dekr" else ("instance_heatmap",)
    for name, samples in zip(names, case["head"], strict=True):
        output = outputs[name].flatten(0, 1) if name == "instance_heatmap" else outputs[name]
        output = output.flatten(1, 2) if name == "displacement" else output
        assert relative_error(output, samples) < 1e-3


@pytest.mark.parametrize("family", PAIRS)
@pytest.mark.parametrize("grid", ["stride", "half_pixel"])
def test_keeps_the_contract(family, grid):
    testing.check(model(family, grid=grid))


@pytest.mark.parametrize("family", PAIRS)
def test_predicts_a_batch_as_its_images_alone_and_other_sizes_than_it_was_made_for(family):
    estimator = model(family).eval()
    trained_a_little(estimator)
    for hw in ((64, 96), (96, 128)):
        inputs = torch.randint(0, 256, (3, 3, *hw), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
        with torch.inference_mode():
            together = estimator.codec.decode(estimator.outputs(inputs))
            alone = [estimator.codec.decode(estimator.outputs(each[None])) for each in inputs]
        assert len(together) > 3
        assert (together.keypoints[..., 0].amax() > hw[1] / 2) and (together.keypoints[..., 1].amax() > hw[0] / 2)
        for row, poses in enumerate(alone):
            mine = together.select(together.batch_index == row)
            torch.testing.assert_close(mine.keypoints, poses.keypoints, atol=1e-3, rtol=0)
            torch.testing.assert_close(mine.keypoint_scores, poses.keypoint_scores, atol=1e-5, rtol=1e-4)


def trained_a_little(estimator: PoseEstimator) -> None:
    """Weights that give peaks of several heights."""
    torch.manual_seed(0)
    for each in estimator.net.head.modules():
        if isinstance(each, nn.Conv2d):
            nn.init.normal_(each.weight, std=0.3)


@pytest.mark.parametrize("family", PAIRS)
def test_features_coarser_than_the_maps_are_resized_and_finer_ones_refused(family):
    coarse = model(family, codec=partial(PAIRS[family][1], stride=2))
    outputs = coarse.outputs(torch.zeros(1, 3, 64, 96, dtype=torch.uint8))
    assert outputs["heatmap"].shape == (1, 6, 32, 48)
    with pytest.raises(UserError, match=r"finer than the codec's maps .* codec\.stride=8"):
        model(family, codec=partial(PAIRS[family][1], stride=16))


def test_a_branch_sees_its_own_channels_and_starts_as_a_plain_convolution():
    torch.manual_seed(0)
    block = AdaptiveBlock(6, 3).eval()
    maps = torch.randn(2, 6, 9, 7)
    nn.init.zeros_(block.affine.weight)
    plain = nn.functional.conv2d(maps, block.weight, padding=1, groups=3) / (1 + block.norm.eps) ** 0.5
    torch.testing.assert_close(block(maps), torch.relu(plain + maps), atol=1e-5, rtol=1e-5)
    nn.init.normal_(block.affine.weight)
    given = maps.requires_grad_()
    (gradient,) = torch.autograd.grad(block(given)[:, 2:4].sum(), given)
    assert gradient[:, 2:4].any()
    assert not gradient[:, [0, 1, 4, 5]].any()


def test_the_taps_of_a_branch_move_by_its_affine_matrix():
    block = AdaptiveBlock(1, 1).eval()
    nn.init.zeros_(block.affine.weight)
    with torch.no_grad():
        block.affine.bias.copy_(torch.tensor([2.0, 0.0, 0.0, 0.0, 2.0, 3.0]))  # twice as wide, 3 cells to the right
        block.weight.copy_(torch.arange(9.0).view(1, 1, 3, 3))
    maps = torch.zeros(1, 1, 16, 16)
    maps[..., 8, 8] = 1
    with torch.no_grad():
        moved = (block(maps) - maps)[0, 0] * (1 + block.norm.eps) ** 0.5
    expected = {(8 - 2 * y, 8 - 2 * x - 3): 3 * (y + 1) + x + 1 for y in (-1, 0, 1) for x in (-1, 0, 1)}
    assert {place: round(float(moved[place])) for place in expected} == expected
    assert float(moved.sum()) == pytest.approx(36, abs=1e-3)


def figures_of(name: str) -> dict[str, Tensor]:
    return {key: torch.from_numpy(array) for key, array in np.load(PARITY / f"{name}.npz").items()}


def displacement_loss(prediction: Tensor, figures: dict[str, Tensor]) -> Tensor:
    maps = {"heatmap": torch.zeros(4, 18, 1, 1), "displacement": figures["arg_0"][..., None, None]}
    weights = {"heatmap": torch.ones(4, 18), "displacement": figures["arg_1"][..., None, None]}
    outputs = {"heatmap": maps["heatmap"], "displacement": prediction[..., None, None]}
    return DisplacementLoss(displacement_weight=1.0, beta=1.0)(outputs, Targets(maps, weights))["displacement"]


LOSSES = {
    "soft_weight_smooth_l1": displacement_loss,
    "focal_heatmap": lambda prediction, figures: focal_loss(prediction, figures["arg_0"], torch.ones(())),
    "info_nce": lambda prediction, _: info_nce(prediction, torch.zeros(8), 0.05) * 8,  # recorded as a sum
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_match_recorded_values_and_gradients(name):
    figures = figures_of(name)
    prediction = figures["pred_0"].requires_grad_()
    loss = LOSSES[name](prediction, figures)
    (gradient,) = torch.autograd.grad(loss, prediction)
    torch.testing.assert_close(loss, figures["loss_0"], rtol=1e-4, atol=1e-6)  # 8 logarithms of all but 1
    torch.testing.assert_close(gradient, figures["grad_0"], rtol=1e-4, atol=1e-4 * float(figures["grad_0"].abs().max()))


def test_people_are_compared_within_their_image():
    features = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert float(info_nce(features, torch.tensor([0, 1, 1]), 0.05)) == pytest.approx(0, abs=1e-6)
    assert float(info_nce(features, torch.tensor([0, 0, 1]), 0.05)) == pytest.approx(2 * np.log(2) / 3)
    assert info_nce(features[:0], torch.zeros(0), 0.05) == 0


def test_unlabelled_cells_of_a_map_do_not_count_and_losses_of_nothing_are_zero():
    maps, target = torch.full((1, 2, 4, 4), 0.3, requires_grad=True), torch.zeros(1, 2, 4, 4)
    target[:, :, 1, 1] = 1
    weights = torch.tensor([1.0, 0.0])[None, :, None, None]
    loss = focal_loss(maps, target, weights)
    torch.testing.assert_close(loss, focal_loss(maps[:, :1], target[:, :1], torch.ones(())))
    (gradient,) = torch.autograd.grad(loss, maps)
    assert not gradient[:, 1].any()
    assert focal_loss(maps, target, 0 * weights) == 0
    assert focal_loss(target, 1 - target, torch.ones(())).isfinite()


def test_the_flip_test_of_cid_joins_maps_of_the_same_people():
    """Centres are where both together say; each person's maps are the mean over the two inputs."""
    estimator = model("cid").eval()
    trained_a_little(estimator)
    head, codec = estimator.net.head, estimator.codec
    inputs = testing.random_batch(estimator).inputs
    with torch.inference_mode():
        joined = estimator.outputs(inputs)
        features, mirrored = (estimator.net.features(each) for each in (inputs, inputs.flip(-1)))
        plain, turned = head(features)["heatmap"], codec.flip({"heatmap": head(mirrored)["heatmap"]})["heatmap"]
        torch.testing.assert_close(joined["heatmap"], (plain + turned) / 2)
        scores, cells = head._centers(joined["heatmap"])
        torch.testing.assert_close(joined["score"], scores)
        one = head._instances(head.finest(features), cells)
        cells = torch.stack([plain.shape[-1] - 1 - cells[..., 0], cells[..., 1]], -1)
        other = codec.flip({"instance_heatmap": head._instances(head.finest(mirrored), cells)})["instance_heatmap"]
    torch.testing.assert_close(joined["instance_heatmap"], (one + other) / 2)


def test_cid_draws_no_more_people_than_memory_has_room_for():
    estimator = model("cid")
    head, batch = estimator.net.head, testing.random_batch(estimator, (3, 2))
    drawn = []
    shared = head._decoupled
    head._decoupled = lambda *given: drawn.append(len(given[0])) or shared(*given)
    for most in (200, 2):
        head.max_train_people = most
        estimator.losses(batch)
    assert drawn == [5, 2]


@pytest.mark.parametrize(("options", "message"), [({"peak_kernel": 2}, "must be odd"), ({"jitter": -1}, "at least 0")])
def test_options_of_cid_that_can_not_be_used_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        testing.model(partial(PAIRS["cid"][0], **options), CIDCodec, kind=BottomUp)
