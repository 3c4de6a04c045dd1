"""What the data pipeline costs: reading annotations of COCO train2017's size, and training samples a second.

    python scripts/bench/loader.py
    python scripts/bench/loader.py --no-reading --images DIR --annotations FILE --workers 4,14

Without photographs, drawn ones of the same size and decoding time stand in.
"""

import argparse
import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2
import numpy as np
import photos
import torch
from timing import best_device, compose, describe_device, print_table, run_python, synchronize, write_json

from lightpose.checkpoint import assemble
from lightpose.data.base import PoseDataset
from lightpose.data.coco.dataset import CocoInstances, skeleton_of
from lightpose.data.coco.index import read_coco
from lightpose.data.pixels.decode import read_image
from lightpose.data.pixels.loader import EpochLoader, EpochSampler
from lightpose.data.pixels.raw import gather
from lightpose.runtime.cores import CORES

IMAGES, ANNOTATIONS, LABELLED, PEOPLE_PER_IMAGE = 118_287, 262_465, 149_813, 2.65


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="of lightpose-train")
    parser.add_argument("--images", type=Path, help="folder of photographs")
    parser.add_argument("--annotations", type=Path, help="their COCO keypoint file")
    parser.add_argument("--synthetic", type=int, default=500, help="without the two: so many drawn pictures")
    parser.add_argument("--workers", default=str(CORES), help="such as 4,14; by default as many as cores")
    parser.add_argument("--batches", type=int, default=50, help="to measure each loader by")
    parser.add_argument("--reading", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    parser.add_argument("--read", nargs=3, metavar=("FILE", "WORKERS", "CONTEXT"), help=argparse.SUPPRESS)
    options = parser.parse_intermixed_args()
    warnings.filterwarnings("ignore", ".*create .* worker processes.*")
    if options.read:
        file, workers, context = options.read
        measure_reading(Path(file), int(workers), context)
        return
    found: list[list[Any]] = bench_reading() if options.reading else []
    annotations, workers = options.annotations, [int(count) for count in options.workers.split(",")]
    if annotations is None:
        batch = compose(options.overrides)["data"]["batch_size"]
        annotations = photos.photos(options.synthetic, batch * (options.batches + 2 * max(workers) + 2))
    data = [f"data.train={annotations}", *([f"data.images={options.images}"] if options.images else [])]
    print(describe_device(best_device()) + ";", photos.describe(annotations, options.images), flush=True)
    cv2.setNumThreads(0)
    config = compose([*options.overrides, *data])
    found += bench_samples(config, options.images or annotations.parent / "images", annotations)
    found += bench_loaders(config, annotations, workers, options.batches)
    print()
    print_table(["", "ms a sample|.2f", "samples/s|.0f", "a worker|.0f", ""], found)
    write_json(options.json, found)


def bench_reading() -> list[list[Any]]:
    """Every figure comes from a fresh process."""
    runs = [("cold", 0, "fork"), ("cached", 0, "fork"), ("cached", 8, "fork"), ("cached", 8, "spawn")]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.json"
        write_annotations(path)
        print(f"reading {IMAGES} images, {ANNOTATIONS} annotations, {path.stat().st_size / 2**20:.0f} MB of JSON")
        os.environ["LIGHTPOSE_CACHE"] = str(Path(folder) / "cache")
        said = [run_python([__file__, "--read", str(path), str(n), context], 300).strip() for _, n, context in runs]
    del os.environ["LIGHTPOSE_CACHE"]
    names = [f"reading, {name}" + (f", {n} workers by {context}" if n else "") for name, n, context in runs]
    return [[name, None, None, None, line] for name, line in zip(names, said, strict=True)]


def write_annotations(path: Path) -> None:
    """A file like person_keypoints_train2017.json, segmentation included."""
    rng = random.Random(0)
    names = [f"keypoint_{index}" for index in range(17)]
    images = [{"id": i, "file_name": f"{i:012d}.jpg", "width": 640, "height": 480} for i in range(IMAGES)]
    annotations = []
    for index in range(ANNOTATIONS):
        x, y = rng.randrange(400), rng.randrange(300)
        labelled = index < LABELLED
        points = [[x + rng.randrange(200), y + rng.randrange(150), 2] if labelled else [0, 0, 0] for _ in range(17)]
        annotations.append(
            {
                "segmentation": [[round(rng.random() * 640, 2) for _ in range(40)]],
                "num_keypoints": 17 * labelled,
                "area": 9000.5,
                "iscrowd": 0,
                "keypoints": [value for point in points for value in point],
                "image_id": rng.randrange(IMAGES),
                "bbox": [x, y, 200.5, 150.25],
                "category_id": 1,
                "id": index,
            }
        )
    categories = [{"id": 1, "name": "person", "keypoints": names, "skeleton": []}]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))


def measure_reading(path: Path, workers: int, context: str) -> None:
    """Print seconds to a ready data set, and the memory that it and ``workers`` loaders of it add."""
    (path.parent / f"{0:012d}.jpg").touch()  # so that the folder of images is found
    before, peak_before = memory_mb("Pss"), peak_mb()
    start, start_cpu = time.perf_counter(), time.process_time()
    dataset = Labels(path)
    seconds, cpu = time.perf_counter() - start, time.process_time() - start_cpu
    own, peak = memory_mb("Pss") - before, peak_mb() - peak_before
    line = f"{seconds:6.2f} s ({cpu:.2f} s CPU), {own:+5.0f} MB (peak {peak:+.0f} MB)"
    if workers:
        added = worker_mb(dataset, workers, context) - worker_mb(Labels(path, idle=True), workers, context)
        line += f", {added / workers:+.2f} MB of its own per worker"
    print(line)


class Labels(CocoInstances):
    """Gives out the labels and reads no pixels; an idle one has nothing to give but does all the rest."""

    def __init__(self, path: Path, idle: bool = False) -> None:
        super().__init__(path)
        self.idle = idle

    def __getitem__(self, index: int) -> np.ndarray:  # type: ignore[override]
        return np.zeros(1) if self.idle else self.annotations_of(index).keypoints


def worker_mb(dataset: PoseDataset, workers: int, context: str) -> float:
    """Private memory of all workers together after they went through the data set."""
    loader = EpochLoader(
        dataset,
        batch_size=512,
        num_workers=workers,
        persistent_workers=True,
        collate_fn=len,
        multiprocessing_context=context,
    )
    for _ in loader:
        pass
    return sum(memory_mb("Private", child.pid) for child in multiprocessing.active_children())


def memory_mb(kind: str, pid: int | None = None) -> float:
    """``Private`` memory of a process, or ``Pss``: its private memory and a fair share of what it shares."""
    lines = Path(f"/proc/{pid or os.getpid()}/smaps_rollup").read_text().splitlines()
    wanted = ("Private_Clean:", "Private_Dirty:") if kind == "Private" else ("Pss:",)
    return sum(int(line.split()[1]) for line in lines if line.startswith(wanted)) / 1024


def peak_mb() -> float:
    """Largest resident set size of this process so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


def bench_samples(config: dict[str, Any], images: Path, annotations: Path, most: int = 500) -> list[list[Any]]:
    """Training samples in one process and one thread."""
    dataset = assemble(config["data"], skeleton=skeleton_of(annotations)).train_dataset
    index = read_coco(annotations)
    files = [images / index.file_name(row) for row in range(min(most, len(index.image_ids)))]
    decode = best_seconds(lambda: [read_image(file) for file in files]) / len(files)
    orders = {
        "each with its decoding": order_without_neighbours(dataset)[:most],
        "at random": draw(dataset, None)[:most],
        "group_by_image": draw(dataset, dataset.image_rows)[:most],
    }
    rows: list[list[Any]] = [["decoding a photograph", 1e3 * decode, 1 / decode]]
    for name, order in orders.items():
        seconds = best_seconds(lambda order=order: [dataset[index] for index in order]) / len(order)
        rows.append([f"a sample, {name}", 1e3 * seconds, 1 / seconds])
    rows[-1] += [None, f"{len(dataset) / len(index.image_ids):.2f} people an image; COCO train2017 {PEOPLE_PER_IMAGE}"]
    samples = [dataset[position % len(dataset)] for position in range(64)]
    joined = best_seconds(lambda: gather(samples)) / len(samples)
    return [*rows, ["collating", 1e3 * joined, 1 / joined]]


def bench_loaders(config: dict[str, Any], annotations: Path, workers: list[int], batches: int) -> list[list[Any]]:
    """Wall-clock speed of whole loaders, up to batches on the device that wait for a network."""
    device = best_device()
    rows = []
    for decode in ("cpu", "device") if device.type == "cuda" else ("cpu",):
        for grouped in (False, True):
            for count in workers:
                options = {"decode": decode, "group_by_image": grouped, "num_workers": count}
                data = assemble({**config["data"], **options}, skeleton=skeleton_of(annotations))
                data.trainer = SimpleNamespace(
                    world_size=1,
                    global_rank=0,
                    num_devices=1,
                    accumulate_grad_batches=1,
                    strategy=SimpleNamespace(root_device=device),
                )
                rate = loader_rate(data.train_dataloader(), device, 2 * count + 1, batches)
                order = "group_by_image" if grouped else "at random"
                name = f"loader, decode={decode}, {order}, {count} workers"
                rows.append([name, 1e3 / rate, rate, rate / max(1, count)])
    return rows


def loader_rate(loader: EpochLoader, device: torch.device, warmup: int, batches: int) -> float:
    """Samples a second after the first ``warmup`` batches, which the workers made while others were starting."""
    start, samples = 0.0, 0
    for number, batch in enumerate(loader, 1 - warmup):
        if number > 0:
            samples += len(batch)
        elif number == 0:
            synchronize(device)
            start = time.perf_counter()
        if number == batches:
            break
    synchronize(device)
    if not samples:
        sys.exit(f"the data set has fewer than the {warmup + 1} batches that {loader.num_workers} workers need")
    return samples / (time.perf_counter() - start)


def draw(dataset: CocoInstances, groups: np.ndarray | None) -> list[int]:
    return EpochSampler(dataset, 0, groups).order(0)[:, 1].tolist()


def order_without_neighbours(dataset: CocoInstances) -> list[int]:
    """Positions in which no two neighbours share an image, so that every sample is decoded."""
    by_image = [np.flatnonzero(dataset.image_rows == row).tolist() for row in np.unique(dataset.image_rows)]
    rounds = max(map(len, by_image))
    return [people[turn % len(people)] for turn in range(rounds) for people in by_image]


def best_seconds(action: Callable[[], object], repeats: int = 5) -> float:
    """CPU seconds of the fastest of some repeats: what one core does when nobody else uses it."""
    durations = []
    for _ in range(repeats):
        start = time.process_time()
        action()
        durations.append(time.process_time() - start)
    return min(durations)


if __name__ == "__main__":
    main()
