"""What a student learns from its teacher, by closed forms, and which teachers are refused."""

import copy
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.strategies import SingleDeviceStrategy

from lightpose import testing
from lightpose.callbacks.acceleration import Acceleration
from lightpose.codecs.heatmap import HeatmapCodec
from lightpose.codecs.simcc import SimCCCodec
from lightpose.errors import UserError
from lightpose.estimators.base import PoseEstimator
from lightpose.estimators.distillation import Distillation, HeadDistillation, divergence
from lightpose.models.heads.heatmap import HeatmapHead
from lightpose.models.heads.simcc import SimCCHead
from lightpose.models.losses.heatmap import KeypointMSE
from lightpose.models.losses.profiles import ProfileKL
from lightpose.models.preprocessors import Normalize
from lightpose.runtime.graphs import GraphedTrunk
from lightpose.skeleton import Skeleton

FROZEN = {"backbone": 0.0, "neck": 0.0}


def network(width: int = 16, beta: float = 10.0, split: int = 2, **parts) -> PoseEstimator:
    head = partial(SimCCHead, criterion=ProfileKL(beta))
    backbone = parts.pop("backbone", None) or testing.SmallBackbone(width)
    return testing.model(head, partial(SimCCCodec, split=split), backbone=backbone, **parts)


def teacher(**options) -> PoseEstimator:
    """Another network, far enough from its start to have something to teach."""
    found = network(**{"width": 24, **options})
    generator = torch.Generator().manual_seed(3)
    for weight in found.parameters():
        weight.data += 0.05 * torch.randn(weight.shape, generator=generator)
    return found.eval()


def taught(kind, student: PoseEstimator, known: PoseEstimator, **options):
    return kind("big.ckpt", student, lambda path, trust: known, **options)


def losses(module, student: PoseEstimator, share_done: float = 0.0, batch=None):
    batch = testing.random_batch(student) if batch is None else batch
    features = student.net.features(batch.inputs)
    return module(batch.inputs, features, student.codec.encode(batch), student.net.head, share_done)


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def test_the_divergence_is_that_of_the_two_distributions():
    generator = np.random.default_rng(0)
    own, known = ({"x": generator.normal(size=(3, 5, 8)), "y": generator.normal(size=(3, 5, 6))} for _ in range(2))
    weights = {axis: np.array([[1, 0, 1, 2, 0], [0] * 5, [1] * 5]) for axis in "xy"}
    expected = 0.0
    for axis in "xy":
        p, q = softmax(3 * known[axis]), softmax(10 * own[axis])
        expected += ((p * np.log(p / q)).sum(-1) * weights[axis]).sum() / 15
    tensors = [{axis: torch.tensor(value) for axis, value in each.items()} for each in (own, known, weights)]
    found = divergence(tensors[0], 10.0, tensors[1], 3.0, tensors[2])
    assert float(found) == pytest.approx(expected, rel=1e-5)
    assert float(divergence(tensors[1], 3.0, tensors[1], 3.0, tensors[2])) == pytest.approx(0, abs=1e-6)


def test_the_divergence_is_finite_in_half_precision_and_without_labels():
    own, known = ({axis: (100 * torch.randn(2, 5, 8)).half().requires_grad_() for axis in "xy"} for _ in range(2))
    for weight in (0.0, 1.0):
        found = divergence(own, 10.0, known, 10.0, dict.fromkeys("xy", torch.full((2, 5), weight)))
        assert found.dtype == torch.float32 and found.isfinite() and bool(found > 0) == bool(weight)
        found.backward()
        assert all(each.grad.isfinite().all() for each in own.values())


def test_what_is_not_labelled_does_not_count_unless_asked_for():
    student = network()
    batch = testing.random_batch(student)
    people = batch.instances
    unseen = replace(batch, instances=replace(people, visible=torch.zeros_like(people.visible)))
    for labelled_only in (True, False):
        student.net.eval()
        module = taught(Distillation, student, teacher(), labelled_only=labelled_only)
        found = losses(module, student, batch=unseen)
        assert bool(found["distill_logit"] == 0) == labelled_only and found["distill_feature"] > 0


def test_both_losses_fade_and_the_labels_count_to_the_end():
    student, known = network(), teacher()
    student.net.eval()
    module = taught(Distillation, student, known, feature_weight=2.0, logit_weight=3.0)
    batch = testing.random_batch(student)
    first, later, last = (losses(module, student, share, batch) for share in (0.0, 0.75, 1.0))
    targets = student.codec.encode(batch)
    outputs, theirs = student.net(batch.inputs), known.net(batch.inputs)
    logit = divergence(outputs, 10.0, theirs, 10.0, targets.weights)
    error = (module.align(student.net.features(batch.inputs)[-1]) - known.net.features(batch.inputs)[-1]).square()
    torch.testing.assert_close(first["distill_logit"], 3 * logit)
    torch.testing.assert_close(first["distill_feature"], 2 * error.sum() / len(batch))
    for name in ("distill_logit", "distill_feature"):
        torch.testing.assert_close(later[name], first[name] / 4)
        assert last[name] == 0 and last[name].requires_grad  # so that all processes have all gradients
    alone = student.net.head.loss(student.net.features(batch.inputs), targets)
    assert all(torch.equal(alone[name], last[name]) for name in "xy")


def test_the_student_and_its_convolution_learn_and_the_teacher_does_not():
    student, known = network(), teacher()
    before = copy.deepcopy(known.net.state_dict())
    student.distillation = taught(Distillation, student, known)
    student.train()
    sum(losses(student.distillation, student).values()).backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in student.distillation.parameters())
    assert all(weight.grad is not None for weight in student.net.parameters())
    assert all(weight.grad is None and not weight.requires_grad for weight in known.net.parameters())
    assert all(torch.equal(before[name], value) for name, value in known.net.state_dict().items())
    own = {name for name in student.state_dict() if name.startswith("distillation")}
    assert own == {"distillation.align.weight", "distillation.align.bias"}
    assert copy.deepcopy(student).distillation.teacher is student.distillation.teacher  # as averaged weights copy it
    assert "align" not in dict(taught(Distillation, network(), known, feature_weight=0).named_children())


def test_each_network_has_the_factor_of_its_own_loss():
    student, known = network(beta=10.0), teacher(beta=2.0)
    student.net.eval()
    module = taught(Distillation, student, known, logit_weight=1.0)
    batch = testing.random_batch(student)
    outputs, theirs = student.net(batch.inputs), known.net(batch.inputs)
    expected = divergence(outputs, 10.0, theirs, 2.0, student.codec.encode(batch).weights)
    torch.testing.assert_close(losses(module, student, batch=batch)["distill_logit"], expected)


def test_a_new_head_learns_from_the_old_one_on_its_frozen_backbone():
    student, known = network(lr_factors=FROZEN), teacher(width=16)
    module = taught(HeadDistillation, student, known)
    student.train()
    trunk = {name: value for name, value in known.net.state_dict().items() if not name.startswith("head.")}
    optimizer = torch.optim.Adam(student.net.head.parameters(), lr=1e-2)
    batch = testing.random_batch(student)
    found = []
    for _ in range(30):
        step = losses(module, student, 0.9, batch)
        assert list(step) == ["distill_logit"]
        optimizer.zero_grad()
        step["distill_logit"].backward()
        optimizer.step()
        found.append(float(step["distill_logit"].detach()))
    assert found[-1] < found[0] / 10
    assert all(torch.equal(value, student.net.state_dict()[name]) for name, value in trunk.items())
    theirs = divergence(
        known.net(batch.inputs), 10.0, known.net(batch.inputs), 10.0, student.codec.encode(batch).weights
    )
    assert theirs == pytest.approx(0, abs=1e-6) and not list(module.parameters())


@pytest.mark.parametrize("distilled", [False, True])
def test_a_step_with_a_teacher_is_not_one_graph(distilled):
    student = network()
    student.distillation = taught(Distillation, student, teacher()) if distilled else None
    student.net.fast_features = GraphedTrunk(student.net)
    trainer = SimpleNamespace(
        optimizers=[torch.optim.Adam(student.parameters(), fused=True)],
        precision_plugin=Precision(),
        strategy=SingleDeviceStrategy("cpu"),
        accumulate_grad_batches=1,
        gradient_clip_algorithm=None,
        gradient_clip_val=None,
        callbacks=[],
    )
    Acceleration("auto").on_train_start(trainer, student)
    assert (student.graphed_step is None) == distilled  # a replay would neither fade nor train the convolution


def heatmaps(**parts) -> PoseEstimator:
    return testing.model(partial(HeatmapHead, criterion=KeypointMSE(), channels=8), HeatmapCodec, **parts)


OTHERS = Skeleton.build(("nose", "left_eye", "right_eye", "left_paw", "right_paw"), name="others")


class Coarse(testing.SmallBackbone):
    """Stride 16."""

    def __init__(self) -> None:
        super().__init__()
        self.layers.append(torch.nn.MaxPool2d(2))
        self.strides = (16,)


@pytest.mark.parametrize(
    ("student", "known", "said"),
    [
        (heatmaps, teacher, "this run's head HeatmapHead gives heatmap; use codec=simcc with head=simcc or head=rtmcc"),
        (network, heatmaps, "big.ckpt's head HeatmapHead gives heatmap; use codec=simcc"),
        (
            network,
            partial(teacher, skeleton=OTHERS),
            "left_paw, right_paw, this run is on the 5 keypoints nose, .*hand",
        ),
        (network, partial(teacher, input_hw=(64, 64)), r"input_hw \[64, 64\], and this run has \[64, 96\]; give this"),
        (network, partial(teacher, grid="udp"), "with grid udp, and this run has half_pixel; give this run grid= of"),
        (network, partial(teacher, split=3), "bins of the codec .* give this run codec.split= of the teacher"),
        (network, partial(teacher, backbone=Coarse()), "has stride 16 and this run's has stride 8.*feature_weight=0"),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused(student, known, said):
    with pytest.raises(UserError, match=said):
        taught(Distillation, student(), known())


class Squared(testing.SmallBackbone):
    """Other features of the same weights."""

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        return [each.square() for each in super().forward(images)]


@pytest.mark.parametrize(
    ("student", "known", "said"),
    [
        (network, partial(teacher, width=16), "a backbone that stays as it is, but this run's trains"),
        (partial(network, lr_factors=FROZEN), teacher, r"the backbone of big.ckpt is .*size mismatch.* give backbone="),
        (partial(network, lr_factors=FROZEN, backbone=Squared()), partial(teacher, width=16), "give other features"),
        (
            partial(network, lr_factors=FROZEN, preprocessor=Normalize((0.0,) * 3, (255.0,) * 3)),
            partial(teacher, width=16),
            "give preprocessor=, backbone= and neck= as in the teacher's run",
        ),
    ],
)
def test_a_head_is_not_taught_on_another_backbone(student, known, said):
    with pytest.raises(UserError, match=said):
        taught(HeadDistillation, student(), known())
