"""Videos of drawn people who walk, cross, hide and come back, with who is who in each frame."""

import json
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from lightpose.data.synthetic.body import Body, Build, turn, walking_body
from lightpose.data.synthetic.generate import CATEGORY, annotation_of, check_place
from lightpose.data.synthetic.paint import (
    MOST_PEOPLE,
    Camera,
    Look,
    Painting,
    paint_background,
    paint_person,
    photographed,
)
from lightpose.errors import UserError
from lightpose.structures import Array

LEAST_SEEN = 3
"""Keypoints that are seen of somebody who is annotated."""
_NEAR_MM, _FAR_MM = 3400.0, 7500.0
_CAMERA_MM = 1600.0
_OUT_MM = 450.0
"""So far beyond the edge of the picture somebody stands of whom nothing shows."""
_TURN_DEG_S = 220.0
_STEP_MM = 720.0


def generate_videos(
    out: Path,
    videos: int,
    seed: int,
    image_hw: tuple[int, int] = (240, 320),
    people: int = 4,
    seconds: float = 10.0,
    fps: float = 25.0,
) -> list[Path]:
    """Write ``out/000.mp4`` (H.264) and its annotations ``out/000.json``, and so on.

    People walk to and fro before a camera at rest, cross each other, go behind one or two pillars, stand, and leave the
    picture to come back on the same side one to three seconds later. The annotations of a video are COCO keypoint
    instances as `lightpose.data.synthetic.generate.generate` writes them, with a ``track_id``, of everyone of whom at
    least `LEAST_SEEN` keypoints can be seen. As in PoseTrack's files, an image has ``vid_id``, ``nframes`` and
    ``frame_id``, the number of the frame from 1, which is its ``id``, too.

    Args:
        out: a folder that doesn't exist yet or is empty.
        videos: how many.
        seed: video i depends on the seed, i and the other arguments.
        image_hw: size of the pictures, even numbers.
        people: how many there are in each video.
        seconds: how long each is.
        fps: frames per second.

    Returns:
        The paths of the annotation files.

    Raises:
        UserError: for arguments that make no video, or a folder that holds something.
    """
    frames = round(seconds * fps) if 0 < fps <= 1000 and 0 < seconds < 1e5 else 0
    if videos < 1 or frames < 1:
        raise UserError(
            f"videos={videos} seconds={seconds} fps={fps} give no frame; expected at least one video of at least one "
            "frame, at up to 1000 frames a second"
        )
    if not 1 <= people <= MOST_PEOPLE:
        raise UserError(f"people={people}, but a video shows 1 to {MOST_PEOPLE}")
    check_place(out, image_hw)
    if image_hw[0] % 2 or image_hw[1] % 2:
        raise UserError(f"image_hw={list(image_hw)}, but the sides of an H.264 video are even numbers")
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for index in range(videos):
        name = f"{index:03d}"
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        rng = np.random.default_rng([seed, index])
        scene = _scene(rng, image_hw, people, frames, fps)
        with av.open(str(out / f"{name}.mp4"), "w") as container:
            stream: Any = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
            stream.height, stream.width, stream.pix_fmt = *image_hw, "yuv420p"
            stream.options = {"crf": "20", "preset": "veryfast"}
            for number, (picture, camera, found) in enumerate(scene, start=1):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
                images.append(
                    {
                        "id": number,
                        "file_name": f"{name}_{number:06d}",
                        "height": image_hw[0],
                        "width": image_hw[1],
                        "vid_id": name,
                        "frame_id": number,
                        "nframes": frames,
                        "cam_param": {"focal": [camera.focal_px] * 2, "princpt": list(camera.center_px)},
                    }
                )
                for person in found:
                    annotations.append({"id": len(annotations) + 1, "image_id": number, **person})
            container.mux(stream.encode(None))
        info = {"description": "lightpose synthetic people who move", "seed": seed, "fps": fps}
        paths.append(out / f"{name}.json")
        paths[-1].write_text(
            json.dumps({"info": info, "images": images, "annotations": annotations, "categories": [CATEGORY]})
        )
    return paths


def _scene(
    rng: np.random.Generator, image_hw: tuple[int, int], people: int, frames: int, fps: float
) -> Iterator[tuple[Array, Camera, list[dict[str, Any]]]]:
    """Each frame (H, W, 3) uint8 RGB, the camera, and an annotation for each person of whom something shows."""
    height, width = image_hw
    camera = Camera(round(1.2 * height, 3), ((width - 1) / 2, (height - 1) / 2))
    half = width / 2 / camera.focal_px  # of the view's width, per depth
    background = paint_background(rng, image_hw)
    light = np.random.default_rng(rng.integers(1 << 32)).bit_generator.state
    pitch = turn(0, 180 + rng.uniform(4, 7))
    pillars = [_Pillar(rng, half) for _ in range(rng.integers(1, 3))]
    walkers = [_Walker(rng, half) for _ in range(people)]
    looks = [Look.sample(rng) for _ in walkers]
    photographer = np.random.default_rng()
    for _ in range(frames):
        canvas = Painting(background.copy())
        bodies = [walker.body().moved(pitch, pitch @ [0, -_CAMERA_MM, 0]) for walker in walkers]
        depths = [*(body.points[:, 2].mean() for body in bodies), *(pillar.depth for pillar in pillars)]
        for place in np.argsort(depths)[::-1].tolist():
            if place < people:
                paint_person(canvas, bodies[place], looks[place], camera, place)
            else:
                pillars[place - people].paint(canvas, pitch, camera)
        found = []
        for place, body in enumerate(bodies):
            annotation = annotation_of(canvas, body, camera, place)
            if annotation["keypoints"][2::3].count(2) >= LEAST_SEEN:
                found.append({"track_id": place + 1, **annotation})
        photographer.bit_generator.state = light  # the same light, grain and all, in each frame
        yield photographed(photographer, canvas.image), camera, found
        for walker in walkers:
            walker.step(1 / fps)


class _Pillar:
    """A flat pillar that stands in the way."""

    def __init__(self, rng: np.random.Generator, half: float) -> None:
        self.depth = rng.uniform(4000, 5200)
        middle, width = rng.uniform(-0.6, 0.6) * half * self.depth, rng.uniform(250, 450)
        low, high = middle - width / 2, middle + width / 2
        top = rng.uniform(1900, 2600)
        self._corners = np.array([[x, y, -self.depth] for x, y in ((low, 0.0), (high, 0.0), (high, top), (low, top))])
        self._color = tuple(rng.uniform(30, 220, 3).tolist())

    def paint(self, canvas: Painting, pitch: Array, camera: Camera) -> None:
        points = (self._corners - [0, _CAMERA_MM, 0]) @ pitch.T
        canvas.hull(camera.project(points), self._color, label=0)


class _Walker:
    """Somebody with a place on the ground, who goes from one aim to the next."""

    def __init__(self, rng: np.random.Generator, half: float) -> None:
        self._rng, self._half = rng, half
        self._build, self._girth = Build.sample(rng), rng.uniform(0.9, 1.2)
        self._pace = rng.uniform(850, 1500)  # mm/s
        self._heading, self._phase, self._swing = rng.uniform(-180, 180), rng.uniform(0, 6), 1.0
        self._place = self._inside()  # (x, depth)
        self._aim, self._rest_s = self._inside(), 0.0

    def _inside(self) -> Array:
        depth = self._rng.uniform(_NEAR_MM, _FAR_MM)
        return np.array([self._rng.uniform(-0.85, 0.85) * self._half * depth, depth])

    def body(self) -> Body:
        """The body, in the world's frame: x right, y up, z towards the camera, which stands at 0."""
        body = walking_body(self._build, self._girth, self._phase, self._swing)
        lowest = body.points[:, 1].min()
        return body.moved(turn(1, self._heading), np.array([self._place[0], -lowest, -self._place[1]]))

    def step(self, seconds: float) -> None:
        """Go on for so long."""
        way = self._aim - self._place
        if self._rest_s > 0:
            self._rest_s -= seconds
            self._swing = max(self._swing - 4 * seconds, 0)
            return
        if np.hypot(*way) < 1.5 * self._pace * seconds + 50:
            self._decide()
            return
        wanted = np.degrees(np.arctan2(way[0], -way[1]))
        off = (wanted - self._heading + 180) % 360 - 180
        self._heading += np.clip(off, -_TURN_DEG_S * seconds, _TURN_DEG_S * seconds)
        self._swing = min(self._swing + 4 * seconds, 1)
        pace = self._pace * self._swing * (0.25 if abs(off) > 60 else 1)
        self._place = self._place + pace * seconds * way / np.hypot(*way)
        self._phase += np.pi * pace * seconds / _STEP_MM

    def _decide(self) -> None:
        """What to do next: come back, rest, leave on the nearer side, or cross the picture."""
        edge = self._half * self._place[1]
        if abs(self._place[0]) > edge:
            self._rest_s, self._aim = self._rng.uniform(0.4, 1.9), self._inside()
            return
        choice = self._rng.random()
        self._aim = self._inside()
        if choice < 0.15:
            self._rest_s = self._rng.uniform(0.4, 1.5)
        elif choice < 0.35:
            side = np.sign(self._place[0]) or 1.0
            self._aim = np.array([side * (edge + _OUT_MM), self._place[1]])
        elif np.sign(self._aim[0]) == np.sign(self._place[0]):
            self._aim[0] *= -1
