"""Predictions on their way to disk, image by image."""

import io
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from itertools import count
from pathlib import Path

from lightpose.data.coco.results import coco_results, csv_rows, write_rows
from lightpose.errors import UserError
from lightpose.inference.early_end import EarlyEnd
from lightpose.inference.frames import Frame
from lightpose.inference.prefetch import batched
from lightpose.runtime.growing import GrowingFile
from lightpose.skeleton import Skeleton
from lightpose.structures import Array, Poses

log = logging.getLogger(__name__)

WRITTEN_AT_ONCE = 64
"""Images whose results are put into words together, which takes less time than one by one."""


PREDICTIONS = ("predictions.json", "predictions.csv")
LIFTED = "predictions_3d.json"
FURTHER = (
    "predictions_dlc.csv",
    "predictions_dlc.h5",
    "predictions.slp",
    "predictions.nwb",
    "predictions_3d.trc",
)
"""Files of other tools, see `lightpose.inference.formats`."""
_MARKERS = re.compile(r"predictions_3d(_track\d+|_untracked)?\.trc")
"""Of how many people there are such files differs from run to run."""
OVERLAYS = "overlays"


def check_out(out: Path, inputs: Iterable[Path], draw: bool) -> None:
    """Refuse a folder in which results would take the place of something else.

    Args:
        out: where results go.
        inputs: every file that is read.
        draw: whether there will be overlays.

    Raises:
        UserError: where a result would overwrite an input or a folder, or the way to it leads out of ``out``.
    """
    # Unlike a Path's methods, these take a name that is too long for that of nothing; it is refused later.
    is_there, is_folder = os.path.exists, os.path.isdir
    results = *PREDICTIONS, LIFTED, *FURTHER
    for name in results:
        if is_folder(out / name):
            raise UserError(f"{out / name} is a folder, where a file is to be written; give another out=")
    overlays = out / OVERLAYS
    if draw and os.path.islink(overlays):  # noqa: PTH114
        raise UserError(f"{overlays} is a link, and overlays are written into no other folder; give another out=")
    if draw and is_there(overlays) and not is_folder(overlays):
        raise UserError(f"{overlays} is a file, where the folder of overlays is to be; give another out=")
    taken = {str(_real(out / name)) for name in results if is_there(out / name)}
    below = f"{_real(overlays)}{os.sep}" if draw and is_there(overlays) else None
    if not taken and below is None:
        return
    folders: dict[Path, Path] = {}
    for path in inputs:
        if path.parent not in folders:
            folders[path.parent] = _real(path.parent)
        real = str(_real(path) if path.is_symlink() else folders[path.parent] / path.name)
        if real in taken or (below and real.startswith(below)):
            raise UserError(
                f"the input {path} lies where results are written, in out={out}; give another out=, or an input from "
                "elsewhere"
            )


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


@contextmanager
def staged(out: Path, early: EarlyEnd | None = None) -> Iterator[Path]:
    """A folder whose files move to ``out`` when all is done; after an error nothing of them is left.

    Of the predictions all move before the first overlay does. An overlay that can't is left out, with a warning. Where
    results ended early and one of them would replace another, all move to a new folder in ``out`` instead. Tables of
    markers of an earlier run are removed where new ones come; what else stays of it is named in a warning.

    Args:
        out: where to.
        early: whether the results ended early; it is told where they are.

    Raises:
        UserError: when ``out`` can't be a folder, or nothing can be written to it.
    """
    missing = [folder for folder in (out, *out.parents) if not os.path.lexists(folder)]
    stage = None
    try:
        out.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=out))
        yield stage
        target = out
        if early is not None and early.cause is not None:
            target = early.place = _unfinished(stage, out)
        moved = set(results_in(stage))
        for name in sorted(moved - {OVERLAYS}):
            (stage / name).replace(target / name)
        _leave_earlier(target, moved)
        _move_overlays(stage / OVERLAYS, target / OVERLAYS)
        missing = []
    except BrokenPipeError:  # of what is printed
        raise
    except OSError as error:
        raise _cant_be_written(out, error) from error
    finally:
        if stage is not None:
            shutil.rmtree(stage, ignore_errors=True)
        for folder in missing:
            with suppress(OSError):  # of somebody else's files in it
                folder.rmdir()


def results_in(folder: Path) -> list[str]:
    """Names of the results in a folder, those of overlays last."""
    found = sorted(folder.iterdir(), key=lambda path: (path.name == OVERLAYS, path.name))
    return [path.name for path in found if path.is_file() or any(path.iterdir())]


def _leave_earlier(out: Path, moved: set[str]) -> None:
    """See to files of an earlier run, which tell of other poses than those that have just moved to ``out``."""
    markers = {path.name for path in out.iterdir() if _MARKERS.fullmatch(path.name)}
    if moved & markers:
        for name in markers - moved:
            with suppress(OSError):
                (out / name).unlink()
    known = *PREDICTIONS, LIFTED, *FURTHER, *sorted(markers - {*FURTHER}), OVERLAYS
    earlier = [name for name in known if name not in moved and os.path.lexists(out / name)]
    if moved and earlier:
        log.warning("out=%s still holds results of an earlier run: %s", out, ", ".join(earlier))


def _unfinished(stage: Path, out: Path) -> Path:
    """Where results that are not complete go: beside complete ones of an earlier run, never in their place."""
    if not any(os.path.lexists(out / path.relative_to(stage)) for path in stage.rglob("*") if path.is_file()):
        return out
    for number in count(1):
        with suppress(FileExistsError):
            folder = out / ("unfinished" if number == 1 else f"unfinished_{number}")
            folder.mkdir()
            break
    log.warning("out=%s holds earlier results, which stay as they are", out)
    return folder


def _cant_be_written(out: Path, error: OSError) -> UserError:
    return UserError(f"the results can't be written to out={out} ({error.strerror or error}); give another folder")


def _move_overlays(stage: Path, out: Path) -> None:
    failed: list[str] = []
    for file in sorted(path for path in stage.rglob("*") if path.is_file()):
        target = out / file.relative_to(stage)
        folders = [folder for folder in reversed(target.parents) if folder.is_relative_to(out)]
        try:
            for folder in folders:
                if folder.is_symlink():
                    raise OSError(f"{folder} is a link, and may lead elsewhere")
                folder.mkdir(exist_ok=True)
            file.replace(target)
        except OSError as error:
            failed.append(f"{target} ({error.strerror or error})")
    if failed:
        log.warning("%d overlays can't be written, such as %s; the predictions are complete", len(failed), failed[0])


def write_predictions(
    folder: Path,
    results: Iterable[tuple[Frame, Poses[Array]]],
    skeleton: Skeleton,
    category_ids: Sequence[int] | None = None,
    make_room: Callable[[], bool] = lambda: False,
    early: EarlyEnd | None = None,
) -> tuple[int, int]:
    """Write ``predictions.json`` (COCO results with a ``file_name``) and ``predictions.csv`` as the results come.

    Args:
        folder: where to.
        results: each frame and its poses.
        skeleton: names the keypoints.
        category_ids: see `lightpose.data.coco.results.coco_results`.
        make_room: called where there is no space; whether there may be some then.
        early: is told of an error in writing, after which the results end: both files then are whole, and hold the same
            frames. None: the error is raised.

    Returns:
        How many images and poses there were.

    Raises:
        UserError: for a pose of a category that has no id.
        OSError: when nothing can be written.
    """
    images = poses = 0
    encode = json.JSONEncoder(separators=(",", ":")).encode
    entries: list[str] = []
    table = io.StringIO(newline="")

    with (
        closing(GrowingFile(folder / "predictions.json", b"[", b"]")) as listed,
        closing(GrowingFile(folder / "predictions.csv")) as rows,
    ):

        def add() -> None:
            """Both or nothing of what has been put into words."""
            before = listed.length
            listed.add((",\n" if before > 1 and entries else "").encode() + ",\n".join(entries).encode())
            try:
                rows.add(table.getvalue().encode("utf-8", "backslashreplace"))
            except OSError:
                listed.cut(before)
                raise
            entries.clear()
            table.seek(0)
            table.truncate()

        def chunks() -> Iterator[tuple[Poses[Array], list[int], dict[int, str]]]:
            nonlocal images, poses
            without_pixels = ((frame.image_id, frame.name, found) for frame, found in results)
            for chunk in batched(without_pixels, WRITTEN_AT_ONCE):
                names = {image_id: name for image_id, name, _ in chunk}
                ids = [image_id for image_id, _, found in chunk for _ in range(len(found))]
                people = Poses.cat([found for *_, found in chunk])
                for entry in coco_results(people, ids, category_ids):
                    entries.append(encode({**entry, "file_name": names[entry["image_id"]]}))
                yield people, ids, names  # and come back when its rows are in the table
                try:
                    add()
                except OSError:
                    if not make_room():
                        raise
                    add()
                images, poses = images + len(chunk), poses + len(people)

        try:
            write_rows(table, csv_rows(chunks(), skeleton.keypoints, category_ids))
            add()  # the header of an empty table
        except OSError as error:
            if early is None or not images:
                raise
            early.cause = _cant_be_written(folder.parent, error)
    return images, poses
