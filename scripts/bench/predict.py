"""How fast lightpose predicts and evaluates: on crops that lie on the device, and through its commands from JPEGs.

    python scripts/bench/predict.py --batch 256 experiment=topdown_hrnet
    python scripts/bench/predict.py --ckpt best.ckpt --source val.json --images val2017 --eval precision=auto

Without a checkpoint, the network that the overrides of lightpose-train describe gets random weights.
"""

import argparse
import gc
import json
import re
import shlex
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import photos
import torch
from timing import (
    HERE,
    best_device,
    compose,
    describe_device,
    peak_gib,
    print_table,
    random_batch,
    run_python,
    tail,
    write_json,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="of lightpose-train, without --ckpt")
    parser.add_argument("--ckpt", type=Path, help="checkpoint of lightpose-train")
    parser.add_argument("--source", type=Path, help="COCO keypoint file")
    parser.add_argument("--images", type=Path, help="its folder of photographs")
    parser.add_argument("--synthetic", type=int, default=1000, help="without --source: so many drawn pictures")
    parser.add_argument("--people", type=int, default=6352, help="in them, repeated until there are as many")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=50, help="batches on the device")
    parser.add_argument("--predict", default="", metavar="'KEY=VALUE ...'", help="overrides of lightpose-predict")
    parser.add_argument("--eval", default="", metavar="'KEY=VALUE ...'", help="overrides of lightpose-eval")
    parser.add_argument("--timeout", type=float, default=500, help="seconds for each command")
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    options = parser.parse_intermixed_args()

    source = options.source or photos.photos(options.synthetic, options.people)
    print(describe_device(best_device()) + ";", photos.describe(source, options.images))
    print(f"{options.ckpt or ' '.join(options.overrides)}; batch {options.batch}", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = options.ckpt or random_checkpoint(options.overrides, source, Path(scratch) / "random.ckpt")
        predict, evaluate = (
            [f"ckpt='{checkpoint.resolve()}'", f"batch_size={options.batch}", *shlex.split(given)]
            + ([f"images='{options.images}'"] if options.images else [])
            for given in (options.predict, options.eval)
        )
        predict += [f"source='{source}'", f"out='{scratch}/predictions'", "draw=false"]
        evaluate += [f"annotations='{source}'", f"out='{scratch}/evaluation'"]
        try:
            device = on_device(checkpoint, options.batch, options.repeats, shlex.split(options.predict))
            gc.collect()
            torch.cuda.empty_cache()  # the commands have the card to themselves
            found = {
                "device": device,
                "predict": run_predict(predict, options.timeout),
                "eval": run_eval(evaluate, Path(scratch) / "eval.json", options.timeout),
            }
        except RuntimeError as error:
            sys.exit(str(error))
    print()
    print_table(["", "seconds|.2f", "crops/s|.0f", "share", "GiB|.1f"], rows(found))
    print(
        f"\non the device: {options.repeats} batches through Predictor, results on the CPU; GiB: peak of tensors.\n"
        "validation: Trainer.validate in lightpose-eval. Net, decode and metric, rows: on the device's time line.\n"
        "The others are of the host. Getting ready: kernels loaded and a graph captured, beside the start of the\n"
        "workers; metric, figures: at the end, without waiting for the device; before the data: up to the first\n"
        "request for a batch; data wait: all but the first may overlap with the net."
    )
    write_json(options.json, {"overrides": options.overrides, "batch": options.batch, **found})


def rows(found: dict[str, Any]) -> list[list[Any]]:
    device, predict, evaluation = found["device"], found["predict"], found["eval"]
    total, net = evaluation["total_s"], evaluation["parts_s"]["net"]
    parts = evaluation["parts_s"] | {"everything but the net": total - net}
    return [
        ["on the device", device["seconds"], device["crops_per_s"], None, device["peak_gib"]],
        ["lightpose-predict, as it says", predict["seconds"], predict["poses"] / predict["seconds"]],
        ["  whole process", predict["wall_s"], predict["poses"] / predict["wall_s"]],
        ["lightpose-eval, validation", total, evaluation["samples"] / total, "100%"],
        *([f"  {name}", seconds, None, f"{seconds / total:.0%}"] for name, seconds in parts.items()),
        ["  whole process", evaluation["wall_s"], evaluation["samples"] / evaluation["wall_s"]],
    ]


def random_checkpoint(overrides: list[str], annotations: Path, out: Path) -> Path:
    """What lightpose-train would write before its first step."""
    from lightpose.cli.setup import make_estimator, make_skeleton

    config = compose(overrides)
    estimator = make_estimator(config, make_skeleton(config, str(annotations)))
    estimator.config = config
    content: dict[str, Any] = {"state_dict": estimator.state_dict()}
    estimator.on_save_checkpoint(content)
    torch.save(content, out)
    return out


def on_device(checkpoint: Path, batch: int, repeats: int, overrides: list[str]) -> dict[str, Any]:
    """Crops a second of `lightpose.Predictor`, from a batch on the device to NumPy arrays."""
    from lightpose.inference.crops import Crops
    from lightpose.inference.predictor import Predictor, behind
    from lightpose.runtime.graphs import EAGER_CALLS

    given = dict(override.split("=", 1) for override in overrides)
    chosen: Any = {key: given[key] for key in ("precision", "speed", "device") if key in given}
    predictor = Predictor(checkpoint, **chosen)
    input_hw, device = predictor.estimator.input_hw, predictor.device
    assert input_hw is not None
    samples = random_batch(batch, predictor.skeleton.num_keypoints, input_hw, device)
    crops = Crops(samples, (np.zeros((batch, 4), np.float32), np.ones(batch, np.float32)), list(range(1, batch + 1)))

    def predict(times: int) -> None:
        for results in behind(map(predictor._submit, [crops] * times)):
            predictor._collect(*results)

    predict(EAGER_CALLS + 3)  # past the capture
    start = time.perf_counter()
    predict(repeats)  # what it hands out has left the device, so nothing is left to wait for
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "crops_per_s": batch * repeats / seconds, "peak_gib": peak_gib(device)}


def run_predict(arguments: list[str], timeout_s: float) -> dict[str, Any]:
    start = time.perf_counter()
    printed = run_python(["-m", "lightpose.cli.predict", *arguments], timeout_s)
    wall = time.perf_counter() - start
    said = re.search(r"(\d+) images, (\d+) poses in .*?\(([\d.]+) images/s", printed)
    if said is None:
        raise RuntimeError(f"lightpose-predict doesn't say how fast it was:\n{tail(printed)}")
    images, poses, rate = int(said[1]), int(said[2]), float(said[3])
    return {"images": images, "poses": poses, "seconds": images / rate, "wall_s": wall}


def run_eval(arguments: list[str], out: Path, timeout_s: float) -> dict[str, Any]:
    start = time.perf_counter()
    run_python([str(HERE / "eval_times.py"), str(out), *arguments], timeout_s)
    wall = time.perf_counter() - start
    found: dict[str, Any] = json.loads(out.read_text())
    return found | {"wall_s": wall}


if __name__ == "__main__":
    main()
