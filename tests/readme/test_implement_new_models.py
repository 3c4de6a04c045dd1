"""The tutorial's files, written to a folder far from the repository, train, predict, reload and pass their own test."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs/implement_new_models.md").read_text()
FILES = dict(re.findall(r"^`(mine/[\w/.]+)`\n\n```(?:python|yaml)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE))
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
[RELOAD] = [code for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "lightpose.load(" in code]
SMALL = [
    *("input_hw=[64,64]", "data.num_workers=0", "data.batch_size=4", "trainer.accelerator=cpu"),
    *("trainer.precision=32-true", "trainer.max_epochs=1", "trainer.limit_train_batches=1"),
    *(f"callbacks.{name}=null" for name in ("progress", "report", "pictures", "learning_rate")),
    *(f"logger.{name}=null" for name in ("csv", "tensorboard")),
]
RUN = """
import json, sys
from lightpose.cli import predict, train

for name, *arguments in json.load(sys.stdin):
    sys.argv = [name, *arguments]
    print("$", *arguments, flush=True)
    {"lightpose-train": train, "lightpose-predict": predict}[name].main()
"""

CHECKS = """
assert type(estimator.net.head).__name__ == "PointHead"

from test_mine import *

test_parts()

from my_paradigm import CenterCodec, CenterHead, WholeImages
from my_visibility import VisibleCodec, VisibleHead
from lightpose.codecs.heatmap import HeatmapCodec

perfect = lambda targets: {**targets.maps, "center": 20 * targets.maps["center"] - 10}
testing.check_codec(CenterCodec, most_px=1e-3, outputs=perfect)
testing.check(testing.model(CenterHead, CenterCodec, kind=WholeImages, flip_test=False))
head = partial(VisibleHead, head=partial(PointHead, criterion=KeypointMSE()))
testing.check(testing.model(head, partial(VisibleCodec, codec=HeatmapCodec)))
"""


@pytest.fixture
def place(people, tmp_path):
    """The tutorial's folder, and the data that its commands name."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    shutil.copytree(people.parent / "images", tmp_path / "images")
    shutil.copy(people, tmp_path / "train.json")
    content = json.loads(people.read_text())
    files = {image["id"]: image["file_name"] for image in content["images"]}
    with (tmp_path / "train.csv").open("w", newline="") as file:
        for each in content["annotations"][:4]:
            x, y, width, height = each["bbox"]
            points = [value for place, value in enumerate(each["keypoints"]) if place % 3 < 2]
            csv.writer(file).writerow([files[each["image_id"]], x, y, x + width, y + height, *points])
    return tmp_path


def test_each_part_is_a_file_and_a_yaml():
    groups = {Path(name).parts[1] for name in FILES if name.endswith(".yaml")}
    assert groups == {"head", "backbone", "neck", "codec", "metric", "augment", "reader", "experiment"}
    said = " ".join(COMMANDS)
    for name in FILES:
        if name.endswith(".yaml") and name != "mine/codec/cone.yaml":
            assert re.search(rf"\b{Path(name).parts[1]}=\[?{Path(name).stem}\b", said), f"no command uses {name}"


def test_the_tutorial_runs_outside_of_the_repository(place):
    source = str(Path(__file__).parents[2] / "src")
    path = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    jobs = []
    for number, command in enumerate([*COMMANDS, COMMANDS[0] + " codec=cone"]):
        program, *arguments = command.split()
        if program == "lightpose-train":
            net = [] if "backbone=" in command else ["backbone=timm/any", "backbone.model=test_resnet"]
            own = [] if "output_dir=run" in arguments and number == 0 else [f"output_dir=run{number}"]
            arguments += [*net, *SMALL, *own]
        else:
            arguments += ["device=cpu", "num_workers=0", "draw=false"]
        jobs.append([program, *arguments])
    done = subprocess.run(
        [sys.executable, "-c", RUN], cwd=place, env=environment, input=json.dumps(jobs), text=True, capture_output=True
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert (place / "predictions/predictions.json").exists()
    code = RELOAD + CHECKS
    environment["PYTHONPATH"] = f"mine{os.pathsep}{path}"
    done = subprocess.run([sys.executable, "-c", code], cwd=place, env=environment, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
