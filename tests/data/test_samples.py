"""The annotation files of some thirty public data sets: each trains, or is refused by a sentence that says why."""

import csv
import json
import re
from pathlib import Path

import pytest

from lightpose.cli import data, train

pytestmark = pytest.mark.slow

SAMPLES = Path(__file__).parents[2] / "../shared/samples"
REFUSED = {
    "300vw/anno_300vw.json": "3 box missing, empty or outside the image (annotations[0] has the bbox null)",
    "ak/test_animalkingdom.json": "2 category without keypoints (annotations[0] has the category_id 4)",
    "coco/test_keypoint_partition_metric.json": "has a list of 399, expected 51 numbers for 17 keypoints",
    "h36m/h36m_coco.json": "4 of the 4 images of ",
    "humanart/test_humanart.json": "has a list of 51, expected 63 numbers for 21 keypoints",
    "mpii/test_mpii_trb.json": "5 box missing, empty or outside the image (annotations[0] has the bbox null)",
    "ubody3d/ubody3d_train.json": "has a list of 133, expected 399 numbers for 133 keypoints",
}
"""What the others lack: boxes, images, or keypoints that fit their names."""


def annotation_files():
    """Those that carry keypoints."""
    found = []
    for path in sorted(SAMPLES.rglob("*.json")):
        content = json.loads(path.read_bytes())
        annotations = content.get("annotations") if isinstance(content, dict) else None
        if annotations and any("keypoints" in entry for entry in annotations):
            found.append(path.relative_to(SAMPLES).as_posix())
    return found


def images_of(path):
    """The folder that the file's names start from, or the one they are expected in."""
    first = json.loads(path.read_bytes())["images"][0]["file_name"]
    places = [path.parent, *path.parents[1:4], SAMPLES / "coco"]
    return next((place for place in (*places, path.parent / "images") if (place / first).is_file()), path.parent)


@pytest.mark.parametrize("name", annotation_files())
def test_public_data_sets(run, tiny, tmp_path, name):
    path = SAMPLES / name
    given = [f"data.train={path}", f"data.images={images_of(path)}", f"output_dir={tmp_path / 'run'}"]
    checked, out, _ = run(data.main, "check", f"data.train={path}", f"data.images={images_of(path)}")
    code, said, err = run(train.main, *tiny, *given, "trainer.max_steps=2", "input_hw=[64,64]", "data.batch_size=2")
    if name in REFUSED:
        boxless = "bbox null" in REFUSED[name]  # such a file is fine for whole images
        assert (checked, code) == (0 if boxless else 1, 1)
        assert REFUSED[name] in err
        assert ("experiment=single_animal needs none" in out) == boxless
    else:
        assert (checked, code) == (0, 0), (out, err)
    names = json.loads(path.read_bytes())["categories"][0].get("keypoints")
    if not names and name not in REFUSED:
        assert "name no keypoints, so these are called 0 to" in said + err and "so nothing is mirrored" in said + err


KEYPOINTS = {
    "ap10k/test_ap10k.json": 17,
    "aic/test_aic.json": 14,
    "crowdpose/test_crowdpose.json": 14,
    "wflw/test_wflw.json": 98,
    "onehand10k/test_onehand10k.json": 21,
    "animalpose/test_animalpose.json": 20,
    "coco/test_coco_wholebody.json": 133,
    "coco/test_coco.json,aic/test_aic.json": 19,
    "ap10k/test_ap10k.json,animalpose/test_animalpose.json": 34,
}


@pytest.mark.parametrize("names", KEYPOINTS)
def test_the_file_alone_says_which_keypoints_there_are(run, tiny, tmp_path, names):
    files = [SAMPLES / name for name in names.split(",")]
    if not all(path.is_file() for path in files):
        pytest.skip("real samples are not here")
    given = f"[{','.join(map(str, files))}]" if len(files) > 1 else files[0]
    options = [
        f"output_dir={tmp_path}/run",
        "trainer.max_steps=3",
        "data.batch_size=32",
        "data.epoch_steps=3",
    ]  # a batch is a pass
    code, out, err = run(train.main, f"data.train={given}", *tiny, *options)
    assert code == 0 and f": {KEYPOINTS[names]} keypoints; precision" in out + err, err
    rows = list(csv.DictReader((tmp_path / "run/csv/version_0/metrics.csv").open()))
    losses = [float(row["train/loss"]) for row in rows if row["train/loss"]]
    samples = re.findall(r"passes over (\d+) samples", out + err)[0]
    print(f"| {names} | {KEYPOINTS[names]} | {samples} | {losses[0]:.4f} | {losses[-1]:.4f} |")
    assert len(losses) == 3 and 0 < losses[-1] < losses[0]
