"""MMPose's weights in networks of ours, and what these compute of inputs as MMPose sees them."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightpose.errors import UserError
from lightpose.estimators.base import PoseEstimator
from lightpose.interop.mmpose.build import build_like, skeleton_option
from lightpose.interop.mmpose.config_names import config_of
from lightpose.interop.mmpose.configs import families
from lightpose.interop.mmpose.files import todays
from lightpose.interop.mmpose.names import Family
from lightpose.interop.mmpose.outputs import flattened
from lightpose.interop.mmpose.rescoring import with_rescoring
from lightpose.interop.mmpose.zoo import names_that_fit
from lightpose.skeleton import Skeleton

SHOWN = 3
"""Tensors that a message names of each kind."""


def load(name: str, state_dict: Mapping[str, Tensor]) -> PoseEstimator:
    """The estimator that computes what a published model computes, with its weights, ready to predict.

    Args:
        name: of the MMPose configuration, such as
            ``body_2d_keypoint/topdown_heatmap/coco/td-hm_hrnet-w32_8xb64-210e_coco-256x192``.
        state_dict: the weights, all of which must be used; constants that the network makes itself may lack.

    Raises:
        UserError: for a name of no model that lightpose has, and for tensors that are not those of that model.
    """
    state = todays(state_dict)
    return load_like(with_rescoring(config_of(name), state), state, name, skeleton_option(name))


def load_like(
    config: Mapping[str, Any], state: Mapping[str, Tensor], what: str, skeleton: Skeleton | str | None = None
) -> PoseEstimator:
    """`load` for a configuration that is at hand.

    Args:
        config: with ``model`` and ``codec``.
        state: tensors by their names of today.
        what: the model is called, for messages.
        skeleton: see `build_like`.

    Raises:
        UserError: as `load`.
    """
    estimator = build_like(config, skeleton)
    fill(estimator, families(config), state, what)
    return estimator


def fill(estimator: PoseEstimator, parts: Mapping[str, Family], state: Mapping[str, Tensor], what: str) -> None:
    """Give an estimator the weights of a published checkpoint, every one of them.

    Args:
        estimator: receives them, in place.
        parts: how the parts of the network call their tensors.
        state: the published tensors; values are not changed.
        what: they are to fit, for messages.

    Raises:
        UserError: naming tensors that lack, that are left over or have another shape, with the names of published
            configurations that do fit, or tensors that are not finite. Then nothing has changed.
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
    if broken := [name for name in taken & state.keys() if not state[name].isfinite().all()]:
        raise UserError(
            f"{len(broken)} of the tensors of {what} hold numbers that are not finite ({listed(sorted(broken))}): its "
            "training failed; give an earlier checkpoint"
        )
    surplus = [name for name in state if name not in taken and not is_idle(name, parts)]
    if lacking or misfits or surplus:
        kinds = {"are missing": lacking, "have another shape": misfits}
        facts = [f"{len(names)} of its tensors {kind} ({listed(names)})" for kind, names in kinds.items() if names]
        facts += [f"{len(surplus)} others are there ({listed(surplus)})"] if surplus else []
        fit = "".join(f": {', '.join(names)}" for names in [names_that_fit(state)] if names)
        raise UserError(f"the weights are not those of {what}: {', '.join(facts)}; give a name that fits{fit}")
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


def listed(names: Sequence[str]) -> str:
    """The first of many names."""
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
