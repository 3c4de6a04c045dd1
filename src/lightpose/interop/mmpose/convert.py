"""A checkpoint of MMPose as one of ours."""

import difflib
import logging
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightpose.errors import UserError
from lightpose.estimators.base import PoseEstimator
from lightpose.interop.mmpose.backbones import kind_of
from lightpose.interop.mmpose.build import numbered, skeleton_option
from lightpose.interop.mmpose.config_names import config_of
from lightpose.interop.mmpose.configs import overrides, settings
from lightpose.interop.mmpose.files import PublishedFile, read_file
from lightpose.interop.mmpose.parts_of_names import EXAMPLE
from lightpose.interop.mmpose.rescoring import with_rescoring
from lightpose.interop.mmpose.settings import as_text
from lightpose.interop.mmpose.tested import differences, name_of_data_set, skeleton_named
from lightpose.interop.mmpose.weights import SHOWN, listed, load_like
from lightpose.interop.mmpose.zoo import all_names, names_that_fit
from lightpose.runtime.aside import written_aside
from lightpose.skeleton import Skeleton

_log = logging.getLogger(__name__)
USUAL = "the default"
EARLIER = ("AssociativeEmbedding", "CID", "DisentangledKeypointRegressor", "Interhand3D", "TopDown")
"""Models of MMPose before 1.0, whose configurations have other keys; there a lifter has a ``keypoint_head``, too."""


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
    if not Path(src).is_file():
        raise UserError(f"there is no checkpoint src={src}; give the path of a .pth file that MMPose wrote")
    if out.is_dir():
        raise UserError(f"out={out} is a folder; give the path of a file, such as {out / 'model.ckpt'}")
    if out.exists() and out.samefile(src):
        raise UserError(f"out={out} is src itself; give another file")
    if out.exists() and not overwrite:
        raise UserError(f"out={out} is there already; give another file, or overwrite=true")
    model = _model(src, name, trust)
    estimator = _loaded(model)
    content: dict[str, Any] = {"state_dict": estimator.state_dict()}
    estimator.on_save_checkpoint(content)
    out.parent.mkdir(parents=True, exist_ok=True)
    with written_aside(out) as part:
        try:
            torch.save(content, part)
        except RuntimeError as error:  # of torch, which doesn't say why
            raise UserError(f"out={out} can't be written; see to its rights and space, or give another file") from error
    arguments = shlex.join([f"init_from={out}", *_arguments(model)])
    _log.info("train it further by: lightpose-train %s data.train=... data.val=...", arguments)
    return estimator


def load_file(src: str | Path, name: str | None = None, trust: bool = False) -> PoseEstimator:
    """The estimator in a checkpoint of MMPose; arguments and errors as those of `convert`."""
    return _loaded(_model(src, name, trust))


@dataclass(frozen=True, slots=True)
class _Model:
    """What a checkpoint holds.

    Attributes:
        what: it is called in messages.
        config: ``model`` and ``codec`` of MMPose.
        state: its tensors.
        skeleton: of its data set, the option of the group, or None where neither is known.
    """

    what: str
    config: Mapping[str, Any]
    state: Mapping[str, Tensor]
    skeleton: Skeleton | str | None


def _model(src: str | Path, name: str | None, trust: bool) -> _Model:
    found = read_file(src, trust)
    model = found.config.get("model")
    early = isinstance(model, Mapping) and (kind_of(model) in EARLIER or "keypoint_head" in model)
    if not name and early:
        _log.info("the configuration in %s is of an MMPose before 1.0 and not used", src)
    elif not name and model:
        config = with_rescoring(found.config, found.state)
        return _Model(f"the configuration in {src}", config, found.state, found.skeleton)
    chosen = name or _only_name(found, src)
    named = _named(chosen, found) if name else config_of(chosen)
    option = skeleton_option(chosen)
    if model and not early:
        _tell_differences(src, chosen, found.config, named, option)
    return _Model(chosen, with_rescoring(named, found.state), found.state, found.skeleton or option)


def _tell_differences(
    src: str | Path, name: str, written: Mapping[str, Any], named: Mapping[str, Any], option: str | None
) -> None:
    """Warn of what the configuration in a checkpoint says otherwise than the name that is given, which counts."""
    try:
        both = settings(written, option), settings(named, option)
    except UserError as error:
        _log.warning("name=%s counts; the configuration in %s can't be compared with it: %s", name, src, error)
        return
    theirs, ours = ({key: as_text(value) for key, value in {**each.groups, **each.values}.items()} for each in both)
    apart = [
        f"{key}={theirs.get(key, USUAL)} and not {ours.get(key, USUAL)}"
        for key in sorted({*theirs, *ours})
        if theirs.get(key, USUAL) != ours.get(key, USUAL)
    ]
    if apart:
        _log.warning("name=%s counts, but the configuration in %s says %s", name, src, ", ".join(apart))


def _named(name: str, found: PublishedFile) -> dict[str, Any]:
    """The configuration of a name; one that nobody published is read by its parts, and its neighbours are told.

    Raises:
        UserError: for a name that can't be read, with those that fit.
    """
    short = name.removesuffix(".py").rpartition("/")[2]
    near = difflib.get_close_matches(short, [each.rpartition("/")[2] for each in all_names()], SHOWN)
    try:
        config = config_of(name)
    except UserError as error:
        fit = names_that_fit(found.state)
        advice = (
            f"; the tensors fit {', '.join(fit)}" if fit else f"; names like it are {', '.join(near)}" if near else ""
        )
        raise UserError(f"{error}{advice}") from error
    if short not in near:
        like = f"; published ones like it are {', '.join(near)}" if near else ""
        _log.warning("name=%s is no configuration that MMPose publishes, and is read by its parts%s", name, like)
    return config


def _loaded(model: _Model) -> PoseEstimator:
    """The estimator with its weights; says what was chosen."""
    estimator = load_like(model.config, model.state, model.what, model.skeleton)
    hw = estimator.input_hw
    size = "inputs are sequences" if hw is None else f"inputs of {hw[0]}x{hw[1]} pixels (height x width)"
    name, count = estimator.skeleton.name, estimator.skeleton.num_keypoints
    _log.info("skeleton %s, %s, pixel grid %s", name, size, estimator.grid)
    if not (model.skeleton or skeleton_named(model.config, count) or estimator.takes_sequences):
        if name == numbered(count).name:
            _log.warning(
                "lightpose doesn't know the %d keypoints of %s (%s): they are numbered, and nothing is mirrored; "
                "a checkpoint that a training of MMPose left says what they are",
                count,
                model.what,
                name_of_data_set(model.config) or "no data set is named",
            )
        else:
            _log.warning(
                "%s names no data set: the keypoints are taken to be those of %s, as there are %d; if they are "
                "others, give name=",
                model.what,
                name,
                count,
            )
    for difference in differences(model.config, settings(model.config)):
        _log.warning(difference)
    return estimator


def _arguments(model: _Model) -> list[str]:
    """What to train the same network with; keypoints that are in the checkpoint alone are left to the data."""
    option = model.skeleton if isinstance(model.skeleton, str) else None
    given = overrides(model.config, option)
    return [each for each in given if not (isinstance(model.skeleton, Skeleton) and each.startswith("skeleton="))]


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
    _log.warning("the tensors of %s are those of %s, whose data set, input size and codec are taken", src, names[0])
    return names[0]
