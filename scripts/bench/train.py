"""How fast lightpose-train trains, where the time of a step goes, and how far that is from the most the card can do.

    python scripts/bench/train.py --synthetic 1000 experiment=topdown_hrnet data.num_workers=14
    python scripts/bench/train.py --images DIR --annotations FILE --variants graph data.batch_size=256

lightpose-train runs as users run it, with the overrides given, for a number of steps and without validation. The
ceiling is the network's step alone (forward, loss, backward, optimizer) on one batch that lies on the device, its
targets already encoded: as it is (eager), through torch.compile, and with forward, loss and backward as CUDA graphs.
"""

import argparse
import contextlib
import json
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import photos
import torch
from timing import (
    best_device,
    compose,
    describe_device,
    peak_gib,
    print_table,
    random_batch,
    run_python,
    synchronize,
    write_json,
)

PARTS = ("data wait", "transfer", "forward", "backward", "optimizer", "rest")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="of lightpose-train")
    parser.add_argument("--steps", type=int, default=100, help="optimizer steps to measure")
    parser.add_argument("--warmup", type=int, default=20, help="optimizer steps before")
    parser.add_argument("--images", type=Path, help="folder of photographs")
    parser.add_argument("--annotations", type=Path, help="their COCO keypoint file")
    parser.add_argument("--synthetic", type=int, default=1000, help="without the two: so many drawn pictures")
    variants = "eager,compile,graph" if torch.cuda.is_available() else "eager"
    parser.add_argument("--variants", default=variants, help=f"of the ceiling, by default {variants}")
    parser.add_argument("--ceiling", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--timeout", type=float, default=500, help="seconds for each run")
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    parser.add_argument("--measure-ceiling", nargs=2, metavar=("VARIANT", "OUT"), help=argparse.SUPPRESS)
    options = parser.parse_intermixed_args()
    if options.measure_ceiling:
        variant, out = options.measure_ceiling
        Path(out).write_text(json.dumps(ceiling(options.overrides, variant, min(options.steps, 50))))
        return

    annotations, images = options.annotations, options.images
    if annotations is None:
        annotations = synthetic(options.synthetic, compose(options.overrides), options.steps + options.warmup)
    data = [f"data.train={annotations}", "data.val=null"]
    data += [f"data.images={images}"] if images else []
    print("lightpose-train", *options.overrides)
    print(describe_device(best_device()) + ";", photos.describe(annotations, images), flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        try:
            trained = train(Path(scratch), [*options.overrides, *data], options)
        except RuntimeError as error:
            sys.exit(f"lightpose-train: {error}")
        variants = options.variants.split(",") if options.ceiling else []
        same = [*options.overrides, *data, f"trainer.precision={trained['precision']}"]
        ceilings = {name: run_ceiling(Path(scratch), name, same, options) for name in variants}
    best = max((found["images_per_s"] for found in ceilings.values() if "error" not in found), default=None)
    best = best and best * trained["world_size"]
    rows = [_row("lightpose-train", trained, best)]
    rows += [_row(f"ceiling, {name}", found, best) for name, found in ceilings.items()]
    print(f"{trained['world_size']} device(s), {trained['precision']}, mean of {trained['steps']} steps\n")
    parts = [f"{part}|.1f" for part in PARTS]
    print_table(["", "images/s|.0f", "step ms|.1f", *parts, "GiB|.1f", "ready s|.1f", "share"], rows)
    print(
        "\nms: data wait is the host's time in the loader; the other parts are of the device's time line, its gaps\n"
        "included. transfer is all that brings a batch to the device and is done to it there, beside the step before.\n"
        "Where a step is one graph, forward is all of it.\n"
        "GiB: peak of tensors. ready: from the start of the process to the end of the first step. share: of the best\n"
        "ceiling, times the number of devices."
    )
    for name, found in ceilings.items():
        if "error" in found:
            print(f"\nceiling, {name}: {found['error']}")
    write_json(options.json, {"overrides": options.overrides, "train": trained, "ceilings": ceilings})


def synthetic(count: int, config: dict[str, Any], steps: int) -> Path:
    """Drawn people, copied until an epoch is longer than the run."""
    devices = config["trainer"]["devices"]
    world = devices if isinstance(devices, int) else max(1, torch.cuda.device_count())
    wanted = (steps + 2) * config["data"]["batch_size"] * world * config["trainer"]["accumulate_grad_batches"]
    return photos.photos(count, wanted, pictures=wanted)


def train(scratch: Path, overrides: list[str], options: argparse.Namespace) -> dict[str, Any]:
    """What `step_times.StepTimes` found in a run of lightpose-train."""
    out = scratch / "train.json"
    callback = f"_target_:step_times.StepTimes,out:'{out}',warmup:{options.warmup},started:{time.time()}"
    arguments = [
        *overrides,
        f"trainer.max_steps={options.warmup + options.steps}",
        f"output_dir='{scratch}/run'",
        f"+callbacks.step_times={{{callback}}}",
    ]
    printed = run_python(["-m", "lightpose.cli.train", *arguments], options.timeout)
    for line in printed.splitlines():
        if "eager" in line or "warn" in line.lower():
            print(f"  {line}")
    if not out.is_file():
        raise RuntimeError(f"ended before {options.steps} steps were measured; its output:\n{printed[-2000:]}")
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def run_ceiling(scratch: Path, variant: str, overrides: list[str], options: argparse.Namespace) -> dict[str, Any]:
    """`ceiling` in a process of its own, or the error."""
    out = scratch / f"{variant}.json"
    arguments = [__file__, "--measure-ceiling", variant, str(out), "--steps", str(options.steps), "--", *overrides]
    started = time.time()
    try:
        run_python(arguments, options.timeout)
    except RuntimeError as error:
        return {"error": str(error)}
    found: dict[str, Any] = json.loads(out.read_text())
    return found | {"ready_s": found.pop("ready_at") - started}


def _row(name: str, found: dict[str, Any], best: float | None) -> list[Any]:
    if "error" in found:
        return [name, None]
    parts = [found.get(f"{part}_ms") for part in PARTS]
    share = f"{found['images_per_s'] / best:.0%}" if best and "world_size" in found else None
    ready = found.get("first_step_s", found.get("ready_s"))
    return [name, found["images_per_s"], found["step_ms"], *parts, found["peak_gib"], ready, share]


class Step(torch.nn.Module):
    """Inputs to loss, for targets that stay the same."""

    def __init__(self, net: Any, targets: Any) -> None:
        super().__init__()
        self.net, self.targets = net, targets

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """The sum of the losses."""
        return torch.stack(list(self.net.head.loss(self.net.features(inputs), self.targets).values())).sum()


def ceiling(overrides: list[str], variant: str, steps: int) -> dict[str, Any]:
    """Images a second of the network's step alone, on one device."""
    from lightpose.cli.setup import make_estimator, make_skeleton

    config = compose(overrides)
    trainer, batch = config["trainer"], config["data"]["batch_size"]
    device = torch.device("cpu") if trainer["accelerator"] == "cpu" else best_device()
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = bool(trainer["benchmark"])
    skeleton = make_skeleton(config)
    estimator = make_estimator(config, skeleton).to(device).train()
    estimator.trainer = SimpleNamespace(  # type: ignore[assignment]
        estimated_stepping_batches=1000,
        world_size=1,
        accumulate_grad_batches=1,
        datamodule=SimpleNamespace(batch_size=batch),
    )
    optimizer = estimator.configure_optimizers()["optimizer"]  # type: ignore[index, call-overload]
    samples = random_batch(batch, skeleton.num_keypoints, config["input_hw"], device)
    inputs, targets = samples.inputs, estimator.codec.encode(samples)

    dtypes = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16, "32-true": None}
    if trainer["precision"] not in dtypes:
        sys.exit(f"the ceiling is measured in {', '.join(dtypes)}, not in {trainer['precision']}")
    dtype = dtypes[trainer["precision"]]
    scaler = torch.amp.GradScaler(device.type, enabled=dtype is torch.float16)

    def autocast() -> contextlib.AbstractContextManager[Any]:
        return torch.autocast(device.type, dtype, cache_enabled=False) if dtype else contextlib.nullcontext()

    forward: Any = Step(estimator.net, targets)
    if variant == "compile":
        forward = torch.compile(forward)
    elif variant == "graph":
        with autocast():
            forward = torch.cuda.make_graphed_callables(forward, (inputs,), allow_unused_input=True)
    elif variant != "eager":
        sys.exit(f"there is no variant {variant}; use eager, compile or graph")

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with autocast():
            loss = forward(inputs)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    step()
    synchronize(device)
    ready_at = time.time()
    for _ in range(min(10, steps)):
        step()
    synchronize(device)
    start = time.perf_counter()
    for _ in range(steps):
        step()
    synchronize(device)
    seconds = (time.perf_counter() - start) / steps
    return {
        "images_per_s": batch / seconds,
        "step_ms": 1000 * seconds,
        "peak_gib": peak_gib(device),
        "ready_at": ready_at,
    }


if __name__ == "__main__":
    main()
