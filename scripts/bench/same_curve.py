"""Whether every way to train learns the same: loss curves and AP over several seeds, on drawn people.

    python scripts/bench/same_curve.py --jobs 6
    python scripts/bench/same_curve.py --ways eager --seeds 1 --images 60 trainer.max_epochs=1

Runs lightpose-train with the quickstart's recipe for each way and seed. A difference between ways that is small next to
the spread of one way's seeds is noise.
"""

import argparse
import csv
import itertools
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from timing import best_device, describe_device, print_table, run_python, write_json

from lightpose.data.synthetic.generate import generate

WAYS = {
    "eager": ["speed=eager"],
    "graph": ["speed=graph"],
    "compile": ["speed=compile"],
    "graph, decode=device": ["speed=graph", "data.decode=device"],
}
QUARTERS = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="of lightpose-train")
    parser.add_argument(
        "--ways", default=";".join(WAYS) if torch.cuda.is_available() else "eager", help="by semicolons"
    )
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--images", type=int, default=1200, help="to train on; a sixth as many more to validate on")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, shared out over the GPUs")
    parser.add_argument("--timeout", type=float, default=500, help="seconds for each run")
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    options = parser.parse_intermixed_args()
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(options.jobs) as pool:
        train = generate(Path(scratch) / "train", options.images, seed=0)
        val = generate(Path(scratch) / "val", max(8, options.images // 6), seed=1)
        data = [f"data.train={train}", f"data.images={train.parent}/images"]
        data += [f"data.val={val}", f"data.val_images={val.parent}/images"]

        def run(way: str, seed: int, number: int) -> dict[str, Any]:
            folder = Path(scratch) / f"run{number}"
            gpus = torch.cuda.device_count()
            devices = [f"trainer.devices=[{number % gpus}]"] if gpus > 1 else []
            arguments = ["experiment=quickstart", *data, *WAYS[way], *devices, *options.overrides, f"seed={seed}"]
            run_python(["-m", "lightpose.cli.train", *arguments, f"output_dir='{folder}'"], options.timeout)
            return figures(folder)

        ways = options.ways.split(";")
        seeds = range(options.first_seed, options.first_seed + options.seeds)
        jobs = [(way, seed) for way in ways for seed in seeds]
        pending = [pool.submit(run, way, seed, number) for number, (way, seed) in enumerate(jobs)]
        found = [(way, seed, job.result()) for (way, seed), job in zip(jobs, pending, strict=True)]
    print(f"{describe_device(best_device())}; {options.images} pictures, seeds {seeds[0]} to {seeds[-1]}\n")
    rows = []
    for way in ways:
        runs = [run for name, _, run in found if name == way]
        losses = [_spread([run["losses"][quarter] for run in runs], 1000) for quarter in range(QUARTERS)]
        rows.append([way, *losses, _spread([run["AP"] for run in runs], 100)])
    columns = [f"loss, {quarter + 1}/{QUARTERS}" for quarter in range(QUARTERS)]
    print_table(["", *columns, "AP"], rows)
    print("\nmean ± standard deviation over the seeds; train/loss x 1000 of each quarter of the run; AP in percent")
    write_json(options.json, [{"way": way, "seed": seed, **run} for way, seed, run in found])


def figures(folder: Path) -> dict[str, Any]:
    """Mean training loss of each quarter of a run, and the AP after it."""
    with next(folder.glob("csv/*/metrics.csv")).open() as file:
        rows = list(csv.DictReader(file))
    losses = [float(row["train/loss"]) for row in rows if row.get("train/loss")]
    precision = [float(row["val/AP"]) for row in rows if row.get("val/AP")]
    cuts = [round(len(losses) * quarter / QUARTERS) for quarter in range(QUARTERS + 1)]
    quarters = [mean(losses[first:last] or losses) for first, last in itertools.pairwise(cuts)]
    return {"losses": quarters, "AP": precision[-1]}


def _spread(values: list[float], scale: float) -> str:
    spread = f" ± {scale * stdev(values):.2f}" if len(values) > 1 else ""
    return f"{scale * mean(values):.2f}{spread}"


if __name__ == "__main__":
    main()
