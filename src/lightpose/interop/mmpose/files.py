"""Checkpoints that MMPose wrote: their tensors under the names of today, and what they say of their model."""

import ast
import logging
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightpose.errors import UserError, in_short
from lightpose.models.weights import load_data
from lightpose.skeleton import Skeleton
from lightpose.trust import NoPlainData

_log = logging.getLogger(__name__)
STATES = ("state_dict_ema", "state_dict")
"""Keys of weights in a checkpoint, the best first. Hooks of MMEngine that average weights save the averaged ones as
``state_dict``; what they call ``ema_state_dict`` is what they were averaged from."""
OUTSIDE = r"^(data_preprocessor\.|ema_|steps$)"
"""Tensors that belong to no network; what 0.x calls ``ema_backbone_...`` is what ``backbone...`` was averaged from."""
EARLIER: tuple[tuple[str, str], ...] = (
    (r"^((module|_orig_mod)\.)+", ""),
    (r"^keypoint_head\.", "head."),
    (r"^keypoint_neck\.", "neck."),
    (r"^head\.(loss|loss_keypoint)\.flow_model\.", "head.loss_module.flow_model."),
    (r"^head\.final_layers\.0\.", "head.final_layer."),
    (r"^traj_backbone\.", "backbone.trajectory."),
    (r"^traj_head\.conv\.", "head.place."),
)
"""How names of MMPose 0.x, and of wrapped networks, became those of today; a second network stands in the first."""


@dataclass(frozen=True, slots=True)
class PublishedFile:
    """What a checkpoint of MMPose holds.

    Attributes:
        state: the tensors of the network, by their names of today.
        config: the configuration in it, as data, with those of ``model`` and ``codec`` that can be read; may be empty.
        skeleton: of its data set, where it says.
    """

    state: Mapping[str, Tensor]
    config: Mapping[str, Any]
    skeleton: Skeleton | None


def read_file(path: str | Path, trust: bool = False) -> PublishedFile:
    """The content of a checkpoint that MMPose wrote.

    Args:
        path: of the file.
        trust: run code in it, if it can't be read without.

    Raises:
        UserError: when it is damaged, holds more than data and isn't trusted, or holds no tensors.
    """
    path = Path(path)
    content = _content(path, trust)
    state: Any = content
    if isinstance(content, Mapping):
        state = next((content[key] for key in STATES if isinstance(content.get(key), Mapping)), content)
    tensors = {} if not isinstance(state, Mapping) else {str(k): v for k, v in state.items() if isinstance(v, Tensor)}
    if not tensors:
        raise UserError(
            f"src={path} holds no named tensors, at the top or under {', '.join(STATES)}; give a checkpoint of MMPose"
        )
    meta = content.get("meta") if isinstance(content, Mapping) else None
    meta = meta if isinstance(meta, Mapping) else {}
    config = read_config(meta.get("cfg", meta.get("config")))
    return PublishedFile(todays(tensors), config, skeleton_of(meta.get("dataset_meta")))


def _content(path: Path, trust: bool) -> Any:
    try:
        return load_data(path, f"src={path}", whole=zipfile.is_zipfile(path), only=("meta", *STATES))
    except NoPlainData as error:
        if not trust:
            raise UserError(
                f"src={path} is damaged or holds more than tensors and plain data, which could run code when read; if "
                "you trust its source, say so with trust=true"
            ) from error
    try:
        return torch.load(path, "cpu", weights_only=False)
    except Exception as error:  # whatever the code in it, or its damage, leads to
        reason = in_short(error)
        raise UserError(f"src={path} can't be read ({reason}); fetch it again, or install what it names") from error


def todays(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of the network alone, by their names of today."""
    renamed: dict[str, Tensor] = {}
    for name, value in state.items():
        for pattern, replacement in EARLIER:
            name = re.sub(pattern, replacement, name)
        if not re.search(OUTSIDE, name):
            renamed[name] = value
    if "head.final_layer.3.weight" in renamed:  # a convolution and a norm stood before the last layer, in one row
        places = {"0": "head.conv_layers.0", "1": "head.conv_layers.1", "3": "head.final_layer"}
        row = re.compile(r"^head\.final_layer\.(\d)")
        renamed = {row.sub(lambda found: places.get(found[1], found[0]), name): each for name, each in renamed.items()}
    return renamed


def skeleton_of(given: Any) -> Skeleton | None:
    """The skeleton in ``dataset_meta``; None where that doesn't name its keypoints."""
    if not isinstance(given, Mapping) or not isinstance(given.get("keypoint_id2name"), Mapping):
        return None
    try:
        return _skeleton(given, given["keypoint_id2name"])
    except (UserError, TypeError, ValueError) as error:
        _log.warning("the keypoints in the checkpoint's dataset_meta are not used: %s", error)
        return None


def _skeleton(given: Mapping[str, Any], names_by_number: Mapping[Any, Any]) -> Skeleton:
    numbered = {int(index): str(name) for index, name in names_by_number.items()}
    names = [numbered[index] for index in sorted(numbered)]
    flips, sigmas, links = (given.get(key) for key in ("flip_indices", "sigmas", "skeleton_links"))
    pairs = None
    if flips is not None and len(flips) == len(names):
        pairs = [(names[index], names[int(other)]) for index, other in enumerate(flips) if int(other) > index]
    known = sigmas is not None and len(sigmas) == len(names)
    weights = given.get("dataset_keypoint_weights")
    return Skeleton.build(
        names,
        str(given.get("dataset_name", "custom")),
        swap_pairs=pairs,
        links=[[int(each) for each in link] for link in links] if links is not None else (),
        sigmas=[float(sigma) for sigma in sigmas] if known else None,  # type: ignore[union-attr]
        upper=[names[int(index)] for index in given.get("upper_body_ids") or ()],
        weights=[float(each) for each in weights] if weights is not None and len(weights) == len(names) else None,
    )


def read_config(given: Any) -> dict[str, Any]:
    """A configuration as data, from a mapping or from Python source text, which is read and never run.

    Assignments whose values are not plain data are left out, and told in the log.
    """
    if isinstance(given, Mapping):
        return dict(given)
    if not isinstance(given, str):
        return {}
    text = given.partition("\n")[2] if given.startswith("/") else given  # a first line may say where it was
    try:
        statements = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        _log.warning("the configuration in the checkpoint is not used, as it can't be read: %s", error)
        return {}
    values: dict[str, Any] = {}
    skipped = []
    for statement in statements:
        if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            target = statement.targets[0]
            if isinstance(target, ast.Name):
                try:
                    values[target.id] = _value(statement.value, values)
                except (ValueError, TypeError, RecursionError):
                    skipped.append(target.id)
    if skipped:
        _log.info("left out of the configuration in the checkpoint: %s", ", ".join(skipped))
    return values


def _value(node: ast.expr, known: Mapping[str, Any]) -> Any:
    """Plain data of an expression: literals, ``dict(key=value)``, and names that were assigned before.

    Raises:
        ValueError: for anything else.
    """
    if isinstance(node, ast.Dict):
        keys = [None if key is None else _value(key, known) for key in node.keys]
        if None in keys:
            raise ValueError("unpacked")
        return dict(zip(keys, (_value(value, known) for value in node.values), strict=True))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict" and not node.args:
        if any(keyword.arg is None for keyword in node.keywords):
            raise ValueError("unpacked")
        return {str(keyword.arg): _value(keyword.value, known) for keyword in node.keywords}
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_value(each, known) for each in node.elts]
    if isinstance(node, ast.Name):
        if node.id not in known:
            raise ValueError(node.id)
        return known[node.id]
    return ast.literal_eval(node)
