"""How well trackers keep identities, on an embedded video: with the true boxes and poses, and with a detector's noise.

    python scripts/bench/tracking.py
    python scripts/bench/tracking.py --people 8 --seconds 30 oks ocsort

Poses are drawn from the truth, so no network is needed. The noise: boxes and keypoints are off by about a fiftieth of
the person's height, people are missed in one frame of twelve, whoever can hardly be seen isn't found, and poses of
nobody appear, some of which stay for some frames.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import av
import hydra
import numpy as np
from omegaconf import OmegaConf

from lightpose.checkpoint import assemble
from lightpose.conf_files import conf_dir
from lightpose.data.coco.results import coco_results
from lightpose.data.coco.tracks import read_tracks
from lightpose.data.synthetic.videos import generate_videos
from lightpose.inference.frames import Frame
from lightpose.inference.tracking.base import tracked
from lightpose.metrics.tracks import FIGURES, evaluate_tracks
from lightpose.structures import Array, Poses

TRACKERS = ("oks", "bytetrack", "ocsort", "botsort")
MISSES, FALSE_ONES, JITTER = 0.08, 0.15, 0.02


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trackers", nargs="*", default=TRACKERS, metavar="TRACKER", help=", ".join(TRACKERS))
    parser.add_argument("--people", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--fps", type=float, default=25)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="options of the trackers")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as scratch:
        size = (240, 320)
        [path] = generate_videos(
            Path(scratch) / "video", 1, options.seed, size, options.people, options.seconds, options.fps
        )
        pictures = path.with_suffix(".mp4")
        content = json.loads(path.read_text())
        print(describe(content, options.fps))
        print("| tracker | poses | " + " | ".join(FIGURES) + " | ids | ms/frame |")
        print("|---|---|" + "---:|" * (len(FIGURES) + 2))
        for kind in ("true", "noisy"):
            for name in options.trackers:
                print(row(name, kind, path, pictures, content, options), flush=True)


def describe(content: dict[str, Any], fps: float) -> str:
    """What the video asks of a tracker."""
    seen: dict[int, list[int]] = {}
    for entry in content["annotations"]:
        seen.setdefault(entry["track_id"], []).append(entry["image_id"])
    gaps_s = np.array([gap - 1 for frames in seen.values() for gap in np.diff(frames) if gap > 1]) / fps
    return (
        f"{len(content['images'])} frames, {len(seen)} people; they are out of sight {len(gaps_s)} times, for "
        f"{np.median(gaps_s):.1f} s (median) to {gaps_s.max():.1f} s, {(gaps_s > 1).sum()} times for more than 1 s and "
        f"{(gaps_s > 3).sum()} for more than 3 s\n"
    )


def row(name: str, kind: str, path: Path, pictures: Path, content: dict[str, Any], options: argparse.Namespace) -> str:
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        chosen = hydra.compose(
            "predict", [f"tracker={name}", "skeleton=coco17", *(f"tracker.{each}" for each in options.set)]
        )
    skeleton = assemble(OmegaConf.to_container(chosen.skeleton))
    make = partial(assemble, OmegaConf.to_container(chosen.tracker), skeleton=skeleton, fps=options.fps)
    _, truth = read_tracks(path, skeleton)
    given = list(poses_of(content, kind == "noisy", np.random.default_rng(options.seed)))
    entries: list[dict[str, Any]] = []
    images = decoded(pictures) if make().needs_image else (Path(str(number)) for number in range(len(given)))
    frames = (
        (Frame(image["file_name"], picture, image["id"]), poses)
        for image, picture, poses in zip(content["images"], images, given, strict=True)
    )
    start = time.perf_counter()
    found = list(tracked(frames, make, options.fps))
    seconds = time.perf_counter() - start
    for frame, poses in found:
        entries += coco_results(poses, [frame.image_id] * len(poses))
    figures = evaluate_tracks(truth, entries, skeleton.sigmas)
    ids = {entry["track_id"] for entry in entries} - {-1}
    numbers = [f"{figures[key]:.3f}" if key != "IDSW" else f"{figures[key]:.0f}" for key in FIGURES]
    return f"| `{name}` | {kind} | " + " | ".join(numbers) + f" | {len(ids)} | {1000 * seconds / len(found):.2f} |"


def poses_of(content: dict[str, Any], noisy: bool, rng: np.random.Generator) -> Iterator[Poses[Array]]:
    """The poses of each frame, in random order."""
    people: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in content["images"]}
    for entry in content["annotations"]:
        people[entry["image_id"]].append(entry)
    ghosts: list[tuple[Array, Array, int]] = []
    for entries in people.values():
        keypoints = np.array([entry["keypoints"] for entry in entries], np.float64).reshape(-1, 17, 3)
        boxes = np.array([entry["bbox"] for entry in entries], np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        scores = np.array([0.0, 0.5, 1.0])[keypoints[..., 2].astype(int)]
        confidence = np.ones(len(boxes))
        points = keypoints[..., :2]
        if noisy:
            unit = (boxes[:, 3] - boxes[:, 1])[:, None]
            points = points + rng.normal(0, 1, points.shape) * JITTER * unit[..., None]
            boxes = boxes + rng.normal(0, 1, boxes.shape) * JITTER * unit
            shown = (keypoints[..., 2] == 2).mean(1)
            confidence = np.clip(0.35 + 0.65 * shown + rng.normal(0, 0.1, len(boxes)), 0.05, 1)
            kept = (rng.random(len(boxes)) > MISSES) & (confidence > 0.5)
            points, boxes, scores, confidence = points[kept], boxes[kept], scores[kept], confidence[kept]
            ghosts = [(*ghost[:2], ghost[2] - 1) for ghost in ghosts if ghost[2] > 1]
            if rng.random() < FALSE_ONES:
                corner = rng.uniform(0, [280, 160])
                box = np.concatenate([corner, corner + rng.uniform([20, 50], [40, 80])])
                ghosts.append((box, rng.uniform(box[:2], box[2:], (17, 2)), int(rng.geometric(0.6))))
            for box, pose, _ in ghosts:
                points, boxes = np.concatenate([points, pose[None]]), np.concatenate([boxes, box[None]])
                scores = np.concatenate([scores, rng.uniform(0.1, 0.5, (1, 17))])
                confidence = np.append(confidence, rng.uniform(0.4, 0.7))
        order = rng.permutation(len(boxes))
        poses = Poses(
            keypoints=points.astype(np.float32),
            keypoint_scores=scores.astype(np.float32),
            scores=confidence.astype(np.float32),
            batch_index=np.zeros(len(boxes), np.int64),
            boxes_xyxy=boxes.astype(np.float32),
            box_scores=confidence.astype(np.float32),
        )
        yield replace(poses.select(order), batch_index=np.zeros(len(boxes), np.int64))


def decoded(path: Path) -> Iterator[Array]:
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            yield frame.to_ndarray(format="rgb24")


if __name__ == "__main__":
    main()
