"""From a composed configuration to the objects of a run: skeleton, data, estimator, trainer."""

from typing import Any

import torch
from hydra.utils import get_class
from lightning.pytorch.callbacks import Checkpoint, ProgressBar
from omegaconf import DictConfig, OmegaConf

from lightpose.checkpoint import assemble
from lightpose.cli.app import conf_dirs
from lightpose.data.coco import skeleton_of
from lightpose.errors import UserError
from lightpose.estimators.base import PoseEstimator
from lightpose.models.net import PairError, check_pair
from lightpose.skeleton import Skeleton


def resolved(config: DictConfig) -> dict[str, Any]:
    """The configuration as plain data, interpolations resolved, without Hydra's own part."""
    plain: dict[str, Any] = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)  # type: ignore[assignment]
    return {key: value for key, value in plain.items() if key != "hydra"}


def make_skeleton(config: dict[str, Any]) -> Skeleton:
    """The chosen skeleton, or that of the data set's file.

    Raises:
        UserError: when there is neither.
    """
    if "_target_" in config["skeleton"]:
        skeleton: Skeleton = assemble(config["skeleton"])
        return skeleton
    annotations = config["data"]["train"] or config["data"]["val"]
    if annotations is None:
        raise UserError("data.train is not given; add data.train=annotations.json data.images=folder/ (COCO format)")
    return recognise(skeleton_of(annotations, config["skeleton"]["sigmas"]))


def recognise(skeleton: Skeleton) -> Skeleton:
    """The option of the ``skeleton`` group with these keypoints, if a file says nothing of sigmas; else as it is.

    So a file with COCO's 17 keypoints is scored with COCO's sigmas, without being told.
    """
    if not skeleton.sigmas_known:
        for path in (path for folder in conf_dirs() for path in sorted((folder / "skeleton").glob("*.yaml"))):
            option: Any = OmegaConf.load(path)
            if tuple(option.get("keypoints", ())) == skeleton.keypoints:
                known: Skeleton = assemble(option)
                return known
    return skeleton


def make_estimator(config: dict[str, Any], skeleton: Skeleton) -> PoseEstimator:
    """The estimator with fresh weights.

    Raises:
        UserError: when head and codec don't fit, with the heads that would.
    """
    parts = config["estimator"]
    codec = assemble(parts["codec"], skeleton=skeleton, input_hw=parts["input_hw"], grid=parts["grid"])
    try:
        check_pair(get_class(parts["head"]["_target_"]), codec.spec)  # before weights are fetched for the backbone
    except PairError as error:
        fitting = [f"head={name}" for name, emits in head_outputs().items() if emits == error.expects]
        raise UserError(f"{error}; use {' or '.join(fitting) or 'a head that emits these'}") from error
    estimator: PoseEstimator = assemble(parts, skeleton=skeleton)
    estimator.config = config
    return estimator


def head_outputs() -> dict[str, frozenset[str]]:
    """What each option of the ``head`` group emits; variants, which only change another option, are left out."""
    paths = [path for folder in conf_dirs() for path in sorted((folder / "head").glob("*.yaml"))]
    heads: dict[str, Any] = {path.stem: OmegaConf.load(path) for path in paths}
    classes: dict[str, Any] = {name: get_class(head["_target_"]) for name, head in heads.items() if "_target_" in head}
    return {name: head.emits for name, head in classes.items()}


def make_trainer(config: dict[str, Any]) -> Any:
    """Lightning's trainer; an entry of callbacks or loggers that is null is left out."""
    callbacks = [assemble(callback) for callback in config["callbacks"].values() if callback]
    loggers = [assemble(logger) for logger in config["logger"].values() if logger]
    options = {
        **config["trainer"],
        "precision": precision(config["trainer"]["precision"]),
        "enable_progress_bar": any(isinstance(callback, ProgressBar) for callback in callbacks),
        "enable_checkpointing": any(isinstance(callback, Checkpoint) for callback in callbacks),
    }
    return assemble(options, callbacks=callbacks, logger=loggers)


def precision(choice: str) -> str:
    """``auto`` becomes the fastest precision that trains well on this machine."""
    if choice != "auto":
        return choice
    if not torch.cuda.is_available():
        return "32-true"
    return "bf16-mixed" if torch.cuda.get_device_capability() >= (8, 0) else "16-mixed"
