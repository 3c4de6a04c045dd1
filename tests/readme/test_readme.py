"""Every command and every piece of Python in the README runs, on a small data set under the README's own names."""

import json
import re
import shlex
import shutil
from pathlib import Path

import cv2
import pytest

import lightpose
from lightpose.cli import data, eval, predict, train

README = (Path(__file__).parents[2] / "README.md").read_text()
MAINS = {"lightpose-train": train, "lightpose-eval": eval, "lightpose-predict": predict, "lightpose-data": data}


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


COMMANDS = [
    line.split("  #")[0].strip()
    for block in blocks("bash")
    for line in block.splitlines()
    if line.startswith("lightpose-")
]


@pytest.fixture
def place(people, trained, tmp_path, monkeypatch):
    """A working folder with the files that the README speaks of."""
    shutil.copytree(people.parent / "images", tmp_path / "images")
    for name in ("train.json", "val.json"):
        shutil.copy(people, tmp_path / name)
    content = json.loads(people.read_text())
    content["annotations"] = list({entry["image_id"]: entry for entry in content["annotations"]}.values())
    for entry in content["annotations"]:
        del entry["bbox"]
    (tmp_path / "frames.json").write_text(json.dumps(content))
    (tmp_path / "frames").symlink_to("images")
    shutil.copy(trained / "checkpoints/last.ckpt", tmp_path / "best.ckpt")
    frame = cv2.imread(str(next((tmp_path / "images").iterdir())))
    height, width = frame.shape[:2]
    video = cv2.VideoWriter(str(tmp_path / "video.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 10, (width, height))
    for _ in range(3):
        video.write(frame)
    video.release()
    (tmp_path / "mine/head").mkdir(parents=True)
    (tmp_path / "mine/my_head.py").write_text("from lightpose.models.heads.heatmap import HeatmapHead as MyHead\n")
    (tmp_path / "mine/head/my_head.yaml").write_text("defaults: [heatmap, _self_]\n_target_: my_head.MyHead\n")
    for name in ("a.jpg", "b.jpg"):
        cv2.imwrite(str(tmp_path / name), frame)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_readme_has_commands():
    assert {command.split()[0] for command in COMMANDS} == set(MAINS)


@pytest.mark.parametrize("command", COMMANDS)
def test_command(run, tiny, place, command):
    program, *arguments = shlex.split(command)
    if program == "lightpose-train":
        arguments += ["trainer.max_epochs=1", *tiny]
    code, _, err = run(MAINS[program].main, *arguments)
    assert code == 0, err


def test_python(place):
    [code] = [block for block in blocks("python") if "Predictor" in block]
    names = {"boxes_a": [[10, 10, 100, 200]], "boxes_b": [[10, 10, 100, 200], [50, 20, 160, 220]]}
    exec(code, names)
    assert [pose.keypoints.shape for pose in names["poses"]] == [(1, 17, 2), (2, 17, 2)]


def test_options_that_the_readme_names_exist():
    conf = Path(lightpose.__file__).parents[2] / "conf"
    for group, named in re.findall(r"^\| `(\w+)` \| (.+) \|$", README, re.MULTILINE):
        for option in re.findall(r"`([\w/]+)`", named):
            assert (conf / group / f"{option}.yaml").is_file() or option.startswith("_"), f"{group}={option}"
