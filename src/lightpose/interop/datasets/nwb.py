"""Labels in NWB files, as ndx-pose has them: ``PoseTraining``.

They are read as the HDF5 that they are: the library of the format would build classes from descriptions in the file,
and the one of SLEAP would open whatever the file calls its video, addresses included.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lightpose.data.coco.labelled import Category, Person, Picture
from lightpose.errors import UserError, in_short
from lightpose.interop.datasets.hdf5 import opened
from lightpose.interop.datasets.labels import Labels, Places, check_names, name_of
from lightpose.interop.packages import need


def read_nwb(path: Path, places: Places) -> Labels:
    """Read training frames: their instances with links, and their pictures from the video or from the file itself.

    Points that are not visible have no place.

    Raises:
        UserError: naming what is wrong.
    """
    need(("h5py",), "reading .nwb")
    with opened(path, "the labels") as file:
        training = [group for group in _groups(file) if _kind(group) == "TrainingFrame"]
        if not training:
            estimates = any(_kind(group) == "PoseEstimation" for group in _groups(file))
            what = "estimates of poses, which nobody labelled" if estimates else "no poses of ndx-pose"
            raise UserError(f"{path} holds {what}; give a file with PoseTraining")
        try:
            return _labels(training, path, places)
        except (KeyError, ValueError, TypeError, AttributeError, OSError, StopIteration) as error:
            raise UserError(f"{path} can't be read as ndx-pose ({in_short(error)}); write it anew") from error


def _labels(training: list[Any], path: Path, places: Places) -> Labels:
    skeletons: dict[int, int] = {}
    categories: list[Category] = []
    of_video: dict[int, tuple[Any, dict[int, list[Person]]]] = {}
    pictures: list[Picture] = []
    for frame in training:
        people = list(_people(frame, skeletons, categories, path))
        if "source_frame" in frame:
            image = np.asarray(frame["source_frame"][()])
            pictures.append(Picture(*places.write(f"{name_of(frame.name)}.png", _pixels(image, path)), people))
            continue
        video = frame["source_video"]
        number = int(frame.attrs["source_video_frame_index"])
        listed = of_video.setdefault(_address(video), (video, {}))[1]
        if number in listed:
            raise UserError(f"{path} has the frame {number} of {video.name} twice; keep one of them")
        listed[number] = people
    for video, listed in of_video.values():
        names = [_text(name) for name in video["external_file"][:]] if "external_file" in video else []
        if not names:
            raise UserError(f"{path} names no file for {video.name}; only videos and pictures in files are read")
        if len(names) == 1:
            files = places.frames(places.video(names[0]), set(listed))
        else:
            found = {number: places.picture(names[number]) for number in listed if number < len(names)}
            files = {number: one for number, one in found.items() if one is not None}
        pictures += [Picture(*files[number], listed[number]) for number in sorted(listed) if number in files]
    return Labels(categories, {"train": pictures}, places.lost)


def _people(frame: Any, skeletons: dict[int, int], categories: list[Category], path: Path) -> Iterator[Person]:
    for instance in _groups(frame):
        if _kind(instance) != "SkeletonInstance":
            continue
        skeleton = next(instance[name] for name in instance if _kind(instance[name]) == "Skeleton")
        address = _address(skeleton)
        if address not in skeletons:
            names = check_names([_text(name) for name in skeleton["nodes"][:]], f"the skeleton of {path}")
            edges = skeleton["edges"][:].tolist() if "edges" in skeleton else []
            skeletons[address] = len(categories)
            categories.append(Category(name_of(skeleton.name), names, tuple((int(i), int(j)) for i, j in edges)))
        category = skeletons[address]
        points = np.asarray(instance["node_locations"][:], np.float64)[:, :2]
        if len(points) != len(categories[category].keypoints):
            raise UserError(
                f"{instance.name} of {path} has {len(points)} points, not those of its skeleton; mend the file"
            )
        seen = np.isfinite(points).all(-1)
        if "node_visibility" in instance:
            seen &= np.asarray(instance["node_visibility"][:], bool)
        yield Person(points, np.where(seen, 2, 0), category)


def _pixels(image: Any, path: Path) -> Any:
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[-1] != 3):
        raise UserError(f"{path} holds pixels of {image.dtype} {image.shape}; expected uint8 (H, W) or (H, W, 3)")
    return image


def _groups(group: Any) -> Iterator[Any]:
    """All groups below one, without those that are linked to."""
    import h5py

    for name in group:
        if isinstance(group.get(name, getlink=True), h5py.HardLink) and isinstance(group[name], h5py.Group):
            yield group[name]
            yield from _groups(group[name])


def _address(group: Any) -> int:
    """Where in the file a group is, by whatever link it was found."""
    import h5py

    return int(h5py.h5o.get_info(group.id).addr)


def _kind(group: Any) -> str:
    return _text(group.attrs.get("neurodata_type", ""))


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
