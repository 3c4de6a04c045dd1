"""Losses of one-stage models: what the priors that answer for people get wrong, and the scores of all priors."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional

from lightpose.codecs.onestage import CELL
from lightpose.errors import UserError
from lightpose.models.heads.assigners.simota import Assignment
from lightpose.models.losses.oks import oks_loss, squared_iou_loss, varifocal
from lightpose.structures import Targets

Scores = Literal["varifocal", "bce"]


@dataclass(frozen=True, slots=True)
class Answers:
    """The T priors that answer for each of M people, and what they should say.

    Attributes:
        assignment: which priors.
        keypoints: (B, M, 1, K, 2).
        labelled: (B, M, T, K) 1 where a keypoint is labelled; 0 for slots without a prior.
        boxes: (B, M, 1, 4).
        areas: (B, M, 1).
        sigmas: (B, 1, 1, K).
        factors: (B, 1, 1, K), of the skeleton on the loss.
        taken: (B, M, T) float, 1 for slots with a prior.
        count: how many there are, in the mean over processes, and 1 at least.
        counted: (B, P) float, 0 for priors in regions that nothing may be learnt from.
    """

    assignment: Assignment
    keypoints: Tensor
    labelled: Tensor
    boxes: Tensor
    areas: Tensor
    sigmas: Tensor
    factors: Tensor
    taken: Tensor
    count: Tensor
    counted: Tensor

    def mean(self, losses: Tensor) -> Tensor:
        """Of losses (B, M, T) over the slots that have a prior."""
        return torch.where(self.taken > 0, losses, 0.0).sum() / self.count


class OneStageLoss(nn.Module):
    """Boxes by 1 - IoU², keypoints by OKS, visibility by cross-entropy, scores with the similarity as their target.

    Weights are those of YOLOX-Pose and RTMO (arXiv:2312.07526). Each loss is a sum over priors divided by how many
    answer for somebody.

    Args:
        assigner: says which priors answer for whom.
        boxes: weight.
        keypoints: weight.
        visibility: weight.
        scores: weight.
        offsets: weight of the absolute error of what boxes are made from, in strides; published recipes have it in the
            last epochs.
        distances: weight of the absolute error of keypoints, relative to the root of the person's area: it draws those
            near that lie so far off that OKS has no gradient. Published recipes start from trained weights without it.
        power: of the similarity, as the target of a score.
        of_labelled: mean of the keypoints' loss over the labelled ones; else over all, so that a person with few labels
            counts less.
        kind: loss of the scores: ``varifocal`` (arXiv:2008.13367) or ``bce``.

    Raises:
        UserError: for an unknown kind.
    """

    def __init__(
        self,
        assigner: Callable[[dict[str, Tensor], Targets], Assignment],
        boxes: float = 5.0,
        keypoints: float = 30.0,
        visibility: float = 1.0,
        scores: float = 1.0,
        offsets: float = 0.0,
        distances: float = 0.0,
        power: float = 0.5,
        of_labelled: bool = False,
        kind: Scores = "varifocal",
    ) -> None:
        super().__init__()
        if kind not in get_args(Scores):
            raise UserError(f"criterion.kind={kind!r} is unknown; use varifocal or bce")
        self.assigner, self.kind = assigner, kind
        self.boxes, self.keypoints, self.visibility, self.scores = boxes, keypoints, visibility, scores
        self.offsets, self.distances, self.power, self.of_labelled = offsets, distances, power, of_labelled

    def forward(self, outputs: dict[str, Tensor], targets: Targets) -> dict[str, Tensor]:
        """The losses of candidates as they are predicted from."""
        answers = self.match(outputs, targets)
        return {
            **self.of_boxes(outputs, answers),
            "keypoints": self.of_keypoints(outputs["points"], answers),
            **self.of_distances(outputs["points"], answers),
            "visibility": self.of_visibility(outputs["visibility"], answers),
            "scores": self.of_scores(outputs["scores"], answers.assignment.similarity, answers),
        }

    def match(self, outputs: dict[str, Tensor], targets: Targets) -> Answers:
        """Assign priors to people."""
        assignment, people = self.assigner(outputs, targets), targets.maps
        taken = assignment.taken.float()
        cells = (outputs["priors"][..., :2] / CELL).long().flip(-1)  # (B, P, 2) rows and columns
        row, column = (cells[..., axis].clamp(0, people["counted"].shape[1 + axis] - 1) for axis in (0, 1))
        inputs = torch.arange(len(cells), device=cells.device)[:, None]
        return Answers(
            assignment,
            people["keypoints"][:, :, None],
            targets.weights["keypoints"][:, :, None] * taken[..., None],
            people["boxes"][:, :, None],
            people["areas"][:, :, None],
            people["sigmas"][:, None, None],
            targets.weights["sigmas"][:, None, None],
            taken,
            mean_over_processes(taken.sum()).clamp_min(1),
            people["counted"][inputs, row, column],
        )

    def of_boxes(self, outputs: dict[str, Tensor], answers: Answers) -> dict[str, Tensor]:
        """Of ``boxes``, and of ``offsets`` where they are there and count."""
        at = answers.assignment.at
        losses = {"boxes": self.boxes * answers.mean(squared_iou_loss(at(outputs["boxes"]), answers.boxes))}
        if "offsets" in outputs and self.offsets:
            point, stride = at(outputs["priors"]).split([2, 1], -1)
            low, high = answers.boxes.split(2, -1)
            wanted = torch.cat([((low + high) / 2 - point) / stride, ((high - low).clamp_min(1e-3) / stride).log()], -1)
            losses["offsets"] = self.offsets * answers.mean((at(outputs["offsets"]) - wanted).abs().sum(-1))
        return losses

    def of_keypoints(self, points: Tensor, answers: Answers) -> Tensor:
        """Of guesses (B, P, K, 2)."""
        return self.of_answers(answers.assignment.at(points), answers.keypoints, answers.labelled, answers)

    def of_answers(self, points: Tensor, wanted: Tensor, labelled: Tensor, answers: Answers) -> Tensor:
        """Of guesses (B, M, T, K, 2) beside wanted points and weights of the like."""
        weights = labelled * answers.factors
        losses = oks_loss(points, wanted, weights, answers.areas, answers.sigmas, self.of_labelled)
        return self.keypoints * answers.mean(losses)

    def of_distances(self, points: Tensor, answers: Answers) -> dict[str, Tensor]:
        """``distances`` of guesses (B, P, K, 2) from the labels, if they count."""
        if not self.distances:
            return {}
        apart = (answers.assignment.at(points) - answers.keypoints).abs().sum(-1)
        weights = answers.labelled * answers.factors
        relative = apart / answers.areas.clamp_min(1).sqrt()[..., None]
        return {"distances": self.distances * answers.mean((relative * weights).sum(-1) / weights.sum(-1).clamp_min(1))}

    def of_visibility(self, logits: Tensor, answers: Answers) -> Tensor:
        """Of logits (B, P, K)."""
        found = answers.assignment.at(logits)
        losses = functional.binary_cross_entropy_with_logits(found, answers.labelled, reduction="none")
        return self.visibility * answers.mean(losses.mean(-1))

    def of_scores(self, logits: Tensor, similarity: Tensor, answers: Answers) -> Tensor:
        """Of logits (B, P): the target is the similarity (B, M, T) where a prior answers for somebody, else 0."""
        wanted = answers.assignment.spread(similarity.clamp(0, 1) ** self.power, logits.shape[1])
        if self.kind == "varifocal":
            losses = varifocal(logits, wanted)
        else:
            losses = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
        counted = torch.maximum(answers.counted, (wanted > 0).float())
        return self.scores * (losses * counted).sum() / answers.count


def mean_over_processes(number: Tensor) -> Tensor:
    """The same number, or in training on several processes its mean over them, as gradients are means."""
    if torch.is_grad_enabled() and distributed.is_available() and distributed.is_initialized():
        number = number.clone()
        distributed.all_reduce(number)
        number = number / distributed.get_world_size()
    return number
