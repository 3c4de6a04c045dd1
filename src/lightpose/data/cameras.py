"""Files of cameras, as data sets of people in space come with them. Nothing in a file is run."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lightpose.data.plain_pickle import read_plain
from lightpose.errors import UserError
from lightpose.structures import Array


class Camera(NamedTuple):
    """A pinhole camera.

    Attributes:
        matrix: (3, 3) float32, intrinsic.
        image_hw: size of its images.
    """

    matrix: Array
    image_hw: tuple[int, int]


def read_cameras(path: Path) -> dict[str, Camera]:
    """The cameras of a ``.json`` file or a ``.pkl`` file as MMPose writes it, by name.

    Either maps names to ``f`` and ``c``, two numbers in pixels each, and ``w`` and ``h``. A name in two parts, as
    ``("S1", "54138969")``, becomes ``S1.54138969``.

    Raises:
        UserError: for a file that can't be read, and for what is no camera.
    """
    try:
        content = path.read_bytes()
        found = read_plain(io.BytesIO(content)) if path.suffix == ".pkl" else json.loads(content)
    except Exception as error:
        raise UserError(
            f"{path} can't be read as cameras ({type(error).__name__}: {error}); give a .json file, which "
            'maps names to {"f": [1145, 1143], "c": [512, 515], "w": 1000, "h": 1002}'
        ) from error
    if not isinstance(found, Mapping) or not found:
        raise UserError(f"{path} has no cameras; it should map their names to f, c, w and h")
    return {_name(key): _camera(path, _name(key), entry) for key, entry in found.items()}


def _name(key: Any) -> str:
    return ".".join(map(str, key)) if isinstance(key, tuple) else str(key)


def _camera(path: Path, name: str, entry: Any) -> Camera:
    try:
        focal, center = (np.asarray(entry[key], np.float32).reshape(2) for key in "fc")
        size = int(entry["h"]), int(entry["w"])
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise UserError(
            f"{path}: camera {name} needs f and c, two numbers each, and w and h ({type(error).__name__}: {error})"
        ) from error
    if not (np.isfinite([focal, center]).all() and (focal > 0).all() and min(size) > 0):
        raise UserError(
            f"{path}: camera {name} has f={focal.tolist()}, c={center.tolist()}, w={size[1]}, h={size[0]}; "
            "they must be finite, and all but c positive"
        )
    matrix = np.array([[focal[0], 0, center[0]], [0, focal[1], center[1]], [0, 0, 1]], np.float32)
    return Camera(matrix, size)
