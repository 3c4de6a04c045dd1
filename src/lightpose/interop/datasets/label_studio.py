"""Label Studio's export (JSON)."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

from lightpose.data.coco.json_values import kind, number, read_json, shown
from lightpose.data.coco.labelled import Category, Person, Picture
from lightpose.errors import UserError
from lightpose.interop.datasets.labels import Labels, Places, check_names, name_of

_KEYPOINT, _BOX = "keypointlabels", "rectanglelabels"


def read_label_studio(path: Path, places: Places) -> Labels:
    """Read tasks with keypoints, and the boxes that say whom each is of.

    A keypoint belongs to its region's parent box, or to the box that a relation joins it with; those that belong to no
    box are of one person. The label of a box is its category; the keypoints are those of all tasks, in the order in
    which they are met. Every keypoint that is labelled is seen, as the format doesn't say more. Of several annotations
    of a task the first that wasn't cancelled is taken.

    Raises:
        UserError: naming the task and what is wrong.
    """
    tasks = read_json(path, "the export")
    if isinstance(tasks, Mapping) and {"images", "annotations"} <= tasks.keys():
        raise UserError(f"{path} is a COCO file, which needs no conversion; give it as data.train={path}")
    listed = [task for task in tasks if isinstance(task, Mapping)] if isinstance(tasks, list) else []
    if not any(isinstance(task.get("data"), Mapping) for task in listed):
        raise UserError(f"{path} holds {kind(tasks)}, expected the list of tasks that Label Studio exports as JSON")
    chosen = [(task, found) for task in tasks if (found := _result(task, path, places.lost)) is not None]
    names = [
        label for _, result in chosen for part in result if part["type"] == _KEYPOINT for label in _labels(part)[:1]
    ]
    points = check_names(list(dict.fromkeys(names)), str(path))
    titles: dict[str, int] = {}
    pictures = []
    for task, result in chosen:
        where = f"task {shown(task.get('id'))} of {path}"
        picture = _picture(task, where, places)
        if picture is not None:
            people = list(_people(result, picture[1], points, titles, where, places.lost))
            pictures.append(Picture(*picture, people))
    return Labels([Category(title, points) for title in titles or {"object": 0}], {"train": pictures}, places.lost)


def _result(task: Any, path: Path, lost: Counter[str]) -> list[dict[str, Any]] | None:
    """The regions and relations of a task that is labelled, each of which has a ``type``."""
    if not isinstance(task, Mapping):
        raise UserError(f"{path} holds {kind(task)} among its tasks, expected objects; export it anew")
    listed = task.get("annotations", task.get("completions"))
    found = [one for one in listed if isinstance(one, Mapping)] if isinstance(listed, list) else []
    good = [one for one in found if isinstance(one.get("result"), list) and not one.get("was_cancelled")]
    if not good:
        lost["tasks that nobody labelled"] += 1
        return None
    lost["further annotations of a task"] += len(good) - 1
    parts = [part for part in good[0]["result"] if isinstance(part, dict) and isinstance(part.get("type"), str)]
    for part in parts:
        if part.get("image_rotation"):
            turn = shown(part["image_rotation"])
            raise UserError(
                f"task {shown(task.get('id'))} of {path} was labelled turned by {turn} degrees; turn the picture "
                "itself, and label it anew"
            )
        if part["type"] not in (_KEYPOINT, _BOX, "relation"):
            lost[f"regions of the kind {part['type'][:30]}"] += 1
    return parts


def _labels(part: Mapping[str, Any]) -> list[str]:
    value = part.get("value")
    labels = value.get(part["type"]) if isinstance(value, Mapping) else None
    return [str(label) for label in labels] if isinstance(labels, list) else []


def _picture(task: Mapping[str, Any], where: str, places: Places) -> tuple[Path, tuple[int, int]] | None:
    data = task["data"] if isinstance(task.get("data"), Mapping) else {}
    texts = [value for value in (data.get("image"), data.get("img"), *data.values()) if isinstance(value, str)]
    name = texts[0] if texts else str(task.get("file_upload") or "")
    if not name:
        raise UserError(f"{where} names no picture in its data, such as image; export tasks that label pictures")
    address = urlsplit(name)
    inner = parse_qs(address.query).get("d")  # of local files
    plain = unquote(inner[0] if inner else address.path)
    for other in (plain, name_of(plain).partition("-")[2]):  # uploads have eight digits and a - before their names
        path = places.find(other) if other else None
        if path is not None:
            return places.picture(plain, path)
    return places.picture(plain)


def _people(
    result: list[dict[str, Any]],
    hw: tuple[int, int],
    points: tuple[str, ...],
    titles: dict[str, int],
    where: str,
    lost: Counter[str],
) -> Iterator[Person]:
    boxes = {str(part.get("id")): part for part in result if part["type"] == _BOX}
    owner: dict[str, str] = {}
    for part in result:
        if part["type"] == "relation":
            ends = str(part.get("from_id")), str(part.get("to_id"))
            owner |= {one: other for one, other in (ends, ends[::-1]) if other in boxes}
        elif str(part.get("parentID")) in boxes:
            owner[str(part.get("id"))] = str(part["parentID"])
    groups: dict[str, list[dict[str, Any]]] = {box: [] for box in boxes}
    for part in result:
        if part["type"] == _KEYPOINT:
            groups.setdefault(owner.get(str(part.get("id")), ""), []).append(part)
    for box, parts in groups.items():
        keypoints, visible = np.zeros((len(points), 2)), np.zeros(len(points), np.int64)
        for part in parts:
            labels = _labels(part)
            if not labels:
                lost["keypoints without a label"] += 1
                continue
            row = points.index(labels[0])
            if visible[row]:
                belongs = "in one box" if box else "that belong to no box: join each with its box, as its parent"
                raise UserError(f"{where} has two keypoints {labels[0]} {belongs}; mend it in Label Studio")
            keypoints[row], visible[row] = _scaled(part, ("x", "y"), hw, where), 2
        edges = None
        if box:
            left, top, width, height = _scaled(boxes[box], ("x", "y", "width", "height"), hw, where)
            edges = (left, top, width, height)
            if number(boxes[box]["value"].get("rotation", 0)):
                lost["turns of boxes, which are made anew around their keypoints"] += 1
                edges = None
        title = (_labels(boxes[box])[:1] or ["object"])[0] if box else next(iter(titles), "object")
        yield Person(keypoints, visible, titles.setdefault(title, len(titles)), edges)


def _scaled(part: Mapping[str, Any], keys: tuple[str, ...], hw: tuple[int, int], where: str) -> list[float]:
    """Per cent of the picture as pixels."""
    value = part.get("value")
    found = [number(value.get(key)) if isinstance(value, Mapping) else math.nan for key in keys]
    if not all(map(math.isfinite, found)):
        raise UserError(f"{where} has a region at {shown(value)}; expected the numbers {', '.join(keys)}, in per cent")
    return [share / 100 * hw[(place + 1) % 2] for place, share in enumerate(found)]
