"""Labelled data sets of other tools as COCO files that lightpose trains on."""

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lightpose.data.coco.labelled import coco_content, write_coco
from lightpose.data.pixels.image_files import expanded
from lightpose.data.pixels.image_header import check_on_bad_image
from lightpose.errors import UserError
from lightpose.interop.datasets.cvat import read_cvat
from lightpose.interop.datasets.deeplabcut import read_project, read_table
from lightpose.interop.datasets.label_studio import read_label_studio
from lightpose.interop.datasets.labels import Labels, Places, VideoFrames, read_yaml
from lightpose.interop.datasets.nwb import read_nwb
from lightpose.interop.datasets.sleap import read_sleap
from lightpose.interop.datasets.yolo import read_yolo

Reader = Callable[[Path, Places], Labels]
_BY_SUFFIX: dict[str, tuple[str, Reader]] = {
    ".slp": ("SLEAP", read_sleap),
    ".nwb": ("NWB", read_nwb),
    ".csv": ("DeepLabCut or Lightning Pose", read_table),
    ".json": ("Label Studio", read_label_studio),
    ".xml": ("CVAT", read_cvat),
}
_ADVICE = (
    "give data.yaml of YOLO-pose, config.yaml or a .csv of DeepLabCut or Lightning Pose, .slp of SLEAP, .json of Label "
    "Studio, .xml of CVAT, or .nwb"
)


@dataclass(frozen=True, slots=True)
class Converted:
    """What was written.

    Attributes:
        tool: whose data set it was.
        files: path → number of pictures and of people.
        images: folder of pictures that were written, or None.
        keypoints: names, of all categories.
        lost: what could not be kept → how many times.
        notes: other things that its user should know.
    """

    tool: str
    files: dict[Path, tuple[int, int]]
    images: Path | None
    keypoints: list[str]
    lost: dict[str, int]
    notes: list[str]


def convert(
    source: str | Path,
    out: str | Path,
    video_frames: VideoFrames,
    images: str | Path | None = None,
    on_bad_image: str = "error",
    overwrite: bool = False,
) -> Converted:
    """Write a COCO file from a data set of another tool; of several splits one beside the other.

    Pictures stay where they are; the file names them relative to its own folder. Those that are no files, in videos and
    in the data set's file, are written to the folder ``<out>_images`` beside it. Nothing is left of a conversion that
    fails.

    Args:
        source: file or folder of the data set.
        out: the COCO file, ``.json``: of ``train``, if there are several splits. The others have their own name in the
            place of "train", or at the end.
        video_frames: reads a video.
        images: folder in which pictures and videos are; None: that of the source.
        on_bad_image: ``skip`` leaves out pictures that are missing or can't be read, and counts them.
        overwrite: whether files of these names may be replaced.

    Raises:
        UserError: for what can't be read or written, or would overwrite something.
    """
    check_on_bad_image(on_bad_image)
    source, out = expanded(source), expanded(out)
    if out.suffix.lower() != ".json":
        raise UserError(f"out={out} must end in .json")
    tool, reader, path = _reader_of(source)
    if images is not None and not expanded(images).is_dir():
        raise UserError(f"images={images} is no folder; give the one of the pictures")
    folders = [expanded(images)] if images is not None else [path.parent, path.parent / "images"]
    pictures = out.with_name(f"{out.stem}_images")
    if os.path.lexists(pictures) and (not overwrite or pictures.is_symlink() or not pictures.is_dir()):
        raise UserError(f"{pictures} is there, where pictures may be written; give another out=, or delete it")
    missing = [folder for folder in out.parents if not folder.exists()]
    stage = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=out.parent))
        places = Places(folders, stage / pictures.name, pictures, on_bad_image == "skip", video_frames)
        labels = reader(path, places)
        splits = {name: listed for name, listed in labels.splits.items() if listed}
        if not splits:
            raise UserError(f"{path} has no picture that can be used; see whether images= is the right folder")
        targets = _targets(out, list(splits))
        used = {Path(os.path.realpath(picture.file)) for listed in splits.values() for picture in listed}
        for target in targets.values():
            _check_target(target, {*used, Path(os.path.realpath(path))}, overwrite)
        files = {}
        for name, listed in splits.items():
            content = coco_content(listed, labels.categories, out.parent)
            write_coco(stage / targets[name].name, content)
            files[targets[name]] = (len(content["images"]), len(content["annotations"]))
        written = places.stage.exists()
        if written:
            _move_pictures(places.stage, pictures)
        for target in targets.values():
            (stage / target.name).replace(target)
        missing = []
    except OSError as error:
        raise UserError(f"out={out} can't be written ({error.strerror or error}); give another file") from error
    finally:
        if stage is not None:
            shutil.rmtree(stage, ignore_errors=True)
        for folder in missing:
            if folder.exists() and not any(folder.iterdir()):
                folder.rmdir()
    names = list(dict.fromkeys(name for category in labels.categories for name in category.keypoints))
    lost = {what: count for what, count in labels.lost.items() if count}
    return Converted(tool, files, pictures if written else None, names, lost, labels.notes)


def _reader_of(source: Path) -> tuple[str, Reader, Path]:
    """The tool, its reader, and the file to read."""
    if not source.exists():
        raise UserError(f"there is no source={source}; {_ADVICE}")
    if source.is_dir():
        inside = [source / name for name in ("data.yaml", "dataset.yaml", "config.yaml") if (source / name).is_file()]
        if not inside:
            raise UserError(f"source={source} is a folder without data.yaml or config.yaml; {_ADVICE}")
        source = inside[0]
    suffix = source.suffix.lower()
    if suffix in (".yaml", ".yml"):
        content = read_yaml(source, "the data set")
        if "kpt_shape" in content:
            return "YOLO-pose", read_yolo, source
        if {"bodyparts", "multianimalbodyparts"} & content.keys():
            return "DeepLabCut", read_project, source
        raise UserError(f"{source} has neither kpt_shape (YOLO-pose) nor bodyparts (DeepLabCut); {_ADVICE}")
    if suffix in (".h5", ".hdf5"):
        raise UserError(
            f"{source} is HDF5, which of DeepLabCut may hold pickles that run code, and is not read; give the "
            ".csv file beside it"
        )
    if suffix not in _BY_SUFFIX:
        raise UserError(f"source={source} is no known kind of file; {_ADVICE}")
    return *_BY_SUFFIX[suffix], source


def _targets(out: Path, splits: list[str]) -> dict[str, Path]:
    if len(splits) == 1:
        return {splits[0]: out}
    first = "train" if "train" in splits else splits[0]
    targets = {first: out}
    for name in splits:
        if name != first:
            plain = "".join(letter if letter.isalnum() else "_" for letter in name)
            stem = out.stem.replace("train", plain) if "train" in out.stem else f"{out.stem}_{plain}"
            targets[name] = out.with_name(f"{stem}{out.suffix}")
    return targets


def _check_target(target: Path, inputs: set[Path], overwrite: bool) -> None:
    if Path(os.path.realpath(target)) in inputs:
        raise UserError(f"{target} is a file that is read, and would be overwritten; give another out=")
    if target.is_dir():
        raise UserError(f"{target} is a folder, where a file is to be written; give another out=")
    if os.path.lexists(target) and not overwrite:
        raise UserError(f"{target} is there already; give another out=, or overwrite=true")


def _move_pictures(stage: Path, folder: Path) -> None:
    if not folder.exists():
        stage.replace(folder)
        return
    for file in sorted(stage.iterdir()):
        file.replace(folder / file.name)
