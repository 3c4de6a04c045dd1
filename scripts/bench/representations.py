"""What each representation of keypoints learns: one small network, one data set of drawn people, one budget.

    python scripts/bench/representations.py                     # one run after the other
    python scripts/bench/representations.py --jobs 5            # five at once, on a GPU with 16 cores
    python scripts/bench/representations.py --only RLE,SimCC --epochs 4 optimizer.lr=1e-3
    python scripts/bench/representations.py --visibility        # which keypoints are hidden, beside three of them

Each run is the `lightpose-train` command that is printed, over `experiment=quickstart` and its data set, which is made
in `--out` unless it is there. The last validation counts; nothing is chosen by it.
"""

import argparse
import csv
import os
import shlex
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from timing import best_device, describe_device, print_table, run_python, write_json

from lightpose.data.synthetic.generate import generate

POOLED = ["neck=identity", "~neck.out_channels"]  # these pool the backbone's last map
SLOWLY = ["estimator.lr_factors={head.final:0.1}"]  # one layer gives all coordinates; at the full rate it oscillates
RLE = [*POOLED, "~codec.sigma", "trainer.gradient_clip_val=null"]  # its gradients are longer by a factor of 10000
LAYERS = ["backbone.blocks=[1,1,1,1]", "backbone.channels=[64,128,256,512]", "backbone.width=64"]
MEGVII = ["head=mspn", "codec=megvii", "~codec.sigma", "codec.kernels=[11,9,7,5]"]
RUNS = {
    "heatmap": [],
    "SimCC": ["head=simcc", "codec=simcc", "codec.sigma=null"],
    "RTMPose head": ["head=rtmcc", "codec=simcc", "codec.sigma=null"],
    "regression": ["head=regression", "codec=regression", "~codec.sigma", "head.criterion.beta=0", *POOLED, *SLOWLY],
    "RLE": [*RLE, "head=rle", "codec=rle", *SLOWLY],
    "integral": ["head=integral", "codec=integral"],
    "DSNT": ["head=dsnt", "codec=integral"],
    # Its head reads all levels of a backbone that goes up again; this one's layers are as wide as those of the others.
    "MSPN": ["backbone=mspn50", "~backbone.model", *LAYERS, "neck=all", "~neck.out_channels", *MEGVII],
    "ProbPose": ["head=probpose", "codec=probpose", "~codec.sigma"],
}
WRAPPED = ["head=visibility", "codec=visibility", "metric=[oks,epe,visibility]"]
VISIBILITY = {
    "heatmap": WRAPPED,
    "SimCC": [*WRAPPED, "head.head=simcc", "codec.codec=simcc", "codec.codec.sigma=null", "~codec.sigma"],
    "RLE": [*RLE, *WRAPPED, "head.head=rle", "codec.codec=rle"],
}
FIGURES = {"AP": "val/AP", "median error, px": "val/EPE_px_median"}
OCCLUSION = {"hidden ones by visibility, AP": "val/occlusion_AP", "by score, AP": "val/occlusion_AP_of_scores"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="of lightpose-train, for each run")
    parser.add_argument("--visibility", action="store_true", help="the table of hidden keypoints")
    parser.add_argument("--only", help="names of the table's lines, by commas; an unambiguous beginning will do")
    parser.add_argument("--epochs", type=int, default=16, help="passes over the training data, for all runs")
    parser.add_argument("--images", type=int, default=4800, help="to train on; a sixth as many more to validate on")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--out", type=Path, default=Path("outputs/representations"), help="folder of data and runs")
    parser.add_argument("--timeout", type=float, default=3600, help="seconds for each run")
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    options = parser.parse_intermixed_args()
    runs = chosen(VISIBILITY if options.visibility else RUNS, options.only, parser)
    shared = ["experiment=quickstart", *data(options.out, options.images), f"trainer.max_epochs={options.epochs}"]
    shared += [f"trainer.check_val_every_n_epoch={options.epochs}"]
    if options.jobs > 1:
        cores = max(1, len(os.sched_getaffinity(0)) // options.jobs)
        os.environ["OMP_NUM_THREADS"] = str(cores)
        shared.append(f"data.num_workers={cores}")
    folder = options.out / time.strftime("%Y-%m-%d_%H-%M-%S")

    def run(name: str) -> dict[str, Any]:
        output = folder / "".join(letter if letter.isalnum() else "_" for letter in name)
        arguments = [*shared, *runs[name], f"output_dir={output}", *options.overrides]
        print(shlex.join(["lightpose-train", *arguments]), flush=True)
        began = time.perf_counter()
        try:
            run_python(["-m", "lightpose.cli.train", *arguments], options.timeout)
        except RuntimeError as error:
            return {"seconds": time.perf_counter() - began, "error": str(error)}
        return {"seconds": time.perf_counter() - began, **last_validation(output)}

    with ThreadPoolExecutor(options.jobs) as pool:
        found = dict(zip(runs, pool.map(run, runs), strict=True))
    wanted = FIGURES | (OCCLUSION if options.visibility else {})
    print(f"\n{describe_device(best_device())}; {options.images} pictures, {options.epochs} epochs\n")
    columns = ["", *(f"{name}|.{1 if 'px' in name else 3}f" for name in wanted), "seconds|.0f"]
    rows = [[name, *(row.get(key) for key in wanted.values()), row["seconds"]] for name, row in found.items()]
    print_table(columns, rows)
    write_json(options.json, found)
    failed = [f"{name}: {row['error']}" for name, row in found.items() if "error" in row]
    if failed:
        raise SystemExit("\n".join(["", *failed]))


def chosen(runs: dict[str, list[str]], only: str | None, parser: argparse.ArgumentParser) -> dict[str, list[str]]:
    """The runs whose names begin as ``only`` says."""
    if only is None:
        return runs
    names = []
    for wanted in only.split(","):
        meant = [name for name in runs if name.lower().startswith(wanted.strip().lower())]
        if len(meant) != 1:
            parser.error(f"--only {wanted}: expected the beginning of one of {', '.join(runs)}")
        names += meant
    return {name: runs[name] for name in names}


def data(folder: Path, images: int) -> list[str]:
    """Overrides of the data set of that many pictures, which is made if it isn't there."""
    found = []
    for key, count, seed in (("train", images, 0), ("val", max(8, images // 6), 1)):
        path = folder / f"{key}{count}"
        if not (path / "annotations.json").exists():
            generate(path, count, seed)
        found += [f"data.{key}={path}/annotations.json"]
        found += [f"data.{'images' if key == 'train' else 'val_images'}={path}/images"]
    return found


def last_validation(folder: Path) -> dict[str, float]:
    """The figures of the last validation of a run."""
    [figures] = folder.glob("csv/*/metrics.csv")
    with figures.open() as file:
        rows = [row for row in csv.DictReader(file) if row.get("val/AP")]
    return {name: float(value) for name, value in rows[-1].items() if name.startswith("val/") and value}


if __name__ == "__main__":
    main()
