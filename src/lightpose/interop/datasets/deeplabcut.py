"""DeepLabCut's projects and tables of labels, which Lightning Pose has, too."""

import csv
import io
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lightpose.data.coco.json_values import read_file
from lightpose.data.coco.labelled import Category, Person, Picture
from lightpose.errors import UserError
from lightpose.interop.datasets.labels import Labels, Places, check_names, name_of, read_yaml

_LEVELS = ("scorer", "individuals", "bodyparts", "coords")
_HEADER = f"expected the lines {', '.join(_LEVELS[::2])} and coords, as DeepLabCut and Lightning Pose write them"


@dataclass(frozen=True, slots=True)
class _Table:
    """A table of labels.

    Attributes:
        columns: individual, body part and coordinate of each column.
        names: of the pictures, one for each row.
        values: (rows, columns), NaN where there is nothing.
    """

    columns: list[tuple[str, str, str]]
    names: list[str]
    values: Any


def read_table(path: Path, places: Places) -> Labels:
    """Read one table of labels (CSV): of DeepLabCut, with or without individuals, or of Lightning Pose.

    A body part without coordinates isn't labelled. Where there is a column ``visible``, 0 is a hidden one. Individuals
    that have other body parts than the first, as ``single`` in DeepLabCut, are a category of their own.

    Raises:
        UserError: naming the file and what is wrong.
    """
    return _labels([(path, _table(path))], {}, places)


def read_project(path: Path, places: Places) -> Labels:
    """Read a project of DeepLabCut: ``config.yaml``, and the tables in ``labeled-data/*``, of its scorer.

    Splits are not read, as a project keeps them in pickles, which may run code; for the same reason tables are read
    from CSV and never from HDF5.

    Raises:
        UserError: naming the file and what is wrong.
    """
    config = read_yaml(path, "the project")
    folders = sorted(folder for folder in (path.parent / "labeled-data").glob("*") if folder.is_dir())
    tables = [(table, _table(table)) for folder in folders for table in _of_folder(folder, config.get("scorer"))]
    if not tables:
        raise UserError(
            f"{path.parent / 'labeled-data'} holds no CollectedData_*.csv; label frames first, or give one table as "
            "source="
        )
    labels = _labels(tables, config, places)
    labels.notes.append("splits of a DeepLabCut project are pickles and not read; all pictures are in one file")
    return labels


def _of_folder(folder: Path, scorer: Any) -> list[Path]:
    found = sorted(folder.glob("CollectedData_*.csv"))
    own = [table for table in found if table.name == f"CollectedData_{scorer}.csv"]
    if len(own or found) > 1:
        raise UserError(
            f"{folder} holds {' and '.join(table.name for table in found)}, and the project's scorer is {scorer}; keep "
            "the table of one scorer there"
        )
    others = sorted(folder.glob("CollectedData_*.h5"))
    if others and not found:
        raise UserError(
            f"{others[0]} has no CSV file beside it. HDF5 files of DeepLabCut may hold pickles, which run code, and "
            "are not read; write it as CSV in DeepLabCut's Python with pandas.read_hdf(FILE).to_csv(FILE.csv)"
        )
    return own or found


def _table(path: Path) -> _Table:
    text = read_file(path, "the table").decode("utf-8-sig", "replace")
    try:
        rows = list(csv.reader(io.StringIO(text)))
    except csv.Error as error:
        raise UserError(f"the table {path} is not CSV ({error}); {_HEADER}") from error
    head = {row[0].strip().lower(): row for row in rows[:4] if row}
    if not {"scorer", "bodyparts", "coords"} <= head.keys():
        raise UserError(f"{path} has no header of labels, but {rows[0][:3] if rows else 'nothing'}; {_HEADER}")
    body = [row for row in rows[len(head.keys() & {*_LEVELS}) :] if any(row)]
    width = len(head["coords"])
    first = next((place for place, cell in enumerate(head["coords"]) if cell.strip() in ("x", "y")), width)
    individuals = head.get("individuals", [""] * width)
    columns = [
        (individuals[place], head["bodyparts"][place], head["coords"][place].strip())
        if place < min(len(individuals), len(head["bodyparts"]))
        else ("", "", "")
        for place in range(first, width)
    ]
    kinds = Counter(coordinate for *_, coordinate in columns)
    if kinds["likelihood"]:
        raise UserError(f"{path} has likelihoods: it holds predictions, not labels; give a table CollectedData_*.csv")
    twice = [column for column, times in Counter(columns).items() if times > 1]
    if twice or not columns or set(kinds) - {"x", "y", "visible"}:
        what = f"the column {' '.join(twice[0]).strip()} twice" if twice else f"the columns {sorted(kinds)}"
        raise UserError(f"{path} has {what}; expected x and y of each body part once")
    short = [number for number, row in enumerate(body) if len(row) != width]
    if short:
        raise UserError(f"row {short[0] + 1} of the labels in {path} has {len(body[short[0]])} cells, expected {width}")
    names = ["/".join(cell for cell in row[:first] if cell) for row in body]
    repeated = [name for name, times in Counter(names).items() if times > 1]
    if repeated:
        raise UserError(f"{path} has {len(repeated)} pictures twice, such as {repeated[0]}; keep one row of each")
    values = np.array([[_number(cell, path) for cell in row[first:]] for row in body]).reshape(len(body), len(columns))
    return _Table(columns, names, values)


def _number(cell: str, path: Path) -> float:
    text = cell.strip()
    if not text:
        return math.nan
    try:
        return float(text)
    except ValueError:
        raise UserError(f"{path} holds {cell[:40]!r} among its coordinates; expected numbers") from None


def _labels(tables: Sequence[tuple[Path, _Table]], config: Any, places: Places) -> Labels:
    path, first = tables[0]
    parts_of = _parts(first)
    for other, table in tables[1:]:
        for individual, parts in _parts(table).items():
            known = parts_of.setdefault(individual, parts)
            if set(known) != set(parts):
                odd = sorted(set(known) ^ set(parts))
                raise UserError(
                    f"{other} and {path} have different body parts: only one of them has {', '.join(odd[:5])}; label "
                    "or remove these everywhere"
                )
    name = str(config.get("Task") or "animal")
    listed = config.get("skeleton") if isinstance(config.get("skeleton"), list) else []
    pairs = [(str(link[0]), str(link[1])) for link in listed if isinstance(link, list) and len(link) == 2]
    kinds: dict[frozenset[str], int] = {}
    categories: list[Category] = []
    used: set[tuple[str, str]] = set()
    for individual, parts in parts_of.items():
        if frozenset(parts) not in kinds:
            kinds[frozenset(parts)] = len(categories)
            links = tuple((parts.index(start), parts.index(end)) for start, end in pairs if {start, end} <= {*parts})
            used |= {(parts[start], parts[end]) for start, end in links}
            title = name if not categories else individual
            categories.append(Category(title, check_names(parts, str(path)), links))
    places.lost["links that join no two keypoints"] += len(listed) - sum(pair in used for pair in pairs)
    pictures: dict[Path, Picture] = {}
    for table_path, table in tables:
        for row, picture in enumerate(table.names):
            beside = table_path.parent / name_of(picture)
            found = places.picture(picture, beside if beside.is_file() else None)
            if found is not None:
                people = _people(table, row, parts_of, kinds, categories)
                if found[0] in pictures:
                    raise UserError(f"{found[0]} is labelled twice; keep one row of it")
                pictures[found[0]] = Picture(*found, people)
    return Labels(categories, {"train": list(pictures.values())}, places.lost)


def _parts(table: _Table) -> dict[str, list[str]]:
    """Individual → its body parts, in order."""
    found: dict[str, dict[str, None]] = {}
    for individual, part, _ in table.columns:
        found.setdefault(individual, {})[part] = None
    return {individual: list(parts) for individual, parts in found.items()}


def _people(
    table: _Table,
    row: int,
    parts_of: dict[str, list[str]],
    kinds: dict[frozenset[str], int],
    categories: list[Category],
) -> list[Person]:
    people = []
    place = {column: number for number, column in enumerate(table.columns)}
    for number, (individual, parts) in enumerate(parts_of.items()):
        category = kinds[frozenset(parts)]
        names = categories[category].keypoints
        values = np.full((3, len(names)), np.nan)
        for axis, coordinate in enumerate(("x", "y", "visible")):
            for column, part in enumerate(names):
                at = place.get((individual, part, coordinate))
                if at is not None:
                    values[axis, column] = table.values[row, at]
        labelled = np.isfinite(values[:2]).all(0)
        if labelled.any():
            visible = np.where(labelled, np.where(values[2] == 0, 1, 2), 0)
            track = number if len(parts_of) > 1 else None
            people.append(Person(values[:2].T, visible, category, None, track))
    return people
