"""Checkpoints that carry all that is needed to run them: weights, configuration and skeleton, as plain data."""

import io
import logging
import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from lightpose.data.base import Transform
from lightpose.errors import UserError
from lightpose.estimators.base import PoseEstimator
from lightpose.models.weights import load_data
from lightpose.skeleton import Skeleton
from lightpose.trust import NETWORK, TRANSFORMS, Trust, check_targets, plain

log = logging.getLogger(__name__)

BUILT_BYTES = 4 << 30
"""What a network may take beside its weights while it is built: layers that are cut off, and what is not stored."""
BUILT_STEPS, STEPS_PER_WEIGHT = 10_000, 20
"""Operations on tensors that building it may take: in all, and for each tensor among its weights."""


class WholeFiles(TorchCheckpointIO):
    """Writes a checkpoint beside its place and then moves it there, so that a full disk leaves the one before intact.

    Lightning's own way goes through the system's folder for temporary files; from there to another file system a move
    is a copy, which a full disk cuts short.

    A checkpoint carries the name of its run, and nothing is removed but checkpoints of this run, in a folder that it
    writes to: what a resumed checkpoint says of others is not taken for granted.
    """

    def __init__(self) -> None:
        super().__init__()
        self.run = uuid.uuid4().hex
        self.folders: set[Path] = set()
        self.remote: set[str] = set()

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write ``checkpoint`` to ``path``; one with a protocol, such as ``s3://``, is left to Lightning.

        Raises:
            OSError: when it can't be written; then ``path`` is as it was.
        """
        checkpoint = {**checkpoint, "lightpose": {**checkpoint.get("lightpose", {}), "run": self.run}}
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            self.remote.add(str(path))
            return
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.folders.add(path.parent.resolve())
        part = path.with_name(f".{path.name}.part")
        buffer = io.BytesIO()  # torch.save would turn a full disk into another exception
        torch.save(checkpoint, buffer)
        try:
            with part.open("wb") as file:
                file.write(buffer.getbuffer())
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Content of a checkpoint (`read`), whose run goes on from now on."""
        content = read(path)
        run = content["lightpose"].get("run")
        self.run = run if isinstance(run, str) else self.run
        return content

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a checkpoint of this run; leave anything else where it is, and say so."""
        if str(path) in self.remote:
            super().remove_checkpoint(path)
        elif self._is_own(Path(path)):
            Path(path).unlink()
        else:
            log.warning("%s is not removed, as this run did not write it", path)

    def _is_own(self, path: Path) -> bool:
        if path.is_symlink() or not path.is_file() or path.resolve().parent not in self.folders:
            return False
        try:
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except Exception:  # as damaged files raise whatever they lead to
            return False
        own = content.get("lightpose") if isinstance(content, dict) else None
        return isinstance(own, dict) and own.get("run") == self.run


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
    return {**content, "lightpose": plain(own, f"the configuration in {path}")}


def skeleton_in(content: Mapping[str, Any]) -> Skeleton:
    """The skeleton in what `read` returned.

    Raises:
        UserError: when it is none.
    """
    try:
        return Skeleton.from_dict(content["lightpose"]["skeleton"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"the checkpoint's skeleton can't be used ({error!r}); get the checkpoint again") from error


def section(config: Any, *keys: str) -> dict[str, Any]:
    """The mapping under ``keys`` in a checkpoint's configuration.

    Raises:
        UserError: when there is none.
    """
    for depth, key in enumerate(keys, 1):
        config = config.get(key) if isinstance(config, Mapping) else None
        if not isinstance(config, Mapping):
            raise UserError(
                f"the checkpoint's configuration has no {'.'.join(keys[:depth])}, which lightpose-train always writes; "
                "get the checkpoint again"
            )
    return dict(config)


def rebuild(config: Any, trust: Trust = (), rooms: Sequence[str] = NETWORK, **given: Any) -> Any:
    """Instantiate a part of a checkpoint's configuration, once it is known to name nothing but parts.

    Args:
        config: nested plain data with a ``_target_``.
        trust: see `lightpose.trust.check_targets`.
        rooms: likewise.
        given: objects that are not configuration, such as the skeleton.

    Raises:
        UserError: when it names something else, or the parts refuse their options.
    """
    config = plain(config, "the checkpoint's configuration")
    check_targets(config, trust, rooms)
    try:
        return assemble(config, **given)
    except UserError:
        raise
    except Exception as error:  # a part that is given nonsense raises whatever that leads to
        reason = " ".join(str(error.__cause__ or error).split())[:300]
        raise UserError(
            f"the checkpoint's configuration can't be built ({type(error).__name__}: {reason}); it is damaged, or of a "
            "version of lightpose that had other options"
        ) from error


def assemble(config: Any, **given: Any) -> Any:
    """Instantiate a configuration with objects that are not configuration, such as the skeleton.

    Hydra would turn a dataclass passed to ``instantiate`` into a config node, hence the detour over a partial.

    Raises:
        UserError: that of the part that refused its options.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    try:
        return instantiate(config, _partial_=True, _convert_="all")(**given)
    except InstantiationException as error:
        if isinstance(error.__cause__, UserError):  # what a part says of its options, out of Hydra's wrapping
            raise error.__cause__ from None
        raise


def build(config: Mapping[str, Any], skeleton: Skeleton, trust: Trust = ()) -> PoseEstimator:
    """The estimator that a resolved configuration describes, with fresh weights and nothing downloaded.

    Args:
        config: the root configuration, as a checkpoint holds it.
        skeleton: the keypoints.
        trust: what else it may name, see `lightpose.trust.check_targets`.

    Raises:
        UserError: when the configuration names something else, or can't be built.
    """
    estimator = rebuild(_offline(section(config, "estimator")), trust, skeleton=skeleton)
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


class _Budget(TorchDispatchMode):
    """Stops what is built inside once it takes more memory, or more steps, than a real network.

    Random initial values are left out, since the weights follow.

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
            return args[0]
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


def load(path: str | Path, trust: Trust = ()) -> PoseEstimator:
    """The trained estimator in a checkpoint, on the CPU, ready to predict.

    Nothing else is read, fetched, written or run, whatever the file says, and what is built takes at most 4 GB and
    three times the size of the file.

    Args:
        path: a ``.ckpt`` file that lightpose-train wrote; nothing else is needed.
        trust: names of packages, modules or classes outside lightpose, torch and timm that it may build from.

    Raises:
        UserError: for a file that can't be used, or that names what is not trusted.
    """
    content = read(path)
    state: Mapping[str, Tensor] = content["state_dict"]
    stored = Path(path).stat().st_size
    with _Budget(BUILT_BYTES + 3 * stored, BUILT_STEPS + STEPS_PER_WEIGHT * len(state)):
        estimator = build(content["lightpose"]["config"], skeleton_in(content), trust)
    try:
        estimator.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
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


def eval_transforms(estimator: PoseEstimator, trust: Trust = ()) -> list[Transform]:
    """The transforms that a loaded estimator was validated with, from its configuration.

    Raises:
        UserError: when they name what is not trusted.
    """
    steps = [step for step in section(estimator.config, "augment", "eval").values() if step is not None]
    given = {"skeleton": estimator.skeleton}
    return [
        rebuild(step, trust, TRANSFORMS, **(given if isinstance(step, Mapping) and step.get("_partial_") else {}))
        for step in steps
    ]
