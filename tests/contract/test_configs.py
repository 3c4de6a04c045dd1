"""Every YAML of ``conf/`` says what its class takes, and every experiment becomes objects that fit together."""

import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from composition import FOLDERS, coco17, compose, compose_option, options
from hydra.utils import get_object

from lightpose.checkpoint import assemble
from lightpose.cli.groups import conf_dir
from lightpose.cli.setup import choose_monitor, make_estimator, make_trainer
from lightpose.data.synthetic.generate import generate
from lightpose.data.synthetic.sequences import generate_sequences
from lightpose.estimators.optim import parameter_groups
from lightpose.trust import DATA, check_targets

THIRD_PARTY = ("torch", "lightning", "albumentations", "timm")
CHOOSING_GROUPS = ("experiment", "dataset", "sweep", "hydra")  # they choose options and set values, and have no class
GIVEN = {
    *(
        "skeleton",
        "input_hw",
        "grid",
        "in_channels",
        "strides",
        "stages",
        "spec",
        "keypoints",
        "links",
    ),  # the estimator and PoseNet
    *("optimizer", "total_steps"),  # the estimator, to a scheduler
    *("annotations", "images", "transforms", "seed", "boxes"),  # the data module, to a data set
    *("student", "load"),  # `make_distillation`
    "fps",  # lightpose-predict, to a tracker
}
"""Arguments that code adds to a ``_partial_``."""
POINTLESS = {
    ("data", "bottomup"): {"boxes", "group_by_image"},  # a sample is a whole image
    ("data", "topdown"): {"input_scale"},  # a network of one person takes inputs of one size
    ("data", "sequences"): {  # no images
        *("boxes", "group_by_image", "images", "val_images", "decode", "cache_gb", "input_scale", "margin_grey"),
    },
    ("data", "toy_sequences"): {"input_scale", "margin_grey"},
    ("callbacks", "default"): {"train_time_interval"},  # the best is written after a validation
    ("callbacks", "early_stopping"): {"train_time_interval"},
    ("callbacks", "ema"): {"train_time_interval"},
    ("callbacks", "ema_short"): {"train_time_interval"},
}


def group_options() -> list[tuple[str, str]]:
    groups = sorted({(path.name, folder) for folder in FOLDERS for path in folder.iterdir() if path.is_dir()})
    return [
        (group, option) for group, folder in groups if group not in CHOOSING_GROUPS for option in options(group, folder)
    ]


def nodes(config: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Everything inside with a ``_target_``, and where it stands."""
    if isinstance(config, dict):
        if "_target_" in config:
            yield path, config
        for key, value in config.items():
            yield from nodes(value, f"{path}.{key}".lstrip("."))


def parameters(target: Any, of_libraries: bool = True) -> set[str]:
    """Names of the arguments of a function or a constructor, those passed on to base classes included."""
    names: set[str] = set()
    for owner in inspect.getmro(target) if inspect.isclass(target) else (target,):
        if not of_libraries and owner.__module__.split(".")[0] in THIRD_PARTY:
            break
        kinds = {name: parameter.kind for name, parameter in inspect.signature(owner).parameters.items()}
        names |= {name for name, kind in kinds.items() if kind.name not in ("VAR_POSITIONAL", "VAR_KEYWORD")}
        if inspect.Parameter.VAR_KEYWORD not in kinds.values():
            break
    return names


@pytest.mark.parametrize(("group", "option"), group_options())
def test_an_option_lists_the_arguments_of_its_class(group: str, option: str):
    for path, node in nodes(compose_option(group, option)):
        accepted = parameters(get_object(node["_target_"]))
        listed = {key for key in node if not key.startswith("_")}
        assert listed <= accepted, f"{path}: {node['_target_']} doesn't take {sorted(listed - accepted)}"
        if node["_target_"].split(".")[0] in THIRD_PARTY:
            continue
        given = GIVEN if node.get("_partial_") else {"skeleton"} if path in ("estimator", "data") else set()
        own = parameters(get_object(node["_target_"]), of_libraries=False)
        unlisted = own - listed - given - POINTLESS.get((group, option), set())
        assert not unlisted, f"{path}: {node['_target_']} also takes {sorted(unlisted)}"


@pytest.fixture(scope="module")
def annotations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two images, and one person of each, as some readers take no more."""
    path = generate(tmp_path_factory.mktemp("synthetic") / "data", images=2, seed=0, image_hw=(96, 128))
    content = json.loads(path.read_text())
    content["annotations"] = list({entry["image_id"]: entry for entry in content["annotations"]}.values())
    path.write_text(json.dumps(content))
    return path


@pytest.fixture(scope="module")
def sequences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip of a moving person."""
    return generate_sequences(tmp_path_factory.mktemp("moving") / "data", 1, seed=0)


@pytest.fixture(scope="module")
def hands(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A right hand in the files of InterHand2.6M."""
    folder = tmp_path_factory.mktemp("hands")
    cv2.imwrite(str(folder / "a.png"), np.zeros((48, 64, 3), np.uint8))
    image = {"id": 1, "file_name": "a.png", "width": 64, "height": 48, "capture": 0, "camera": "c", "frame_idx": 0}
    entry = {"id": 1, "image_id": 1, "bbox": [10, 10, 30, 30], "joint_valid": [1] * 21 + [0] * 21}
    camera = {"camrot": {"c": np.eye(3).tolist()}, "campos": {"c": [0, 0, -900]}}
    files = {
        "data": {"images": [image], "annotations": [entry]},
        "camera": {"0": {**camera, "focal": {"c": [900, 900]}, "princpt": {"c": [32, 24]}}},
        "joint_3d": {"0": {"0": {"world_coord": [[0, 0, 0]] * 42}}},
    }
    for part, content in files.items():
        (folder / f"x_{part}.json").write_text(json.dumps(content))
    return folder / "x_data.json"


@pytest.mark.parametrize("experiment", options("experiment"))
def test_an_experiment_becomes_objects_that_fit_together(
    experiment: str, annotations: Path, sequences: Path, hands: Path, tmp_path: Path
):
    lifts, of_hands = "lifting" in experiment, "internet" in experiment
    file = sequences if lifts else hands if of_hands else annotations
    files = [f"data.{split}={file}" for split in ("train", "val")]
    config = compose(f"experiment={experiment}", "trainer.accelerator=cpu", f"output_dir={tmp_path}", *files)
    skeleton = assemble(config["skeleton"]) if lifts or of_hands else coco17()
    assert json.loads(json.dumps(config)) == config  # plain data: a checkpoint can hold it
    data = config["data"]
    check_targets(config["estimator"])  # its checkpoint runs unasked
    check_targets([data["reader"], data["transforms"]["eval"]], rooms=DATA)
    config["estimator"]["backbone"].pop("pretrained", None)
    if lifts:
        config["estimator"]["backbone"]["width"] = 32
    # Shapes without memory or time, even of the largest; lifters leave autocast, which the meta device doesn't know.
    with torch.device("cpu" if lifts else "meta"):
        estimator = make_estimator(config, skeleton)
        if lifts:
            inputs = torch.zeros(2, config["reader"]["frames"], skeleton.num_keypoints, 3)
        else:
            inputs = torch.empty(2, 3, *config["input_hw"], dtype=torch.uint8)
        outputs = estimator.net(inputs)
    shapes = {name: tuple(output.shape[1:]) for name, output in outputs.items()}
    expected = estimator.net.output_shapes  # which are compared with the codec's spec where it is built
    if lifts:  # a length that the codec doesn't know is that of the input
        outputs = estimator.codec.spec.outputs
        expected = {name: tuple(side or inputs.shape[1] for side in shape) for name, shape in outputs.items()}
    assert shapes == expected

    settings = config["optimizer"]
    groups = parameter_groups(
        estimator.net, settings["lr"], settings["weight_decay"], layer_decay=config["estimator"]["layer_decay"]
    )
    optimizer = estimator.optimizer(groups)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(estimator.net.parameters()))
    estimator.scheduler(optimizer, total_steps=100)

    datamodule = assemble(data, skeleton=skeleton)
    shape = tuple(inputs.shape[1:]) if lifts else (*config["input_hw"], 3)
    for split in ("train", "val"):
        sample = datamodule.dataset(split)[0]
        assert sample.image.shape == (shape if sample.input_hw is None else (*sample.input_hw, 3))
    written = compose_option("callbacks", "default")["callbacks"]
    config = choose_monitor(config, written, estimator)
    assert config["monitor"] == f"val/{estimator.metrics[0].figures[0]}"
    trainer = make_trainer({**config, "trainer": {**config["trainer"], "precision": "32-true"}})
    assert any(callback.monitor == config["monitor"] for callback in trainer.checkpoint_callbacks)


def test_every_group_of_the_package_has_options():
    assert all(options(path.name) for path in conf_dir().iterdir() if path.is_dir())
