"""Predictions as files of other tools: which formats there are, and what each asks for."""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightpose.errors import UserError
from lightpose.inference.formats import deeplabcut, nwb, sleap
from lightpose.inference.formats.found import Collection, Found
from lightpose.inference.frames import Frame, Video
from lightpose.inference.sources import ImageFiles, Source
from lightpose.inference.video.live import Live
from lightpose.interop.packages import need
from lightpose.skeleton import Skeleton
from lightpose.structures import Array, Poses

if TYPE_CHECKING:
    from lightpose.inference.lifting import Lifted

OWN = {"coco": "predictions.json", "csv": "predictions.csv"}
"""Written as the poses come; see `lightpose.inference.writers`."""


@dataclass(frozen=True, slots=True)
class _Format:
    files: tuple[str, ...]
    packages: tuple[str, ...]
    write: Callable[[Path, Found], None]


_OTHERS = {
    "dlc": _Format(deeplabcut.FILES, ("pandas", "tables"), deeplabcut.write_deeplabcut),
    "slp": _Format(sleap.FILES, ("sleap_io",), sleap.write_sleap),
    "nwb": _Format(nwb.FILES, ("pynwb", "ndx_pose"), nwb.write_nwb),
}


class Formats:
    """The formats of one prediction.

    Args:
        names: ``coco``, ``csv``, ``dlc``, ``slp``, ``nwb`` and ``trc``.
        source: where the pictures come from; of poses that are lifted alone, those of ``images=``, or None.
        lifts: whether there will be joints in space.

    Raises:
        UserError: for an unknown name, for a format that has no way to say what there is, and for one whose package
            isn't installed.
    """

    def __init__(self, names: Any, source: Source | None, lifts: bool) -> None:
        known = (*OWN, *_OTHERS, "trc")
        given = [names] if isinstance(names, str) else list(names or ())
        unknown = [str(name) for name in given if name not in known]
        if unknown or not given:
            raise UserError(
                f"formats={list(map(str, given))} has {'no format' if not given else f'the unknown {unknown[0]}'}; "
                f"choose from [{','.join(known)}]"
            )
        self.names: list[str] = list(dict.fromkeys(given))
        self.source = source
        self.fps = source.fps if isinstance(source, Video | Live) else None
        if "nwb" in given and self.fps is None:
            raise UserError(
                "formats=[nwb] has a time for each pose, and pictures have none; give a video, or leave it out"
            )
        if "trc" in given and not lifts:
            raise UserError(
                "formats=[trc] is of joints in space; give lift= with the checkpoint of a lifter, or leave it out"
            )
        if "trc" in given and self.fps is None:
            raise UserError(
                "formats=[trc] has a time for each frame, which only a video tells; give source=clip.mp4, or with a "
                "file of poses images=clip.mp4"
            )
        for name in given:
            if name in _OTHERS:
                need(_OTHERS[name].packages, f"formats=[{name}]")
        self.others = [_OTHERS[name] for name in self.names if name in _OTHERS]
        self.collection = Collection()

    def collected(self, results: Iterator[tuple[Frame, Poses[Array]]]) -> Iterator[tuple[Frame, Poses[Array]]]:
        """The same results; what `write` needs of them is kept."""
        return self.collection.of(results) if self.others else results

    def write(self, folder: Path, skeleton: Skeleton, whole: bool = True) -> None:
        """Write the files of other tools, and then remove those of ours that nobody wants.

        Args:
            folder: where to.
            skeleton: of the poses.
            whole: whether these are all poses; if not, our own files stay.

        Raises:
            UserError: when files can't be written. Then the others are, and our own stay.
        """
        failed: dict[str, Exception] = {}
        if self.others:
            video = Path(self.source.path) if isinstance(self.source, Video) else None
            files = self.source.files if isinstance(self.source, ImageFiles) else {}
            found = self.collection.found(skeleton, video, self.fps, files)
            for other in self.others:
                try:
                    other.write(folder, found)
                except BaseException as error:
                    for file in other.files:
                        (folder / file).unlink(missing_ok=True)
                    if not isinstance(error, OSError | RuntimeError):  # HDF5 has either for a full disk
                        raise
                    failed |= dict.fromkeys(other.files, error)
        if failed:
            first = next(iter(failed.values()))
            raise UserError(f"{', '.join(failed)} can't be written ({_reason(first)})") from first
        for name, file in OWN.items():
            if name not in self.names and whole:
                (folder / file).unlink(missing_ok=True)

    def write_lifted(self, folder: Path, lifted: "Sequence[Lifted]", skeleton: Skeleton) -> None:
        """Write what there is of joints in space beside the JSON."""
        from lightpose.inference.formats.trc import write_trc

        if "trc" in self.names and self.fps is not None:
            fps, source = self.fps, self.source
            time_s = source.timeline.time_s if isinstance(source, Video) else lambda number: (number - 1) / fps
            write_trc(folder, lifted, skeleton, fps, time_s)


def _reason(error: Exception) -> str:
    """A line of what may be a page of HDF5's."""
    number = re.search(r"errno (?:= )?(\d+)", str(error), re.IGNORECASE)
    return os.strerror(int(number[1])) if number else str(error).partition("\n")[0]
