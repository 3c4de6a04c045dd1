"""YOLO-pose: ``data.yaml`` with ``kpt_shape``, and a text file of numbers for each picture."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lightpose.data.coco.json_values import kind, read_file, whole_number
from lightpose.data.coco.labelled import Category, Person, Picture
from lightpose.errors import UserError
from lightpose.interop.datasets.labels import Labels, Places, check_names, links_of, read_yaml

_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
_SPLITS = ("train", "val", "test")


def read_yolo(path: Path, places: Places) -> Labels:
    """Read a data set of YOLO-pose.

    Kept are the splits, the classes, boxes and visibilities, the pairs of ``flip_idx``, and ``kpt_names`` and
    ``skeleton`` where the file has them; else keypoints are called 0, 1, ... Without visibilities every keypoint is
    seen, but for those at (0, 0).

    Args:
        path: ``data.yaml``.
        places: whose folders begin with the one in which ``train`` and ``val`` are.

    Raises:
        UserError: naming the file, or its line.
    """
    content = read_yaml(path, "the data set")
    shape = content.get("kpt_shape")
    shape = [whole_number(number) for number in shape] if isinstance(shape, list) else []
    if len(shape) != 2 or shape[0] is None or not 0 < shape[0] <= 2000 or shape[1] not in (2, 3):
        given = kind(content.get("kpt_shape"))
        raise UserError(f"kpt_shape of {path} is {given}; expected [K, 2] or [K, 3], such as [17, 3]")
    count, numbers = int(shape[0]), int(shape[1])
    pairs = _swap_pairs(content.get("flip_idx"), count, path)
    lost = places.lost
    categories = [
        Category(name, points, links_of(content.get("skeleton"), points, lost), pairs)
        for name, points in _classes(content, count, path)
    ]
    splits: dict[str, list[Picture]] = {}
    for split in _SPLITS:
        listed = content.get(split)
        if listed:
            entries = listed if isinstance(listed, list) else [listed]
            files = dict(named for entry in entries for named in _files(entry, path, content, places))
            pictures = [_picture(*named, len(categories), count, numbers, places) for named in files.items()]
            splits[split] = [picture for picture in pictures if picture is not None]
    if not splits:
        raise UserError(f"{path} has neither train nor val; name the folders of its pictures")
    return Labels(categories, splits, lost)


def _swap_pairs(flip: Any, count: int, path: Path) -> tuple[tuple[int, int], ...] | None:
    if flip is None:
        return None
    if (
        not isinstance(flip, list)
        or any(type(place) is not int for place in flip)
        or sorted(flip) != list(range(count))
        or any(flip[flip[place]] != place for place in flip)
    ):
        raise UserError(f"flip_idx of {path} is {kind(flip)}; expected each of 0 to {count - 1} once, in pairs")
    return tuple((place, other) for place, other in enumerate(flip) if place < other)


def _classes(content: Mapping[str, Any], count: int, path: Path) -> list[tuple[str, tuple[str, ...]]]:
    """Name and keypoints of each class."""
    names = content.get("names")
    if names is None:
        names = {0: "object"}
    listed = list(names.values()) if isinstance(names, dict) else names
    if not isinstance(listed, list) or not listed:
        raise UserError(f"names of {path} is {kind(names)}; expected the names of its classes")
    given = content.get("kpt_names") or content.get("node_names")  # the latter by sleap-io
    given = {str(key): value for key, value in given.items()} if isinstance(given, dict) else {"0": given}
    found = []
    for number, name in enumerate(listed):
        points = given.get(str(number), given.get("0")) or list(range(count))
        if not isinstance(points, list) or len(points) != count:
            raise UserError(f"kpt_names of {path} has {kind(points)} for {name}, expected {count} names")
        found.append((str(name), check_names([str(point) for point in points], str(path))))
    return found


def _files(entry: Any, path: Path, content: Mapping[str, Any], places: Places) -> Iterator[tuple[str, Path | None]]:
    """Name and file of the pictures of a split: those of a folder, or listed in a text file."""
    if not isinstance(entry, str):
        raise UserError(f"a split of {path} is {kind(entry)}; expected a folder, or a text file of names")
    # As exported by some tools, names begin with a .. that leads nowhere; and `path` is a folder of another computer.
    parts = [part for part in entry.replace("\\", "/").split("/") if part not in ("", ".")]
    while parts[:1] == [".."]:
        del parts[0]
    above = str(content.get("path") or "").replace("\\", "/").split("/")
    base = [part for part in above if part not in ("", ".", "..")]
    if ".." in parts:
        raise UserError(f"{entry} in {path} leads outside by ..; name a folder beside the file")
    for folder in places.folders:
        for tail in ([*base[start:], *parts] for start in range(len(base) + 1)):
            for start in range(len(tail)):
                place = folder.joinpath(*tail[start:])
                if place.is_dir():
                    files = sorted(file for file in place.rglob("*") if file.suffix.lower() in _SUFFIXES)
                    yield from ((str(file), file) for file in files)
                    return
                if place.suffix == ".txt" and place.is_file():
                    for line in read_file(place, "the list").decode("utf-8", "replace").splitlines():
                        if line.strip():
                            yield line.strip(), places.find(line.strip())
                    return
    raise UserError(
        f"{entry} of {path} is not in {' or '.join(map(str, places.folders))}; give the folder of the data set as "
        "images="
    )


def _labels_of(file: Path) -> Path:
    """The text file of a picture: in ``labels`` instead of the last ``images`` of its path, or else beside it."""
    parts = list(file.parts)
    for place in reversed(range(len(parts) - 1)):
        if parts[place] == "images":
            other = Path(*parts[:place], "labels", *parts[place + 1 :]).with_suffix(".txt")
            return other
    return file.with_suffix(".txt")


def _picture(name: str, file: Path | None, classes: int, count: int, numbers: int, places: Places) -> Picture | None:
    found = places.picture(name, file)
    if found is None:
        return None
    path, hw = found
    labels = _labels_of(path)
    people = []
    if labels.is_file():
        for row, line in enumerate(read_file(labels, "the labels").decode("utf-8", "replace").splitlines(), start=1):
            if line.strip():
                people.append(_person(line, f"line {row} of {labels}", hw, classes, count, numbers, places.lost))
    else:
        places.lost["pictures without a text file, kept as pictures of nobody"] += 1
    return Picture(path, hw, people)


def _person(
    line: str, where: str, hw: tuple[int, int], classes: int, count: int, numbers: int, lost: Counter[str]
) -> Person:
    try:
        values = [float(word) for word in line.split()]
    except ValueError as error:
        raise UserError(f"{where} holds {line[:60]!r}; expected numbers") from error
    if not all(map(math.isfinite, values)):
        raise UserError(f"{where} holds a number that is not finite; mend it")
    if len(values) not in (5, 5 + count * numbers):
        raise UserError(
            f"{where} has {len(values)} numbers, expected {5 + count * numbers}: class, box, and {numbers} for each of "
            f"{count} keypoints, as kpt_shape says; mend one of them"
        )
    if not values[0].is_integer() or not 0 <= values[0] < classes:
        raise UserError(
            f"{where} has the class {values[0]:g}, and the data set has 0 to {classes - 1}; mend one of them"
        )
    scale = np.array([hw[1], hw[0]], np.float64)
    centre, size = np.array(values[1:3]) * scale, np.array(values[3:5]) * scale
    points, visible = np.zeros((count, 2)), np.zeros(count, np.int64)
    if len(values) > 5:
        rows = np.array(values[5:]).reshape(count, numbers)
        points = rows[:, :2] * scale
        visible = rows[:, 2].round().astype(np.int64) if numbers == 3 else np.where(rows.any(-1), 2, 0)
        odd = (visible < 0) | (visible > 2)
        lost["visibilities other than 0, 1 and 2, taken as 2"] += int(odd.sum())
        visible = np.where(odd, 2, visible)
    else:
        lost["boxes without keypoints, kept as such"] += 1
    left, top = centre - size / 2
    return Person(points, visible, int(values[0]), (float(left), float(top), float(size[0]), float(size[1])))
