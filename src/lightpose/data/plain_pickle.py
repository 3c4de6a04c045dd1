"""Pickles of plain data and NumPy's arrays, as data sets come in them. Nothing that a file names is run."""

import pickle
import re
from typing import IO, Any

import numpy as np

from lightpose.structures import Array


def read_plain(file: IO[bytes]) -> Any:
    """What a pickle holds. What stands for an array in it becomes one by `numpy.asarray`.

    Raises:
        ValueError: for a pickle that would run something.
        Exception: others, for what is no pickle.
    """
    return _Plain(file).load()


class _Kind:
    """Stands for a NumPy type in a pickle."""

    def __init__(self, name: str, *flags: Any) -> None:
        if not re.fullmatch(r"[fi][48]|U\d+|O8", name):
            raise ValueError(f"arrays of {name}")
        self.name, self.order = name, "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = {"<": "<", ">": ">", "|": ""}[state[1]]


class _Stored:
    """Stands for a NumPy array in a pickle, which gives its content after it was made."""

    def __init__(self, *shape: Any) -> None:
        self.array: Array = np.empty(0)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, columns_first, content = state
        if kind.name == "O8":
            values = np.empty(len(content), object)
            values[:] = content
        else:
            values = np.frombuffer(content, np.dtype(kind.order + kind.name))
        self.array = values.reshape(shape, order="F" if columns_first else "C")

    def __array__(self, dtype: Any = None, copy: Any = None) -> Array:
        return self.array if dtype is None else self.array.astype(dtype)


def _number(kind: _Kind, content: bytes) -> Any:
    """Stands for a NumPy number in a pickle."""
    return np.frombuffer(content, np.dtype(kind.order + kind.name))[0].item()


class _Plain(pickle.Unpickler):
    """Calls nothing that a file names."""

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a part of NumPy's arrays; anything else is refused."""
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name in ("_reconstruct", "scalar"):
            return _Stored if name == "_reconstruct" else _number
        if module == "numpy" and name in ("ndarray", "dtype"):
            return _Kind if name == "dtype" else _Stored
        raise ValueError(f"it would run {module}.{name}")
