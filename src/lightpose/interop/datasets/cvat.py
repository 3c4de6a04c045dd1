"""CVAT for images and CVAT for video, version 1.1 (XML)."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np

from lightpose.data.coco.json_values import whole_number
from lightpose.data.coco.labelled import Category, Person, Picture
from lightpose.errors import UserError
from lightpose.interop.datasets.labels import Labels, Places, check_names
from lightpose.interop.datasets.xml import parse_xml, read_xml


@dataclass(slots=True)
class _Kinds:
    """Categories as they are met; those of skeletons are known from the beginning."""

    categories: list[Category]

    def place(self, name: str) -> int | None:
        """Where the category of that name is."""
        return next((place for place, one in enumerate(self.categories) if one.name == name), None)


def read_cvat(path: Path, places: Places) -> Labels:
    """Read an export of CVAT: skeletons, with hidden and absent points and links, and subsets as splits.

    Of a video the frames that somebody labelled (key frames) are kept, with their tracks. In a file without skeletons,
    shapes of several points are taken for them, whose keypoints are called 1, 2, ...; each label must then have one
    number of points. Other shapes are counted as lost, but for boxes in a file without any points.

    Raises:
        UserError: naming the file and what is wrong.
    """
    root = read_xml(path, "the annotations")
    if root.tag != "annotations" or root.find("meta") is None:
        raise UserError(f"{path} is XML that begins with {root.tag[:40]}; expected an export as CVAT for images 1.1")
    kinds = _Kinds(_skeletons(root, path))
    plain = not kinds.categories
    if plain:
        kinds.categories = _plain_points(root, path)
    if not kinds.categories:
        raise UserError(f"{path} has no skeletons, nor shapes of several points; label keypoints as skeletons in CVAT")
    splits: dict[str, list[Picture]] = {}
    for image in root.findall("image"):
        found = places.picture(image.get("name", ""))
        if found is not None:
            people = list(_people(image, kinds, plain, places, path))
            splits.setdefault((image.get("subset") or "train").lower(), []).append(Picture(*found, people))
    tracks = root.findall("track")
    if tracks:
        splits.setdefault("train", []).extend(_of_video(root, tracks, kinds, plain, places, path))
    if not any(splits.values()):
        raise UserError(f"{path} has neither images nor tracks; export a task that is labelled")
    return Labels(kinds.categories, splits, places.lost)


def _labels(root: Element) -> Iterator[Element]:
    for labels in root.iter("labels"):
        yield from labels.findall("label")


def _skeletons(root: Element, path: Path) -> list[Category]:
    listed = list(_labels(root))
    found: dict[str, Category] = {}
    for label in listed:
        name = label.findtext("name") or ""
        if label.findtext("type") == "skeleton" and name not in found:
            points = [other.findtext("name") or "" for other in listed if other.findtext("parent") == name]
            points = list(dict.fromkeys(points)) or _met(root, name)
            found[name] = Category(name, check_names(points, f"the skeleton {name} of {path}"), _links(label, points))
    return list(found.values())


def _met(root: Element, name: str) -> list[str]:
    """Names of the points of skeletons, in the order in which they are met."""
    shapes = [shape for shape in root.iter("skeleton") if shape.get("label") == name]
    tracks = [shape for track in root.iter("track") if track.get("label") == name for shape in track.iter("skeleton")]
    return list(dict.fromkeys(point.get("label", "") for shape in shapes + tracks for point in shape.findall("points")))


def _links(label: Element, names: list[str]) -> tuple[tuple[int, int], ...]:
    """Lines of the drawing of a skeleton, which is XML as text."""
    text = label.findtext("svg") or ""
    try:
        drawing = parse_xml(f"<svg>{text}</svg>".encode(), "a skeleton")
    except UserError:
        return ()
    place = {}
    for circle in drawing.iter("circle"):
        if circle.get("data-label-name") in names:
            place[circle.get("data-node-id")] = names.index(circle.get("data-label-name", ""))
    lines = [(line.get("data-node-from"), line.get("data-node-to")) for line in drawing.iter("line")]
    ends = [(place.get(start), place.get(end)) for start, end in lines]
    return tuple((start, end) for start, end in ends if start is not None and end is not None)


def _plain_points(root: Element, path: Path) -> list[Category]:
    counts: dict[str, set[int]] = {}
    for shape in root.iter("points"):
        counts.setdefault(shape.get("label", ""), set()).add(len(_coordinates(shape, path)))
    odd = [name for name, numbers in counts.items() if len(numbers) > 1]
    if odd:
        numbers = " and ".join(map(str, sorted(counts[odd[0]])))
        raise UserError(
            f"{path} has shapes {odd[0]} of {numbers} points, and nothing tells which are which; label a skeleton"
        )
    return [
        Category(name, tuple(str(number + 1) for number in range(max(numbers))))
        for name, numbers in counts.items()
        if max(numbers) > 1
    ]


def _coordinates(shape: Element, path: Path) -> Any:
    """(n, 2) of a shape of points."""
    text = shape.get("points") or ""
    try:
        points = [[float(value) for value in pair.split(",")] for pair in text.split(";") if pair]
        found = np.array(points, np.float64).reshape(len(points), 2)
        if not np.isfinite(found).all():
            raise ValueError
    except ValueError:
        raise UserError(f"{path} has the points {text[:60]!r}; expected x,y;x,y") from None
    return found


def _people(image: Element, kinds: _Kinds, plain: bool, places: Places, path: Path) -> Iterator[Person]:
    for shape in image:
        category = kinds.place(shape.get("label", ""))
        if category is None or shape.tag not in ("skeleton", "points") or plain != (shape.tag == "points"):
            if shape.tag != "tag":
                places.lost[f"shapes of the kind {shape.tag[:20]}"] += 1
            continue
        yield _person(shape, kinds.categories[category], category, plain, places, path)


def _person(shape: Element, category: Category, place: int, plain: bool, places: Places, path: Path) -> Person:
    count = len(category.keypoints)
    points, visible = np.zeros((count, 2)), np.zeros(count, np.int64)
    if plain:
        points = _coordinates(shape, path)
        visible[:] = 1 if shape.get("occluded") == "1" else 2
        return Person(points, visible, place)
    for point in shape.findall("points"):
        name, found = point.get("label", ""), _coordinates(point, path)
        if name not in category.keypoints or len(found) != 1:
            places.lost["points that are none of their skeleton"] += 1
            continue
        row = category.keypoints.index(name)
        if visible[row]:
            raise UserError(f"a skeleton {category.name} of {path} has the point {name} twice; remove one of them")
        if point.get("outside") != "1":
            points[row], visible[row] = found[0], 1 if "1" in (point.get("occluded"), shape.get("occluded")) else 2
    return Person(points, visible, place)


def _of_video(
    root: Element, tracks: list[Element], kinds: _Kinds, plain: bool, places: Places, path: Path
) -> Iterator[Picture]:
    """The key frames of tracks, as pictures."""
    people: dict[int, list[Person]] = {}
    for number, track in enumerate(tracks):
        category = kinds.place(track.get("label", ""))
        for shape in track:
            frame = whole_number(shape.get("frame"))
            if category is None or shape.tag != ("points" if plain else "skeleton"):
                places.lost[f"shapes of the kind {shape.tag[:20]}"] += 1
            elif frame is None or frame < 0:
                raise UserError(f"{path} has a shape in the frame {shape.get('frame')}; expected a number from 0")
            elif shape.get("keyframe") == "0":
                places.lost["shapes between key frames, which CVAT made up"] += 1
            elif shape.get("outside") != "1":
                made = _person(shape, kinds.categories[category], category, plain, places, path)
                people.setdefault(frame, []).append(Person(made.keypoints, made.visible, category, None, number))
    source = next((found.text for found in root.iter("source") if found.text), None)
    if source is None or not people:
        raise UserError(
            f"{path} has tracks, but {'no name of a video' if people else 'no key frame'}; export the task anew"
        )
    files = places.frames(places.video(source), set(people))
    for frame, file in sorted(files.items()):
        yield Picture(*file, people[frame])
