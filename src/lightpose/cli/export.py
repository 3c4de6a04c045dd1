"""``lightpose-export``: write the model of a checkpoint as an ONNX file."""

import logging
from pathlib import Path

from omegaconf import DictConfig

from lightpose.cli import app
from lightpose.errors import UserError
from lightpose.runtime.imports import quick_imports

log = logging.getLogger(__name__)


def main() -> None:
    """Entry point of the console script."""
    app.run("export", export)


def export(composed: DictConfig) -> None:
    """Export as configured, and print how far the file is from the checkpoint."""
    with quick_imports():
        from lightpose.cli.setup import resolved
        from lightpose.export.onnx import export, told

    for name in ("onnx_ir", "onnxscript"):
        logging.getLogger(name).setLevel(logging.WARNING)  # else they tell of every constant
    config = resolved(composed)
    if config["format"] != "onnx":
        raise UserError(f"format={config['format']} is unknown; use onnx")
    if config["images"] is not None and config["annotations"] is None:
        raise UserError("images= is the folder of the images that annotations= lists; give both, or neither")
    if Path(config["out"]).is_file() and not config["overwrite"]:
        raise UserError(f"out={config['out']} is there already; give another file, or overwrite=true")
    difference = export(
        config["ckpt"],
        config["out"],
        config["flip_test"],
        config["annotations"],
        config["images"],
        config["tolerance_px"],
        config["trust"],
        str(config["precision"]),
        config["device"],
        config["people"],
        config["most_loss_px"],
        config["most_loss_ap"],
    )
    for line in told(difference):
        log.info("%s", line)
    log.info("written to %s", config["out"])


if __name__ == "__main__":
    main()
