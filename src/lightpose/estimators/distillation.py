"""Distillation: a student learns from a network that is trained already, its teacher (DWPose, arXiv:2307.15880)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from lightpose.errors import UserError, in_short
from lightpose.estimators.base import PoseEstimator
from lightpose.models.base import Head
from lightpose.models.net import PoseNet
from lightpose.structures import Targets
from lightpose.trust import Trust

AXES = ("x", "y")
"""The outputs that a student learns from its teacher: distributions along the axes of the input."""

Load = Callable[[str, Trust], PoseEstimator]
"""Reads a checkpoint, as `lightpose.load` does."""


class Teacher:
    """A network that doesn't learn. As it is no module, it isn't trained, averaged, sent or saved with the student.

    Args:
        path: of its checkpoint.
        student: what learns from it.
        load: reads the checkpoint.
        trust: names that it may build from.
        labelled_only: whether keypoints without a label count for nothing in `logit_loss`.

    Raises:
        UserError: when the two don't fit: other outputs, keypoints, input size or pixel grid.
    """

    def __init__(self, path: str, student: PoseEstimator, load: Load, trust: Trust, labelled_only: bool) -> None:
        _check_head(student.net.head, "this run's")
        estimator = load(path, trust)
        _check_head(estimator.net.head, f"{path}'s")
        _check_fit(path, estimator, student)
        self.net: PoseNet = estimator.net.requires_grad_(False).eval()
        self.factor: float = getattr(self.net.head.criterion, "beta", _factor(student.net.head))
        self.labelled_only = labelled_only

    def __deepcopy__(self, memo: Any) -> Self:
        """The same teacher: the copy of a student has no need of another."""
        return self

    def on(self, device: torch.device) -> PoseNet:
        """The network, on a device from now on."""
        if next(self.net.parameters()).device != device:
            self.net.to(device)
        return self.net

    def logit_loss(
        self, head: Head, outputs: Mapping[str, Tensor], taught: Mapping[str, Tensor], targets: Targets
    ) -> Tensor:
        """The `divergence` of a student's outputs from those of the teacher.

        Args:
            head: the student's.
            outputs: of that head.
            taught: of the teacher's head.
            targets: of the labels.
        """
        weights = {axis: targets.weights[axis] for axis in AXES}
        if not self.labelled_only:
            weights = {axis: torch.ones_like(weight) for axis, weight in weights.items()}
        return divergence(outputs, _factor(head), taught, self.factor, weights)


class Distillation(nn.Module):
    """The losses of a student that learns from its labels and from a teacher (DWPose's first stage).

    Beside the head's own losses: ``distill_logit``, see `divergence`, and ``distill_feature``, the squared error of the
    last feature map that enters the head. A 1x1 convolution, which learns with the student, brings that map to the
    teacher's channels. The error is summed over the map and averaged over the batch. Both losses fade: they are
    multiplied by the share of the run that is left.

    Args:
        teacher: path of its checkpoint.
        student: what learns from it.
        load: reads the checkpoint.
        trust: names of packages, modules or classes outside lightpose, torch and timm that it may build from.
        feature_weight: of ``distill_feature``; 0 leaves it out.
        logit_weight: of ``distill_logit``.
        labelled_only: see `Teacher`.

    Raises:
        UserError: when teacher and student don't fit.
    """

    def __init__(
        self,
        teacher: str,
        student: PoseEstimator,
        load: Load,
        trust: Trust = (),
        feature_weight: float = 5e-5,
        logit_weight: float = 0.1,
        labelled_only: bool = True,
    ) -> None:
        super().__init__()
        self.teacher = Teacher(teacher, student, load, trust, labelled_only)
        self.feature_weight, self.logit_weight = feature_weight, logit_weight
        self.align: nn.Module | None = None
        if feature_weight:
            own, known = student.net.neck, self.teacher.net.neck
            if own.strides[-1] != known.strides[-1]:
                raise UserError(
                    f"the last feature map of {teacher} has stride {known.strides[-1]} and this run's has stride "
                    f"{own.strides[-1]}, so that cells can't be compared; set distill.feature_weight=0, or choose a "
                    "backbone and neck that end at the same stride"
                )
            align = nn.Conv2d(own.out_channels[-1], known.out_channels[-1], 1)
            self.align = align.to(memory_format=torch.channels_last)

    def forward(
        self, inputs: Tensor, features: Sequence[Tensor], targets: Targets, head: Head, share_done: float
    ) -> dict[str, Tensor]:
        """The losses of a step.

        Args:
            inputs: of the network, which the teacher sees, too.
            features: the student's.
            targets: of the labels.
            head: the student's.
            share_done: of the run.
        """
        teacher, left = self.teacher.on(inputs.device), 1 - share_done
        with torch.no_grad():
            known = teacher.features(inputs)
            taught = teacher.head(known)
        outputs = head(features)
        logit = self.teacher.logit_loss(head, outputs, taught, targets)
        losses = {**head.compare(outputs, targets), "distill_logit": self.logit_weight * left * logit}
        if self.align is not None:
            error = (self.align(features[-1]).float() - known[-1].float()).square().sum((1, 2, 3)).mean()
            losses["distill_feature"] = self.feature_weight * left * error
        return losses


class HeadDistillation(nn.Module):
    """The loss of a new head on the backbone and neck of its teacher, which stay as they are (DWPose's second stage).

    The one loss is ``distill_logit``, see `divergence`; labels say only which keypoints count. The student gets the
    weights of the teacher's backbone and neck.

    Args:
        teacher: path of its checkpoint: the student of the first stage, or any trained network.
        student: has the same preprocessor, backbone and neck.
        load: reads the checkpoint.
        trust: names of packages, modules or classes outside lightpose, torch and timm that it may build from.
        logit_weight: of the loss.
        labelled_only: see `Teacher`.

    Raises:
        UserError: when teacher and student don't fit, or the backbone or neck would train.
    """

    def __init__(
        self,
        teacher: str,
        student: PoseEstimator,
        load: Load,
        trust: Trust = (),
        logit_weight: float = 1.0,
        labelled_only: bool = True,
    ) -> None:
        super().__init__()
        self.teacher = Teacher(teacher, student, load, trust, labelled_only)
        self.logit_weight = logit_weight
        _take_trunk(teacher, self.teacher.net, student)

    def forward(
        self, inputs: Tensor, features: Sequence[Tensor], targets: Targets, head: Head, share_done: float
    ) -> dict[str, Tensor]:
        """The loss of a step; arguments as of `Distillation`. The teacher's head reads the features of both."""
        with torch.no_grad():
            taught = self.teacher.on(inputs.device).head(features)
        return {"distill_logit": self.logit_weight * self.teacher.logit_loss(head, head(features), taught, targets)}


def divergence(
    outputs: Mapping[str, Tensor],
    factor: float,
    taught: Mapping[str, Tensor],
    taught_factor: float,
    weights: Mapping[str, Tensor],
) -> Tensor:
    """Kullback-Leibler divergence of a student's distributions along x and y from its teacher's, in float32.

    It is summed over bins and axes, and averaged over batch and keypoints, those of weight 0 included.

    Args:
        outputs: the student's logits ``x`` and ``y`` (B, K, bins).
        factor: on them, before their softmax.
        taught: the teacher's logits.
        taught_factor: on them.
        weights: (B, K) of ``x`` and of ``y``. In the paper all keypoints count alike, also those without a label.
    """
    terms = []
    for axis in AXES:
        own, known = (
            (scale * logits[axis].float()).log_softmax(-1)
            for scale, logits in ((factor, outputs), (taught_factor, taught))
        )
        divergences = functional.kl_div(own, known, reduction="none", log_target=True).sum(-1)  # (B, K)
        terms.append((divergences * weights[axis]).mean())
    return torch.stack(terms).sum()


def _factor(head: Head) -> float:
    """What the head's loss multiplies outputs by before their softmax."""
    return float(getattr(head.criterion, "beta", 1.0))


def _check_head(head: Head, whose: str) -> None:
    """Refuse a head whose outputs are no distributions along the axes, or whose loss needs more than its outputs."""
    if head.emits != set(AXES) or type(head).loss is not Head.loss:
        raise UserError(
            f"distillation compares distributions along x and y, and {whose} head {type(head).__name__} gives "
            f"{' and '.join(sorted(head.emits))}; use codec=simcc with head=simcc or head=rtmcc for student and teacher"
        )


def _check_fit(path: str, teacher: PoseEstimator, student: PoseEstimator) -> None:
    theirs, ours = teacher.skeleton.keypoints, student.skeleton.keypoints
    if theirs != ours:
        raise UserError(
            f"{path} was trained on the {len(theirs)} keypoints {', '.join(theirs)}, this run is on the {len(ours)} "
            f"keypoints {', '.join(ours)}; give a teacher of the same keypoints in the same order"
        )
    for option, given, wanted in (
        ("input_hw", teacher.input_hw, student.input_hw),
        ("grid", teacher.grid, student.grid),
        ("bins of the codec", teacher.codec.spec.outputs, student.codec.spec.outputs),
    ):
        if given != wanted:
            raise UserError(
                f"{path} was trained with {option} {_shown(given)}, and this run has {_shown(wanted)}; give this run "
                f"{'codec.split' if option.startswith('bins') else option}= of the teacher, or another teacher"
            )


def _shown(value: Any) -> str:
    return str(list(value)) if isinstance(value, tuple) else str(value)


@torch.no_grad()
def _take_trunk(path: str, teacher: PoseNet, student: PoseEstimator) -> None:
    """Give a student the backbone and neck of its teacher.

    Raises:
        UserError: when they are others, would train, or compute something else, as with another preprocessor.
    """
    net = student.net
    for name in ("backbone", "neck"):
        part, known = net.get_submodule(name), teacher.get_submodule(name)
        if any(weight.requires_grad for weight in part.parameters()):
            raise UserError(
                f"a new head learns on a {name} that stays as it is, but this run's trains; leave estimator.lr_factors "
                "as distill=dwpose_head has it, {backbone: 0, neck: 0}"
            )
        try:
            part.load_state_dict(known.state_dict())
        except RuntimeError as error:
            reason = in_short(error)
            raise UserError(
                f"the {name} of {path} is {type(known).__name__}, and its weights don't fit this run's "
                f"{type(part).__name__} ({reason}); give {name}= and its options as in the teacher's run"
            ) from error
    height, width = student.input_hw or (64, 64)
    images = torch.randint(256, (2, 3, height, width), generator=torch.Generator().manual_seed(0)).byte()
    training = net.training
    ours = net.eval().plain_features(images)
    student.train(training)
    theirs = teacher.plain_features(images)
    if not all(torch.allclose(own, known, rtol=1e-3, atol=1e-4) for own, known in zip(ours, theirs, strict=True)):
        raise UserError(
            f"backbone and neck have the weights of {path} and yet give other features, as with other options; give "
            "preprocessor=, backbone= and neck= as in the teacher's run"
        )
