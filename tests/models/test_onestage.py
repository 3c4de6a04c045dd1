"""One-stage models: agreement with the published networks and losses, assignment, and what heads owe their codec."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recorded import record, recorded_input, relative_error, weight
from torch import Tensor
from torch.nn import functional
from torchvision.ops import box_iou

from lightpose import testing
from lightpose.codecs.onestage import OneStageCodec
from lightpose.errors import UserError
from lightpose.estimators.base import PoseEstimator
from lightpose.estimators.bottomup import BottomUp
from lightpose.geometry import Grid
from lightpose.interop.mmpose.names import HEADS, NECKS, Family
from lightpose.models.backbones.cspdarknet import CSPDarknet
from lightpose.models.heads.assigners.simota import SimOTA, pairwise_oks
from lightpose.models.heads.priors import moved, prior_points
from lightpose.models.heads.rtmo import RTMOHead, expectation
from lightpose.models.heads.yoloxpose import YOLOXPoseHead
from lightpose.models.losses.oks import likelihood_loss, oks_loss, squared_iou_loss, varifocal
from lightpose.models.losses.onestage import OneStageLoss
from lightpose.models.necks.hybrid_encoder import HybridEncoder
from lightpose.models.necks.yolox_pafpn import YOLOXPAFPN
from lightpose.structures import Spec, Targets

LOSSES = Path(__file__).parents[1] / "data_files/parity/losses"
small_encoder = partial(HybridEncoder, out_channels=64, hidden=32, feedforward=64)


def small(kind: str, codec_options: dict[str, float] | None = None, **options: object) -> PoseEstimator:
    head, neck = {"yoloxpose": (YOLOXPoseHead, YOLOXPAFPN), "rtmo": (RTMOHead, small_encoder)}[kind]
    criterion = OneStageLoss(SimOTA(), kind="bce" if kind == "yoloxpose" else "varifocal")
    return testing.model(
        partial(head, criterion=criterion, **options),
        partial(OneStageCodec, **(codec_options or {})),
        kind=BottomUp,
        flip_test=False,
        backbone=CSPDarknet(0.1, 0.125),
        neck=neck,
    )


both_heads = pytest.mark.parametrize("kind", ["yoloxpose", "rtmo"])


def published(name: str, kind: str) -> str:
    part, _, rest = name.partition(".")
    heads = {"yoloxpose": "YOLOXPoseHead", "rtmo": "RTMOHead"}
    family = {"neck": NECKS["HybridEncoder"], "head": HEADS[heads[kind]]}.get(part, Family())
    return f"{part}.{family.published(rest)}"


@pytest.mark.parametrize("kind", ["yoloxpose", "rtmo"])
def test_matches_the_published_network(kind: str) -> None:
    case = record({"yoloxpose": "yoloxpose_tiny", "rtmo": "rtmo_s"}[kind])
    count = {"yoloxpose": 17, "rtmo": 14}[kind]
    spec = Spec({"boxes": (None, 4), "points": (None, count, 2)}, (256, 256))
    backbone = CSPDarknet(0.33, 0.375 if kind == "yoloxpose" else 0.5)
    neck_kind, head_kind = (YOLOXPAFPN, YOLOXPoseHead) if kind == "yoloxpose" else (HybridEncoder, RTMOHead)
    neck = neck_kind(backbone.out_channels, backbone.strides)
    head = head_kind(neck.out_channels, neck.strides, spec, OneStageLoss(SimOTA()))
    parts = torch.nn.ModuleDict({"backbone": backbone, "neck": neck, "head": head}).eval()
    parts.load_state_dict(
        {name: weight(published(name, kind), each.shape) for name, each in parts.state_dict().items()}
    )
    assert sum(parameter.numel() for parameter in parts.parameters()) == case["params"]
    with torch.inference_mode():
        features = neck(backbone(recorded_input(case["input"])))
        maps = head.maps(features) if kind == "yoloxpose" else head.maps(features, regress=False)
    found = [each for levels in maps.values() for each in levels]
    for output, samples in [*zip(features, case["features"], strict=True), *zip(found, case["head"], strict=True)]:
        assert relative_error(output, samples) < 1e-5


def test_inputs_that_no_stride_divides_go_through() -> None:
    net = CSPDarknet(0.1, 0.125)
    maps = net(torch.randn(2, 3, 71, 90))
    assert [tuple(each.shape[-2:]) for each in maps] == [(9, 12), (5, 6), (3, 3)]
    for neck in (YOLOXPAFPN(net.out_channels, net.strides), small_encoder(net.out_channels, net.strides)):
        sizes = {8: (9, 12), 16: (5, 6), 32: (3, 3)}
        assert [tuple(each.shape[-2:]) for each in neck(maps)] == [sizes[stride] for stride in neck.strides]


def test_an_encoder_has_no_level_that_nothing_comes_out_of() -> None:
    neck = small_encoder((8, 16, 32), (8, 16, 32), out_indices=(1,))
    maps = [torch.randn(1, width, 64 // width, 64 // width) for width in (8, 16, 32)]
    torch.autograd.grad(neck(maps)[0].sum(), list(neck.parameters()))  # it fails where one is not used
    with pytest.raises(UserError, match=r"must name some of 3 levels"):
        small_encoder((8, 16, 32), (8, 16, 32), out_indices=(3,))


def recorded_loss(name: str) -> dict[str, Tensor]:
    return {key: torch.from_numpy(value) for key, value in np.load(LOSSES / f"{name}.npz").items()}


def check_loss(name: str, loss: Tensor, predictions: list[Tensor], case: dict[str, Tensor]) -> None:
    torch.testing.assert_close(loss, case["loss_0"], atol=1e-5, rtol=1e-5)
    for index, gradient in enumerate(torch.autograd.grad(loss.sum(), predictions)):
        torch.testing.assert_close(gradient, case[f"grad_{index}"], atol=1e-5, rtol=1e-4)


def test_losses_are_the_published_ones() -> None:
    case = recorded_loss("iou")
    boxes = case["pred_0"].requires_grad_()
    check_loss("iou", squared_iou_loss(boxes, case["arg_0"]).mean(), [boxes], case)
    case = recorded_loss("vari_focal")
    logits = case["pred_0"].requires_grad_()
    check_loss("vari_focal", varifocal(logits, case["arg_0"]).mean(), [logits], case)
    case = recorded_loss("mlecc")
    shares = (case["pred_0"].requires_grad_(), case["pred_1"].requires_grad_())
    check_loss("mlecc", likelihood_loss(shares, (case["arg_0_0"], case["arg_0_1"])).mean(1), [*shares], case)
    case = recorded_loss("bce")
    logits = case["pred_0"].requires_grad_()
    losses = functional.binary_cross_entropy_with_logits(logits, case["arg_0"], reduction="none") * case["arg_1"]
    check_loss("bce", losses.mean(), [logits], case)


def test_oks_loss_is_one_minus_oks_of_the_labelled_keypoints() -> None:
    generator = torch.Generator().manual_seed(0)
    points, targets = torch.rand(2, 6, 5, 2, generator=generator) * 20
    labelled = (torch.rand(6, 5, generator=generator) > 0.4).float()
    labelled[:, 0] = 1
    areas, sigmas = torch.rand(6, generator=generator) * 900 + 10, torch.rand(5, generator=generator) * 0.1 + 0.02
    variance = (2 * sigmas) ** 2
    apart = (points - targets).square().sum(-1)
    oks = torch.exp(-apart / (2 * areas[:, None] * variance))
    expected = 1 - (oks * labelled).sum(-1) / labelled.sum(-1)
    torch.testing.assert_close(oks_loss(points, targets, labelled, areas, sigmas, True), expected)
    of_all = oks_loss(points, targets, labelled, areas, sigmas, False)
    torch.testing.assert_close(of_all, expected * labelled.sum(-1) / 5)


def scene(inputs: int, priors_per_side: int, people: list[int], seed: int = 0) -> tuple[dict[str, Tensor], Targets]:
    """Priors on a grid of stride 8, guesses around people, and people of whom some slots are padding."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    most, side = max(people), priors_per_side * 8
    there = torch.arange(most)[None] < torch.tensor(people)[:, None]
    centers = random(inputs, most, 2) * side
    half = random(inputs, most, 2) * side / 4 + 4
    boxes = torch.cat([centers - half, centers + half], -1)
    keypoints = centers[:, :, None] + (random(inputs, most, 5, 2) - 0.5) * 2 * half[:, :, None]
    labelled = (random(inputs, most, 5) > 0.3).float() * there[..., None]
    labelled[..., 0] = there.float()
    steps = torch.arange(priors_per_side) * 8.0
    points = torch.cartesian_prod(steps, steps).flip(-1)
    priors = torch.cat([points, torch.full((len(points), 1), 8.0)], -1).expand(inputs, -1, -1)
    nearest = torch.cdist(priors[..., :2], centers).masked_fill(~there[:, None], torch.inf).argmin(-1)
    rows = torch.arange(inputs)[:, None]
    outputs = {
        "priors": priors,
        "boxes": boxes[rows, nearest] + random(inputs, len(points), 4) * 6 - 3,
        "points": keypoints[rows, nearest] + random(inputs, len(points), 5, 2) * 6 - 3,
        "scores": random(inputs, len(points)) * 4 - 2,
        "visibility": random(inputs, len(points), 5) * 4 - 2,
    }
    maps = {
        "keypoints": keypoints * labelled[..., None],
        "boxes": boxes,
        "areas": (2 * half).prod(-1),
        "sigmas": torch.full((inputs, 5), 0.07),
        "counted": torch.ones(inputs, priors_per_side, priors_per_side),
    }
    weights = {
        "keypoints": labelled,
        "boxes": there.float(),
        "areas": there.float(),
        "sigmas": torch.ones(inputs, 5),
        "counted": torch.ones(inputs, priors_per_side, priors_per_side),
    }
    return outputs, Targets(maps, weights)


def assigned_one_by_one(outputs: dict[str, Tensor], targets: Targets, row: int, assigner: SimOTA) -> dict[int, int]:
    """Prior → person, of one input, person after person as the procedure is published."""
    there = int(targets.weights["boxes"][row].sum())
    boxes, points = targets.maps["boxes"][row, :there], outputs["priors"][row, :, :2]
    oks = pairwise_oks(outputs["points"], targets)[row, :, :there]
    ious = box_iou(outputs["boxes"][row], boxes)
    inside = ((points[:, None] > boxes[:, :2]) & (points[:, None] < boxes[:, 2:])).all(-1)
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    central = ((points[:, None] - middle).abs() < 2.5 * 8).all(-1)
    valid = (inside | central).any(1).nonzero()[:, 0].tolist()
    labels = targets.weights["keypoints"][row, :there]
    seen = functional.binary_cross_entropy_with_logits(
        outputs["visibility"][row][:, None].expand(-1, there, -1), labels.expand(len(points), -1, -1), reduction="none"
    ).mean(-1)
    similar = oks if assigner.similarity == "oks" else ious
    cost = {
        (prior, person): float(
            -3 * (ious[prior, person] + 1e-8).log()
            - 3 * (oks[prior, person] + 1e-8).log()
            - outputs["scores"][row, prior].sigmoid().log()
            + assigner.visibility_weight * seen[prior, person]
            + 1e5 * (not (inside & central)[prior, person])
        )
        for prior in valid
        for person in range(there)
    }
    wanted: dict[int, list[tuple[float, int]]] = {}
    for person in range(there):
        best = sorted((float(similar[prior, person]) for prior in valid), reverse=True)[: assigner.most]
        count = max(int(sum(best)), 1)
        for prior in sorted(valid, key=lambda prior: cost[prior, person])[:count]:
            wanted.setdefault(prior, []).append((cost[prior, person], person))
    return {prior: min(claims)[1] for prior, claims in wanted.items()}


@pytest.mark.parametrize("similarity", ["oks", "iou"])
@pytest.mark.parametrize("visibility_weight", [0.0, 1.0])
def test_simota_of_a_batch_is_that_of_each_input(similarity: str, visibility_weight: float) -> None:
    outputs, targets = scene(4, 12, [3, 1, 6, 0])
    assigner = SimOTA(similarity=similarity, visibility_weight=visibility_weight)
    found = assigner(outputs, targets)
    for row in range(4):
        ours = {
            int(found.priors[row, person, slot]): person
            for person in range(6)
            for slot in range(10)
            if found.taken[row, person, slot]
        }
        assert ours == assigned_one_by_one(outputs, targets, row, assigner)
        assert int(found.taken[row].sum()) == len(ours)  # no prior answers twice
    assert found.taken[0].sum() > 3


def test_similarity_and_values_stand_with_their_priors() -> None:
    outputs, targets = scene(3, 10, [2, 4, 1], seed=1)
    found = SimOTA()(outputs, targets)
    oks = pairwise_oks(outputs["points"], targets)
    torch.testing.assert_close(found.similarity, oks.gather(1, found.priors.mT).mT)
    spread = found.spread(found.similarity, 100)
    assert torch.equal(spread > 0, found.spread(torch.ones_like(found.similarity), 100) > 0)
    torch.testing.assert_close(found.at(spread[..., None])[..., 0][found.taken], found.similarity[found.taken])


def test_a_perfect_guess_costs_nothing_but_visibility_and_scores() -> None:
    outputs, targets = scene(2, 12, [3, 2], seed=2)
    criterion = OneStageLoss(SimOTA(), of_labelled=True)
    answers = criterion.match(outputs, targets)
    rows = torch.arange(2)[:, None, None]
    for name, target in (("boxes", "boxes"), ("points", "keypoints")):
        wanted = targets.maps[target][:, :, None].expand(-1, -1, 10, *targets.maps[target].shape[2:])
        mask = answers.assignment.taken
        outputs[name][rows.expand_as(mask)[mask], answers.assignment.priors[mask]] = wanted[mask]
    assert criterion.of_boxes(outputs, answers)["boxes"] == pytest.approx(0, abs=1e-4)
    assert criterion.of_keypoints(outputs["points"], answers) == pytest.approx(0, abs=1e-4)


def test_distances_draw_keypoints_that_lie_too_far_off_for_oks() -> None:
    """As random weights do: from the middle of a person its ankles are so far that OKS has no gradient."""
    outputs, targets = scene(2, 12, [3, 2], seed=2)
    criterion = OneStageLoss(SimOTA(), distances=1.0)
    answers = criterion.match(outputs, targets)
    far = 3 * targets.maps["areas"].max().sqrt()
    points = (outputs["points"] + far).requires_grad_()
    (of_oks,) = torch.autograd.grad(criterion.of_keypoints(points, answers), points)
    distances = criterion.of_distances(points, answers)["distances"]
    (drawn,) = torch.autograd.grad(distances, points)
    assert of_oks.abs().max() < 1e-6
    answering = answers.assignment.spread(torch.ones_like(answers.taken), points.shape[1]) > 0
    assert ((drawn.abs().amax((-1, -2)) > 0) == answering).all()
    assert (drawn >= 0).all()  # down the slope is back to the labels
    halved = criterion.of_distances(points, replace(answers, areas=4 * answers.areas))
    torch.testing.assert_close(halved["distances"], distances / 2)
    assert OneStageLoss(SimOTA()).of_distances(points, answers) == {}


def test_nothing_is_a_false_alarm_where_nothing_counts() -> None:
    outputs, targets = scene(1, 10, [1], seed=3)
    maps = {**targets.maps, "counted": torch.zeros(1, 10, 10)}
    criterion = OneStageLoss(SimOTA())
    everywhere = criterion(outputs, targets)["scores"]
    answers = criterion.match(outputs, Targets(maps, targets.weights))
    of_people = criterion.of_scores(outputs["scores"], answers.assignment.similarity, answers)
    wanted = answers.assignment.spread(answers.assignment.similarity**0.5, 100)
    expected = varifocal(outputs["scores"], wanted)[wanted > 0].sum() / answers.count
    torch.testing.assert_close(of_people, expected)
    assert of_people < everywhere


@pytest.mark.parametrize("grid", ["half_pixel", "stride", "udp"])
def test_points_move_by_what_maps_say_where_they_are(grid: Grid) -> None:
    stride, height, width = 8, 4, 6
    wanted = torch.tensor([[13.0, 5.0], [40.0, 30.0]])  # of two keypoints
    cells = prior_points([torch.zeros(1, 1, height, width)], [stride], grid)[0, :, :2]
    shifts = ((wanted - cells[:, None]) / stride).flatten(1).mT.unflatten(1, (height, width))[None]
    points = torch.tensor([[[[5.0, 9.0], [12.25, 20.0]], [[30.5, 21.0], [21.0, 4.0]]]])  # (1, 2, 2, 2)
    torch.testing.assert_close(moved(points, shifts, stride, grid), wanted.expand_as(points))
    beyond = points + 1000
    torch.testing.assert_close(moved(beyond, shifts, stride, grid), beyond + wanted - cells[-1])


@pytest.mark.parametrize(
    ("name", "option"), [("yoloxpose", "refinements=-1"), ("yoloxpose", "depth=0"), ("rtmo", "depth=0")]
)
def test_there_is_no_less_than_no_refinement_and_one_convolution(name: str, option: str) -> None:
    key, value = option.split("=")
    with pytest.raises(UserError, match=rf"head\.{option} must be"):
        small(name, **{key: int(value)})


def test_each_refinement_starts_where_the_one_before_ended() -> None:
    model = small("yoloxpose", refinements=2).eval()
    with torch.no_grad():
        shift = model.net.head.get_submodule("out_shift")
        shift.weight.zero_()
        shift.bias.copy_(torch.tensor([0.5, -0.25] * (len(shift.bias) // 2)))
    features = model.net.features(torch.randint(0, 255, (2, 3, 64, 96), dtype=torch.uint8))
    guesses = model.net.head.everything(features)["guesses"]
    steps = guesses.diff(dim=0)
    torch.testing.assert_close(steps, torch.tensor([4.0, -2.0]).expand_as(steps))  # strides of 8 pixels
    assert torch.equal(model.net.head(features)["points"], guesses[2])


@pytest.mark.parametrize(
    ("kind", "options"), [("yoloxpose", {}), ("yoloxpose", {"refinements": 2}), ("rtmo", {}), ("rtmo", {"proxy": True})]
)
def test_heads_keep_the_contract(kind: str, options: dict[str, Any]) -> None:
    testing.check(small(kind, {"score_threshold": 0.0}, **options))


@both_heads
def test_an_input_alone_gives_the_poses_that_it_gives_in_a_batch(kind: str) -> None:
    estimator = small(kind, {"score_threshold": 0.0}).eval()
    batch = testing.random_batch(estimator, (2, 0, 1))
    with torch.inference_mode():
        together = estimator.codec.decode(estimator.outputs(batch.inputs))
        assert set(together.batch_index.tolist()) == {0, 1, 2}
        for row in range(3):
            alone = estimator.codec.decode(estimator.outputs(batch.inputs[row : row + 1]))
            same = together.select(together.batch_index == row)
            assert len(alone) == len(same)
            torch.testing.assert_close(alone.keypoints, same.keypoints, atol=1e-3, rtol=1e-4)
            torch.testing.assert_close(alone.scores, same.scores)


@both_heads
def test_inputs_of_another_size_decode_and_train(kind: str) -> None:
    estimator = small(kind, {"score_threshold": 0.0})
    larger = testing.random_batch(small_like(estimator, (128, 160)), (1, 2))
    assert torch.isfinite(estimator.losses(larger)["loss"])
    poses = estimator.eval().predict_step(larger, 0)
    assert len(poses) and torch.isfinite(poses.keypoints).all()


def small_like(estimator: PoseEstimator, input_hw: tuple[int, int]) -> PoseEstimator:
    """Whatever `testing.random_batch` needs to make inputs of another size."""
    other = small("yoloxpose")
    other.input_hw = input_hw
    return other


@both_heads
def test_the_aux_loss_comes_in_with_a_weight(kind: str) -> None:
    estimator = small(kind)
    batch = testing.random_batch(estimator)
    assert "offsets" not in estimator.losses(batch)
    estimator.net.head.criterion.offsets = 1.0
    assert estimator.losses(batch)["offsets"] > 0


def test_a_proxy_takes_what_the_classifier_finds_only_where_that_is_nearer() -> None:
    """With labels that the classifier hits exactly, both ways of training regress to the same points."""
    estimator = small("rtmo", proxy=True)
    head, batch = estimator.net.head, testing.random_batch(estimator)
    targets = estimator.codec.encode(batch)
    head._classified = lambda outputs, answers: (
        outputs["poses"].sum() * 0,
        answers.keypoints.expand(-1, -1, answers.taken.shape[2], -1, -1),
    )
    features = estimator.net.features(batch.inputs)
    as_proxy = head.loss(features, targets)
    head.proxy = False
    plain = head.loss(features, targets)
    torch.testing.assert_close(as_proxy["keypoints"], plain["keypoints"])
    head._classified = lambda outputs, answers: (
        outputs["poses"].sum() * 0,
        answers.keypoints.expand(-1, -1, answers.taken.shape[2], -1, -1) + 1e4,
    )
    head.proxy = True
    assert head.loss(features, targets)["keypoints"] == 0


def test_the_classifier_reads_places_in_the_padded_box() -> None:
    estimator = small("rtmo").eval()
    dcc = estimator.net.head.dcc
    boxes, points = torch.tensor([[10.0, 20.0, 50.0, 100.0]]), torch.tensor([[24.0, 24.0]])
    x, y = dcc.bins(boxes, points, 1.25)
    assert (x + 24)[0, [0, -1]].tolist() == pytest.approx([30 - 25, 30 + 25])
    assert (y + 24)[0, [0, -1]].tolist() == pytest.approx([60 - 50, 60 + 50])
    shares = [functional.one_hot(torch.tensor([[7]]), each.shape[1]).float() for each in (x, y)]
    torch.testing.assert_close(expectation(tuple(shares), (x, y))[0, 0], torch.stack([x[0, 7], y[0, 7]]))


def test_levels_of_other_channels_are_refused() -> None:
    with pytest.raises(UserError, match="use neck=yolox_pafpn"):
        YOLOXPoseHead((8, 16), (8, 16), small("yoloxpose").codec.spec, OneStageLoss(SimOTA()))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: SimOTA(similarity="dice"), "use oks or iou"),
        (lambda: OneStageLoss(SimOTA(), kind="focal"), "use varifocal or bce"),
        (lambda: CSPDarknet(widen=0), "needs positive factors"),
    ],
)
def test_options_that_are_none_are_refused(build: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build()
