"""Opens ONNX files: nothing in them is executed but their operators, and nothing outside them is read."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightpose.errors import UserError, in_short
from lightpose.interop.onnx.openvino import OpenvinoSession
from lightpose.interop.onnx.packages import LARGEST, OPENVINO, READING, RUNNING, packages
from lightpose.runtime.cores import CORES

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
Content = tuple[bytes, dict[str, str]]
"""The bytes of an ONNX file and its metadata."""
DEVICES = "cpu, cuda, tensorrt or openvino"


def content_of(path: str | Path) -> Content:
    """The bytes of an ONNX file and its metadata.

    Raises:
        UserError: for a file that is missing or damaged, or that keeps weights elsewhere.
    """
    (onnx,) = packages(READING)
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no ONNX file at {path}; give one that lightpose-export wrote")
    size = path.stat().st_size
    if size > LARGEST:
        raise UserError(f"{path} has {size} bytes, and an ONNX file less than 2 GiB; it is damaged, or no ONNX file")
    content = path.read_bytes()
    try:
        model = onnx.load_model_from_string(content)
        metadata = {entry.key: entry.value for entry in model.metadata_props}
        outside = [tensor.name for tensor in _tensors(model) if tensor.data_location == onnx.TensorProto.EXTERNAL]
    except Exception as error:  # of protocol buffers, by whatever name
        raise UserError(f"{path} can't be read as an ONNX file; it is damaged, or another kind of file") from error
    if not model.graph.node:
        raise UserError(f"{path} holds no graph; it is damaged, or another kind of file than ONNX")
    if outside:
        raise UserError(
            f"{path} keeps {len(outside)} of its tensors in other files, such as {outside[0][:100]!r}, and these are "
            "not read; give a file that holds its weights itself, as lightpose-export writes it"
        )
    return content, metadata


def _tensors(model: Any) -> Iterator[Any]:
    """Every stored tensor of a model, those in attributes, subgraphs and functions included."""
    bodies = [model.graph, *model.functions]
    while bodies:
        body = bodies.pop()
        yield from getattr(body, "initializer", ())
        for sparse in getattr(body, "sparse_initializer", ()):
            yield from (sparse.values, sparse.indices)
        attributes = [each for node in body.node for each in node.attribute]
        for attribute in (*attributes, *getattr(body, "attribute_proto", ())):
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
            bodies += [attribute.g, *attribute.graphs]


def find_provider(device: str | None) -> tuple[str, int]:
    """The kind of a device and its number; see `open_session`.

    Raises:
        UserError: when the device can't be had.
    """
    if device == "openvino":
        packages(OPENVINO)
        return device, 0
    (runtime,) = packages(RUNNING)
    here = runtime.get_available_providers()
    if device is None:
        device = "cuda" if PROVIDERS["cuda"] in here and _gpu() else "cpu"
    kind, _, number = device.partition(":")
    if kind not in PROVIDERS or (number and (kind == "cpu" or not (number.isascii() and number.isdigit()))):
        raise UserError(f"device={device} runs no ONNX file; use {DEVICES}, or cuda:1 for another GPU")
    if PROVIDERS[kind] not in here:
        raise UserError(
            f"device={device} needs ONNX Runtime's {PROVIDERS[kind]}, and this one has {', '.join(here)}; pip install "
            "onnxruntime-gpu, or use device=cpu"
        )
    return kind, int(number or 0)


def open_session(content: bytes, device: str | None, what: Any) -> Any:
    """What runs an ONNX file on a device, and on no other: an ``onnxruntime.InferenceSession``, or `OpenvinoSession`.

    Args:
        content: of an ONNX file.
        device: ``cpu``, ``cuda``, ``tensorrt`` (either with a number, such as ``cuda:1``) or ``openvino``; None for
            the GPU if there are one and ONNX Runtime's provider for it, else the CPU.
        what: the file, for messages.

    Raises:
        UserError: when the device can't be had, and when it refuses the graph.
    """
    kind, number = find_provider(device)
    if kind == "openvino":
        return OpenvinoSession(content, threads(), what)
    (runtime,) = packages(RUNNING)
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads()
    try:
        session = runtime.InferenceSession(content, options, providers=_placed(kind, number))
    except Exception as error:
        reason = in_short(error)
        raise UserError(f"ONNX Runtime can't run {what} on device={kind} ({reason}); give another file") from error
    if session.get_providers()[0] != PROVIDERS[kind]:
        raise UserError(
            f"ONNX Runtime can't start its {PROVIDERS[kind]} here, and device={kind} asks for it; see to the NVIDIA "
            "libraries that it needs, or use device=cpu"
        )
    session.disable_fallback()
    return session


def _placed(kind: str, number: int) -> list[Any]:
    """ONNX Runtime's providers and their options; what TensorRT can't take stays on its GPU."""
    cuda = (PROVIDERS["cuda"], {"device_id": number, "use_tf32": 0})  # float32 is what the file says
    if kind == "tensorrt":
        return [(PROVIDERS[kind], {"device_id": number}), cuda]
    return [cuda] if kind == "cuda" else [PROVIDERS[kind]]


def _gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def threads() -> int:
    """As many as PyTorch takes; without it, as OMP_NUM_THREADS says, or one for each core."""
    if torch := sys.modules.get("torch"):
        return int(torch.get_num_threads())
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdecimal() and int(given) else CORES
