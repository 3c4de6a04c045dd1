"""``lightpose-eval``: score a checkpoint or a predictions file against annotations."""

import json
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from lightpose.cli import app
from lightpose.runtime.imports import quick_imports
from lightpose.runtime.signals import saying

log = logging.getLogger(__name__)


def main() -> None:
    """Entry point of the console script."""
    app.run("eval", evaluate)


def evaluate(composed: DictConfig) -> dict[str, float]:
    """Print and return the figures."""
    with quick_imports():
        from lightpose.cli.setup import resolved
        from lightpose.errors import UserError
        from lightpose.metrics.base import format_figure
        from lightpose.runtime.processes import let_one_speak

    config = resolved(composed)
    if (config["ckpt"] is None) == (config["predictions"] is None):
        raise UserError("give one of ckpt=model.ckpt and predictions=predictions.json")
    speaks = let_one_speak(config["devices"])
    figures = score_checkpoint(config) if config["ckpt"] else score_file(config)
    for name, value in figures.items() if speaks else ():
        print(f"{name:<20} {format_figure(value)}")
    return figures


def score_file(config: dict[str, Any]) -> dict[str, float]:
    """OKS figures of a predictions file, or those of its tracks; no model is needed.

    Raises:
        UserError: without annotations.
    """
    from lightpose.cli.options import keys_given
    from lightpose.cli.setup import choose_skeleton
    from lightpose.data.coco.dataset import CocoDataset
    from lightpose.data.coco.index import read_coco
    from lightpose.data.coco.onto import onto
    from lightpose.data.coco.results import read_coco_results
    from lightpose.data.coco.tracks import read_tracks
    from lightpose.errors import UserError
    from lightpose.metrics.average_precision import check_ids
    from lightpose.metrics.oks import evaluate_oks
    from lightpose.metrics.tracks import evaluate_tracks

    if config["annotations"] is None:
        raise UserError("a predictions file is scored against annotations; add annotations=val.json")
    taken = ("predictions", "annotations", "out", "skeleton", "tracks")
    pointless = [key for key in keys_given() if key.split(".")[0] not in taken]
    if pointless:
        raise UserError(
            f"a predictions file is scored by OKS as it is; leave out {' and '.join(map('{}='.format, pointless))}"
        )
    skeleton = choose_skeleton(config["skeleton"], [config["annotations"]], CocoDataset)
    if config["tracks"]:
        index, frames = read_tracks(config["annotations"], skeleton)
        predictions = read_coco_results(config["predictions"], index.id_of_text())
        check_ids(predictions, index.image_ids.tolist(), [category["id"] for category in index.categories])
        figures = evaluate_tracks(frames, predictions, skeleton.sigmas)
    else:
        index = onto(read_coco(config["annotations"]), skeleton)
        predictions = read_coco_results(config["predictions"], index.id_of_text())
        figures = evaluate_oks(index.ground_truth(), predictions, skeleton.sigmas)
    if config["out"] is not None:
        write_figures(Path(config["out"]), figures)
    return figures


def score_checkpoint(config: dict[str, Any]) -> dict[str, float]:
    """Every metric of the estimator over the annotations; writes the figures and the scored predictions to ``out``."""
    import lightning as L
    from torch import nn

    from lightpose.callbacks.acceleration import Acceleration
    from lightpose.checkpoint import assemble, load, rebuild, section
    from lightpose.cli.options import check_options, keys_given, preparing
    from lightpose.errors import UserError
    from lightpose.estimators.base import PoseEstimator
    from lightpose.inference.writers import check_out
    from lightpose.interop.onnx.packages import is_onnx
    from lightpose.metrics.oks import OKS
    from lightpose.runtime.precision import precision
    from lightpose.runtime.processes import ending_together, orderly_signals
    from lightpose.trust import DATA

    if config["tracks"]:
        raise UserError(
            "tracks=true scores the track_id of a predictions file; give predictions=, which lightpose-predict writes "
            "with tracker=oks"
        )
    if any(key.split(".")[0] == "skeleton" for key in keys_given()):
        raise UserError("a checkpoint has a skeleton of its own; leave out skeleton=")
    graph = is_onnx(config["ckpt"])
    if graph:
        estimator: PoseEstimator = graph_to_score(config)
    elif config["device"] is not None:
        raise UserError("device= says where an ONNX file runs; leave it out for a checkpoint")
    else:
        estimator = load(config["ckpt"], trust=config["trust"], training=True)
    data = section(estimator.config, "data")
    if config["annotations"] is not None:
        data |= {"val": config["annotations"], "images": None, "val_images": None}
    given = {"val_images": config["images"], "num_workers": config["num_workers"]}
    data |= {key: value for key, value in given.items() if value is not None}
    data["transforms"] = {"train": {}, "eval": section(data, "transforms", "eval")}
    data |= {"train": None, "boxes": config["boxes"], "eval_batch_size": config["batch_size"]}
    out = Path(config["out"] or Path(config["ckpt"]).parent / "evaluation")
    check_out(out, [Path(str(path)) for path in (config["ckpt"], data.get("val"), data["boxes"]) if path], draw=False)
    if "decode" in data:
        data["decode"] = "cpu"  # whatever the model was trained with, and wherever
    if config["flip_test"] is not None:
        estimator.flip_test = config["flip_test"]
    if config["metric"]:
        with preparing("metric"):
            check_options(config["metric"], "metric")
            metrics = [assemble(metric, skeleton=estimator.skeleton) for metric in config["metric"].values() if metric]
            estimator.metrics = nn.ModuleList(metrics)
    for metric in estimator.metrics:
        if isinstance(metric, OKS):
            metric.keeps_all = True
    datamodule = rebuild(data, config["trust"], DATA, skeleton=estimator.skeleton)
    if not isinstance(datamodule, L.LightningDataModule):
        raise UserError("the checkpoint's `data` is no data module; give a .ckpt file that lightpose-train wrote")
    with preparing():
        trainer = L.Trainer(
            accelerator="cpu" if graph else "auto",
            devices=config["devices"],
            precision=precision(config["precision"], "auto"),  # type: ignore[arg-type]
            callbacks=[] if graph else [Acceleration(config["speed"])],
            logger=False,
            enable_model_summary=False,
        )
    orderly_signals(trainer)
    with ending_together(trainer), saying("nothing was scored or written"), place_for(out):
        [found] = trainer.validate(estimator, datamodule, verbose=False)
    figures = {name.removeprefix("val/"): float(value) for name, value in found.items()}
    if trainer.is_global_zero:
        write(out, figures, estimator, trainer.val_dataloaders.dataset)  # type: ignore[union-attr]
        log.info("written to %s", out)
    return figures


def graph_to_score(config: dict[str, Any]) -> Any:
    """The model in an ONNX file, with its metrics."""
    from lightpose.interop.onnx.model import load_onnx
    from lightpose.interop.onnx.packages import check_options

    check_options(config["ckpt"], **{name: config[name] for name in ("precision", "speed", "devices")})
    return load_onnx(config["ckpt"], config["device"], config["trust"], metrics=True)


@contextmanager
def place_for(out: Path) -> Iterator[None]:
    """Make the folder before the work whose results go there, and remove it if the work fails."""
    existed = out.exists()
    out.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        if not existed:
            with suppress(OSError):  # another process has written something
                out.rmdir()
        raise


def write(out: Path, figures: dict[str, float], estimator: Any, dataset: Any) -> None:
    """Write ``metrics.json``; where poses were ranked, also ``predictions.json`` (COCO results) and a CSV."""
    from lightpose.data.coco.results import coco_results, csv_rows, write_coco_results, write_csv
    from lightpose.metrics.oks import OKS

    write_figures(out, figures)
    for metric in estimator.metrics:
        if isinstance(metric, OKS):
            poses, image_ids, category_ids = metric.poses()
            names = {image["id"]: image["file_name"] for image in dataset.ground_truth()["images"]}
            write_coco_results(out / "predictions.json", coco_results(poses, image_ids, category_ids))
            rows = csv_rows([(poses, image_ids, names)], estimator.skeleton.keypoints, category_ids)
            write_csv(out / "predictions.csv", rows)


def write_figures(out: Path, figures: dict[str, float]) -> None:
    """Write ``metrics.json``; null stands for a figure without instances."""
    from lightpose.data.coco.results import write_text

    numbers = {name: None if math.isnan(value) else value for name, value in figures.items()}
    write_text(out / "metrics.json", json.dumps(numbers, indent=1))


if __name__ == "__main__":
    main()
