"""MMPose's weights in networks of ours, and what these compute of inputs as MMPose sees them."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import Tensor

from lightpose.checkpoint import Sketch, assemble, build
from lightpose.conf_files import conf_dir
from lightpose.errors import UserError
from lightpose.estimators.base import PoseEstimator
from lightpose.interop.mmpose.configs import codec_of, settings
from lightpose.interop.mmpose.heads import keypoint_count
from lightpose.interop.mmpose.names import Family
from lightpose.interop.mmpose.settings import Settings
from lightpose.skeleton import Skeleton

SHOWN = 3
"""Tensors that a message names of each kind."""


def resolved(choices: Settings) -> dict[str, Any]:
    """The whole configuration of a training with these choices, as plain data."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = compose("train", [*choices.overrides(), "output_dir=."])
    plain: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    return plain


def build_like(config: Mapping[str, Any], skeleton: Skeleton | str | None = None) -> PoseEstimator:
    """An estimator with fresh weights that computes what the model of an MMPose configuration computes.

    Args:
        config: with ``model`` and ``codec``.
        skeleton: of the data set that the model is for, or its option in the group. None takes COCO's where there are
            17 or 133 keypoints, and otherwise one of numbered keypoints, which mirrors nothing.

    Raises:
        UserError: for a model that lightpose doesn't have.
    """
    choices = settings(config, skeleton if isinstance(skeleton, str) else None)
    plain = resolved(choices)
    count = keypoint_count(config["model"]["head"], codec_of(config))
    if not isinstance(skeleton, Skeleton):
        option = plain["skeleton"]
        names = [f"keypoint_{number}" for number in range(count)]
        skeleton = assemble(option) if "_target_" in option else Skeleton.build(names, f"{count} keypoints")
    if skeleton.num_keypoints != count:
        raise UserError(
            f"the model has {count} keypoints, but skeleton {skeleton.name} has {skeleton.num_keypoints}; give that of "
            "its data set"
        )
    plain = {**plain, "skeleton": {"_target_": "lightpose.skeleton.Skeleton.from_dict", "data": skeleton.to_dict()}}
    with Sketch():
        estimator = build(plain, skeleton, training=True)
    return estimator.eval()


def fill(estimator: PoseEstimator, parts: Mapping[str, Family], state: Mapping[str, Tensor], what: str) -> None:
    """Give an estimator the weights of a published checkpoint, every one of them.

    Args:
        estimator: receives them, in place.
        parts: how the parts of the network call their tensors.
        state: the published tensors; values are not changed.
        what: they are to fit, for messages.

    Raises:
        UserError: naming tensors that lack, that are left over, or that have another shape. Then nothing has changed.
    """
    found: dict[str, Tensor] = {}
    lacking, misfits, taken = [], [], set()
    for part, family in parts.items():
        for name, own in estimator.net.get_submodule(part).state_dict().items():
            source = f"{part}.{family.published(name)}"
            taken.add(source)
            if source not in state:
                if not name.endswith("num_batches_tracked"):
                    lacking.append(source)
                continue
            value = family.ours(name, state[source])
            if value.shape != own.shape and _squeezed(value.shape) == _squeezed(own.shape):
                value = value.reshape(own.shape)  # a linear layer as a 1x1 convolution, or the other way round
            if value.shape != own.shape:
                misfits.append(f"{source} is {tuple(value.shape)} and not {tuple(own.shape)}")
            found[f"{part}.{name}"] = value
    surplus = [name for name in state if name not in taken and not is_idle(name, parts)]
    if lacking or misfits or surplus:
        kinds = {"are missing": lacking, "have another shape": misfits, "are not in it": surplus}
        facts = "; ".join(f"{len(names)} {kind} ({_first(names)})" for kind, names in kinds.items() if names)
        raise UserError(f"the weights are not those of {what}: of its tensors {facts}; give the name that fits")
    estimator.net.load_state_dict(found, strict=False)


def is_idle(name: str, parts: Mapping[str, Family]) -> bool:
    """Whether a published tensor is one that nothing here needs."""
    part, _, rest = name.partition(".")
    return part in parts and any(re.search(pattern, rest) for pattern in parts[part].idle)


def raw_outputs(estimator: PoseEstimator, inputs: Tensor) -> list[Tensor]:
    """What the forward of MMPose's head returns, flattened depth first.

    Args:
        estimator: with weights of `load`.
        inputs: (B, 3, H, W) as the backbone takes them, already normalised; sequences for a lifter (B, K * D, T) or
            (B, T, K, D).
    """
    from lightpose.interop.mmpose.outputs import flattened

    net = estimator.net
    with torch.inference_mode():
        if inputs.ndim == 3:
            inputs = inputs.mT.unflatten(-1, (estimator.skeleton.num_keypoints, -1))  # (B, T, K, D)
        return flattened(net.head, net.necked(net.backbone(inputs)))


def _squeezed(shape: torch.Size) -> list[int]:
    sizes = list(shape)
    while sizes and sizes[-1] == 1:
        sizes.pop()
    return sizes


def _first(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
