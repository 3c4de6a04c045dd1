"""Every command of docs/bottomup.md runs, on small data under the page's own names."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from lightpose.cli import data, eval, predict, train

PAGE = (Path(__file__).parents[2] / "docs/bottomup.md").read_text()
MAINS = {"lightpose-train": train, "lightpose-eval": eval, "lightpose-predict": predict, "lightpose-data": data}
COMMANDS = [
    line.split("  #")[0].strip()
    for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
]
SMALL = [
    *("backbone=timm/any", "backbone.model=test_resnet", "input_hw=[64,64]", "trainer.max_epochs=1"),
    *("data.num_workers=0", "data.batch_size=4", "trainer.accelerator=cpu", "trainer.precision=32-true"),
    *("callbacks.progress=null", "callbacks.report=null", "logger.tensorboard=null", "trainer.log_every_n_steps=1"),
]


@pytest.fixture
def place(people, tmp_path, monkeypatch):
    """A working folder with the data that the page speaks of."""
    content = json.loads(people.read_text())
    (tmp_path / "photos").mkdir()
    shutil.copytree(people.parent / "images", tmp_path / "images")
    shutil.copy(people.parent / "images" / content["images"][0]["file_name"], tmp_path / "photos")
    for name in ("train.json", "val.json"):
        shutil.copy(people, tmp_path / name)
    for name in ("people", "val"):
        shutil.copytree(people.parent, tmp_path / name)
    [category] = content["categories"]
    category |= {"keypoints": category["keypoints"][3:], "skeleton": []}
    for entry in content["annotations"]:
        entry["keypoints"] = entry["keypoints"][9:]
        entry["num_keypoints"] = sum(flag > 0 for flag in entry["keypoints"][2::3])
    content["images"] = [image | {"crowdIndex": 0.5} for image in content["images"]]
    for name in ("crowdpose_trainval.json", "crowdpose_test.json"):
        (tmp_path / name).write_text(json.dumps(content))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def checkpoint(people, tmp_path_factory):
    """What ``best.ckpt`` on the page stands for."""
    folder = tmp_path_factory.mktemp("bottomup") / "run"
    with pytest.MonkeyPatch.context() as patch:
        files = (f"data.train={people}", f"data.val={people}", f"output_dir={folder}")
        patch.setattr("sys.argv", ["lightpose-train", "experiment=quickstart_bottomup", *files, *SMALL])
        train.main()
    return folder / "checkpoints/last.ckpt"


def test_the_page_has_commands():
    assert {command.split()[0] for command in COMMANDS} == set(MAINS)


@pytest.mark.parametrize("command", COMMANDS)
def test_command(run, place, checkpoint, command):
    program, *arguments = shlex.split(command)
    if arguments[0] == "synthetic":
        arguments[1:] = [re.sub(r"^(out|images)=.*", r"\1=2", argument) for argument in arguments[1:]]
    if program == "lightpose-train":
        arguments += SMALL + ["head.branch_channels=1"] * ("experiment=bottomup_dekr_hrnet" in arguments)
    shutil.copy(checkpoint, place / "best.ckpt")
    code, _, err = run(MAINS[program].main, *arguments)
    assert code == 0, err


def test_what_the_page_names_exists():
    conf = Path(__file__).parents[2] / "conf"
    for group, options in (("experiment", r"`(\w+_\w+)`"), ("augment", r"`augment=(\w+)`")):
        named = re.findall(
            options, "".join(re.findall(r"^\| .*$", PAGE, re.MULTILINE)) if group == "experiment" else PAGE
        )
        assert len(named) > 1
        for option in named:
            assert (conf / group / f"{option}.yaml").is_file() or option.startswith("_"), f"{group}={option}"


@pytest.mark.parametrize(
    ("options", "small"),
    [
        (["experiment=bottomup_ae_hrnet", "backbone=timm/resnet18", "neck=fpn", "reader.empty_images=true"], SMALL[2:]),
        (
            [
                *("experiment=bottomup_rtmo_s", "data.late_epochs=20", "augment.train.mix.mixup=null"),
                "augment.train.mix.mosaic.probability=0.5",
            ],
            [*SMALL[2:], "callbacks.switches=null"],
        ),
        (
            ["experiment=quickstart_bottomup", "estimator.test_scales=[1.0,0.5,2.0]", "data.input_scale=[0.75,1.25]"],
            SMALL,
        ),
    ],
)
def test_options_between_the_commands_are_taken(run, place, options, small):
    for option in options[1:]:
        assert option in PAGE
    code, _, err = run(train.main, *options, *small, "data.train=train.json", "trainer.max_steps=1")
    assert code == 0, err
