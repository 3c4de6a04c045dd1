"""Joints of one person in space, where they are, and where they are seen when nobody says where they are."""

from typing import Any

import torch
from torch import Tensor

from lightpose.codecs.lifting import LiftingCodec, joints_in_metres
from lightpose.codecs.maps import on_device
from lightpose.structures import Batch, Poses, Spec, Targets


class TrajectoryCodec(LiftingCodec):
    """`LiftingCodec`, and the root (3,) in metres before the camera: half-supervised VideoPose3D (arXiv:1811.11742).

    A sample without any label is learnt from by where its keypoints are seen: the targets ``points`` (K, 2) on the
    screen, whose weights are 0 for labelled samples and for keypoints that are not known, and ``camera`` (4,), by which
    ``screen = camera[:2] * (x, y) / z + camera[2:]``. Poses are decoded from the root, as there.

    Args:
        causal: the labelled frame is the last of a sample, not the middle one.
        options: see `LiftingCodec`.
    """

    def __init__(self, causal: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.causal = causal
        outputs = {**self.spec.outputs, "root": (3,)}
        self.spec = Spec(outputs, self.spec.input_hw, frozenset({*outputs, "points", "camera"}))

    def encode(self, batch: Batch) -> Targets:
        """Joints, root, points and camera, each of B rows; the nearer a root is, the more it weighs.

        Raises:
            UserError: as `LiftingCodec.encode`.
        """
        relative, labels = super().encode(batch), batch.instances
        joints, frames = joints_in_metres(labels), batch.inputs.shape[1]
        root = joints[:, on_device(self._root, joints)].mean(1)  # (B, 3)
        visible = labels.visible[:, 0] > 0
        known = labels.valid[:, 0] & visible[:, on_device(self._root, joints)].all(1)
        seen = batch.inputs[:, frames - 1 if self.causal else frames // 2].float()  # (B, K, 3)
        camera = _screen_camera(batch)
        unlabelled = labels.valid[:, 0] & ~visible.any(1) & (camera[:, 0] > 0)
        maps = {
            "root": torch.where(known[:, None], root, 0.0),
            "points": seen[..., :2],
            "camera": camera,
        }
        weights = {
            "root": known / root[:, 2].clamp_min(0.1),
            "points": (unlabelled[:, None] & (seen[..., 2] > 0)).float(),
            "camera": (camera[:, 0] > 0).float(),
        }
        return Targets(relative.maps | maps, relative.weights | weights)

    def decode(self, outputs: dict[str, Tensor]) -> Poses:
        """One pose per row, in mm from the root; each score is 1."""
        return super().decode({"joints": outputs["joints"]})

    def flip(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Undo a horizontal mirroring of the input; an involution."""
        root = outputs["root"]
        return {**super().flip({"joints": outputs["joints"]}), "root": root * on_device(self._mirror, root)}


def _screen_camera(batch: Batch) -> Tensor:
    """(B, 4) focal lengths and principal point on the screen; zeros where there is no camera."""
    if batch.cameras is None:
        return torch.zeros(len(batch), 4, device=batch.image_hw.device)
    half_wh = batch.image_hw.flip(-1).float() / 2  # (B, 2)
    focal = torch.stack([batch.cameras[:, 0, 0], batch.cameras[:, 1, 1]], -1)
    return torch.cat([focal, batch.cameras[:, :2, 2] - half_wh], -1) / half_wh[:, :1]
