"""The packages that write, read and run ONNX files, which not everybody has."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightpose.errors import UserError

WRITING = ("onnx", "onnxscript", "onnxruntime")
READING = ("onnx",)
RUNNING = ("onnxruntime",)
OPENVINO = ("openvino",)
INPUT = "images"
SEQUENCES = "sequences"
"""Names of what a graph takes."""
NO_CHOICE: Mapping[str, tuple[Any, ...]] = {
    "precision": ("auto", "32-true"),
    "speed": ("auto", "eager"),
    "devices": (1,),
}
"""Option of prediction or evaluation → values that ask nothing of an ONNX file."""
LARGEST = (1 << 31) - (1 << 20)
"""Bytes of a file: an ONNX file is one protocol buffer, which ends at 2 GiB."""


def is_onnx(path: str | Path) -> bool:
    """Whether a model's file is an ONNX file by its name."""
    return Path(path).suffix.lower() == ".onnx"


def check_options(path: str | Path, **options: Any) -> None:
    """Refuse options that an ONNX file leaves no choice of.

    Args:
        path: of the file, for the message.
        options: such as ``precision`` and ``speed``.

    Raises:
        UserError: naming the first that asks for something.
    """
    for name, value in options.items():
        if value not in NO_CHOICE[name]:
            raise UserError(
                f"{name}={value} is no choice for {path}, which has the precision it was exported in and runs as the "
                f"device does it; leave out {name}="
            )


def packages(names: tuple[str, ...]) -> list[Any]:
    """The packages of these names.

    Raises:
        UserError: naming the first that isn't there, and the extra that brings it.
    """
    try:
        return [importlib.import_module(name) for name in names]
    except ImportError as error:
        what, extra = ("device=openvino needs", "openvino") if names == OPENVINO else ("ONNX files need", "export")
        raise UserError(
            f'{what} the package {error.name}, which can\'t be imported: pip install "lightpose[{extra}]"'
        ) from error
