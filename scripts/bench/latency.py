"""How long one answer takes: PyTorch, ONNX Runtime and OpenVINO, on the CPU and on a GPU, as a Markdown table.

    python scripts/bench/latency.py                              # a GPU if there is one, else the CPU, 1 and 2 threads
    python scripts/bench/latency.py --on cpu:2 cpu:4 --models topdown_hrnet

*Whole way*: from a JPEG file of 640x425 pixels and boxes to keypoints in its pixels, by `lightpose.Predictor`.
*Network*: from uint8 crops to keypoints, decoding included. Weights are random, everything is float32, and there is no
flip test. Those that are compared take turns, call by call, so that what else the machine does hits all of them.
Compiling takes long, so it comes last, for the first number of people, as long as time is left.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import photos
import torch
from predict import random_checkpoint
from timing import describe_device, write_json

from lightpose.errors import UserError
from lightpose.inference.crops import Job
from lightpose.inference.predictor import Predictor

MODELS = ("topdown_hrnet", "topdown_resnet50", "topdown_vitpose_small", "topdown_rtmpose_m")
OTHERS = {"cpu": ("onnxruntime", "openvino"), "cuda": ("graph", "onnxruntime", "tensorrt")}
"""Kind of device → what is compared with eager PyTorch before anything is compiled."""
TITLES = {
    "eager": "PyTorch, eager",
    "graph": "PyTorch, CUDA graph",
    "compile": "PyTorch, compiled",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "tensorrt": "ONNX Runtime, TensorRT",
}
HEADER = "| model | on | people | by | whole way p50 ms | p95 | network p50 ms | p95 | network, times eager |"
LEAST, MOST = 5, 200  # calls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS, help="experiments of lightpose-train")
    default = ["cuda"] if torch.cuda.is_available() else ["cpu:1", "cpu:2"]
    parser.add_argument("--on", nargs="+", default=default, help="cuda, or cpu:THREADS")
    parser.add_argument("--people", nargs="+", type=int, default=[1, 8], help="boxes in the image")
    parser.add_argument("--cell", type=float, default=1.0, help="seconds for each row")
    parser.add_argument("--seconds", type=float, default=100, help="no other model begins after that")
    parser.add_argument("--json", type=Path, help="write the rows here, too")
    options = parser.parse_args()
    end = time.perf_counter() + options.seconds

    source = photos.photos(8)
    image, boxes = picture(source)
    rows: list[dict[str, Any]] = []
    missing: dict[str, None] = {}
    for place in options.on:
        torch.set_num_threads(int(place.partition(":")[2] or 1))
        print(describe_device(torch.device(place.partition(":")[0])), file=sys.stderr, flush=True)
    print(f"{HEADER}\n|{'---|' * HEADER.count(' | ')}---|")
    with tempfile.TemporaryDirectory() as scratch:
        files = {}
        for kinds in (None, ("compile",)):
            for model in options.models if kinds is None else reversed(options.models):  # the small ones take less
                if time.perf_counter() > end:
                    missing[f"{model}{', compiled' if kinds else ''}: no time left"] = None
                    continue
                if model not in files:
                    files[model] = made(model, source, Path(scratch))
                for place in options.on:
                    ready = predictors(files[model], place, kinds or OTHERS[place.partition(":")[0]], missing)
                    for people in options.people if kinds is None else options.people[:1]:  # each is compiled anew
                        found = rates(ready, image, np.resize(boxes, (people, 4)), options.cell, end, missing)
                        found = found if kinds is None else found[1:]
                        rows += [{"model": model, "on": place, "people": people, **each} for each in found]
                        for row in rows[len(rows) - len(found) :]:
                            print(line(row), flush=True)
    for each in missing:
        print(f"\nnot measured: {each}")
    write_json(options.json, rows)


def picture(source: Path) -> tuple[Path, np.ndarray]:
    """A JPEG and the boxes of its people, xyxy."""
    content = json.loads(source.read_text())
    first = content["annotations"][0]["image_id"]
    [name] = [image["file_name"] for image in content["images"] if image["id"] == first]
    boxes = np.array([each["bbox"] for each in content["annotations"] if each["image_id"] == first], np.float32)
    return source.parent / "images" / name, np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)


def made(model: str, source: Path, folder: Path) -> tuple[Path, Path | str]:
    """A checkpoint with random weights, and its ONNX file, or why there is none."""
    checkpoint = random_checkpoint([f"experiment={model}"], source, folder / f"{model}.ckpt")
    try:
        return checkpoint, exported(checkpoint)
    except UserError as error:
        return checkpoint, str(error)


def exported(checkpoint: Path) -> Path:
    """Written without the proof of lightpose-export: the maps of random weights are all but flat."""
    from lightpose.checkpoint import load
    from lightpose.interop.onnx.description import NAME, describe, written
    from lightpose.interop.onnx.graph import to_graph, without_head

    estimator = load(checkpoint)
    estimator.flip_test = False
    graph = without_head(to_graph(estimator))
    entry = graph.metadata_props.add()
    entry.key, entry.value = NAME, written(describe(estimator, 16))
    out = checkpoint.with_suffix(".onnx")
    out.write_bytes(graph.SerializeToString())
    return out


def predictors(
    files: tuple[Path, Path | str], place: str, kinds: Sequence[str], missing: dict[str, None]
) -> dict[str, Predictor]:
    """Name → predictor, eager PyTorch first; what can't be had is noted."""
    kind, _, threads = place.partition(":")
    torch.set_num_threads(int(threads or 1))
    checkpoint, graph = files
    ready: dict[str, Predictor] = {}
    for name in ("eager", *kinds):
        try:
            if name in ("eager", "graph", "compile"):
                speed: Any = name
                ready[name] = Predictor(checkpoint, device=kind, precision="32-true", speed=speed)
                ready[name].estimator.flip_test = False
            elif isinstance(graph, str):
                raise UserError(graph)
            else:
                ready[name] = Predictor(graph, device=kind if name == "onnxruntime" else name)
        except UserError as error:
            missing[f"{TITLES[name]} on {kind}: {error}"] = None
    return ready


def rates(
    ready: dict[str, Predictor], image: Path, boxes: np.ndarray, cell_s: float, end: float, missing: dict[str, None]
) -> list[dict[str, Any]]:
    """The figures of each predictor; they take turns."""
    calls = {name: (whole_way(each, image, boxes), network(each, image, boxes)) for name, each in ready.items()}
    for name, pair in list(calls.items()):
        try:
            for call in pair:
                for _ in range(6 if ready["eager"]._on_gpu else 2):  # past the capture after ten batches
                    call()
        except Exception as error:
            missing[f"{TITLES[name]}: {' '.join(str(error).split())[:200]}"] = None
            del calls[name]
    times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in calls}
    start = time.perf_counter()
    stop = min(start + cell_s * len(calls), max(end, start))
    for number in range(MOST):
        if number >= LEAST and time.perf_counter() > stop:
            break
        for name, pair in calls.items():
            for call, taken in zip(pair, times[name], strict=True):
                begin = time.perf_counter()
                call()
                taken.append(1000 * (time.perf_counter() - begin))
    eager = np.median(times["eager"][1])
    return [
        {
            "by": TITLES[name],
            "whole_ms": np.percentile(whole, (50, 95)).tolist(),
            "network_ms": np.percentile(alone, (50, 95)).tolist(),
            "times_eager": float(eager / np.median(alone)),
            "calls": len(whole),
        }
        for name, (whole, alone) in times.items()
    ]


def whole_way(predictor: Predictor, image: Path, boxes: np.ndarray) -> Callable[[], object]:
    return lambda: predictor(image, boxes)


def network(predictor: Predictor, image: Path, boxes: np.ndarray) -> Callable[[], object]:
    samples = predictor.cropper.samples(Job(image, (boxes, np.ones(len(boxes), np.float32)), 0))
    crops = predictor._collated((samples, [len(samples)]))
    return lambda: predictor._collect(*predictor._submit(crops))


def line(row: dict[str, Any]) -> str:
    figures = [f"{each:.1f}" for each in (*row["whole_ms"], *row["network_ms"])]
    cells = [row["model"], row["on"], str(row["people"]), row["by"], *figures, f"{row['times_eager']:.2f}"]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
