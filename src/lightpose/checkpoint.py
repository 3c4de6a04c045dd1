"""Checkpoints that carry all that is needed to run them: weights, configuration and skeleton, as plain data."""

import io
import json
import os
import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import nn

from lightpose.errors import UserError
from lightpose.estimators import optim
from lightpose.estimators.base import PoseEstimator
from lightpose.skeleton import Skeleton

PARTS = tuple(f"lightpose.{package}." for package in ("codecs", "data", "estimators", "metrics", "models"))
"""Where the classes of lightpose are that a checkpoint may instantiate."""


class WholeFiles(TorchCheckpointIO):
    """Writes a checkpoint beside its place and then moves it there, so that a full disk leaves the one before intact.

    Lightning's own way goes through the system's folder for temporary files; from there to another file system a move
    is a copy, which a full disk cuts short.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write ``checkpoint`` to ``path``; one with a protocol, such as ``s3://``, is left to Lightning.

        Raises:
            OSError: when it can't be written; then ``path`` is as it was.
        """
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
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


def read(path: str | Path) -> dict[str, Any]:
    """The content of a lightpose checkpoint, loaded with ``weights_only=True``.

    Raises:
        UserError: for a missing or unreadable file, or one that lightpose didn't write.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no checkpoint at {path}; give the path of a .ckpt file that lightpose-train wrote")
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
        raise UserError(
            f"{path} can't be read as a checkpoint: it is damaged, or holds more than tensors and plain data; give a "
            ".ckpt file that lightpose-train wrote"
        ) from error
    if not isinstance(content, dict) or "lightpose" not in content or content["lightpose"]["config"] is None:
        raise UserError(
            f"{path} holds no lightpose configuration, perhaps only weights; to start training from them use "
            f"init_from={path}"
        )
    return content


def targets(config: Any) -> Iterator[str]:
    """Every ``_target_`` inside plain nested data."""
    if isinstance(config, dict):
        if "_target_" in config:
            yield config["_target_"]
        for value in config.values():
            yield from targets(value)
    elif isinstance(config, list):
        for value in config:
            yield from targets(value)


def is_part(target: str) -> bool:
    """Whether a ``_target_`` is a part of an estimator, or of its data, that can do nothing but be that part.

    What counts is where the object is defined and what it is, not the path that names it: ``torch.hub.load``, and
    whatever else can be reached through a module that is harmless by itself, is no part.
    """
    from hydra.utils import get_object

    if not target.startswith((*PARTS, "torch.", "timm.")):
        return False
    found = get_object(target)
    home = f"{getattr(found, '__module__', '')}."
    if home.startswith(PARTS):
        return isinstance(found, type) or home == f"{optim.__name__}."
    kinds = (nn.Module, torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler)
    return home.startswith(("torch.", "timm.")) and isinstance(found, type) and issubclass(found, kinds)


def check_targets(config: Any, trust: Sequence[str] = ()) -> None:
    """Refuse to instantiate what is not a part of lightpose, torch or timm, unless the caller names it.

    Raises:
        UserError: naming them, and how to trust them; and for an interpolation, which Hydra would resolve later.
    """
    if "${" in json.dumps(config):
        raise UserError(
            "the checkpoint's configuration holds an interpolation (${...}), which lightpose never writes there and "
            "which could run code; get the checkpoint from a source you trust"
        )
    strangers = sorted({target for target in targets(config) if not target.startswith(tuple(trust))})
    strangers = [target for target in strangers if not is_part(target)]
    if strangers:
        prefixes = sorted({target.split(".")[0] for target in strangers})
        raise UserError(
            f"the checkpoint wants to run {', '.join(strangers)}, which is not part of lightpose; if you trust its "
            f"source, say so with trust=[{','.join(prefixes)}]"
        )


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


def build(config: dict[str, Any], skeleton: Skeleton, trust: Sequence[str] = ()) -> PoseEstimator:
    """The estimator that a resolved configuration describes, with fresh weights and nothing downloaded.

    Args:
        config: the root configuration, as a checkpoint holds it.
        skeleton: the keypoints.
        trust: prefixes of further classes that it may name, such as ``("my_heads.",)``.

    Raises:
        UserError: when the configuration names a class outside the trusted prefixes.
    """
    estimator = config["estimator"]
    check_targets(estimator, trust)
    offline = {"pretrained": False, "weights": None}
    backbone = {**estimator["backbone"], **{key: offline[key] for key in offline if key in estimator["backbone"]}}
    built: PoseEstimator = assemble({**estimator, "backbone": backbone}, skeleton=skeleton)
    built.config = config
    return built


def load(path: str | Path, trust: Sequence[str] = ()) -> PoseEstimator:
    """The trained estimator in a checkpoint, on the CPU, ready to predict.

    Args:
        path: a ``.ckpt`` file that lightpose-train wrote; nothing else is needed.
        trust: prefixes of classes outside lightpose, torch and timm that it may instantiate.

    Raises:
        UserError: for a file that can't be used, or that names untrusted classes.
    """
    content = read(path)
    estimator = build(content["lightpose"]["config"], Skeleton.from_dict(content["lightpose"]["skeleton"]), trust)
    estimator.load_state_dict(content["state_dict"])
    return estimator.eval()
