"""Predictions as files: COCO-results JSON and CSV with keypoint names."""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from lightpose.data.coco.json_values import kind, read_json, whole_number
from lightpose.errors import UserError
from lightpose.metrics.base import ordinals
from lightpose.runtime.whole_files import written_aside
from lightpose.skeleton import Skeleton
from lightpose.structures import Array, Poses

FIELDS = ("image_id", "category_id", "keypoints", "score")


def write_text(path: str | Path, text: str) -> None:
    """Write a text file, which appears whole or not at all.

    Raises:
        UserError: when it can't be written.
    """
    with _whole_file(path) as file:
        file.write(text)


def write_coco_results(path: str | Path, predictions: Sequence[Mapping[str, Any]]) -> None:
    """Write COCO results (see `lightpose.metrics.oks.coco_results`); the file appears whole or not at all.

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


def csv_rows(poses: Poses, image_ids: Sequence[int] | Array, file_names: Mapping[int, str]) -> Iterator[list[Any]]:
    """One row for each pose, in the columns of `write_csv`.

    Args:
        poses: N poses in image pixels, on the CPU; all those of an image in one call, as they are numbered.
        image_ids: N.
        file_names: image id → file name.
    """
    ids = [int(image_id) for image_id in image_ids]
    numbers = ordinals(poses.batch_index.new_tensor(ids)).tolist()
    points = poses.keypoints[..., :2].double().numpy().round(3)
    scores = poses.keypoint_scores.double().numpy().round(4)[..., None]
    triples = np.concatenate([points, scores], -1).reshape(len(ids), 3 * points.shape[1])
    boxes = None if poses.boxes_xyxy is None else poses.boxes_xyxy.double().numpy().round(3)
    totals = poses.scores.double().numpy().round(6).tolist()
    for row, image_id in enumerate(ids):  # to Python's numbers row by row, which are then never all in memory
        box = [""] * 4 if boxes is None else boxes[row].tolist()
        yield [image_id, file_names[image_id], numbers[row], totals[row], *box, *triples[row].tolist()]


def write_csv(path: str | Path, rows: Iterable[Sequence[Any]], skeleton: Skeleton) -> None:
    """Write the rows of `csv_rows` as they come; the file appears whole or not at all.

    Columns: ``image_id``, ``file_name``, ``pose`` (counted from 0 in each image), ``score``, the box ``x1``, ``y1``,
    ``x2``, ``y2``, then ``<keypoint>_x``, ``<keypoint>_y`` and ``<keypoint>_score`` for each keypoint. Image pixels.
    """
    header = ["image_id", "file_name", "pose", "score", "x1", "y1", "x2", "y2"]
    header += [f"{name}_{column}" for name in skeleton.keypoints for column in ("x", "y", "score")]
    with _whole_file(path) as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


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
