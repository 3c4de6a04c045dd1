"""Joints of one person in each frame of a sequence: on the screen, and as deep as they are wide."""

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from lightpose.codecs.base import Codec
from lightpose.codecs.maps import on_device
from lightpose.errors import UserError
from lightpose.geometry import Grid, check_grid
from lightpose.skeleton import Skeleton
from lightpose.structures import Batch, Poses, Spec, Targets

_SIDE_MM = 2000.0  # of a square at the root, whose width in pixels says what a mm is there


class MotionBertCodec(Codec):
    """Joints (T, K, 3) of each frame from the root: x and y where they are seen, z in the same unit (arXiv:2210.06551).

    The unit is that of the inputs, half the width of the image. Depths become pixels by the *factor*, mm of a pixel at
    the root: that of a square of 2 m there, whose width is counted in whole pixels, both ends included, as published.

    `decode` gives poses in that unit, with the extra ``frame``, which of the T frames each is of. `to_mm` multiplies
    them by the factor. Published figures take it from the labels, and so from how far the root truly is. Where there
    are none, or no camera, ``screen_mm`` stands for it, and only the shape of a pose means something.

    Args:
        skeleton: gives K, the mirror pairs and the weights.
        input_hw: None, as inputs are no images.
        grid: of images; not used.
        root: names of the joints whose mean is the root; None takes `Skeleton.roots`.
        screen_mm: mm of half an image's width at the root, where labels don't tell: 4 mm a pixel, 1000 pixels.
        rooted: take joints as the network gives them, and the root as zero, as published for networks that learnt no
            other root. False moves all joints by what the network gives for the root.

    Raises:
        UserError: for a root that the skeleton doesn't have, and for ``rooted`` with one between joints.
    """

    every_frame: ClassVar[bool] = True

    def __init__(
        self,
        skeleton: Skeleton,
        input_hw: tuple[int, int] | None,
        grid: Grid,
        root: Sequence[str] | None = None,
        screen_mm: float = 2000.0,
        rooted: bool = False,
    ) -> None:
        check_grid(grid)
        if rooted and root and len(root) > 1:
            raise UserError(f"codec.rooted=true sets one joint to zero, but codec.root={list(root)} has {len(root)}")
        self.spec = Spec({"motion": (None, skeleton.num_keypoints, 3)}, input_hw)
        self.screen_mm, self.rooted = screen_mm, rooted
        self._root = torch.tensor(skeleton.roots(root))
        self._loss_weights, self._swap = torch.tensor(skeleton.weights), torch.tensor(skeleton.swap)
        self._mirror, self._others = torch.tensor([-1.0, 1.0, 1.0]), torch.ones(skeleton.num_keypoints, 1)
        self._others[self._root] = 0

    def encode(self, batch: Batch) -> Targets:
        """Motion (B, T, K, 3) and weights (B, T, K) of T frames, the instances of each row.

        Zero where not labelled, and for all joints where the root is not.

        Raises:
            UserError: for labels of the plane, of other frames than the inputs', and without cameras.
        """
        labels = batch.instances
        frames, labelled_frames = batch.inputs.shape[1], labels.keypoints.shape[1]
        if labels.keypoints.shape[-1] != 3 or labelled_frames != frames or batch.cameras is None:
            raise UserError(
                f"codec=motionbert needs a camera, and joints in space for each of the {frames} frames of a sample, "
                f"but {'there is no camera' if batch.cameras is None else f'{labelled_frames} are labelled'}; give "
                "reader.stride, or use another codec"
            )
        joints, labelled = labels.keypoints.float(), self._labelled(batch)
        root = joints[:, :, on_device(self._root, joints)].mean(2, keepdim=True)  # (B, T, 1, 3)
        depths = (joints[..., 2:] - root[..., 2:]) / self._factor(batch)[..., None, None]
        offsets_px = torch.cat([_seen(joints, batch) - _seen(root, batch), depths], -1)
        motion = offsets_px / _half_width(batch)[..., None, None]
        target = torch.where(labelled[..., None] > 0, motion, 0.0)
        return Targets({"motion": target}, {"motion": labelled * on_device(self._loss_weights, labelled)})

    def decode(self, outputs: dict[str, Tensor]) -> Poses:
        """A pose for each frame of each row, from the root in screens; each score is 1."""
        motion = outputs["motion"].float()
        (batch, count), device = motion.shape[:2], motion.device
        rows, frames = torch.arange(batch, device=device), torch.arange(count, device=device)
        if self.rooted:
            poses = (motion * on_device(self._others, motion)).flatten(0, 1)
        else:
            root = motion[:, :, on_device(self._root, motion)].mean(2, keepdim=True)
            poses = (motion - root).flatten(0, 1)
        scores = torch.ones_like(poses[..., 0])
        return Poses(
            poses,
            scores,
            scores[:, 0],
            rows.repeat_interleave(count),
            extras={"frame": frames.repeat(batch)},
        )

    def to_mm(self, poses: Poses, batch: Batch) -> Poses:
        """Decoded poses in mm from the root."""
        scale = torch.full(batch.inputs.shape[:2], self.screen_mm, device=poses.keypoints.device)  # (B, T)
        if batch.cameras is not None and batch.instances.keypoints.shape[1::2] == (len(scale[0]), 3):
            root = self._labelled(batch)[:, :, on_device(self._root, scale)].amin(2) > 0
            scale = torch.where(root, self._factor(batch) * _half_width(batch), scale)
        of_each = scale[poses.batch_index, poses.extras["frame"]]
        return replace(poses, keypoints=poses.keypoints * of_each[:, None, None])

    def flip(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Undo a horizontal mirroring of the input; an involution."""
        motion = outputs["motion"]
        swapped = motion.index_select(2, on_device(self._swap, motion))
        return {"motion": swapped * on_device(self._mirror, motion)}

    def _labelled(self, batch: Batch) -> Tensor:
        """(B, T, K), 0 for all joints of a frame whose root is not labelled."""
        labels = batch.instances
        labelled = ((labels.visible > 0) & labels.valid[..., None]).float()
        return labelled * labelled[:, :, on_device(self._root, labelled)].amin(2, keepdim=True)

    def _factor(self, batch: Batch) -> Tensor:
        """(B, T) mm of a pixel at the root."""
        assert batch.cameras is not None
        labels = batch.instances.keypoints.float()
        depths = labels[:, :, on_device(self._root, labels), 2].mean(2).clamp_min(1)
        return _SIDE_MM / (_SIDE_MM * batch.cameras[:, :1, 0] / depths + 1)


def _seen(joints: Tensor, batch: Batch) -> Tensor:
    """(B, T, ..., 2) pixels from the principal point where the camera sees joints (B, T, ..., 3)."""
    assert batch.cameras is not None
    focal = torch.stack([batch.cameras[:, 0, 0], batch.cameras[:, 1, 1]], -1)[:, None, None]
    return focal * joints[..., :2] / joints[..., 2:].clamp_min(1)


def _half_width(batch: Batch) -> Tensor:
    """(B, 1) pixels."""
    return batch.image_hw[:, 1:].float() / 2
