"""Drawn people as JPEGs that cost what photographs cost: 640x425, about 110 KB, about 1.5 ms to decode on one core."""

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np

from lightpose.runtime.cores import CORES

IMAGE_HW = (425, 640)
_GRAIN, _QUALITY = 10, 90  # as large and as slow to decode as photographs of COCO


def photos(images: int, people: int = 0, image_hw: tuple[int, int] = IMAGE_HW, pictures: int = 0) -> Path:
    """A COCO keypoint file of ``images`` different pictures.

    They are repeated under other names until there are ``people`` people and ``pictures`` pictures.

    Repetition makes an epoch long without much drawing. The copies are hard links, so all files are in the page cache,
    as they are of a data set that was read before. Files stay in the folder for temporary files and are used again.
    """
    home = Path(tempfile.gettempdir()) / "lightpose-bench"
    drawn = home / f"{images}_{image_hw[1]}x{image_hw[0]}"
    _once(drawn, lambda folder: _draw_all(folder, images, image_hw))
    content = json.loads((drawn / "annotations.json").read_text())
    copies = 1
    while copies * len(content["annotations"]) < people or copies * images < pictures:
        copies *= 2
    repeated = drawn.with_name(f"{drawn.name}_{copies}_times")
    if copies > 1:
        _once(repeated, lambda folder: _repeat(folder, [(content, drawn / "images")] * copies))
    return (repeated if copies > 1 else drawn) / "annotations.json"


def describe(annotations: Path, images: Path | None = None, count: int = 64) -> str:
    """People, images, mean file size and decoding time (median, this process, one thread), for a table's header."""
    content = json.loads(annotations.read_text())
    folder = images or annotations.parent / "images"
    files = [(folder / entry["file_name"]).read_bytes() for entry in content["images"][:count]]
    cv2.setNumThreads(1)
    seconds = []
    for data in files:
        start = time.perf_counter()
        height, width = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).shape[:2]
        seconds.append(time.perf_counter() - start)
    return (
        f"{len(content['annotations'])} people in {len(content['images'])} JPEGs, {width}x{height}, "
        f"{np.mean([len(data) for data in files]) / 1000:.0f} KB, {1000 * median(seconds):.2f} ms to decode on a core"
    )


def _once(folder: Path, fill: Callable[[Path], None]) -> None:
    """``folder`` as ``fill`` leaves it, if it isn't there yet."""
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            fill(Path(scratch) / folder.name)
            (Path(scratch) / folder.name).rename(folder)


def _draw_all(out: Path, images: int, image_hw: tuple[int, int]) -> None:
    """Draw with as many processes as there are cores."""
    shares = [images // CORES + (part < images % CORES) for part in range(min(CORES, images))]
    with ProcessPoolExecutor(CORES) as pool, tempfile.TemporaryDirectory(dir=out.parent) as scratch:
        places = [Path(scratch) / str(part) for part in range(len(shares))]
        jobs = [pool.submit(_draw, *job, image_hw) for job in zip(places, shares, range(len(shares)), strict=True)]
        contents = [job.result() for job in jobs]
        _repeat(out, [(content, place / "images") for content, place in zip(contents, places, strict=True)])


def _repeat(out: Path, parts: Sequence[tuple[dict[str, Any], Path]]) -> None:
    """One data set of several, each given by its annotations and its folder of images."""
    (out / "images").mkdir(parents=True)
    whole: dict[str, Any] = {"categories": parts[0][0]["categories"], "images": [], "annotations": []}
    for content, folder in parts:
        ids = {}
        for entry in content["images"]:
            number = ids[entry["id"]] = len(whole["images"]) + 1
            name = f"{number:09d}.jpg"
            (out / "images" / name).hardlink_to(folder / entry["file_name"])
            whole["images"].append({**entry, "id": number, "file_name": name})
        for person in content["annotations"]:
            number = len(whole["annotations"]) + 1
            whole["annotations"].append({**person, "id": number, "image_id": ids[person["image_id"]]})
    (out / "annotations.json").write_text(json.dumps(whole))


def _draw(out: Path, images: int, seed: int, image_hw: tuple[int, int]) -> dict[str, Any]:
    """The annotations of a share of the pictures; grain makes the drawn ones as hard to compress as photographs."""
    from lightpose.data.synthetic.generate import generate

    cv2.setNumThreads(1)
    content: dict[str, Any] = json.loads(generate(out, images, seed, image_hw).read_text())
    for person in content["annotations"]:
        del person["keypoints_3d"]
    rng = np.random.default_rng(seed)
    for path in sorted((out / "images").iterdir()):
        image = cv2.imread(str(path)).astype(np.float32)
        image += rng.normal(0, _GRAIN, (*image_hw, 1)).astype(np.float32)
        cv2.imwrite(str(path), image.clip(0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return content
