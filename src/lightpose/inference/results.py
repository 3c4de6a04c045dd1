"""Predictions as files: COCO-results JSON and CSV with keypoint names."""

import csv
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from lightpose.errors import UserError
from lightpose.metrics.base import ordinals
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


def read_coco_results(path: str | Path) -> list[dict[str, Any]]:
    """COCO keypoint results of a file.

    Raises:
        UserError: when the file is missing or holds something else.
    """
    advice = f"give a list of objects with {', '.join(FIELDS)}, as lightpose-eval writes it"
    try:
        predictions = json.loads(Path(path).read_bytes())
    except OSError as error:
        raise UserError(f"can't read the predictions file {path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"the predictions file {path} is not JSON ({error}); {advice}") from error
    if not isinstance(predictions, list):
        raise UserError(f"the predictions file {path} holds one {type(predictions).__name__}; {advice}")
    for number, prediction in enumerate(predictions):
        missing = [field for field in FIELDS if not isinstance(prediction, dict) or field not in prediction]
        if missing:
            raise UserError(f"entry {number} of the predictions file {path} has no {' or '.join(missing)}; {advice}")
    return predictions


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
    target, name = Path(path), None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        # A name that isn't UTF-8 is written with its odd bytes spelt out.
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            yield file
        umask = os.umask(0)
        os.umask(umask)
        Path(name).chmod(0o666 & ~umask)  # mkstemp makes files that only their owner reads
        Path(name).replace(target)
        name = None
    except BrokenPipeError:  # of what is printed
        raise
    except OSError as error:
        raise UserError(f"{target} can't be written ({error.strerror or error}); give another folder") from error
    finally:
        if name is not None:
            Path(name).unlink(missing_ok=True)
