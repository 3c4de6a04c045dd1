"""Whether `lightpose-data suggest` finds the frames of a kind that a model never saw.

    python scripts/bench/suggest.py                       # trains a small model first, minutes on one core
    python scripts/bench/suggest.py --ckpt last.ckpt      # of experiment=quickstart

A video of drawn people is made in `--out` for each kind of odd frames: 300 frames, of which 30, in three stretches, are
as at night, inverted, or blurred. The table says how many of the frames that are suggested are such.
"""

import argparse
import csv
import re
from pathlib import Path

import av
import cv2
import numpy as np
from timing import print_table, run_python

from lightpose.data.synthetic.generate import draw_scene, generate
from lightpose.structures import Array

HW = (240, 320)
FRAMES, STRETCH = 300, 10


def night(rng: np.random.Generator, image: Array) -> Array:
    dark = image.astype(np.float32) * 0.15 + rng.normal(0, 6, image.shape)
    return dark.clip(0, 255).astype(np.uint8)


def inverted(rng: np.random.Generator, image: Array) -> Array:
    return 255 - image


def blurred(rng: np.random.Generator, image: Array) -> Array:
    return cv2.GaussianBlur(image, (0, 0), 4)


KINDS = {"night": night, "inverted": inverted, "blurred": blurred}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt", type=Path, help="of experiment=quickstart; trained if left out")
    parser.add_argument("--out", type=Path, default=Path("outputs/suggest"))
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--kinds", default=",".join(KINDS))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    ckpt = options.ckpt or trained(options.out)
    rows = []
    for kind in options.kinds.split(","):
        folder = options.out / kind
        odd = make_video(folder, kind)
        chosen = suggested(ckpt, folder, options.count)
        rows.append([kind, len(odd) / FRAMES, len(chosen & odd) / len(chosen)])
    print_table(["", "of the video|.0%", f"of {options.count} suggested|.0%"], rows)


def trained(out: Path) -> Path:
    data = out / "people"
    if not data.exists():
        generate(data, 600, 0)
    run = out / "run"
    given = ["experiment=quickstart", f"data.train={data / 'annotations.json'}", "trainer.max_epochs=8"]
    run_python(["-m", "lightpose.cli.train", *given, "data.num_workers=0", f"output_dir={run}"], 3600)
    return run / "checkpoints/last.ckpt"


def make_video(folder: Path, kind: str) -> set[int]:
    """Write ``clip.mp4`` and ``boxes.csv``; the numbers of the odd frames, from 1."""
    folder.mkdir(parents=True, exist_ok=True)
    odd = {start + number for start in (51, 151, 251) for number in range(STRETCH)}
    rng = np.random.default_rng(1)
    rows = []
    with av.open(str(folder / "clip.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "18"})
        stream.width, stream.height, stream.pix_fmt = HW[1], HW[0], "yuv420p"
        for number in range(1, FRAMES + 1):
            image, _, people = draw_scene(np.random.default_rng([9, number]), HW)
            if number in odd:
                image = KINDS[kind](rng, image)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")))
            for person in people:
                x, y, width, height = person["bbox"]
                rows.append([f"clip_{number:06d}", x, y, x + width, y + height])
        container.mux(stream.encode(None))
    with (folder / "boxes.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["file_name", "x1", "y1", "x2", "y2"], *rows])
    return odd


def suggested(ckpt: Path, folder: Path, count: int) -> set[int]:
    out = folder / f"suggested_{count}"
    if out.exists():
        raise SystemExit(f"{out} is there; delete it, or give another --out")
    given = [f"ckpt={ckpt}", f"source={folder / 'clip.mp4'}", f"boxes={folder / 'boxes.csv'}", f"count={count}"]
    run_python(["-m", "lightpose.cli.data", "suggest", *given, f"out={out}"], 3600)
    return {int(re.findall(r"\d+", path.stem)[-1]) for path in (out / "images").iterdir()}


if __name__ == "__main__":
    main()
