"""A checkpoint of MMPose as one of ours."""

import logging
from pathlib import Path
from typing import Any

import torch

from lightpose.errors import UserError
from lightpose.estimators.base import PoseEstimator
from lightpose.interop.mmpose.build import skeleton_option
from lightpose.interop.mmpose.config_names import config_of
from lightpose.interop.mmpose.configs import PARADIGMS, overrides
from lightpose.interop.mmpose.files import PublishedFile, read_file
from lightpose.interop.mmpose.parts_of_names import EXAMPLE
from lightpose.interop.mmpose.weights import listed, load_like
from lightpose.interop.mmpose.zoo import names_that_fit
from lightpose.runtime.aside import written_aside

_log = logging.getLogger(__name__)


def convert(
    src: str | Path, out: str | Path, name: str | None = None, trust: bool = False, overwrite: bool = False
) -> PoseEstimator:
    """Write a checkpoint of lightpose from one of MMPose, whole or not at all.

    Args:
        src: checkpoint of MMPose 1.x, or of 0.x.
        out: where ours goes.
        name: of the MMPose configuration. None takes the configuration in the checkpoint, or else the one published
            architecture that its tensors fit.
        trust: run code that is in ``src``.
        overwrite: let it take the place of a file that is there.

    Returns:
        The estimator that was written.

    Raises:
        UserError: for a checkpoint that can't be used, and for an ``out`` that is there. Then nothing is written.
    """
    out = Path(out)
    if out.is_dir():
        raise UserError(f"out={out} is a folder; give the path of a file, such as {out / 'model.ckpt'}")
    if out.exists() and out.samefile(src):
        raise UserError(f"out={out} is src itself; give another file")
    if out.exists() and not overwrite:
        raise UserError(f"out={out} is there already; give another file, or overwrite=true")
    estimator = load_file(src, name, trust)
    content: dict[str, Any] = {"state_dict": estimator.state_dict()}
    estimator.on_save_checkpoint(content)
    out.parent.mkdir(parents=True, exist_ok=True)
    with written_aside(out) as part:
        torch.save(content, part)
    return estimator


def load_file(src: str | Path, name: str | None = None, trust: bool = False) -> PoseEstimator:
    """The estimator in a checkpoint of MMPose; arguments and errors as those of `convert`."""
    found = read_file(src, trust)
    if name is None and found.config.get("model") and _kind(found) not in PARADIGMS:
        _log.info("the configuration in %s is of an MMPose before 1.0 and not used", src)
    elif name is None and found.config.get("model"):
        return load_like(found.config, found.state, f"the configuration in {src}", found.skeleton)
    name = name or _only_name(found, src)
    return load_like(config_of(name), found.state, name, found.skeleton or skeleton_option(name))


def _kind(found: PublishedFile) -> Any:
    model = found.config["model"]
    return model.get("type") if isinstance(model, dict) else None


def _only_name(found: PublishedFile, src: str | Path) -> str:
    """The published configuration that tensors fit.

    Raises:
        UserError: when there is none, or several that differ in more than their name.
    """
    names = names_that_fit(found.state)
    if not names:
        raise UserError(
            f"the tensors of {src} ({listed(list(found.state))}) are those of no published configuration of MMPose "
            f"that lightpose has a model for; give name=..., such as {EXAMPLE}"
        )
    choices = {tuple(overrides(config_of(name), skeleton_option(name))) for name in names}
    if len(choices) > 1:
        raise UserError(
            f"the tensors of {src} fit {len(names)} configurations, which differ in data set, input size or codec; "
            f"give name=, one of {', '.join(names)}"
        )
    return names[0]
