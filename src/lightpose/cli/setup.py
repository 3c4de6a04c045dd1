"""From a composed configuration to the objects of a run: skeleton, data, estimator, trainer."""

from typing import Any

import torch
from lightning.pytorch.callbacks import Checkpoint, ProgressBar
from omegaconf import DictConfig, OmegaConf

from lightpose.checkpoint import assemble
from lightpose.cli.app import conf_dir
from lightpose.data.coco import skeleton_of
from lightpose.errors import UserError
from lightpose.estimators.base import PoseEstimator
from lightpose.models.net import PairError
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
    return skeleton_of(annotations, sigmas=config["skeleton"]["sigmas"])


def make_estimator(config: dict[str, Any], skeleton: Skeleton) -> PoseEstimator:
    """The estimator with fresh weights.

    Raises:
        UserError: when head and codec don't fit, with the heads that would.
    """
    try:
        estimator: PoseEstimator = assemble(config["estimator"], skeleton=skeleton)
    except PairError as error:
        fitting = [f"head={name}" for name, emits in head_outputs().items() if emits == error.expects]
        raise UserError(f"{error}; use {' or '.join(fitting) or 'a head that emits these'}") from error
    estimator.config = config
    return estimator


def head_outputs() -> dict[str, frozenset[str]]:
    """What each option of the ``head`` group emits; variants, which only change another option, are left out."""
    from hydra.utils import get_class

    folder = conf_dir() / "head"
    heads = {path.stem: OmegaConf.load(path) for path in sorted(folder.glob("*.yaml"))}
    return {name: get_class(head["_target_"]).emits for name, head in heads.items() if "_target_" in head}


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
