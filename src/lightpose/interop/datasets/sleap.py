"""SLEAP's labels (.slp), with their pictures in the file (.pkg.slp), in videos or in files."""

from pathlib import Path
from typing import Any

import numpy as np

from lightpose.data.coco.labelled import Category, Person, Picture
from lightpose.data.pixels.decode import decode_image
from lightpose.errors import UserError
from lightpose.interop.datasets.hdf5 import opened
from lightpose.interop.datasets.labels import Labels, Places, check_names, name_of
from lightpose.interop.packages import need


def read_sleap(path: Path, places: Places) -> Labels:
    """Read what people labelled; instances that a network predicted and nobody corrected are counted as lost.

    Kept are skeletons with links and symmetries, tracks, and points that are visible; those that are not have no place
    in SLEAP. Pictures in the file are written as they are stored.

    Raises:
        UserError: naming what is wrong.
    """
    need(("sleap_io", "h5py"), "reading .slp")
    import sleap_io

    with opened(path, "the labels") as file:
        if "metadata" not in file or "videos_json" not in file:
            raise UserError(f"{path} is HDF5, but no file of SLEAP; save the labels in SLEAP as .slp")
        try:
            labels = sleap_io.load_slp(str(path.resolve()), open_videos=False)
        except Exception as error:  # as a damaged file raises whatever it leads to
            raise UserError(f"{path} can't be read as labels of SLEAP ({str(error)[:200]}); save it anew") from error
        categories = [_category(skeleton, path) for skeleton in labels.skeletons]
        frames: dict[int, dict[int, list[Person]]] = {}
        videos: dict[int, Any] = {}
        for frame in labels.labeled_frames:
            places.lost["instances that were predicted, and corrected by nobody"] += len(frame.unused_predictions)
            people = [_person(each, labels) for each in frame.user_instances]
            if not people and not frame.is_negative:
                continue
            videos[id(frame.video)] = frame.video
            listed = frames.setdefault(id(frame.video), {})
            if frame.frame_idx in listed:
                raise UserError(f"{path} has the frame {frame.frame_idx} of a video twice; merge them in SLEAP")
            listed[frame.frame_idx] = people
        pictures = [
            Picture(*found, frames[key][number])
            for key, video in videos.items()
            for number, found in sorted(_files(video, set(frames[key]), path, file, places).items())
        ]
    if not pictures:
        raise UserError(f"{path} has no frame that a person labelled; label some in SLEAP")
    places.lost["suggested frames"] += len(labels.suggestions)
    return Labels(categories, {"train": pictures}, places.lost)


def _category(skeleton: Any, path: Path) -> Category:
    names = check_names(skeleton.node_names, f"the skeleton of {path}")
    places = [sorted(map(names.index, pair)) for pair in skeleton.symmetry_names]
    pairs = {(first, second) for first, second in places}
    links = tuple((int(start), int(end)) for start, end in skeleton.edge_inds)
    return Category(str(skeleton.name or "animal"), names, links, tuple(sorted(pairs)) or None)


def _person(instance: Any, labels: Any) -> Person:
    points = np.asarray(instance.points["xy"], np.float64)
    seen = np.isfinite(points).all(-1) & np.asarray(instance.points["visible"], bool)
    track = next((place for place, each in enumerate(labels.tracks) if each is instance.track), None)
    category = next(place for place, each in enumerate(labels.skeletons) if each is instance.skeleton)
    return Person(points, np.where(seen, 2, 0), category, None, track)


def _files(
    video: Any, numbers: set[int], path: Path, file: Any, places: Places
) -> dict[int, tuple[Path, tuple[int, int]]]:
    """Frame → file and size."""
    dataset = str(video.backend_metadata.get("dataset") or "")
    if isinstance(video.filename, list):
        named = {number: str(video.filename[number]) for number in numbers if 0 <= number < len(video.filename)}
        if len(named) < len(numbers):
            raise UserError(f"{path} has labels of more pictures than it lists; save it anew in SLEAP")
        listed = {number: places.picture(name) for number, name in named.items()}
        return {number: found for number, found in listed.items() if found is not None}
    if dataset and dataset in file:
        return _embedded(file[dataset], numbers, path, places)
    return places.frames(places.video(str(video.filename)), numbers)


def _embedded(dataset: Any, numbers: set[int], path: Path, places: Places) -> dict[int, tuple[Path, tuple[int, int]]]:
    kind = str(_text(dataset.attrs.get("format", "hdf5")))
    swapped = str(_text(dataset.attrs.get("channel_order", "BGR"))) == "BGR"  # as before there was the attribute
    listed = dataset.parent["frame_numbers"][:].tolist() if "frame_numbers" in dataset.parent else range(len(dataset))
    row_of = {int(number): row for row, number in enumerate(listed)}
    stem = f"{name_of(dataset.parent.name) or 'video'}"
    found = {}
    for number in sorted(numbers):
        if number not in row_of or row_of[number] >= len(dataset):
            raise UserError(
                f"{path} doesn't hold the picture of the frame {number} that it has labels of; save it anew"
            )
        name = f"{stem}_{number:06d}.png"
        if kind == "hdf5":
            pixels = np.asarray(dataset[row_of[number]])
            if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[-1] not in (1, 3):
                raise UserError(f"{path} holds pixels of {pixels.dtype} {pixels.shape}; expected uint8 (H, W, 1 or 3)")
            found[number] = places.write(name, pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
            continue
        content = np.asarray(dataset[row_of[number]]).astype(np.int8).tobytes()
        image = decode_image(content, f"the picture of frame {number} in {path}")
        grey = (image == image[..., :1]).all()
        if swapped and not grey:
            found[number] = places.write(name, np.ascontiguousarray(image[..., ::-1]))
        else:
            suffix = ".png" if content[:4] == b"\x89PNG" else ".jpg" if content[:2] == b"\xff\xd8" else f".{kind}"
            found[number] = places.write(f"{stem}_{number:06d}{suffix}", content)
    return found


def _text(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value
