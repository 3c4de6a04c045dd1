"""Networks whose every weight follows from its name, and what they were recorded to compute."""

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

RECORDS = Path(__file__).parents[1] / "data_files" / "parity"


def record(name: str) -> dict[str, Any]:
    """The record ``name``: input shape, parameter count, and samples of the feature maps."""
    return json.loads((RECORDS / f"{name}.json").read_text())


def weight(name: str, shape: tuple[int, ...]) -> Tensor:
    """The recorded value of the tensor called ``name``."""
    draw = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    leaf = name.split(".")[-1]
    if leaf == "num_batches_tracked":
        value = np.zeros(shape, np.int64)
    elif leaf == "running_var":
        value = draw.uniform(0.5, 1.5, shape)
    elif leaf == "running_mean" or (leaf == "bias" and len(shape) < 2):
        value = draw.standard_normal(shape) * 0.1
    elif len(shape) >= 2:
        value = draw.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
    else:
        value = draw.uniform(0.8, 1.2, shape)
    return torch.from_numpy(np.asarray(value, None if leaf == "num_batches_tracked" else np.float32))


def recorded_input(shape: list[int]) -> Tensor:
    """The recorded network input."""
    draw = np.random.Generator(np.random.PCG64(zlib.crc32(b"input:x")))
    return torch.from_numpy(draw.standard_normal(shape).astype(np.float32))


def relative_error(output: Tensor, samples: dict[str, Any]) -> float:
    """Largest error over the recorded samples of ``output``, relative to their spread."""
    assert list(output.shape) == samples["shape"]
    expected = torch.tensor(samples["value"], dtype=torch.float64)
    scale = max(samples["std"], float(expected.abs().max()))
    return float((output.double().flatten()[samples["index"]] - expected).abs().max()) / scale
