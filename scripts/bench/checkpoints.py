"""How long training waits for its checkpoints.

    python scripts/bench/checkpoints.py backbone=timm/resnet50
    python scripts/bench/checkpoints.py --batch 32 --folder DISK experiment=topdown_vitpose_huge
    python scripts/bench/checkpoints.py --device cpu --steps 10 --batch 4 backbone=timm/resnet18

A network with random weights trains on one random batch. At the end of each epoch best.ckpt and last.ckpt are written:
not at all (none), both whole and at once as Lightning does (at once), or as lightpose-train does (by a thread). Use an
epoch that lasts as long as yours does, or see from the seconds how long it may be. It needs no network connection.
"""

import argparse
import logging
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import torch
from timing import best_device, compose, describe_device, print_table, random_batch, synchronize, write_json
from torch.utils.data import DataLoader

from lightpose.callbacks.checkpoints import ModelCheckpoint
from lightpose.callbacks.nan_guard import NanGuard
from lightpose.checkpoint import assemble, read
from lightpose.cli.setup import make_estimator, make_skeleton
from lightpose.runtime.background import BackgroundFiles
from lightpose.runtime.precision import precision
from lightpose.runtime.whole_files import WholeFiles

VARIANTS = {"none": WholeFiles, "at once": WholeFiles, "by a thread": BackgroundFiles}


class Clock(L.Callback):
    """Measures from the end of the first epoch, whose checkpoints make room for the others, to that of the last."""

    def __init__(self) -> None:
        self.begin = self.seconds = self.waited = self.first = 0.0
        self.saves: list[float] = []

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin, in the second epoch."""
        if trainer.current_epoch == 1:
            synchronize(pl_module.device)
            self.first, self.saves = sum(self.saves), []
            self.begin = time.perf_counter()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """End before the last checkpoints, which nothing is left to train beside."""
        if trainer.current_epoch + 1 == trainer.max_epochs:
            synchronize(pl_module.device)
            self.seconds, self.waited = time.perf_counter() - self.begin, sum(self.saves)


class Timed(ModelCheckpoint):
    """Notes how long each file holds training up, beyond what the device still had to compute."""

    def __init__(self, clock: Clock, **options: Any) -> None:
        super().__init__(**options)
        self.clock = clock

    @property
    def state_key(self) -> str:
        """Tells the two apart, which choose by no figure."""
        return str(self.filename)

    def _save_topk_checkpoint(self, trainer: L.Trainer, monitor_candidates: dict[str, Any]) -> None:
        synchronize(trainer.strategy.root_device)
        start = time.perf_counter()
        super()._save_topk_checkpoint(trainer, monitor_candidates)
        synchronize(trainer.strategy.root_device)  # copies in its stream hold it up, too
        self.clock.saves.append(time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="of lightpose-train")
    parser.add_argument("--device", default=best_device().type, choices=("cpu", "cuda"))
    parser.add_argument("--steps", type=int, default=100, help="of an epoch")
    parser.add_argument("--epochs", type=int, default=4, help="the first isn't measured")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--variants", default=",".join(VARIANTS), help=f"by default {','.join(VARIANTS)}")
    parser.add_argument("--folder", type=Path, help="on the disk to write to; by default that of temporary files")
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    options = parser.parse_intermixed_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    torch.set_float32_matmul_precision("high")
    device = torch.device(options.device)
    print(f"{' '.join(options.overrides)}; batch {options.batch}, {options.epochs} epochs of {options.steps} steps")
    print(describe_device(device) + "\n", flush=True)
    found = {name: measure(name, options) for name in options.variants.split(",")}
    columns = ["checkpoints", "seconds|.2f", "waited s|.2f", "share|.1%", "first epoch s|.2f", "end s|.2f"]
    columns += ["best MB|.0f", "last MB|.0f"]
    print_table(["", *columns[1:]], [[name, *figures.values()] for name, figures in found.items()])
    print(
        f"\nseconds: of {options.epochs - 1} epochs. waited: time that saving holds the training up in them. share:"
        "\nof the seconds. first epoch: what its checkpoints took, memory for the copies included. end: from the end of"
        "\nthe last epoch until all is written."
    )
    write_json(options.json, found)


def measure(variant: str, options: argparse.Namespace) -> dict[str, Any]:
    """Figures of a short training."""
    config = compose(["skeleton=coco17", *options.overrides])
    skeleton = make_skeleton(config)
    estimator = make_estimator(config, skeleton)
    estimator.config, estimator.base_batch = config, None
    batch = random_batch(options.batch, skeleton.num_keypoints, config["input_hw"], torch.device(options.device))
    clock = Clock()
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        paths = [Path(scratch) / name for name in ("best.ckpt", "last.ckpt")]
        files = [
            Timed(
                clock,
                dirpath=scratch,
                filename=path.stem,
                save_weights_only=variant == "by a thread" and path.stem == "best",
                save_on_train_epoch_end=True,
                enable_version_counter=False,
            )
            for path in paths
        ]
        average = [assemble(config["callbacks"]["ema"])] if "ema" in config["callbacks"] else []
        trainer = L.Trainer(
            accelerator=options.device,
            devices=1,
            precision=precision(config["trainer"]["precision"], options.device),
            max_epochs=options.epochs,
            benchmark=True,
            callbacks=[clock, NanGuard(), *average, *(files if variant != "none" else [])],
            plugins=[VARIANTS[variant](read)],
            logger=False,
            enable_checkpointing=variant != "none",
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(estimator, DataLoader([batch] * options.steps, batch_size=None))
        return {
            "seconds": clock.seconds,
            "waited_s": clock.waited,
            "share": clock.waited / clock.seconds,
            "first_s": clock.first,
            "end_s": time.perf_counter() - clock.begin - clock.seconds,
            **{f"{path.stem}_mb": path.stat().st_size / 1e6 if path.exists() else None for path in paths},
        }


if __name__ == "__main__":
    main()
