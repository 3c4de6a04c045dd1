"""``lightpose-train``: train a model on a COCO-format data set."""

import logging
import sys
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lightpose.cli import app
from lightpose.cli.arguments import is_sweep, path_given
from lightpose.runtime.imports import quick_imports, tell_if_not_compiled
from lightpose.runtime.timeline import mark

log = logging.getLogger(__name__)


def main() -> None:
    """Entry point of the console script. A resumed run goes on in the folder of its checkpoint."""
    mark("interpreter, Hydra")
    checkpoint, folder = (path_given(sys.argv[1:], key) for key in ("resume", "output_dir"))
    if checkpoint and not folder and not is_sweep(sys.argv[1:]):
        place = Path(checkpoint).resolve()
        if place.parent.name == "checkpoints":
            sys.argv.append(f"output_dir={place.parents[1]}")
    app.run("train", train)


def train(composed: DictConfig) -> float | None:
    """Train as configured; returns the best value of the monitored figure, for sweeps."""
    mark("configuration")
    with quick_imports():
        import lightning as L
        import torch
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        from lightpose.callbacks.pruning import Pruning
        from lightpose.checkpoint import assemble
        from lightpose.cli.options import check_options, preparing
        from lightpose.cli.run_folder import RunFolder, refuse_overwriting
        from lightpose.cli.setup import (
            check_reader,
            choose_monitor,
            make_distillation,
            make_estimator,
            make_skeleton,
            make_trainer,
            resolved,
        )
        from lightpose.cli.sweep.job import job_command, running_trial
        from lightpose.errors import UserError
        from lightpose.models.weights import load_weights
        from lightpose.runtime.precision import precision
        from lightpose.runtime.processes import agree, ending_together, let_one_speak, start_others
    mark("imports")
    folder = Path(HydraConfig.get().runtime.output_dir)  # of this job, in a sweep
    devices, num_nodes = composed.trainer.devices, composed.trainer.num_nodes
    let_one_speak(devices, num_nodes)
    composed.output_dir = agree(str(folder), devices, num_nodes)
    if composed.output_dir != str(folder):
        app.prune(folder)
    config = resolved(composed)
    several = HydraConfig.get().mode == RunMode.MULTIRUN
    sweep = config.pop("sweep", None)
    if sweep and sweep["trial"] is None:
        raise UserError("a search is several runs; begin it with -m, as in lightpose-train -m sweep=lr_sigma ...")
    if config["resume"] and config["init_from"]:
        raise UserError("resume= goes on with a run, init_from= starts a new one from weights; give one of them")
    refuse_overwriting(Path(config["output_dir"]), config["resume"])
    trainer_options = config["trainer"]
    with preparing():
        trainer_options["precision"] = precision(trainer_options["precision"], trainer_options["accelerator"])
        check_options({key: value for key, value in config.items() if key != "callbacks"})
        L.seed_everything(config["seed"], workers=True, verbose=False)
        torch.set_float32_matmul_precision("high")
    mark("options, device")
    check_reader(config)
    with preparing("skeleton"):
        skeleton = make_skeleton(config)
    mark("skeleton, annotations")
    with preparing("data"):
        datamodule = assemble(config["data"], skeleton=skeleton)
    with preparing():
        estimator = make_estimator(config, skeleton)
        mark("network")
        config["callbacks"] = _without_validation(config)
        written: Any = OmegaConf.to_container(composed.callbacks)
        config = choose_monitor(config, written, estimator)
        check_options(config["callbacks"], "callbacks")
        estimator.config = config
        run_folder = RunFolder(config)
        trial = running_trial(config, sweep) if sweep else None
        trainer = make_trainer(config, run_folder, *([Pruning(config["monitor"], trial.stops)] if trial else []))
        if several:
            start_others(trainer, job_command(run_folder.path))
        resume = _check_resume(config, skeleton) if config["resume"] else None
        if config["init_from"]:
            load_weights(estimator.net, config["init_from"])  # logs what it loaded and what not
        estimator.distillation = make_distillation(config, estimator)
    run_folder.expect(trainer)
    mark("trainer")
    tell_if_not_compiled(torch)
    name, count = skeleton.name, skeleton.num_keypoints
    log.info(
        "%s: %d keypoints; precision %s; run folder %s", name, count, trainer_options["precision"], run_folder.path
    )
    of_teacher = config["distill"] and not any(weight.requires_grad for weight in estimator.net.backbone.parameters())
    backbone = config["backbone"]
    if not (resume or config["init_from"] or backbone.get("pretrained") or backbone.get("weights") or of_teacher):
        ways = [way for way in ("pretrained=true", "weights=FILE") if way.split("=")[0] in backbone]
        published = f"; backbone.{ways[0]} starts from published ones" if ways else ""
        log.info("the backbone starts from random weights%s", published)
    try:
        with ending_together(trainer, goes_on=several):
            trainer.fit(estimator, datamodule=datamodule, ckpt_path=resume, weights_only=True if resume else None)
            if resume and not run_folder.trained:
                _check_time(trainer, resume)
    except BaseException as error:
        run_folder.take_back()
        if told := run_folder.explained(error, trainer):
            raise told from error
        raise
    score = _report(trainer, config)
    if trial and trainer.is_global_zero and score is not None:
        trial.reached(score)
    return score


def _without_validation(config: dict[str, Any]) -> dict[str, Any]:
    """The callbacks without those whose figures this run won't have."""
    callbacks: dict[str, Any] = dict(config["callbacks"])
    if config["data"]["val"] is None:
        log.info("no data.val: nothing is validated, and no best checkpoint is chosen; last.ckpt is kept")
        callbacks["best"] = None
    return callbacks


def _check_resume(config: dict[str, Any], skeleton: Any) -> str:
    """The checkpoint to go on from.

    Raises:
        UserError: when its run is finished, or it is of another skeleton.
    """
    from lightpose.callbacks.resume import check_counts, epochs_done
    from lightpose.checkpoint import read, skeleton_in
    from lightpose.errors import UserError

    content = read(config["resume"])
    keypoints = skeleton_in(content).keypoints
    if keypoints != skeleton.keypoints:
        raise UserError(
            f"{config['resume']} was trained on the {len(keypoints)} keypoints {', '.join(keypoints)}, the data has "
            f"{', '.join(skeleton.keypoints)}; use init_from= to start a new run from its weights"
        )
    ways = [_way_of_learning(each) for each in (content["lightpose"]["config"], config)]
    if ways[0] != ways[1]:
        raise UserError(
            f"{config['resume']} is of a run that learns from {ways[0]}, and this one from {ways[1]}; give distill= "
            "and distill.teacher= as there, or start a new run from its weights with init_from="
        )
    check_counts(config["resume"], content)
    epochs, steps = config["trainer"]["max_epochs"], config["trainer"]["max_steps"]
    done = epochs_done(content["loops"]["fit_loop"])
    if (epochs is not None and 0 <= epochs <= done) or 0 <= steps <= content["global_step"]:
        raise UserError(
            f"{config['resume']} is of a finished run ({done} epochs, {content['global_step']} steps); to train on, "
            f"raise trainer.max_epochs above {done}, or start a new run from its weights with init_from="
        )
    return str(Path(config["resume"]).absolute())  # what stands before a "::" would be a protocol to Lightning


def _way_of_learning(config: dict[str, Any]) -> str:
    settings = config.get("distill")
    return f"a teacher by {settings.get('_target_')}" if isinstance(settings, dict) else "labels alone"


def _check_time(trainer: Any, resume: str) -> None:
    """Say why a resumed run did no step, if ``trainer.max_time`` is why.

    Raises:
        UserError: with how long the run before took.
    """
    from lightpose.errors import UserError
    from lightpose.estimators.optim import seconds_gone_and_left

    seconds = seconds_gone_and_left(trainer)
    if seconds and seconds[1] <= 0:
        raise UserError(
            f"{resume} is of a run that has trained for {seconds[0]:.0f} seconds, and trainer.max_time "
            "counts them; to train on, give a longer one, or start a new run from its weights with init_from="
        )


def _report(trainer: Any, config: dict[str, Any]) -> float | None:
    """Say where the checkpoints are; the best value of the monitored figure."""
    from lightpose.callbacks.checkpoints import best_checkpoint

    best = best_checkpoint(trainer)
    if best is None or best.best_model_score is None:
        last = Path(config["output_dir"]) / "checkpoints/last.ckpt"
        log.info("checkpoint: %s", last if last.exists() else "none; nothing was trained, or none asked for")
        return None
    score = float(best.best_model_score)
    log.info("best %s %.4f: %s", best.monitor, score, best.best_model_path)
    return score


if __name__ == "__main__":
    main()
