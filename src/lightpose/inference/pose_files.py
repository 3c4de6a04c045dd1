"""Files of 2-D poses that lightpose-predict wrote, to be lifted."""

import csv
import json
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from lightpose.data.coco.json_values import kind, read_json, whole_number
from lightpose.data.coco.results import text_of
from lightpose.errors import UserError
from lightpose.inference.lifting import Seen
from lightpose.structures import Array

_ADVICE = "give a list of poses with image_id, keypoints and score, as lightpose-predict writes it"


def is_poses(source: str | int) -> bool:
    """Whether ``source`` is a JSON file that holds a list: of poses, and no COCO annotations."""
    path = Path(str(source))
    try:
        if path.suffix.lower() != ".json" or not path.is_file():
            return False
        with path.open("rb") as file:
            return file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"["
    except (OSError, ValueError):
        return False


def names_beside(path: Path) -> list[str]:
    """The names of the keypoints, from the ``.csv`` file that lightpose-predict writes beside a file of poses.

    Raises:
        UserError: when there is none.
    """
    table = path.with_suffix(".csv")
    try:
        with table.open(encoding="utf-8", newline="") as file:
            header = [text_of(cell) for row in islice(csv.reader(file), 1) for cell in row]
    except (OSError, UnicodeDecodeError, csv.Error):
        header = []
    known = set(header)
    names = [cell[:-2] for cell in header if cell.endswith("_x") and {f"{cell[:-2]}_y", f"{cell[:-2]}_score"} <= known]
    if not names:
        raise UserError(
            f"nothing says which keypoints {path} has: {table} names none; give them, such as skeleton=coco17"
        )
    return names


def read_poses(path: Path, names: Sequence[str], size_of: Callable[[int, str], tuple[int, int]]) -> list[Seen]:
    """The poses of a file. Keypoints may be null or NaN, and are then not known.

    Args:
        path: the file.
        names: of the keypoints.
        size_of: image id and name → size of the frame.

    Raises:
        UserError: for a file that holds something else, naming the entry.
    """
    content = read_json(path, "the file of poses")
    if not isinstance(content, list):
        raise UserError(f"the file of poses {path} holds {kind(content)}; {_ADVICE}")
    found = []
    for place, entry in enumerate(content):
        where = f"entry {place} of the file of poses {path}"
        if type(entry) is not dict:
            raise UserError(f"{where} is {kind(entry)}; {_ADVICE}")
        image_id, score = whole_number(entry.get("image_id")), _floats([entry.get("score", 1.0)])
        keypoints = _floats(entry["keypoints"]) if isinstance(entry.get("keypoints"), list) else None
        if image_id is None or keypoints is None or score is None or not np.isfinite(score[0]):
            wrong = "image_id" if image_id is None else "keypoints" if keypoints is None else "score"
            raise UserError(f"{where} has no {wrong} that can be used, but {kind(entry.get(wrong))}; {_ADVICE}")
        if len(keypoints) != 3 * len(names):
            raise UserError(
                f"{where} has {len(keypoints)} numbers, expected three for each of {len(names)} keypoints "
                f"({', '.join(names[:4])}, ...); choose the skeleton of the file, such as skeleton=coco17"
            )
        track_id = entry.get("track_id")
        if track_id is not None and whole_number(track_id) is None:
            raise UserError(f"{where} has the track_id {kind(track_id)}; expected a whole number, or none")
        name = entry.get("file_name")
        name = name if isinstance(name, str) else str(image_id)
        points = keypoints.reshape(-1, 3)
        found.append(Seen(image_id, name, size_of(image_id, name), points, float(score[0]), whole_number(track_id)))
    return found


def write_lifted(path: Path, content: dict[str, Any]) -> None:
    """Write lifted poses, one on a line."""
    encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
    poses = ",\n".join(map(encode, content["poses"]))
    head = encode({key: value for key, value in content.items() if key != "poses"})
    path.write_text(f'{head[:-1]},"poses":[\n{poses}\n]}}\n', encoding="utf-8")


def _floats(values: list[Any]) -> Array | None:
    """Numbers as float32, NaN for null; None where one is something else."""
    numbers = [np.nan if value is None else value for value in values]
    if not set(map(type, numbers)) <= {int, float}:
        return None
    try:
        return np.array(numbers, np.float64).astype(np.float32)
    except OverflowError:
        return None
