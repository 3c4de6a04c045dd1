"""Lifting: keypoints of a sequence in, joints in space out."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from lightpose.estimators.base import PoseEstimator
from lightpose.geometry import image_from_screen
from lightpose.models.base import FeatureModule
from lightpose.skeleton import Skeleton
from lightpose.structures import Batch, Poses


class PoseLifter(PoseEstimator):
    """One pose for each sequence of keypoints (T, K, 3), or for each of its frames.

    Inputs are x and y on the screen, and a confidence. A codec of poses for each frame (`Codec.every_frame`) tells
    which by the extra ``frame``. One whose poses are not in mm has a method ``to_mm``, which takes and returns poses,
    beside the batch.

    Args:
        skeleton: the keypoints.
        backbone: builds the backbone from ``keypoints``, how many there are, and ``links``, the pairs that are joined.
        causal: the pose is that of the last frame, not of the middle one.
        options: see `PoseEstimator`.
    """

    takes_sequences: ClassVar[bool] = True
    swap: Tensor

    def __init__(
        self, skeleton: Skeleton, backbone: Callable[..., FeatureModule], causal: bool = False, **options: Any
    ) -> None:
        built = backbone(keypoints=skeleton.num_keypoints, links=skeleton.links)
        super().__init__(skeleton=skeleton, backbone=built, **options)
        self.causal = causal
        self.register_buffer("swap", torch.tensor(skeleton.swap), persistent=False)

    def to_image(self, poses: Poses, batch: Batch) -> Poses:
        """Joints to the camera's frame, in mm; without a camera they stay where they are seen from their root."""
        to_mm = getattr(self.codec, "to_mm", None)
        poses = poses if to_mm is None else to_mm(poses, batch)
        if batch.cameras is None:
            return poses
        rows, frames = poses.batch_index, batch.inputs.shape[1]
        frame = poses.extras.get("frame", frames - 1 if self.causal else frames // 2)
        screen = batch.inputs[rows, frame, :, :2]  # (N, K, 2)
        seen = image_from_screen(screen.float(), batch.image_hw[rows])
        camera = batch.cameras[rows]
        rays = (seen - camera[:, None, :2, 2]) / torch.stack([camera[:, 0, 0], camera[:, 1, 1]], -1)[:, None]
        return replace(poses, keypoints=poses.keypoints + placed(poses.keypoints, rays)[:, None])

    def mirror(self, inputs: Tensor) -> Tensor:
        """Inputs mirrored left to right so that ``codec.flip`` undoes it."""
        return inputs[:, :, self.swap] * inputs.new_tensor([-1, 1, 1])


def placed(joints: Tensor, rays: Tensor) -> Tensor:
    """(N, 3) where to put poses so that they are seen where they were seen: least squares over their joints.

    With the shift t, ``rays * (z + t_z) = (x, y) + (t_x, t_y)`` for each joint; the mean of both sides gives t_x and
    t_y, and what is left a line through the origin, whose slope is t_z.

    Args:
        joints: (N, K, 3) in mm, along the camera's axes.
        rays: (N, K, 2) where the camera sees them, at depth 1.
    """
    offset = rays * joints[..., 2:] - joints[..., :2]  # (N, K, 2)
    spread = rays - rays.mean(1, keepdim=True)
    depth = -(spread * offset).sum((1, 2)) / spread.square().sum((1, 2)).clamp_min(1e-12)  # (N,)
    across = offset.mean(1) + rays.mean(1) * depth[:, None]
    return torch.cat([across, depth[:, None]], -1)
