"""Predictions as files: COCO-results JSON and CSV with keypoint names."""

import csv
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import IO, Any

import numpy as np

from lightpose.data.coco.json_values import kind, number, read_json, whole_number
from lightpose.errors import UserError
from lightpose.runtime.aside import written_aside
from lightpose.structures import Array, Poses

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What the cell of a spreadsheet begins with that is a formula and no text."""

FIELDS = ("image_id", "category_id", "keypoints", "score")


def write_text(path: str | Path, text: str) -> None:
    """Write a text file, which appears whole or not at all.

    Raises:
        UserError: when it can't be written.
    """
    with _whole_file(path) as file:
        file.write(text)


def write_coco_results(path: str | Path, predictions: Sequence[Mapping[str, Any]]) -> None:
    """Write COCO results (see `coco_results`); the file appears whole or not at all.

    Raises:
        UserError: when it can't be written.
    """
    write_text(path, json.dumps(list(predictions), separators=(",", ":")))


def read_coco_results(path: str | Path, id_of_text: Mapping[str, int] | None = None) -> list[dict[str, Any]]:
    """COCO keypoint results of a file: ids are whole numbers, keypoints flat lists of finite ones, scores finite.

    Args:
        path: the file.
        id_of_text: what the annotation file has in the place of image ids → id, where it has no numbers.

    Raises:
        UserError: when the file is missing or holds something else, naming the entry.
    """
    advice = f"give a list of objects with {', '.join(FIELDS)}, as lightpose-eval writes it"
    content = read_json(path, "the predictions file")
    if not isinstance(content, list):
        raise UserError(f"the predictions file {path} holds {kind(content)}; {advice}")
    predictions = []
    for place, entry in enumerate(content):
        where = f"entry {place} of the predictions file {path}"
        if type(entry) is not dict:
            raise UserError(f"{where} is {kind(entry)}; {advice}")
        missing = [field for field in FIELDS if field not in entry]
        if missing:
            raise UserError(f"{where} has no {' or '.join(missing)}; {advice}")
        ids = {key: whole_number(entry[key]) for key in ("image_id", "category_id")}
        if id_of_text and isinstance(entry["image_id"], str):
            ids["image_id"] = id_of_text.get(entry["image_id"])
        wrong = [key for key, value in ids.items() if value is None]
        wrong += [] if isinstance(entry["keypoints"], list) and _finite(entry["keypoints"]) else ["keypoints"]
        wrong += [] if _finite([entry["score"]]) else ["score"]
        if wrong:
            value = entry[wrong[0]]
            odd = [item for item in value if not _finite([item])] if isinstance(value, list) else []
            what = f"with {kind(odd[0])}, expected finite numbers" if odd else kind(value)
            raise UserError(f"{where} has the {wrong[0]} {what}; {advice}")
        predictions.append(entry | ids)
    return predictions


def _finite(values: Sequence[Any]) -> bool:
    """Whether all are finite numbers."""
    try:
        return set(map(type, values)) <= {int, float} and bool(np.isfinite(np.array(values, np.float64)).all())
    except OverflowError:
        return False


def coco_results(
    poses: Poses[Array], image_ids: Sequence[int] | Array, category_ids: Sequence[int] | None = None
) -> list[dict[str, Any]]:
    """Poses in COCO's results format, where the third number of a keypoint is its score.

    Args:
        poses: N poses in image pixels; those without categories are of the first one.
        image_ids: N.
        category_ids: of the data set's categories; None, where there is no data set, numbers them from 1.

    Returns:
        N mappings: ``image_id``, ``category_id``, ``keypoints`` (3K numbers, to 1e-4 px) and ``score``, then what else
        there is: ``track_id``, ``visibility`` (K) and the extras; null where one of their numbers isn't finite.

    Raises:
        UserError: for a pose of a category that the data set doesn't have.
    """
    xy, scores = poses.keypoints[..., :2].astype(np.float64), poses.keypoint_scores[..., None]
    columns = {
        "image_id": np.asarray(image_ids, np.int64).tolist(),
        "category_id": _category_ids(poses, category_ids).tolist(),
        "keypoints": np.concatenate([xy, scores], -1).round(4).reshape(len(poses), 3 * xy.shape[1]).tolist(),
        "score": poses.scores.tolist(),
    }
    for name, column in _further(poses).items():
        known = np.ones(column.shape, bool) if column.dtype.kind != "f" else np.isfinite(column)
        values = column.astype(object)
        values[~known] = None
        columns[name] = values.tolist()
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _category_ids(poses: Poses[Array], known: Sequence[int] | None) -> Array:
    """(N,) COCO ids of the poses' categories; see `coco_results`."""
    rows = np.zeros(len(poses), np.int64) if poses.categories is None else poses.categories.astype(np.int64)
    if known is None:
        return rows + 1
    unknown = rows[(rows < 0) | (rows >= len(known))]
    if len(unknown):
        raise UserError(
            f"the model finds poses of category {unknown[0]}, counted from 0, but the annotation file has "
            f"{len(known)} categories to predict; give one with the categories that the model was trained for"
        )
    return np.array(known, np.int64)[rows]


def check_extras(extras: Mapping[str, Any], keypoints: Sequence[str]) -> None:
    """Refuse extras under a name that a file of predictions has for something else.

    Args:
        extras: name → anything.
        keypoints: names.

    Raises:
        UserError: naming the extra.
    """
    if not extras:  # as in nearly every batch of a prediction
        return
    taken = {*_base_columns(keypoints), *FIELDS, *(each.name for each in fields(Poses))}
    taken |= {"track_id", "bbox", "area", "id", "num_keypoints"} | {f"{name}_visibility" for name in keypoints}
    for name in extras:
        if name in taken:
            raise UserError(
                f"the extra {name!r} has the name of another field of a pose or of a file of predictions; give it "
                f"another name, such as {name}_2"
            )


def _further(poses: Poses[Array]) -> dict[str, Array]:
    """The optional fields that the formats show beside the keypoints, by name."""
    named = {"track_id": poses.track_ids, "visibility": poses.visibility, **poses.extras}
    return {
        name: column.astype(np.float64).round(6) if column.dtype.kind == "f" else column
        for name, column in named.items()
        if column is not None
    }


def csv_rows(
    chunks: Iterable[tuple[Poses[Array], Sequence[int] | Array, Mapping[int, str]]],
    keypoints: Sequence[str],
    category_ids: Sequence[int] | None = None,
) -> Iterator[list[Any]]:
    """The header, then a row for each pose.

    Columns: ``image_id``, ``file_name``, ``pose`` (counted from 0 in each image), ``score``, the box ``x1``, ``y1``,
    ``x2``, ``y2``, then ``<keypoint>_x``, ``<keypoint>_y`` and ``<keypoint>_score`` for each keypoint, in image pixels,
    then what else there is, ``category_id`` first: a column ``<name>``, or ``<keypoint>_<name>`` for what has K
    numbers, else ``<name>_0`` and so on.

    Args:
        chunks: N poses in image pixels, N image ids, image id → file name; poses of an image stand in one chunk.
        keypoints: names.
        category_ids: see `coco_results`.

    Raises:
        UserError: as `coco_results`.
    """
    header: list[str] | None = None
    base = _base_columns(keypoints)
    for poses, image_ids, file_names in chunks:
        if not len(poses):
            continue
        further = {} if poses.categories is None else {"category_id": _category_ids(poses, category_ids)}
        further |= _further(poses)
        if header is None:
            header = base + [column for name, values in further.items() for column in _columns(name, values, keypoints)]
            yield header
        counted: Counter[int] = Counter()
        points = poses.keypoints[..., :2].astype(np.float64).round(3)
        scores = poses.keypoint_scores.astype(np.float64).round(4)[..., None]
        triples = np.concatenate([points, scores], -1).reshape(len(poses), -1)
        boxes = None if poses.boxes_xyxy is None else poses.boxes_xyxy.astype(np.float64).round(3)
        totals = poses.scores.astype(np.float64).round(6).tolist()
        for row, image_id in enumerate(map(int, image_ids)):  # to Python's numbers row by row, to keep memory small
            box = [""] * 4 if boxes is None else boxes[row].tolist()
            rest = [number for values in further.values() for number in values[row].ravel().tolist()]
            numbers = [totals[row], *box, *triples[row].tolist(), *rest]
            yield [image_id, file_names[image_id], counted[image_id], *numbers]
            counted[image_id] += 1
    if header is None:
        yield base


def _base_columns(keypoints: Sequence[str]) -> list[str]:
    columns = ["image_id", "file_name", "pose", "score", "x1", "y1", "x2", "y2"]
    return columns + [f"{name}_{column}" for name in keypoints for column in ("x", "y", "score")]


def _columns(name: str, values: Array, keypoints: Sequence[str]) -> list[str]:
    if values.ndim == 1:
        return [name]
    if values.shape[1:] == (len(keypoints),):
        return [f"{keypoint}_{name}" for keypoint in keypoints]
    return [f"{name}_{number}" for number in range(values[0].size)]


def write_csv(path: str | Path, rows: Iterable[Sequence[Any]]) -> None:
    """Write rows as they come; the file appears whole or not at all.

    An apostrophe stands before text that a spreadsheet would run as a formula, such as a keypoint's name in the header.

    Raises:
        UserError: when it can't be written.
    """
    with _whole_file(path) as file:
        write_rows(file, rows)


def write_rows(file: IO[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write rows as they come to an open file; see `write_csv`."""
    csv.writer(file).writerows([_cell_of(cell) if isinstance(cell, str) else cell for cell in row] for row in rows)


def _cell_of(text: str) -> str:
    return f"'{text}" if text.lstrip("'").startswith(_FORMULA) and math.isnan(number(text)) else text


def text_of(cell: str) -> str:
    """The text in the place of which `write_csv` wrote ``cell``."""
    return cell[1:] if cell.startswith("'") and cell.lstrip("'").startswith(_FORMULA) else cell


@contextmanager
def _whole_file(path: str | Path) -> Iterator[IO[str]]:
    """A text file that takes the place of ``path`` once it is complete; an error leaves ``path`` as it was."""
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # A name that isn't UTF-8 is written with its odd bytes spelt out.
        with (
            written_aside(target) as part,
            part.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
        ):
            yield file
    except BrokenPipeError:  # of what is printed
        raise
    except OSError as error:
        raise UserError(f"{target} can't be written ({error.strerror or error}); give another folder") from error
