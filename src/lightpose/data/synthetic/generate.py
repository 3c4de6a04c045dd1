"""An embedded data set: drawn people with exact COCO keypoints, 3-D joints and cameras.

Every person is one 3-D body before one perspective camera, and everything in the files comes from it. Joints and boxes
follow the house convention (a pixel's centre has integer coordinates).
"""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from lightpose.data.synthetic.body import KEYPOINTS, LINKS, Body, sample_body, turn
from lightpose.data.synthetic.paint import (
    MOST_PEOPLE,
    PARTS,
    Camera,
    Look,
    Painting,
    paint_background,
    paint_occluder,
    paint_person,
    photographed,
    visibility,
)
from lightpose.errors import UserError
from lightpose.structures import Array

_PEOPLE_SHARES = (0.36, 0.28, 0.16, 0.10, 0.06, 0.04)  # of pictures with 1, 2, ... 6 people
_STANDING_MM = 1700.0
_LARGEST = 8192
CATEGORY = {
    "id": 1,
    "name": "person",
    "supercategory": "person",
    "keypoints": list(KEYPOINTS),
    "skeleton": [[start + 1, end + 1] for start, end in LINKS],
}


def generate(
    out: Path, images: int, seed: int, image_hw: tuple[int, int] = (240, 320), people: int | None = None
) -> Path:
    """Write ``out/images/000000.jpg`` ... and ``out/annotations.json``.

    The annotations are COCO keypoint instances. ``v`` is 0 outside the picture (coordinates 0), 1 where an object,
    another person or the person's own body hides the joint, else 2. ``bbox`` and ``area`` are those of the pixels that
    show the person. Beyond COCO, ``keypoints_3d`` holds 17 points (x right, y down, z forwards) in the camera's frame,
    in mm, inside the picture or not, and each image has a ``cam_param`` with ``focal`` and ``princpt``.

    Args:
        out: a folder that doesn't exist yet or is empty.
        images: how many.
        seed: picture i depends on the seed, i, ``image_hw`` and ``people`` alone.
        image_hw: size of the pictures.
        people: how many there are in each picture, if they find room beside each other; None draws 1 to 6.

    Returns:
        The path of the annotation file.

    Raises:
        UserError: for fewer than one image, a number of people or a size that is none, or a folder that isn't empty.
    """
    if images < 1:
        raise UserError(f"images={images}, but a data set has at least one; give e.g. images=1000")
    if people is not None and not 1 <= people <= MOST_PEOPLE:
        raise UserError(f"people={people}, but a picture shows 1 to {MOST_PEOPLE}")
    check_place(out, image_hw)
    (out / "images").mkdir(parents=True, exist_ok=True)

    image_entries: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(images):
        picture, camera, drawn = draw_scene(np.random.default_rng([seed, index]), image_hw, people)
        name = f"{index:06d}.jpg"
        _, jpeg = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])
        (out / "images" / name).write_bytes(jpeg.tobytes())
        image_entries.append(
            {
                "id": index + 1,
                "file_name": name,
                "height": image_hw[0],
                "width": image_hw[1],
                "cam_param": {"focal": [camera.focal_px] * 2, "princpt": list(camera.center_px)},
            }
        )
        for person in drawn:
            annotations.append({"id": len(annotations) + 1, "image_id": index + 1, **person})

    info = {"description": "lightpose synthetic people", "seed": seed}
    path = out / "annotations.json"
    path.write_text(
        json.dumps({"info": info, "images": image_entries, "annotations": annotations, "categories": [CATEGORY]})
    )
    return path


def check_place(out: Path, image_hw: tuple[int, int]) -> None:
    """Refuse a folder that holds something, and a size of pictures that is none.

    Raises:
        UserError: for either.
    """
    if not all(0 < side <= _LARGEST for side in image_hw):
        raise UserError(
            f"image_hw={list(image_hw)} is no size of pictures; expected two sides of 1 to {_LARGEST} pixels"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"out={out} exists and isn't an empty folder; choose another folder or delete it")


def draw_scene(
    rng: np.random.Generator, image_hw: tuple[int, int], people: int | None = None
) -> tuple[Array, Camera, list[dict[str, Any]]]:
    """One picture (H, W, 3) uint8 RGB, its camera, and an annotation for each person that shows in it."""
    height, width = image_hw
    camera = Camera(round(float(rng.uniform(1.2, 2.0)) * height, 3), ((width - 1) / 2, (height - 1) / 2))
    canvas = Painting(paint_background(rng, image_hw))
    bodies = sorted(_place_people(rng, camera, image_hw, people), key=lambda body: -body.points[:, 2].mean())
    hidden_by_object = rng.random(len(bodies)) < 0.15
    for person, body in enumerate(bodies):
        paint_person(canvas, body, Look.sample(rng), camera, person)
        if hidden_by_object[person]:
            paint_occluder(canvas, rng, body, camera)
    drawn = [annotation_of(canvas, body, camera, person) for person, body in enumerate(bodies)]
    return photographed(rng, canvas.image), camera, [person for person in drawn if person["area"]]


def _place_people(
    rng: np.random.Generator, camera: Camera, image_hw: tuple[int, int], people: int | None
) -> list[Body]:
    """Bodies in the camera's frame; those that would cover much of another one are left out."""
    wanted = people or 1 + rng.choice(len(_PEOPLE_SHARES), p=_PEOPLE_SHARES)
    tallest = 1.05 if wanted < 3 else 0.75
    # All people of a picture share the camera's tilt; a body that looks into the camera is one half turn about x.
    tilt = turn(2, rng.normal(0, 5)) @ turn(0, 180 + np.clip(rng.normal(8, 9), -15, 35))
    bodies: list[Body] = []
    boxes: list[Array] = []
    for _ in range(wanted):
        heading = rng.normal(0, 30) if rng.random() < 0.72 else rng.uniform(-180, 180)
        body = sample_body(rng).moved(tilt @ turn(1, heading), np.zeros(3))
        depth_mm = camera.focal_px * _STANDING_MM / (rng.uniform(0.4, tallest) * image_hw[0])
        for _ in range(8):
            placed, box = _place(rng, body, depth_mm, camera, image_hw)
            if all(_cover(box, other) < 0.1 for other in boxes):
                bodies.append(placed)
                boxes.append(box)
                break
    return bodies


def _place(
    rng: np.random.Generator, body: Body, depth_mm: float, camera: Camera, image_hw: tuple[int, int]
) -> tuple[Body, Array]:
    """The body at a random place, and the box (xyxy) of its joints; in one case of six it may leave the picture."""
    points_px = camera.project(body.points + np.array([0, 0, depth_mm]))
    low, high = points_px.min(0), points_px.max(0)
    margin = 0.06 * (high - low).max()
    reach = -0.35 * (high - low) if rng.random() < 1 / 6 else np.full(2, margin)
    ends = np.stack([reach - low, (image_hw[1], image_hw[0]) - reach - high])
    shift_px = rng.uniform(ends.min(0), ends.max(0))
    placed = body.moved(np.eye(3), np.array([*(shift_px * depth_mm / camera.focal_px), depth_mm]))
    points_px = camera.project(placed.points)
    return placed, np.concatenate([points_px.min(0), points_px.max(0)])


def _cover(first_xyxy: Array, second_xyxy: Array) -> float:
    """Intersection of two boxes over the smaller one's area."""
    overlap = np.minimum(first_xyxy[2:], second_xyxy[2:]) - np.maximum(first_xyxy[:2], second_xyxy[:2])
    smaller = min(np.prod(box[2:] - box[:2]) for box in (first_xyxy, second_xyxy))
    return float(np.prod(overlap.clip(0)) / smaller)


def annotation_of(canvas: Painting, body: Body, camera: Camera, person: int) -> dict[str, Any]:
    """A COCO annotation, but for its ids."""
    height, width = canvas.labels.shape
    mask = (canvas.labels > person * PARTS) & (canvas.labels <= (person + 1) * PARTS)
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    bbox = [0.0, 0.0, 0.0, 0.0]
    if len(columns):
        left, top = max(columns[0] - 0.5, 0.0), max(rows[0] - 0.5, 0.0)
        right, bottom = min(columns[-1] + 0.5, width - 1.0), min(rows[-1] + 0.5, height - 1.0)
        bbox = [float(edge) for edge in (left, top, right - left, bottom - top)]
    visible = visibility(canvas, body, camera, person)
    points_mm = body.points[: len(KEYPOINTS)].round(3)
    points_px = camera.project(points_mm).round(3) * (visible > 0)[:, None]
    return {
        "category_id": 1,
        "iscrowd": 0,
        "segmentation": [],
        "bbox": bbox,
        "area": int(mask.sum()),
        "num_keypoints": int((visible > 0).sum()),
        "keypoints": [
            value for (x, y), v in zip(points_px.tolist(), visible.tolist(), strict=True) for value in (x, y, v)
        ],
        "keypoints_3d": points_mm.tolist(),
    }
