"""Joints of one person in space, seen from their root."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from lightpose.codecs.base import Codec
from lightpose.codecs.maps import on_device, one_pose_per_row
from lightpose.errors import UserError
from lightpose.geometry import Grid, check_grid
from lightpose.skeleton import Skeleton
from lightpose.structures import Batch, Instances, Poses, Spec, Targets

_MM = 1000.0  # of a metre


class LiftingCodec(Codec):
    """Joints (K, 3) in metres from the root, along the axes of the camera: x right, y down, z forwards.

    The targets of VideoPose3D (arXiv:1811.11742) and, with ``mean`` and ``std``, those of the simple baseline
    (arXiv:1705.03098). Labels are in the camera's frame, in mm. What is decoded is in mm from the root;
    `lightpose.estimators.lifter.PoseLifter` says where the root is.

    Args:
        skeleton: gives K, the mirror pairs and the weights.
        input_hw: None, as inputs are no images.
        grid: of images; not used.
        root: names of the joints whose mean is the root; None takes `Skeleton.roots`.
        mean: (K, 3) metres, mean of the targets.
        std: (K, 3) metres, standard deviation of the targets.
        root_left_out: networks give joints without the first, which is the root.

    Raises:
        UserError: for a root that the skeleton doesn't have, and for statistics of another shape.
    """

    def __init__(
        self,
        skeleton: Skeleton,
        input_hw: tuple[int, int] | None,
        grid: Grid,
        root: Sequence[str] | None = None,
        mean: Sequence[Sequence[float]] | None = None,
        std: Sequence[Sequence[float]] | None = None,
        root_left_out: bool = False,
    ) -> None:
        check_grid(grid)
        if root_left_out and skeleton.roots(root) != [0]:
            raise UserError(
                "codec.root_left_out leaves out the skeleton's first joint, which is not the root; set it to false"
            )
        self.spec = Spec({"joints": (skeleton.num_keypoints - root_left_out, 3)}, input_hw)
        self._left_out = int(root_left_out)
        self._root = torch.tensor(skeleton.roots(root))
        self._mean, self._std = (_statistics(name, skeleton, given) for name, given in (("mean", mean), ("std", std)))
        self._loss_weights, self._swap = torch.tensor(skeleton.weights), torch.tensor(skeleton.swap)
        self._mirror = torch.tensor([-1.0, 1.0, 1.0])

    def encode(self, batch: Batch) -> Targets:
        """Joints (B, K, 3) and weights (B, K) of the first instance of each row.

        Zero where not labelled, and for all joints where the root is not.

        Raises:
            UserError: for labels of the plane, and of more than one frame.
        """
        labels = batch.instances
        joints = joints_in_metres(labels)
        root = on_device(self._root, joints)
        labelled = ((labels.visible[:, 0] > 0) & labels.valid[:, :1]).float()  # (B, K)
        labelled = labelled * labelled[:, root].amin(1, keepdim=True)
        relative = self._standardised(joints - joints[:, root].mean(1, keepdim=True))
        target = torch.where(labelled[..., None] > 0, relative, 0.0)
        weights = labelled * on_device(self._loss_weights, labelled)
        return Targets({"joints": target[:, self._left_out :]}, {"joints": weights[:, self._left_out :]})

    def decode(self, outputs: dict[str, Tensor]) -> Poses:
        """One pose per row, in mm from the root; each score is 1."""
        joints = self._metres(outputs["joints"].float())
        return one_pose_per_row(joints * _MM, torch.ones_like(joints[..., 0]))

    def flip(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Undo a horizontal mirroring of the input; an involution, up to rounding where there are statistics."""
        joints = self._metres(outputs["joints"])
        mirrored = joints.index_select(1, on_device(self._swap, joints)) * on_device(self._mirror, joints)
        return {"joints": self._standardised(mirrored)[:, self._left_out :]}

    def _standardised(self, joints: Tensor) -> Tensor:
        joints = joints if self._mean is None else joints - on_device(self._mean, joints)
        return joints if self._std is None else joints / on_device(self._std, joints)

    def _metres(self, joints: Tensor) -> Tensor:
        """(B, K, 3), with the root if that is left out."""
        joints = functional.pad(joints, (0, 0, self._left_out, 0))
        joints = joints if self._std is None else joints * on_device(self._std, joints)
        return joints if self._mean is None else joints + on_device(self._mean, joints)


def joints_in_metres(labels: Instances) -> Tensor:
    """(B, K, 3): the labels of the one pose of each row.

    Raises:
        UserError: for labels of the plane, and of more than one frame.
    """
    if labels.keypoints.shape[-1] != 3:
        raise UserError(
            f"codec=lifting needs labels in space, but the data gives {labels.keypoints.shape[-1]} numbers for a "
            "keypoint; use data=sequences, or a codec of images"
        )
    if labels.keypoints.shape[1] != 1:
        raise UserError(
            f"codec=lifting has one pose for a sample, but the data labels {labels.keypoints.shape[1]} frames of "
            "each; set reader.stride=null, or use codec=motionbert"
        )
    return labels.keypoints[:, 0].float() / _MM


def _statistics(name: str, skeleton: Skeleton, given: Sequence[Sequence[float]] | None) -> Tensor | None:
    """(K, 3) of one kind.

    Raises:
        UserError: for another shape, and for a deviation that isn't positive.
    """
    if given is None:
        return None
    shape = (len(given), *{len(row) for row in given})
    if shape != (skeleton.num_keypoints, 3):
        raise UserError(
            f"codec.{name} is {shape}; give three numbers for each of the {skeleton.num_keypoints} keypoints, or "
            "codec.mean=null codec.std=null"
        )
    if name == "std" and not all(value > 0 for row in given for value in row):
        raise UserError("codec.std must be positive; give 1 where a joint doesn't move, as the root")
    return torch.tensor(given, dtype=torch.float32)
