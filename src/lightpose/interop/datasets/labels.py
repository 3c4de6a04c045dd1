"""What a labelled data set of another tool holds, and how its pictures are found without leaving its folders."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import yaml

from lightpose.data.coco.json_values import kind, read_file
from lightpose.data.coco.labelled import Category, Picture
from lightpose.data.pixels.decode import read_image_hw
from lightpose.data.pixels.image_header import ImageError
from lightpose.errors import UserError, in_short
from lightpose.structures import Array

VideoFrames = Callable[[Path], Iterator[tuple[int, Array]]]
"""Gives the frames of a video file: the number of each, from 0, and its pixels, (H, W, 3) uint8 RGB."""

_MOST_YAML = 4 * 2**20


@dataclass(slots=True)
class Labels:
    """A labelled data set.

    Attributes:
        categories: kinds of things with keypoints.
        splits: name → pictures; one called ``train`` where there are none.
        lost: what could not be kept → how many times.
        notes: other things that its user should know.
    """

    categories: list[Category]
    splits: dict[str, list[Picture]]
    lost: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Places:
    """Where the pictures and videos of a data set are.

    Attributes:
        folders: in which files are looked for, and outside of which none is read.
        stage: folder that pictures which are no files yet are written to, made when the first is.
        written: folder in which they will be.
        skip: leave out pictures that are missing or can't be read.
        video_frames: reads a video.
        lost: what could not be kept → how many times.
    """

    folders: Sequence[Path]
    stage: Path
    written: Path
    skip: bool
    video_frames: VideoFrames
    lost: Counter[str] = field(default_factory=Counter)

    def find(self, name: str) -> Path | None:
        """The file that a data set calls ``name``: the longest end of that path which is one in the folders.

        So a path of another computer, or of another folder, is found by its last names.

        Raises:
            UserError: for a name that leads outside by ``..``.
        """
        parts = [part for part in re.split(r"[/\\]+", name) if part not in ("", ".") and not part.endswith(":")]
        if ".." in parts:
            raise UserError(f"the name {name[:200]!r} leads outside its data set by ..; name files below images=")
        if "\0" in name or len(name) > 4000:
            raise UserError(f"the name {name[:200]!r} is that of no file; mend the file that has it")
        for start in range(len(parts)):
            for folder in self.folders:
                path = folder.joinpath(*parts[start:])
                try:
                    if path.is_file():
                        return path
                except OSError:  # too long a name
                    pass
        return None

    def picture(self, name: str, path: Path | None = None) -> tuple[Path, tuple[int, int]] | None:
        """File and size of a picture; None if it is skipped.

        Args:
            name: as the data set calls it.
            path: of the file, where it is known.

        Raises:
            UserError: when it is missing or can't be read.
        """
        path = path or self.find(name)
        try:
            if path is not None:
                return path, read_image_hw(path)
            reason = f"the picture {name[:200]} is not in {' or '.join(map(str, self.folders))}"
        except ImageError as error:
            reason = str(error)
        if self.skip:
            self.lost["pictures that are missing or can't be read"] += 1
            return None
        raise UserError(f"{reason}; say where it is with images=, or leave such pictures out with on_bad_image=skip")

    def video(self, name: str) -> Path:
        """The video file of that name.

        Raises:
            UserError: when there is none.
        """
        path = self.find(name)
        if path is None:
            raise UserError(
                f"the video {name[:200]} is not in {' or '.join(map(str, self.folders))}; give its folder as images="
            )
        return path

    def frames(self, video: Path, numbers: set[int]) -> dict[int, tuple[Path, tuple[int, int]]]:
        """Frames of a video, numbered from 0, written as pictures: number → file and size.

        Raises:
            UserError: when one can't be read.
        """
        found: dict[int, tuple[Path, tuple[int, int]]] = {}
        if numbers:
            for number, image in self.video_frames(video):
                if number in numbers:
                    found[number] = self.write(f"{video.stem}_{number + 1:06d}.png", image)
                if number >= max(numbers):
                    break
        missing = sorted(numbers - found.keys())
        if missing and not self.skip:
            raise UserError(
                f"{len(missing)} labelled frames of {video} can't be read, such as frame {missing[0]} from 0; give the "
                "video that was labelled, or leave them out with on_bad_image=skip"
            )
        self.lost["pictures that are missing or can't be read"] += len(missing)
        return found

    def write(self, name: str, image: Array | bytes) -> tuple[Path, tuple[int, int]]:
        """Write a picture that is no file yet: pixels (H, W, 3) RGB or (H, W), or the content of a file.

        Returns:
            The file in which it will be, and its size.
        """
        self.stage.mkdir(exist_ok=True)
        path, number = self.stage / name, 1
        while path.exists():
            number += 1
            path = self.stage / f"{Path(name).stem}_{number}{Path(name).suffix}"
        if not isinstance(image, bytes):
            image = cv2.imencode(".png", image[..., ::-1] if image.ndim == 3 else image)[1].tobytes()
        path.write_bytes(image)
        return self.written / path.name, read_image_hw(path)


def read_yaml(path: Path, what: str) -> Mapping[str, Any]:
    """Content of a YAML file, as plain data.

    Raises:
        UserError: when it holds something else than keys and values.
    """
    content = read_file(path, what)
    if len(content) > _MOST_YAML:
        raise UserError(f"{what} {path} is larger than {_MOST_YAML >> 20} MB, which none is; give another file")
    try:
        value = yaml.safe_load(content)
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise UserError(f"{what} {path} is not YAML: {in_short(error)}") from error
    if not isinstance(value, dict):
        raise UserError(f"{what} {path} holds {kind(value)}, expected keys and values")
    return value


def check_names(names: Sequence[str], where: str) -> tuple[str, ...]:
    """Keypoint names.

    Raises:
        UserError: for none, and for one that is there twice.
    """
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice or not names:
        raise UserError(f"{where} names {'no keypoint' if not names else f'the keypoint {twice[0]} twice'}; mend it")
    return tuple(names)


def links_of(pairs: Any, names: Sequence[str], lost: Counter[str]) -> tuple[tuple[int, int], ...]:
    """Links between keypoints, given as pairs of names or of positions from 0; others are counted as lost."""
    place: dict[Any, int] = dict(enumerate(range(len(names))))
    place |= {name: number for number, name in enumerate(names)}
    found = []
    for pair in pairs if isinstance(pairs, list) else []:
        ends = [place.get(end) for end in pair if isinstance(end, str | int)] if isinstance(pair, list) else []
        if len(ends) == 2 and ends[0] is not None and ends[1] is not None:
            found.append((ends[0], ends[1]))
        else:
            lost["links that join no two keypoints"] += 1
    return tuple(found)


def name_of(path: str) -> str:
    """The last part of a path, of whatever system."""
    return PurePosixPath(path.replace("\\", "/")).name
