"""A thousand damaged pictures."""

import io
import json
import random

import cv2
import numpy as np
import pytest
from PIL import Image
from watch import damaged, read_by_child, summary

from lightpose.cli.predict import main
from lightpose.data.pixels.decode import read_image
from lightpose.inference.sources import IMAGE_SUFFIXES

COUNT = 1000
MOST_MB = 3700
"""Of a process: an image of the most pixels that are read takes 3 GB while it is decoded; the imports, 0.5."""


def pictures():
    """Name → content of files of every format, with orientation, palette, opacity, 16 bits and several pictures."""
    rng = np.random.default_rng(0)
    pixels = cv2.resize(rng.integers(0, 255, (6, 8, 3), np.uint8), (112, 80), interpolation=cv2.INTER_CUBIC)
    image = Image.fromarray(pixels)
    turned = Image.Exif()
    turned[0x0112] = 6
    notes = turned.tobytes()
    second = {"save_all": True, "append_images": [image.rotate(90)]}
    deep = pixels.astype(np.uint16) * 257
    made = {
        "plain.jpg": (image, "JPEG", {"exif": notes}),
        "progressive.jpg": (image, "JPEG", {"progressive": True}),
        "print.jpg": (image.convert("CMYK"), "JPEG", {}),
        "plain.png": (image, "PNG", {"exif": notes}),
        "palette.png": (image.quantize(16), "PNG", {}),
        "film.png": (image, "PNG", second),
        "plain.bmp": (image, "BMP", {}),
        "plain.webp": (image, "WEBP", {"exif": notes}),
        "exact.webp": (image, "WEBP", {"lossless": True}),
        "film.webp": (image, "WEBP", second),
        "plain.tif": (image, "TIFF", {"exif": notes}),
        "lzw.tif": (image, "TIFF", {"compression": "tiff_lzw"}),
        "jpeg.tif": (image, "TIFF", {"compression": "jpeg"}),
        "plain.ppm": (image, "PPM", {}),
        "film.gif": (image, "GIF", second),
        "plain.jp2": (image, "JPEG2000", {}),
    }
    files = {}
    for name, (picture, format, options) in made.items():
        file = io.BytesIO()
        picture.save(file, format, **options)
        files[name] = file.getvalue()
    for name in ("deep.png", "deep.tif", "deep.ppm"):
        files[name] = cv2.imencode(name[4:], deep)[1].tobytes()
    return files


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The damaged files, of which some are whole by chance, or in what counts."""
    folder, rng = tmp_path_factory.mktemp("damaged"), random.Random(0)
    originals = sorted(pictures().items())
    made = []
    for number in range(COUNT):
        name, data = originals[number % len(originals)]
        made.append(folder / f"{number:04d}_{name}")
        made[-1].write_bytes(damaged(data, rng))
    return made


@pytest.mark.slow
def test_damaged_pictures_are_read_or_refused_by_name(files, tmp_path):
    for name, data in pictures().items():
        (tmp_path / name).write_bytes(data)
        assert read_image(tmp_path / name).shape in ((80, 112, 3), (112, 80, 3))
    results = read_by_child("images", files)
    print(summary(results))
    assert [result for result in results if result["outcome"] not in ("read", "refused")] == []
    assert all(result["named"] for result in results if result["outcome"] == "refused")
    assert max(result["seconds"] for result in results) < 10
    assert max(result["peak_mb"] for result in results) < MOST_MB
    assert sum(result["outcome"] == "refused" for result in results) > COUNT / 4
    assert sum(result["outcome"] == "read" for result in results) > COUNT / 10


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_of_a_folder_of_damaged_pictures_every_one_is_posed_or_named(run, trained, files, tmp_path, workers):
    given = [f"ckpt={trained / 'checkpoints' / 'best.ckpt'}", "device=cpu", f"num_workers={workers}"]
    code, said, _ = run(
        main, *given, f"source={files[0].parent}", f"out={tmp_path / 'out'}", "on_bad_image=skip", "draw=false"
    )
    assert code == 0
    pictures = [file for file in files if file.suffix in IMAGE_SUFFIXES]
    skipped = said.count("Skipped: image ")
    posed = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert f"{skipped} of {len(pictures)} images can't be read and were skipped" in said
    assert len(posed) == len(pictures) - skipped > 100
    names = {file.name: number for number, file in enumerate(sorted(pictures), start=1)}
    assert all(entry["image_id"] == names[entry["file_name"]] for entry in posed)
