"""What the data pipeline costs: reading annotations of COCO train2017's size, and training samples per second and core.

python scripts/bench/data.py --images DIR --annotations FILE
"""

import argparse
import json
import multiprocessing
import os
import random
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2
import numpy as np
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from lightpose.checkpoint import assemble
from lightpose.data.base import PoseDataset
from lightpose.data.coco import CocoInstances, skeleton_of
from lightpose.data.coco_index import read_coco
from lightpose.data.decode import read_image
from lightpose.data.loading import EpochLoader, EpochSampler
from lightpose.structures import collate

IMAGES, ANNOTATIONS, LABELLED, PEOPLE_PER_IMAGE = 118_287, 262_465, 149_813, 2.65
CONF = Path(__file__).parents[2] / "conf"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="folder of photographs")
    parser.add_argument("--annotations", type=Path, help="their COCO keypoint file")
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--workers", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--context", default="fork", help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.filterwarnings("ignore", ".*create 8 worker processes.*")
    if options.read:
        measure_reading(options.read, options.workers, options.context)
        return
    bench_reading()
    if options.images and options.annotations:
        cv2.setNumThreads(0)
        bench_samples(options.images, options.annotations)


def bench_reading() -> None:
    """Every figure comes from a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.json"
        write_annotations(path)
        print(f"reading {IMAGES} images, {ANNOTATIONS} annotations, {path.stat().st_size / 2**20:.0f} MB of JSON")
        os.environ["LIGHTPOSE_CACHE"] = str(Path(folder) / "cache")
        runs = [("cold", 0, "fork"), ("cached", 0, "fork"), ("cached", 8, "fork"), ("cached", 8, "spawn")]
        for name, workers, context in runs:
            label = f"{name}, {workers} workers" + (f" by {context}" if workers else "")
            print(f"  {label:<28}", end="", flush=True)
            arguments = ["--read", str(path), "--workers", str(workers), "--context", context]
            subprocess.run([sys.executable, __file__, *arguments], check=True)


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


def bench_samples(images: Path, annotations: Path) -> None:
    """Training samples of the published top-down recipe at 256x192, in one process and one thread."""
    with initialize_config_dir(str(CONF.resolve()), version_base=None):
        config = compose("train", ["output_dir=unused", f"data.train={annotations}", f"data.images={images}"])
    data = OmegaConf.to_container(config, resolve=True)["data"]
    dataset = assemble(data, skeleton=skeleton_of(annotations)).train_dataset
    people = len(dataset)
    print(f"training samples at {config.input_hw[0]}x{config.input_hw[1]}, {people} people, one process, one thread")

    index = read_coco(annotations)
    files = [images / index.file_name(row) for row in range(len(index.image_ids))]
    decode = best_seconds(lambda: [read_image(file) for file in files]) / len(files)
    print(f"  decoding a photograph             {decode * 1e3:5.2f} ms")

    orders = {
        "each with its decoding": order_without_neighbours(dataset),
        "at random": draw(dataset, None) * 5,
        "group_by_image": draw(dataset, dataset.image_rows),
    }
    for name, order in orders.items():
        seconds = best_seconds(lambda order=order: [dataset[index] for index in order]) / len(order)
        print(f"  a sample, {name:<23} {seconds * 1e3:5.2f} ms = {1 / seconds:4.0f} samples/s")
    print(f"  ({people / len(files):.2f} people an image; COCO train2017 has {PEOPLE_PER_IMAGE})")
    samples = [dataset[position % people] for position in range(64)]
    joined = best_seconds(lambda: collate(samples)) / len(samples)
    print(f"  collating                         {joined * 1e3:5.2f} ms a sample")


def draw(dataset: CocoInstances, groups: np.ndarray | None) -> list[int]:
    return list(EpochSampler(dataset, 0, groups))


def order_without_neighbours(dataset: CocoInstances) -> list[int]:
    """Positions in which no two neighbours share an image, so that every sample is decoded."""
    by_image = [np.flatnonzero(dataset.image_rows == row).tolist() for row in np.unique(dataset.image_rows)]
    rounds = max(map(len, by_image))
    return [people[turn % len(people)] for turn in range(rounds) for people in by_image]


def best_seconds(action: Callable[[], object], repeats: int = 15) -> float:
    """CPU seconds of the fastest of some repeats: what one core does when nobody else uses it."""
    durations = []
    for _ in range(repeats):
        start = time.process_time()
        action()
        durations.append(time.process_time() - start)
    return min(durations)


if __name__ == "__main__":
    main()
