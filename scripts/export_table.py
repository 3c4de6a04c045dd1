"""Export every experiment of conf/experiment as an ONNX file, and print how far each is from PyTorch, as a table.

    python scripts/export_table.py                     all of them
    python scripts/export_table.py lifting bottomup    those whose names begin so

Networks have fresh weights, are as deep as published and narrow, and their inputs are small: it is operators that an
export may fail on. Whether the weights of the true size fit in a file is checked beforehand, without weights.
"""

import logging
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from torch import nn

import lightpose.cli.app  # noqa: F401 - makes the resolvers that the configuration uses
from lightpose.checkpoint import assemble, build
from lightpose.cli.groups import conf_dir
from lightpose.cli.setup import resolved
from lightpose.errors import UserError
from lightpose.estimators.base import PoseEstimator
from lightpose.export.inputs import inputs_to_prove, of_one_size
from lightpose.export.onnx import export
from lightpose.export.proof import BATCHES, PLACES
from lightpose.interop.onnx.graph import check_exportable
from lightpose.models.heads.rtmo import CoordinateClassifier
from lightpose.skeleton import Skeleton

NARROW: dict[str, dict[str, Any]] = {
    "HRNet": {"width": 8},
    "CSPDarknet": {"widen": 0.125},
    "CSPNeXt": {"widen": 0.125},
    "Hourglass": {"channels": [16] * 6},
    "MSPN": {"channels": [32, 64, 128, 256], "width": 32},
    "RSN": {"channels": [16, 32, 64, 128], "width": 32},
    "ViT": {"model": "vit_tiny_patch16_224", "num_heads": 3},
    "TCN": {"width": 16},
    "PoseAndTrajectory": {"width": 16},
    "DSTFormer": {"width": 16},
    "MotionAGFormer": {"width": 16},
}
"""Class of a backbone → options that make it narrow."""
ENCODER = {"out_channels": 32, "hidden": 32, "feedforward": 32}
FEW_FRAMES = {"DSTFormer": 27, "MotionAGFormer": 27}
"""Class of a backbone → frames of a sequence."""
SMALL = 0.001
"""Spread of the weights that make the logits of RTMO's classifier, which then differ by 10. At 0.05 they differ by 450,
and points of float32 are 0.3 px from those of float64, in PyTorch itself."""
SIZES = {
    "topdown_hourglass52": [128, 128],
    "bottomup": [64, 96],
    "quickstart_bottomup": [64, 96],
    "quickstart_onestage": [64, 96],
}
"""Beginning of a name → size of the inputs, where it isn't 96 x 64."""


def main() -> None:
    logging.disable(logging.WARNING)
    names = sorted(path.stem for path in (conf_dir() / "experiment").glob("*.yaml"))
    names = [name for name in names if not sys.argv[1:] or name.startswith(tuple(sys.argv[1:]))]
    print(f"| experiment | places, batches of {', '.join(map(str, BATCHES))} | scores | compared | seconds |")
    print("|---|---|---|---|---|", flush=True)
    exported = 0
    for name in names:
        started = time.perf_counter()
        try:
            cells, fine = row(name), True
        except UserError as error:
            cells, fine = f"not exported: {error} | |", False
        except Exception:
            traceback.print_exc()
            cells, fine = f"crashed: {traceback.format_exc().splitlines()[-1][:200]} | |", False
        exported += fine
        print(f"| {name} | {cells} | {time.perf_counter() - started:.0f} |", flush=True)
    print(f"\n{exported} of {len(names)} are exported.")


def row(name: str) -> str:
    """Largest differences of an experiment, and how many keypoints are compared."""
    config, skeleton = composed(name)
    with torch.device("cpu" if name.startswith(("lifting", "quickstart_lifting")) else "meta"):
        check_exportable(build(config, skeleton))
    backbone = config["estimator"]["backbone"]
    kind = backbone["_target_"].split(".")[-1]
    backbone |= NARROW.get(kind, {})
    if kind in FEW_FRAMES:
        backbone["frames"] = config["data"]["reader"]["frames"] = FEW_FRAMES[kind]
    if "hybrid_encoder" in config["estimator"]["neck"]["_target_"]:
        config["estimator"]["neck"] |= ENCODER
    torch.manual_seed(0)
    estimator = build(config, skeleton)
    estimator.config = config
    _enliven(estimator)
    content: dict[str, Any] = {"state_dict": estimator.state_dict()}
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "tiny.ckpt"
        estimator.on_save_checkpoint(content)
        torch.save(content, checkpoint)
        found = export(checkpoint, Path(folder) / "model.onnx", config["estimator"]["flip_test"])
    places = max(found.largest[each] for each in PLACES if each in found.largest)
    scores = max(value for each, value in found.largest.items() if each not in PLACES)
    compared = f"{found.keypoints}" + (f", {found.undecided} undecided" if found.undecided else "")
    return f"{places:.1g} {found.unit} | {scores:.1g} | {compared}"


def composed(name: str) -> tuple[dict[str, Any], Skeleton]:
    """The configuration of an experiment with small inputs, and its skeleton; COCO's where the data would say."""
    size = next((sides for start, sides in SIZES.items() if name.startswith(start)), [96, 64])
    files = ["data.train=none", "data.val=none", "output_dir=none", "trainer.accelerator=cpu"]
    sized = [] if "lifting" in name else [f"input_hw={size}".replace(" ", "")]
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        given = hydra.compose("train", [f"experiment={name}", *files, *sized], return_hydra_config=True)
        coco = hydra.compose("train", ["skeleton=coco17", *files])
    HydraConfig.instance().set_config(given)
    config = resolved(OmegaConf.masked_copy(given, [str(key) for key in given if key != "hydra"]))
    chosen = config["skeleton"]
    if not isinstance(chosen, dict) or "_target_" not in chosen:
        chosen = OmegaConf.to_container(coco.skeleton, resolve=True)
    return config, assemble(chosen)


def _enliven(estimator: PoseEstimator) -> None:
    """Weights that give each input outputs of its own, of about 1, and find people.

    Layers of the head are scaled one after the other by what they give (arXiv:1511.06422). With larger logits, as
    training doesn't leave them, rounding would be amplified.
    """
    for parameter in estimator.net.head.parameters():
        if parameter.ndim > 1 and float(parameter.detach().std()) < 0.05:
            nn.init.normal_(parameter, std=0.1)
        elif parameter.ndim == 1 and float(parameter.detach().max()) < -1:  # as where somebody is rare
            nn.init.zeros_(parameter)
    for module in estimator.net.head.modules():
        if isinstance(module, CoordinateClassifier):
            for fc in (module.x_fc, module.y_fc):
                nn.init.normal_(fc.weight, std=SMALL)
    of_one_size(estimator)
    inputs = torch.from_numpy(inputs_to_prove(estimator, sum(BATCHES), None, None))
    given = inputs if estimator.takes_sequences else inputs.permute(0, 3, 1, 2)
    norms = [each for each in estimator.modules() if isinstance(each, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    with torch.no_grad():
        estimator.net(given)
        estimator.eval()
        for norm in norms:  # a channel that hardly varies would be amplified, and its rounding with it
            assert norm.running_var is not None
            norm.running_var.clamp_(min=float(norm.running_var.mean()))
        layers = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
        hooks = [
            each.register_forward_hook(_scale) for each in estimator.net.head.modules() if isinstance(each, layers)
        ]
        estimator.net(given)
    for hook in hooks:
        hook.remove()


def _scale(layer: nn.Module, _: Any, outputs: torch.Tensor) -> torch.Tensor:
    """Let the outputs of a layer vary by 1."""
    spread = float(outputs.std())
    for parameter in layer.parameters():
        parameter /= spread
    return outputs / spread


if __name__ == "__main__":
    main()
