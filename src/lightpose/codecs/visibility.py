"""Whether each keypoint of one person can be seen, beside what another codec says of it."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from lightpose.codecs.base import Codec, check_codec
from lightpose.codecs.maps import nobody, on_device
from lightpose.codecs.regression import labelled_points
from lightpose.errors import UserError
from lightpose.geometry import Grid
from lightpose.skeleton import Skeleton
from lightpose.structures import Batch, Poses, Spec, Targets

NAME = "visibility"


class VisibilityCodec(Codec):
    """A logit ``visibility`` (K) beside the outputs of another codec of one person per input.

    Its sigmoid is the probability of the label v=2 (visible) among v=2 and v=1 (labelled, but hidden), and becomes
    `Poses.visibility`. Nothing is learnt where nothing is labelled (v=0) or the keypoint lies outside the input.

    Args:
        skeleton: gives K and the mirror pairs.
        input_hw: network input size.
        grid: of the wrapped codec.
        codec: builds the wrapped codec from ``skeleton``, ``input_hw`` and ``grid``.

    Raises:
        UserError: when the wrapped codec predicts visibility itself, or is not of one person in an image.
    """

    def __init__(
        self, skeleton: Skeleton, input_hw: tuple[int, int] | None, grid: Grid, codec: Callable[..., Codec]
    ) -> None:
        self.codec = check_codec(codec(skeleton=skeleton, input_hw=input_hw, grid=grid))
        spec, kind = self.codec.spec, type(self.codec).__name__
        if NAME in spec.outputs:
            raise UserError(f"codec.codec: {kind} predicts visibility itself; take it as the codec, without a wrapper")
        if input_hw is None or spec.input_hw is None or not self.codec.flips:
            raise UserError(
                f"codec=visibility is of one person in an image, but codec.codec is a {kind}; use codec.codec=heatmap "
                "or another codec of one person, or leave codec=visibility out"
            )
        outputs = {**spec.outputs, NAME: (skeleton.num_keypoints,)}
        self.spec = Spec(outputs, spec.input_hw, spec.target_names | {NAME})
        self.mirror_lag, self.input_hw = self.codec.mirror_lag, input_hw
        self._swap = torch.tensor(skeleton.swap)

    def encode(self, batch: Batch) -> Targets:
        """The wrapped codec's targets, and 1 for visible, with weights (B, K).

        Where nobody is there, nothing is visible, and that counts.

        Raises:
            UserError: when samples hold several people.
        """
        instances = batch.instances
        if instances.visible.shape[1] != 1:
            raise UserError(
                f"codec=visibility is of one person per input, but samples hold up to {instances.visible.shape[1]}; "
                "leave it out, or train on boxes with estimator=topdown data=topdown reader=coco"
            )
        labelled = labelled_points(instances, self.input_hw)[1]  # (B, K)
        empty = nobody(instances)  # (B, 1)
        visible = (instances.visible[:, 0] > 1).float() * (1 - empty)
        targets = self.codec.encode(batch)
        return Targets({**targets.maps, NAME: visible}, {**targets.weights, NAME: labelled + empty})

    def decode(self, outputs: dict[str, Tensor]) -> Poses:
        """The wrapped codec's poses, with the probabilities that their keypoints can be seen."""
        poses = self.codec.decode(self._inner(outputs))
        return replace(poses, visibility=outputs[NAME].float().sigmoid()[poses.batch_index])

    def flip(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Undo a horizontal mirroring of the input: visibility changes sides with its keypoints."""
        logits = outputs[NAME]
        return {**self.codec.flip(self._inner(outputs)), NAME: logits.index_select(1, on_device(self._swap, logits))}

    def merge(self, plain: dict[str, Tensor], mirrored: dict[str, Tensor]) -> dict[str, Tensor]:
        """As the wrapped codec joins its outputs; logits of visibility are averaged."""
        logits = (plain[NAME] + mirrored[NAME]) / 2
        return {**self.codec.merge(self._inner(plain), self._inner(mirrored)), NAME: logits}

    def _inner(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: output for name, output in outputs.items() if name != NAME}
