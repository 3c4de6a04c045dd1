"""Makes the objects of a run from its configuration: skeleton, estimator, trainer."""

import inspect
import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.callbacks import Callback, Checkpoint, LearningRateMonitor, ProgressBar
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, OmegaConf, open_dict

from lightpose.callbacks.interruption import Interruption
from lightpose.callbacks.length import Length
from lightpose.callbacks.rehearsal import Rehearsal
from lightpose.callbacks.resume import Resume
from lightpose.callbacks.timeline import Timeline
from lightpose.checkpoint import assemble, load, read
from lightpose.cli.groups import group_files, read_option
from lightpose.cli.options import find, keys_given, needed_options, preparing
from lightpose.cli.pairs import fitting_codecs, fitting_heads
from lightpose.data.base import PoseDataset
from lightpose.data.datamodule import files_of
from lightpose.errors import UserError
from lightpose.estimators.base import PoseEstimator
from lightpose.metrics.base import NamesFigures
from lightpose.models.net import PairError
from lightpose.names import joined_names
from lightpose.runtime.background import BackgroundFiles
from lightpose.runtime.processes import lean_ddp, orderly_signals, submitted
from lightpose.runtime.sharding import check_precision, is_sharded
from lightpose.runtime.sync_norms import SyncBatchNorms
from lightpose.runtime.timeline import wanted
from lightpose.runtime.whole_files import WholeFiles
from lightpose.skeleton import Skeleton, joined, mirror_remarks

log = logging.getLogger(__name__)

NO_TRAINING_DATA = "data.train is not given; add data.train=annotations.json data.images=folder/ (COCO format)"


def resolved(config: DictConfig) -> dict[str, Any]:
    """The configuration as plain data, with interpolations and ``input_hw=auto`` resolved, without Hydra's own part.

    Raises:
        UserError: naming all required keys that are missing; and for an input size that isn't one.
    """
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise UserError(f"{' and '.join(missing)} not given; add {' '.join(f'{key}=...' for key in missing)}")
    if config.get("input_hw") == "auto":
        config = config.copy()
        config.input_hw = list(choose_input_hw(config))  # before anything refers to it
    plain: dict[str, Any] = OmegaConf.to_container(into_wrapped(config), resolve=True)  # type: ignore[assignment]
    sides = plain.get("input_hw")
    listed = isinstance(sides, list) and len(sides) == 2 and all(isinstance(side, int) and side > 0 for side in sides)
    if sides is not None and not listed:
        raise UserError(
            f"input_hw={sides} is no size of images; give height and width, such as input_hw=[256,192], or auto"
        )
    return {key: value for key, value in plain.items() if key != "hydra"}


def into_wrapped(config: DictConfig) -> DictConfig:
    """The configuration, where what an experiment says of a head or codec holds for the one inside a wrapper.

    So ``experiment=topdown_hrnet head=visibility codec=visibility`` decodes as the experiment does. What the command
    line says of the part inside (``codec.codec.refine=dark``) comes first.
    """
    config, given = config.copy(), keys_given()
    for group in ("head", "codec"):
        wrapper: Any = config.get(group)
        inner: Any = wrapper.get(group) if OmegaConf.is_dict(wrapper) else None
        if not OmegaConf.is_dict(inner) or "_target_" not in inner:
            continue
        with preparing(group):
            own = inspect.signature(find(wrapper._target_, group)).parameters
        for key in [key for key in wrapper if key in inner and key not in own and not str(key).startswith("_")]:
            place = f"{group}.{group}.{key}"
            typed = {name: OmegaConf.select(config, name) for name in given if f"{name}.".startswith(f"{place}.")}
            with open_dict(wrapper):
                value = wrapper.pop(key)
                inner[key] = OmegaConf.merge(inner[key], value) if OmegaConf.is_dict(value) else value
                for name, chosen in typed.items():
                    OmegaConf.update(config, name, chosen)
    return config


def choose_input_hw(config: DictConfig) -> tuple[int, int]:
    """The network's input size for the training images: see `input_size`, of their median height and width.

    Raises:
        UserError: when there are no training data, or their samples are no whole images of a known size.
    """
    reader = find_reader({"reader": OmegaConf.to_container(config.reader)})
    if reader.one_person and not reader.whole_image:
        raise UserError(
            f"input_hw=auto follows from the size of whole images, but a sample of {reader.__name__} is a box; give "
            "height and width, such as input_hw=[256,256]"
        )
    if config.data.train is None:
        raise UserError(NO_TRAINING_DATA)
    with preparing("reader"):
        sizes = np.concatenate([reader.read_image_hw(file) for file in files_of(config.data.train)])
    height, width = np.median(sizes, axis=0).round().astype(int).tolist()
    chosen = input_size((height, width), config.max_input_pixels)
    log.info("input %dx%d for images of %dx%d (height x width)", *chosen, height, width)
    return chosen


def input_size(image_hw: tuple[int, int], most_pixels: int) -> tuple[int, int]:
    """The smallest input, each side a multiple of 32, in which images appear as large as ``most_pixels`` allow.

    Args:
        image_hw: of the images, which are never enlarged.
        most_pixels: at least 32 x 32.
    """
    height, width = image_hw
    found: list[tuple[float, int, tuple[int, int]]] = []  # scale of the images, pixels to spare, size
    for rows in range(32, min(height + 31, most_pixels // 32) + 1, 32):
        shown = width if rows >= height else -(-width * rows // height)  # how many columns the images then fill
        columns = min(-(-shown // 32), most_pixels // rows // 32) * 32
        if columns:
            found.append((min(1, rows / height, columns / width), -rows * columns, (rows, columns)))
    return max(found)[2]


def find_reader(config: dict[str, Any]) -> type[PoseDataset]:
    """The class of the chosen reader.

    Raises:
        UserError: for what is no reader.
    """
    target = config["reader"]["_target_"]
    found = find(target, "reader")
    if not (isinstance(found, type) and issubclass(found, PoseDataset)):
        raise UserError(f"reader: {target} is no subclass of lightpose.data.base.PoseDataset; derive it from that")
    return found


def check_reader(config: dict[str, Any]) -> None:
    """Refuse samples of another kind than the estimator takes: boxes, whole images of one or everyone, sequences.

    Raises:
        UserError: with the readers that would fit.
    """
    estimator, reader = find(config["estimator"]["_target_"], "estimator"), find_reader(config)
    if not (isinstance(estimator, type) and issubclass(estimator, PoseEstimator)):
        return
    one_person = estimator.one_person or estimator.takes_boxes
    taken, given = _kind(one_person, estimator.takes_boxes, estimator.takes_sequences), _kind_of(reader)
    unknown = config["input_hw"] is None and not (one_person or estimator.takes_sequences)
    if unknown or taken == given:
        return
    fitting = []
    for name, path in group_files("reader").items():
        with suppress(Exception):  # of a user's readers, those that can't be imported
            other = find_reader({"reader": read_option(path)})
            if _kind_of(other) == taken:
                fitting.append(f"reader={name}")
    raise UserError(
        f"a sample of {reader.__name__} is {given}, but {estimator.__name__} takes {taken}; use "
        f"{' or '.join(fitting) or 'another reader'}, or another estimator"
    )


def _kind_of(reader: type[PoseDataset]) -> str:
    return _kind(reader.one_person, not reader.whole_image, reader.sequences)


def _kind(one_person: bool, in_box: bool, in_sequence: bool) -> str:
    if in_sequence:
        return "a sequence of keypoints"
    if not one_person:
        return "whole images, with everyone in them"
    return "one person in a box" if in_box else "a whole image with one person in it"


def make_skeleton(config: dict[str, Any], annotations: str | None = None) -> Skeleton:
    """`choose_skeleton` for a training, and a warning of what the annotation file leaves unsaid of the skeleton.

    Args:
        config: of lightpose-train.
        annotations: the file; None takes that of the configuration.
    """
    choice, reader = config["skeleton"], find_reader(config)
    files = files_of(annotations or config["data"]["train"] or config["data"]["val"])
    skeleton = choose_skeleton(choice, files, reader)
    unsaid = [] if "_target_" in choice else [remark for file in files for remark in reader.skeleton_remarks(file)]
    for remark in [*unsaid, *mirror_remarks(skeleton)]:
        log.warning(remark)
    return skeleton


def choose_skeleton(choice: dict[str, Any], files: Sequence[str], reader: type[PoseDataset]) -> Skeleton:
    """The chosen skeleton; with ``skeleton=auto`` that of the annotation files, changed as other options say.

    Raises:
        UserError: when there is neither, and for an impossible choice.
    """
    if "_target_" in choice:
        skeleton: Skeleton = assemble(choice)
        return skeleton
    if not files:
        raise UserError(NO_TRAINING_DATA)
    given = {key: value for key, value in choice.items() if value is not None}
    disjoint, renames = given.pop("disjoint", False), given.get("renames")
    sigmas = given.get("sigmas") if len(files) == 1 else None
    skeletons = [recognise(reader.read_skeleton(file, sigmas)) for file in files]
    if not disjoint:
        check_common(skeletons, files, renames)
    return joined(skeletons, renames).changed(**given)


def check_common(skeletons: Sequence[Skeleton], files: Sequence[str], renames: Mapping[str, str] | None) -> None:
    """Refuse to join a data set that has no keypoint in common with any other.

    Raises:
        UserError: naming its keypoints.
    """
    _, places = joined_names([skeleton.keypoints for skeleton in skeletons], renames)
    for row, (skeleton, file) in enumerate(zip(skeletons, files, strict=True)):
        others = {place for other, found in enumerate(places) if other != row for place in found}
        if len(files) > 1 and not others & set(places[row]):
            rest = " and ".join(other for other in files if other != file)
            raise UserError(
                f"{file} has no keypoint of the same name as {rest}; its are {', '.join(skeleton.keypoints[:20])}. Say "
                "which are the same with skeleton.renames={NAME: NAME_IN_THE_OTHER, ...}, or learn the keypoints of "
                "all files side by side with skeleton.disjoint=true"
            )


def recognise(skeleton: Skeleton) -> Skeleton:
    """The option of the ``skeleton`` group with these keypoints, if a file has no sigmas; else the skeleton itself.

    So a file with COCO's 17 keypoints is scored with COCO's sigmas, and nobody has to say so.
    """
    if not skeleton.sigmas_known:
        for path in group_files("skeleton").values():
            option = read_option(path)
            if OmegaConf.is_dict(option) and tuple(option.get("keypoints") or ()) == skeleton.keypoints:
                known: Skeleton = assemble(option)
                return known
    return skeleton


def make_estimator(config: dict[str, Any], skeleton: Skeleton) -> PoseEstimator:
    """The estimator with fresh weights.

    Raises:
        UserError: when head and codec don't fit, with the heads that would.
    """
    try:
        estimator: PoseEstimator = assemble(config["estimator"], skeleton=skeleton)
    except PairError as error:
        ways = [*error.ways, *(f"{error.place}={name}" for name in fitting_heads(error.spec))]
        if error.place == "head":
            ways += [f"codec={name}" for name in fitting_codecs(config, skeleton)]
        raise UserError(f"{error}; use {' or '.join(ways) or 'a head that emits these'}") from error
    return estimator


def make_distillation(config: dict[str, Any], estimator: PoseEstimator) -> Any:
    """What gives the losses of a run with a teacher; None without ``distill=``.

    Args:
        config: resolved.
        estimator: the student.

    Raises:
        UserError: when there is no such teacher, or it doesn't fit the student or the run.
    """
    settings = config["distill"]
    if settings is None:
        return None
    if is_sharded(config["trainer"]["strategy"]):
        raise UserError("distillation needs whole weights in every process; leave out trainer=fsdp, or distill=")
    path = settings["teacher"]
    if not Path(path).is_file():
        raise UserError(
            f"distill.teacher={path}: there is no such file, perhaps it has moved; give the place of the teacher's "
            "checkpoint. The student's own checkpoints predict without it"
        )
    with preparing("distill"):
        return assemble(settings, student=estimator, load=load)


def choose_monitor(config: dict[str, Any], written: Mapping[str, Any], estimator: PoseEstimator) -> dict[str, Any]:
    """The configuration with the monitored figure and its direction filled in, where the metric is to choose them.

    A callback gets them if it refers to ``${monitor}``, as the best checkpoint does, or if it needs a figure and names
    none, as early stopping may. Other callbacks stay as they are.

    Args:
        config: resolved.
        written: its callbacks, with references as they stand.
        estimator: whose metrics give the figures.

    Raises:
        UserError: for a figure that no metric of the run gives.
    """
    monitor, mode = monitored(config, estimator.metrics)
    modes = {**_modes(estimator.metrics), monitor: mode}
    callbacks = {
        name: _watching(callback, written.get(name), monitor, modes) for name, callback in config["callbacks"].items()
    }
    for name, callback in callbacks.items():
        watched = callback.get("monitor") if isinstance(callback, dict) else None
        if str(watched).startswith("val/") and config["data"]["val"] is None:
            raise UserError(f"callbacks.{name} watches {watched}, but nothing is validated; add data.val=val.json")
        if str(watched).startswith("val/") and watched not in modes and not _foreign(estimator.metrics):
            raise UserError(f"callbacks.{name} watches {watched}, which no metric gives; use one of {', '.join(modes)}")
    return {**config, "monitor": monitor, "monitor_mode": mode, "callbacks": callbacks}


def monitored(config: Mapping[str, Any], metrics: Iterable[Any]) -> tuple[str, str]:
    """The monitored figure, by itself the main one of the first metric, and ``max`` or ``min``, as it is good.

    Raises:
        UserError: for a figure that no metric gives, or of which nobody says whether high or low is good.
    """
    metrics = list(metrics)
    modes, mode = _modes(metrics), config["monitor_mode"]
    monitor = config["monitor"] or next((name for name in modes if name != "val/loss"), "val/loss")
    if monitor not in modes and not _foreign(metrics):
        raise UserError(
            f"monitor={monitor} is a figure that no metric of this run gives; use one of {', '.join(modes)}"
        )
    if monitor not in modes and mode is None:
        raise UserError(f"say whether a high or a low {monitor} is good: add monitor_mode=max or monitor_mode=min")
    if mode not in (None, "max", "min"):
        raise UserError(f"monitor_mode={mode} is unknown; use max or min, or leave it to the metric")
    return monitor, mode or modes[monitor]


def _modes(metrics: Iterable[Any]) -> dict[str, str]:
    """Figure → ``max`` or ``min``, as it is good, of the loss and of all metrics that name theirs."""
    modes = {"val/loss": "min"}
    for metric in metrics:
        if isinstance(metric, NamesFigures):
            modes |= {f"val/{figure}": "max" if metric.higher_is_better else "min" for figure in metric.figures}
    return modes


def _foreign(metrics: Iterable[Any]) -> bool:
    """Whether there are metrics that don't name their figures."""
    return any(not isinstance(metric, NamesFigures) for metric in metrics)


def _watching(callback: Any, written: Any, monitor: str, modes: Mapping[str, str]) -> Any:
    """A callback with the figure it is meant to watch, and the mode of that figure, where they are left open."""
    if not isinstance(callback, dict) or not isinstance(written, dict):
        return callback
    figure = callback.get("monitor")
    meant = written.get("monitor") == "${monitor}" or "monitor" in needed_options(callback.get("_target_"))
    if figure is None and meant:
        figure = monitor
    elif written.get("mode") != "${monitor_mode}":
        return callback
    return {**callback, "monitor": figure, "mode": callback.get("mode") or modes.get(str(figure))}


def _assembled(config: dict[str, Any], group: str, base: type) -> list[Any]:
    parts = []
    for name, part in config[group].items():
        if part:
            with preparing(f"{group}.{name}"):
                parts.append(assemble(part))
            if not isinstance(parts[-1], base):
                place = f"{base.__module__}.{base.__qualname__}"
                raise UserError(f"{group}.{name}: {part['_target_']} is no {place}; derive it from that")
    return parts


def make_trainer(config: dict[str, Any], *further: Callback) -> Any:
    """Lightning's trainer; an entry of callbacks or loggers that is null is left out.

    Args:
        config: the resolved configuration.
        further: callbacks beside those of the configuration.
    """
    callbacks, loggers = _assembled(config, "callbacks", Callback), _assembled(config, "logger", Logger)
    if not loggers:
        callbacks = [callback for callback in callbacks if not isinstance(callback, LearningRateMonitor)]
    options = {
        **config["trainer"],
        "enable_progress_bar": any(isinstance(callback, ProgressBar) for callback in callbacks),
        "enable_checkpointing": any(isinstance(callback, Checkpoint) for callback in callbacks),
    }
    check_precision(config["trainer"]["strategy"], str(config["trainer"]["precision"]))
    # All processes of a sharded run gather a checkpoint together, and none goes on before it is written.
    files = WholeFiles if is_sharded(config["trainer"]["strategy"]) else BackgroundFiles
    lean_ddp()
    callbacks = [Timeline(), *callbacks] if wanted() else callbacks
    callbacks += [Rehearsal(), Resume(), Length(), *further, Interruption(f"{config['output_dir']}/checkpoints")]
    norms = [SyncBatchNorms()] if config["trainer"].get("sync_batchnorm") is True else []
    with preparing("trainer"):
        trainer = assemble(options, callbacks=callbacks, logger=loggers, plugins=[files(read), *norms, *submitted()])
    orderly_signals(trainer)
    return trainer
