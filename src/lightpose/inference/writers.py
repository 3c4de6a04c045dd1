"""Predictions on their way to disk, image by image."""

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from lightpose.data.coco.results import coco_results, csv_rows, write_csv
from lightpose.errors import UserError
from lightpose.inference.frames import Frame
from lightpose.inference.prefetch import batched
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
def staged(out: Path) -> Iterator[Path]:
    """A folder whose files move to ``out`` when all is done; after an error nothing of them is left.

    Of the predictions all move before the first overlay does. An overlay that can't is left out, with a warning.

    Raises:
        UserError: when ``out`` can't be a folder, or nothing can be written to it.
    """
    missing = [folder for folder in (out, *out.parents) if not os.path.lexists(folder)]
    stage = None
    try:
        out.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=out))
        yield stage
        for path in sorted(stage.iterdir()):
            if path.name != OVERLAYS:
                path.replace(out / path.name)
        _move_overlays(stage / OVERLAYS, out / OVERLAYS)
        missing = []
    except BrokenPipeError:  # of what is printed
        raise
    except OSError as error:
        raise UserError(
            f"the results can't be written to out={out} ({error.strerror or error}); give another folder"
        ) from error
    finally:
        if stage is not None:
            shutil.rmtree(stage, ignore_errors=True)
        for folder in missing:
            with suppress(OSError):  # of somebody else's files in it
                folder.rmdir()


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
) -> tuple[int, int]:
    """Write ``predictions.json`` (COCO results with a ``file_name``) and ``predictions.csv`` as the results come.

    Args:
        folder: where to.
        results: each frame and its poses.
        skeleton: names the keypoints.
        category_ids: see `lightpose.data.coco.results.coco_results`.

    Returns:
        How many images and poses there were.

    Raises:
        UserError: for a pose of a category that has no id.
    """
    images = poses = 0
    encode = json.JSONEncoder(separators=(",", ":")).encode
    with (folder / "predictions.json").open("w", encoding="utf-8") as file:

        def chunks() -> Iterator[tuple[Poses[Array], list[int], dict[int, str]]]:
            nonlocal images, poses
            separator = "["
            without_pixels = ((frame.image_id, frame.name, found) for frame, found in results)
            for chunk in batched(without_pixels, WRITTEN_AT_ONCE):
                names = {image_id: name for image_id, name, _ in chunk}
                ids = [image_id for image_id, _, found in chunk for _ in range(len(found))]
                people = Poses.cat([found for *_, found in chunk])
                for entry in coco_results(people, ids, category_ids):
                    named = {**entry, "file_name": names[entry["image_id"]]}
                    file.write(separator + encode(named))
                    separator = ",\n"
                yield people, ids, names
                images, poses = images + len(chunk), poses + len(people)
            file.write("[]" if separator == "[" else "]")

        write_csv(folder / "predictions.csv", csv_rows(chunks(), skeleton.keypoints, category_ids))
    return images, poses
