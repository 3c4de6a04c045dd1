"""The head of YOLOX-Pose."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from lightpose.codecs.onestage import CANDIDATES, PEOPLE
from lightpose.errors import UserError
from lightpose.geometry import Grid
from lightpose.models.base import Head
from lightpose.models.heads.priors import (
    boxes_of,
    branch,
    flat,
    keypoints_of,
    moved,
    per_level,
    points_of,
    prior_points,
    same_width,
    start_rare,
)
from lightpose.models.losses.onestage import OneStageLoss
from lightpose.structures import Spec, Targets


class YOLOXPoseHead(Head):
    """Each cell of each level may be somebody: a box, keypoints with visibility, and two factors of the score.

    YOLO-Pose (arXiv:2204.06806) on the decoupled head of YOLOX (arXiv:2107.08430). Class and objectness are learnt
    apart: the class from those that answer for somebody, with the similarity as the target. Tensors are called as in
    the published code.

    Args:
        in_channels: channels of each feature map, the same for all.
        strides: of each feature map.
        spec: what the codec expects.
        criterion: the loss.
        depth: convolutions of each branch; that of the keypoints has twice as many.
        refinements: how often each keypoint moves on by what the finest level says at the place where it was guessed,
            as the offsets of PersonLab (arXiv:1803.08225) do; each guess has a loss of its own. One cell then need not
            know where all keypoints are. 0 makes none, as in published models.
        grid: which input pixel the offsets of a cell count from.
        stages: how often the features go through these maps; the last counts.

    Raises:
        UserError: for less than no refinement.
    """

    emits = CANDIDATES
    criterion: OneStageLoss

    def __init__(
        self,
        in_channels: Sequence[int],
        strides: Sequence[int],
        spec: Spec,
        criterion: OneStageLoss,
        depth: int = 2,
        refinements: int = 0,
        grid: Grid = "stride",
        stages: int = 1,
    ) -> None:
        super().__init__()
        if refinements < 0:
            raise UserError(f"head.refinements={refinements} must be a whole number from 0, which makes none")
        self.criterion, self.strides, self.refinements, self.grid = criterion, tuple(strides), refinements, grid
        keypoints, levels = keypoints_of(spec), len(strides)
        width = same_width(in_channels, "yoloxpose", "yolox_pafpn")
        out = partial(nn.Conv2d, width, kernel_size=1)
        self.conv_cls = per_level(levels, partial(branch, width, width, depth))
        self.conv_reg = per_level(levels, partial(branch, width, width, depth))
        self.conv_pose = per_level(levels, partial(branch, width, width, 2 * depth))
        self.out_cls, self.out_obj = (per_level(levels, partial(out, 1)) for _ in range(2))
        self.out_bbox = per_level(levels, partial(out, 4))
        self.out_kpt, self.out_kpt_vis = (per_level(levels, partial(out, n * keypoints)) for n in (2, 1))
        if refinements:
            self.conv_shift, self.out_shift = branch(width, width, depth), out(2 * keypoints)
        start_rare(self.out_cls)
        start_rare(self.out_obj)

    @property
    def needs(self) -> frozenset[str]:
        """The people."""
        return PEOPLE

    def maps(self, features: Sequence[Tensor]) -> dict[str, list[Tensor]]:
        """The maps of each level by name, before anything is made of them."""
        levels: dict[str, list[Tensor]] = {name: [] for name in ("class", "object", "boxes", "points", "visibility")}
        for level, x in enumerate(features[-len(self.strides) :]):
            boxed, posed = self.conv_reg[level](x), self.conv_pose[level](x)
            levels["class"].append(self.out_cls[level](self.conv_cls[level](x)))
            levels["object"].append(self.out_obj[level](boxed))
            levels["boxes"].append(self.out_bbox[level](boxed))
            levels["points"].append(self.out_kpt[level](posed))
            levels["visibility"].append(self.out_kpt_vis[level](posed))
        return levels

    def everything(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """The outputs, and what they are made from.

        These are ``class`` and ``object`` (B, P), ``offsets`` (B, P, 4), and ``guesses`` (G, B, P, K, 2), the last of
        which are the ``points``.
        """
        maps = self.maps(features)
        priors = prior_points(maps["class"], self.strides, self.grid)
        raw = {name: flat(levels) for name, levels in maps.items()}
        kinds, objects = raw["class"][..., 0], raw["object"][..., 0]
        guesses = self._guesses(features, points_of(raw["points"], priors))
        log_score = functional.logsigmoid(kinds) + functional.logsigmoid(objects)
        return {
            "scores": log_score - torch.log(-torch.expm1(log_score.clamp_max(-1e-6))),
            "boxes": boxes_of(raw["boxes"], priors),
            "points": guesses[-1],
            "visibility": raw["visibility"],
            "priors": priors,
            "class": kinds,
            "object": objects,
            "offsets": raw["boxes"],
            "guesses": guesses,
        }

    def _guesses(self, features: Sequence[Tensor], first: Tensor) -> Tensor:
        """Where keypoints are, (G, B, P, K, 2): as first guessed, and after each refinement."""
        guesses = first[None]
        if self.refinements:
            shifts = self.out_shift(self.conv_shift(features[-len(self.strides)])).float()  # (B, 2 K, h, w)
            for _ in range(self.refinements):
                guess = moved(guesses[-1].detach(), shifts, self.strides[0], self.grid)
                guesses = torch.cat([guesses, guess[None]])
        return guesses

    def forward(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """Outputs by name, of P candidates."""
        outputs = self.everything(features)
        return {name: outputs[name] for name in sorted(self.emits)}

    def loss(self, features: Sequence[Tensor], targets: Targets) -> dict[str, Tensor]:
        """Losses of boxes, keypoints and visibility of those that answer, of their class, and of all objectness."""
        outputs, criterion = self.everything(features), self.criterion
        with torch.autocast(outputs["boxes"].device.type, enabled=False):
            answers = criterion.match(outputs, targets)
            assignment = answers.assignment
            somebody = assignment.spread(answers.taken, outputs["object"].shape[1])
            objects, kinds = (
                functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
                for logits, wanted in (
                    (outputs["object"], somebody),
                    (assignment.at(outputs["class"]), assignment.similarity.clamp(0, 1) ** criterion.power),
                )
            )
            counted = torch.maximum(answers.counted, somebody)
            of_guesses = [
                {"keypoints": criterion.of_keypoints(points, answers), **criterion.of_distances(points, answers)}
                for points in outputs["guesses"]
            ]
            return {
                **criterion.of_boxes(outputs, answers),
                **{name: torch.stack([each[name] for each in of_guesses]).sum() for name in of_guesses[0]},
                "visibility": criterion.of_visibility(outputs["visibility"], answers),
                "class": criterion.scores * answers.mean(kinds),
                "object": criterion.scores * (objects * counted).sum() / answers.count,
            }
