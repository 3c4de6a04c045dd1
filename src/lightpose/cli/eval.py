"""``lightpose-eval``: score a checkpoint or a predictions file against annotations."""

import json
import logging
import math
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from lightpose.cli import app

log = logging.getLogger(__name__)


def main() -> None:
    """Entry point of the console script."""
    app.run("eval", evaluate)


def evaluate(composed: DictConfig) -> dict[str, float]:
    """Print and return the figures."""
    from lightpose.cli.setup import resolved
    from lightpose.errors import UserError

    config = resolved(composed)
    if (config["ckpt"] is None) == (config["predictions"] is None):
        raise UserError("give one of ckpt=model.ckpt and predictions=predictions.json")
    figures = score_checkpoint(config) if config["ckpt"] else score_file(config)
    for name, value in figures.items():
        print(f"{name:<20} {'n/a (0 instances)' if math.isnan(value) else f'{value:.4f}'}")
    return figures


def score_file(config: dict[str, Any]) -> dict[str, float]:
    """OKS figures of a predictions file; no model is needed.

    Raises:
        UserError: without annotations.
    """
    from lightpose.data.coco import CocoImages, skeleton_of
    from lightpose.errors import UserError
    from lightpose.inference.results import read_coco_results
    from lightpose.metrics.oks import evaluate_oks

    if config["annotations"] is None:
        raise UserError("a predictions file is scored against annotations; add annotations=val.json")
    skeleton = skeleton_of(config["annotations"])
    dataset = CocoImages(config["annotations"], images=config["images"], skeleton=skeleton)
    return evaluate_oks(dataset.ground_truth(), read_coco_results(config["predictions"]), skeleton.sigmas)


def score_checkpoint(config: dict[str, Any]) -> dict[str, float]:
    """Every metric of the checkpoint's estimator over the annotations; predictions are written to ``out``."""
    import lightning as L

    from lightpose.checkpoint import assemble, check_targets, load
    from lightpose.cli.setup import precision
    from lightpose.inference.results import write_coco_results, write_csv

    trained = load(config["ckpt"], trust=config["trust"])
    settings: dict[str, Any] = trained.config or {}
    data = dict(settings["data"])
    given = {"val": config["annotations"], "val_images": config["images"], "num_workers": config["num_workers"]}
    data |= {key: value for key, value in given.items() if value is not None}
    data |= {"train": None, "boxes": config["boxes"], "eval_batch_size": config["batch_size"]}
    check_targets(data, config["trust"])
    if config["flip_test"] is not None:
        trained.flip_test = config["flip_test"]
    if config["metric"]:
        trained.set_metrics({name: assemble_partial(metric) for name, metric in config["metric"].items()})
    datamodule = assemble(data, skeleton=trained.skeleton)
    trainer = L.Trainer(
        devices=config["devices"], precision=precision(config["precision"]), logger=False, enable_model_summary=False
    )
    figures = {name.removeprefix("val/"): value for name, value in trainer.validate(trained, datamodule)[0].items()}
    out = Path(config["out"] or Path(config["ckpt"]).parent / "evaluation")
    out.mkdir(parents=True, exist_ok=True)
    return figures
