"""Long videos: memory and file descriptors of lightpose-predict over time, and its speed beside that of its parts.

    python scripts/bench/video.py --seconds 3600

A video of drawn pictures is repeated to the length, with sound. Then its frames are decoded alone, the network sees one
frame again and again, and lightpose-predict runs as a process of its own, whose memory is read as the system counts it
(VmRSS), after each tenth of the frames. It writes predictions and an overlay video.
"""

import argparse
import os
import shlex
import sys
import tempfile
import time
from fractions import Fraction
from itertools import islice
from pathlib import Path
from subprocess import PIPE, STDOUT, Popen
from typing import Any

import av
import cv2
import numpy as np
import torch
from predict import random_checkpoint
from timing import best_device, describe_device, print_table, tail, write_json

from lightpose.data.synthetic.generate import generate
from lightpose.inference.frames import Frame
from lightpose.inference.predictor import Predictor
from lightpose.inference.sources import open_source

TINY = ["backbone=timm/any", "backbone.model=test_resnet", "input_hw=[64,64]", "head.channels=8"]
SPEED_FRAMES = 3000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="of lightpose-train, for another network")
    parser.add_argument("--seconds", type=float, default=600, help="of the video")
    parser.add_argument("--fps", type=int, default=30)
    parser.add_argument("--hw", type=int, nargs=2, default=(240, 320), metavar=("H", "W"))
    parser.add_argument("--ckpt", type=Path, help="instead of a random network")
    parser.add_argument("--predict", default="batch_size=16", metavar="'KEY=VALUE ...'", help="of lightpose-predict")
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    options = parser.parse_intermixed_args()
    device = best_device()
    with tempfile.TemporaryDirectory() as scratch:
        annotations = generate(Path(scratch) / "people", images=8, seed=0)
        ckpt = options.ckpt or random_checkpoint(options.overrides or TINY, annotations, Path(scratch) / "random.ckpt")
        pictures = sorted((annotations.parent).rglob("*.jpg")) + sorted((annotations.parent).rglob("*.png"))
        film = write_film(Path(scratch) / "film.mp4", pictures, options.hw, options.fps, options.seconds)
        count = len(open_source(str(film)).image_ids)
        print(f"{describe_device(device)}; {count} frames of {options.hw[1]}x{options.hw[0]}", flush=True)
        rates = {"decoding alone": decoding(film), "network alone": network(ckpt, film, options.predict)}
        out = Path(scratch) / "out"
        arguments = [f"ckpt='{ckpt}'", f"source='{film}'", f"out='{out}'", *shlex.split(options.predict)]
        rates["lightpose-predict"], samples = watched(arguments, out, count)
    print_table(["", "frames/s|.0f"], list(map(list, rates.items())))
    print()
    print_table(["frames|d", "MiB|.1f", "descriptors|d", "threads|d", "frames/s|.0f"], samples)
    write_json(options.json, {"frames": count, "rates": rates, "samples": samples})


def write_film(path: Path, pictures: list[Path], hw: list[int], fps: int, seconds: float) -> Path:
    """Ten seconds of the pictures moving, again and again; and a tone."""
    images = [cv2.resize(cv2.imread(str(picture)), (hw[1], hw[0]))[..., ::-1] for picture in pictures]
    with av.open(str(path), "w") as container:
        video: Any = container.add_stream("libx264", rate=fps, options={"preset": "veryfast", "bf": "0"})
        video.width, video.height, video.pix_fmt = hw[1], hw[0], "yuv420p"
        sound: Any = container.add_stream("aac", rate=16000, layout="mono")
        stored = []
        for number in range(10 * fps):
            image = np.roll(images[number // fps % len(images)], 3 * number, 1)
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            picture.pts, picture.time_base = number, Fraction(1, fps)
            stored += video.encode(picture)
        stored += video.encode(None)
        content = [(bytes(packet), packet.is_keyframe) for packet in stored]
        heard, silence = 0, np.zeros((1, 1024), np.float32)
        for number in range(round(seconds * fps)):
            data, key = content[number % len(content)]
            packet = av.Packet(data)
            packet.pts = packet.dts = number
            packet.duration, packet.time_base, packet.stream, packet.is_keyframe = 1, Fraction(1, fps), video, key
            container.mux(packet)
            while heard * fps <= number * 16000:
                frame = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
                frame.sample_rate, frame.pts = 16000, heard
                container.mux(sound.encode(frame))
                heard += 1024
        container.mux(sound.encode(None))
    return path


def decoding(film: Path) -> float:
    start, count = time.perf_counter(), 0
    for _ in islice(open_source(str(film)).frames(), SPEED_FRAMES):
        count += 1
    return count / (time.perf_counter() - start)


def network(ckpt: Path, film: Path, predict: str) -> float:
    """Of one frame again and again, cropping included."""
    given = dict(override.split("=", 1) for override in shlex.split(predict))
    predictor = Predictor(ckpt, given.get("device"))
    image = next(iter(open_source(str(film)).frames())).image
    frames = (Frame(str(number), image, number) for number in range(1, SPEED_FRAMES + 1))
    results = predictor.stream(frames, batch_size=int(given.get("batch_size", 64)))
    next(results)
    start = time.perf_counter()
    count = sum(1 for _ in results)
    return count / (time.perf_counter() - start)


def watched(arguments: list[str], out: Path, count: int) -> tuple[float, list[list[Any]]]:
    """Frames a second, and after each tenth: frames done, MiB, descriptors and threads, and frames a second so far."""
    process = Popen([sys.executable, "-m", "lightpose.cli.predict", *arguments], stdout=PIPE, stderr=STDOUT, text=True)
    start: float | None = None
    samples: list[list[Any]] = []
    while process.poll() is None:
        time.sleep(0.2)
        done = frames_done(out)
        if done and start is None:
            start = time.perf_counter() - done / 1000
        if start is not None and done >= count * (len(samples) + 0.5) / 10 and process.poll() is None:
            rate = done / (time.perf_counter() - start)
            samples.append([done, *usage(process.pid), rate])
    said = process.communicate()[0]
    if process.returncode:
        sys.exit(tail(said))
    return float(said.rpartition("(")[2].partition(" ")[0]), samples


def frames_done(out: Path) -> int:
    """By the last row of the growing table."""
    for path in out.glob(".unfinished-*/predictions.csv"):
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
            rows = file.read().split(b"\r\n")
        return int(rows[-2].split(b",")[0]) if len(rows) > 2 else 0
    return 0


def usage(pid: int) -> tuple[float, int, int]:
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    descriptors = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    return int(fields["VmRSS"].split()[0]) / 1024, descriptors, int(fields["Threads"])


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
