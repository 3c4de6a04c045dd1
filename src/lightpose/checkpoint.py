"""Checkpoints that carry all that is needed to run them: weights, configuration and skeleton, as plain data."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from lightpose.building import assemble, eval_transforms, rebuild, section
from lightpose.data.pipeline import LISTS
from lightpose.errors import UserError, in_short
from lightpose.estimators.base import PoseEstimator
from lightpose.estimators.contracts import LeftOut
from lightpose.models.weights import load_data
from lightpose.skeleton import Skeleton
from lightpose.trust import Trust, plain, strangers

__all__ = ["assemble", "build", "eval_transforms", "load", "read", "rebuild", "section", "skeleton_in"]

BUILT_BYTES = 4 << 30
"""What a network may take beside its weights while it is built: layers that are cut off, and what is not stored."""
BUILT_STEPS, STEPS_PER_WEIGHT = 10_000, 20
"""Operations on tensors that building it may take: in all, and for each tensor among its weights."""

_BEFORE = {
    "lightpose.data.coco": ("lightpose.data.coco.dataset", "CocoInstances CocoImages"),
    "lightpose.data.albumentations": ("lightpose.data.pixels.albumentations", "Albumentations"),
    "lightpose.data.photometric": (
        "lightpose.data.pixels.photometric",
        "BrightnessContrast GaussianBlur Holes HueSaturation",
    ),
    "lightpose.parallel": ("lightpose.runtime.sharding", "ShardedStrategy"),
}
MOVED = {f"{old}.{name}": f"{new}.{name}" for old, (new, names) in _BEFORE.items() for name in names.split()}
"""Where classes stood that configurations in older checkpoints name → where they stand."""
_WARP = "lightpose.data.transforms.Warp"  # stood in the one list of transforms that there was


def read(path: str | Path) -> dict[str, Any]:
    """The content of a lightpose checkpoint: tensors and plain data, the configuration as JSON would have it.

    No code in the file is run, and it takes no more memory than the file is long.

    Raises:
        UserError: for a missing or unreadable file, or one that lightpose didn't write.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no checkpoint at {path}; give the path of a .ckpt file that lightpose-train wrote")
    try:
        content = load_data(path, f"checkpoint {path}", whole=True)
    except UserError as error:
        raise UserError(
            f"{path} can't be read as a checkpoint, since it is damaged or holds more than tensors and plain data "
            f"({error}); give a .ckpt file that lightpose-train wrote"
        ) from error
    own = content.get("lightpose") if isinstance(content, Mapping) else None
    if not isinstance(own, Mapping) or not isinstance(own.get("config"), Mapping):
        raise UserError(
            f"{path} holds no lightpose configuration, perhaps only weights; to start training from them use "
            f"init_from={path}"
        )
    state = content.get("state_dict")
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path} holds no weights under state_dict; give a .ckpt file that lightpose-train wrote")
    own = plain(own, f"the configuration in {path}")
    return {**content, "lightpose": _renamed({**own, "config": _translated(own["config"])})}


def _renamed(value: Any) -> Any:
    """The same plain data, where classes that have moved go by their names of today."""
    if isinstance(value, dict):
        return {
            key: MOVED.get(item, item) if key == "_target_" and isinstance(item, str) else _renamed(item)
            for key, item in value.items()
        }
    return [_renamed(item) for item in value] if isinstance(value, list) else value


def _translated(config: dict[str, Any]) -> dict[str, Any]:
    """The same configuration, where one of an earlier version has the keys of today.

    What follows a warp in one list of transforms is the list of pixels now, and what comes before it that of geometry.
    """
    config, data = dict(config), config.get("data")
    config["augment"] = _two_lists(config.get("augment"))
    if isinstance(data, dict):
        data = {"input_hw": config.get("input_hw"), **data, "transforms": _two_lists(data.get("transforms"))}
        if "dataset" in data:  # that of training; nothing but evaluation builds data from a checkpoint
            reader = data.pop("dataset")
            data["reader"] = data.pop("eval_dataset", None) or reader
        config["data"] = data
    return config


def _two_lists(augment: Any) -> Any:
    if not isinstance(augment, dict):
        return augment
    lists = {}
    for use, steps in augment.items():
        if isinstance(steps, dict) and not set(LISTS) & set(steps):
            names = list(steps)
            warps = [isinstance(step, dict) and step.get("_target_") == _WARP for step in steps.values()]
            place = warps.index(True) if any(warps) else len(names)
            cut = {"geometry": names[:place], "pixels": names[place + 1 :]}
            steps = {name: {key: steps[key] for key in keys} for name, keys in cut.items()}
        lists[use] = steps
    return lists


def skeleton_in(content: Mapping[str, Any]) -> Skeleton:
    """The skeleton in what `read` returned.

    Raises:
        UserError: when it is none.
    """
    try:
        return Skeleton.from_dict(content["lightpose"]["skeleton"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"the checkpoint's skeleton can't be used ({error!r}); get the checkpoint again") from error


def build(config: Mapping[str, Any], skeleton: Skeleton, trust: Trust = (), training: bool = False) -> PoseEstimator:
    """The estimator that a resolved configuration describes, with fresh weights and nothing downloaded.

    Args:
        config: the root configuration, as a checkpoint holds it.
        skeleton: the keypoints.
        trust: what else it may name, see `lightpose.trust.check_targets`.
        training: see `load`.

    Raises:
        UserError: when the configuration names something else, or can't be built.
    """
    own = plain(_offline(section(config, "estimator")), "the checkpoint's configuration")
    estimator = rebuild(own if training else without_training(own, trust), trust, skeleton=skeleton)
    if not isinstance(estimator, PoseEstimator):
        raise UserError("the checkpoint's `estimator` is none; give a .ckpt file that lightpose-train wrote")
    estimator.config = dict(config)
    return estimator


def _offline(config: Any) -> Any:
    """The same parts, none of which fetches weights or reads a file of them: those in the checkpoint follow."""
    if isinstance(config, Mapping):
        fresh = {"pretrained": False, "weights": None} if "_target_" in config else {}
        return {key: fresh[key] if key in fresh else _offline(value) for key, value in config.items()}
    return [_offline(value) for value in config] if isinstance(config, (list, tuple)) else config


def without_training(config: Any, trust: Trust = ()) -> Any:
    """The same parts, but for those that only training uses and that are neither lightpose's own nor trusted.

    A metric is gone; in place of a criterion, an optimizer or a schedule stands `LeftOut`.

    Args:
        config: plain data, of an estimator or a part of it.
        trust: see `lightpose.trust.check_targets`.
    """
    if not isinstance(config, dict):
        return config
    kept: dict[str, Any] = {}
    for key, value in config.items():
        if key == "metrics" and isinstance(value, dict):
            kept[key] = {name: metric for name, metric in value.items() if not strangers(metric, trust)}
        elif key in ("criterion", "optimizer", "scheduler") and (unknown := strangers(value, trust)):
            kept[key] = {"_target_": f"{LeftOut.__module__}.{LeftOut.__qualname__}", "target": str(unknown[0])}
        else:
            kept[key] = without_training(value, trust)
    return kept


class Sketch(TorchDispatchMode):
    """Puts zeros in place of random initial values of what is built inside, since weights follow."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # Not what is in memory: a normal distribution that is cut is drawn until all values lie between its ends.
        return args[0].zero_() if func in _RANDOM else func(*args, **(kwargs or {}))


class _Budget(TorchDispatchMode):
    """Stops what is built inside once it takes more memory, or more steps, than a real network.

    Random initial values are zeros, since the weights follow.

    Args:
        most_bytes: of all tensors that are there at once.
        most_steps: operations on tensors.
    """

    def __init__(self, most_bytes: int, most_steps: int) -> None:
        super().__init__()
        self.most_bytes, self.steps_left = most_bytes, most_steps
        self.held: dict[StorageWeakRef, int] = {}
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.steps_left -= 1
        if func in _RANDOM:
            return args[0].zero_()  # see `Sketch`
        self._check(_size_of_result(func, args, kwargs or {}))
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.device.type != "meta":
                storage = tensor.untyped_storage()
                known = StorageWeakRef(storage)
                self.total += storage.nbytes() - self.held.get(known, 0)
                self.held[known] = storage.nbytes()
        self._check(0)
        return result

    def _check(self, more: int) -> None:
        if self.total + more > self.most_bytes:
            self.held = {ref: size for ref, size in self.held.items() if not ref.expired()}
            self.total = sum(self.held.values())
        if self.total + more > self.most_bytes or self.steps_left < 0:
            raise UserError(
                "the checkpoint's configuration describes a network far larger than its weights; it is damaged"
            )


_RANDOM = (torch.ops.aten.normal_.default, torch.ops.aten.uniform_.default)


def _size_of_result(func: Any, args: Any, kwargs: Any) -> int:
    """Bytes of the new tensors that an operation is about to make; 0 where that can't be told."""
    schema = func._schema
    if any(made.alias_info is not None for made in schema.returns):  # a view, or in place
        return 0
    try:
        args, kwargs = tree_map_only(
            Tensor,
            lambda each: torch.empty_strided(each.shape, each.stride(), dtype=each.dtype, device="meta"),
            (args, kwargs),
        )
        if any(argument.name == "device" for argument in schema.arguments):
            kwargs = {**kwargs, "device": torch.device("meta"), "pin_memory": None}
        made = [each for each in tree_leaves(func(*args, **kwargs)) if isinstance(each, Tensor)]
    except Exception:  # it depends on values, or isn't known to the meta device
        return 0
    return sum(each.numel() * each.element_size() for each in made)


def load(path: str | Path, trust: Trust = (), training: bool = False) -> PoseEstimator:
    """The trained estimator in a checkpoint, on the CPU, ready to predict.

    Nothing else is read, fetched, written or run, whatever the file says, and what is built takes at most 4 GB and
    three times the size of the file.

    Args:
        path: a ``.ckpt`` file that lightpose-train wrote; nothing else is needed.
        trust: names of packages, modules or classes outside lightpose, torch and timm that it may build from.
        training: build what only training and validation use, too, whoever wrote it. Else a criterion, a metric, an
            optimizer or a schedule that is not trusted is left out.

    Raises:
        UserError: for a file that can't be used, or that names what is not trusted.
    """
    content = read(path)
    state: Mapping[str, Tensor] = content["state_dict"]
    stored = Path(path).stat().st_size
    with _Budget(BUILT_BYTES + 3 * stored, BUILT_STEPS + STEPS_PER_WEIGHT * len(state)):
        estimator = build(content["lightpose"]["config"], skeleton_in(content), trust, training)
    try:
        estimator.load_state_dict(_without_left_out(state, estimator))
    except RuntimeError as error:
        reason = in_short(error)
        raise UserError(
            f"the weights in {path} are not those of the network that its configuration describes ({reason}); it is "
            "damaged, or of another version of lightpose"
        ) from error
    spoilt = [
        name for name, tensor in estimator.state_dict().items() if tensor.is_floating_point() and tensor.isnan().any()
    ]
    if spoilt:
        raise UserError(
            f"{len(spoilt)} of the {len(state)} tensors in {path} hold NaN, such as {spoilt[0]}: its run has diverged; "
            "give an earlier checkpoint"
        )
    return estimator.eval()


def _without_left_out(state: Mapping[str, Tensor], estimator: PoseEstimator) -> dict[str, Tensor]:
    """The weights but for those of distillation, and of criterions and metrics that were left out."""
    parts = dict(estimator.named_modules())
    idle = [f"{name}.criterion." for name, part in parts.items() if isinstance(getattr(part, "criterion", 0), LeftOut)]
    built, named = estimator.metrics, (estimator.config or {})["estimator"].get("metrics") or {}
    idle += ["distillation.", *(["metrics."] if len(built) < len(named) else [])]
    return {name: value for name, value in state.items() if not name.startswith(tuple(idle))}
