"""What the benchmarks share: clocks, tables, and lightpose's own commands in processes of their own."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

from lightpose.structures import Batch, Instances

HERE = Path(__file__).resolve().parent


def best_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def describe_device(device: torch.device) -> str:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return f"{name}, torch {torch.__version__}"


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_gib(device: torch.device) -> float | None:
    """Most memory that tensors took on the device so far; None on the CPU."""
    return torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None


def milliseconds(work: Callable[[], object], device: torch.device, repeats: int, warmup: int = 3) -> float:
    """Median wall-clock time of one call, the device's part included."""
    times = []
    for _ in range(warmup + repeats):
        synchronize(device)
        start = time.perf_counter()
        work()
        synchronize(device)
        times.append(1000 * (time.perf_counter() - start))
    return median(times[warmup:])


class Marks:
    """Begin and end of named stretches of work, on the device's own time line where it has one; nothing waits.

    Times between marks on a GPU hold the gaps in which it waits for the host, as well as its work.
    """

    def __init__(self, device: torch.device) -> None:
        self.on_gpu = device.type == "cuda"
        self.device = device
        self.spans: dict[str, list[tuple[Any, Any]]] = {}

    def now(self) -> Any:
        """A mark."""
        if not self.on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    def add(self, name: str, begin: Any, end: Any) -> None:
        """A stretch that lies between two marks."""
        self.spans.setdefault(name, []).append((begin, end))

    def wrap(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function``, every call of which is a stretch called ``name``."""

        def call(*args: Any, **kwargs: Any) -> Any:
            begin = self.now()
            try:
                return function(*args, **kwargs)
            finally:
                self.add(name, begin, self.now())

        return call

    def seconds(self, name: str) -> float:
        """All stretches of this name together; waits for the device."""
        synchronize(self.device)
        spans = self.spans.get(name, [])
        if self.on_gpu:
            return sum(begin.elapsed_time(end) for begin, end in spans) / 1000
        return float(sum(end - begin for begin, end in spans))


def run_python(arguments: Sequence[str], timeout_s: float) -> str:
    """What ``python ARGUMENTS`` prints, both streams; the benchmarks' modules and lightpose can be imported there.

    Raises:
        RuntimeError: with the end of what it printed, when it fails or takes too long.
    """
    import lightpose

    sources = [str(HERE), str(Path(lightpose.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sources)), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, *arguments]
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, process_group=0
    )
    try:
        printed, _ = process.communicate(timeout=timeout_s)
        failure = f"exit code {process.returncode}" if process.returncode else None
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # with its loaders and its other ranks
        printed, _ = process.communicate()
        failure = f"not done after {timeout_s:.0f} s"
    if failure:
        raise RuntimeError(f"{failure}: {shlex.join(command)}\n{tail(printed)}")
    return printed


def tail(text: str, lines: int = 30) -> str:
    return "\n".join(text.splitlines()[-lines:])


def compose(overrides: Sequence[str]) -> dict[str, Any]:
    """The resolved configuration of lightpose-train."""
    import hydra
    from hydra.errors import HydraException

    import lightpose.cli.app  # noqa: F401 - makes the resolvers that the configuration uses
    from lightpose.cli.groups import conf_dir
    from lightpose.cli.setup import resolved

    try:
        with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
            return resolved(hydra.compose("train", [*overrides, "output_dir=unused"]))
    except HydraException as error:
        sys.exit(f"error: {error}")


def random_batch(batch: int, keypoints: int, input_hw: Sequence[int], device: torch.device, people: int = 1) -> Batch:
    """So many people per sample of noise, every keypoint somewhere in the input and visible."""
    points = torch.rand(batch, people, keypoints, 2) * torch.tensor([input_hw[1] - 1.0, input_hw[0] - 1.0])
    integers, ones = torch.zeros(batch, people, dtype=torch.int64), torch.ones(batch, people)
    boxes = torch.cat([points.amin(2), points.amax(2)], -1)
    areas = (boxes[..., 2:] - boxes[..., :2]).prod(-1)
    visible = torch.full((batch, people, keypoints), 2.0)
    numbers = torch.arange(batch)
    return Batch(
        inputs=random_images(batch, input_hw, device),
        instances=Instances(points, visible, boxes, areas, integers, integers, ones, ones.bool()),
        image_from_input=torch.eye(3).repeat(batch, 1, 1),
        image_ids=numbers,
        indices=numbers,
        image_hw=torch.tensor(input_hw).repeat(batch, 1),
    ).to(device)


def random_images(batch: int, input_hw: Sequence[int], device: torch.device) -> torch.Tensor:
    """(B, 3, H, W) uint8, laid out as the data pipeline's batches are."""
    images = torch.randint(0, 256, (batch, *input_hw, 3), dtype=torch.uint8, device=device)
    return images.permute(0, 3, 1, 2)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A column is ``name`` or ``name|format of its numbers``; one without a name is text and begins on the left."""
    names, formats = zip(*(column.split("|") if "|" in column else (column, "") for column in columns), strict=True)
    cells = [
        [_cell(value, spec) for value, spec in zip(row, formats, strict=False)] + [""] * (len(names) - len(row))
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(names, *cells, strict=True)]
    for line in (list(names), *cells):
        aligned = zip(names, widths, line, strict=True)
        padded = [cell.rjust(width) if name else cell.ljust(width) for name, width, cell in aligned]
        print("  ".join(padded).rstrip(), flush=True)


def _cell(value: Any, spec: str) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else format(value, spec)


def write_json(path: Path | None, content: Any) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=1))
