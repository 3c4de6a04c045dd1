"""The packages that write, read and run ONNX files, which not everybody has."""

import importlib
from pathlib import Path
from typing import Any

from lightpose.errors import UserError

WRITING = ("onnx", "onnxscript", "onnxruntime")
RUNNING = ("onnx", "onnxruntime")
LARGEST = (1 << 31) - (1 << 20)
"""Bytes of a file: an ONNX file is one protocol buffer, which ends at 2 GiB."""


def is_onnx(path: str | Path) -> bool:
    """Whether a model's file is an ONNX file by its name."""
    return Path(path).suffix.lower() == ".onnx"


def packages(names: tuple[str, ...]) -> list[Any]:
    """The packages of these names.

    Raises:
        UserError: naming the first that isn't there, and the extra that brings it.
    """
    try:
        return [importlib.import_module(name) for name in names]
    except ImportError as error:
        raise UserError(
            f'ONNX files need the package {error.name}, which can\'t be imported: pip install "lightpose[export]"'
        ) from error
