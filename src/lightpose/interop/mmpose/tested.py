"""The data set that an MMPose configuration tests with, and how it makes inputs of its images."""

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from lightpose.conf_files import conf_dir
from lightpose.interop.mmpose.backbones import Part, kind_of
from lightpose.interop.mmpose.parts_of_names import DATA_SETS
from lightpose.interop.mmpose.settings import Settings, refused

PADDING = 1.25
SKELETONS = {
    "AFLW": "aflw",
    "AP10K": "ap10k",
    "Aic": "aic",
    "AnimalKingdom": "animalkingdom",
    "AnimalPose": "animalpose",
    "COFW": "cofw",
    "Coco": "coco17",
    "CocoWholeBody": "coco_wholebody",
    "CocoWholeBodyFace": "face68",
    "CocoWholeBodyHand": "hand21",
    "CrowdPose": "crowdpose",
    "Exlpose": "exlpose",
    "Face300VW": "face68",
    "Face300W": "face68",
    "Face300WLP": "face68",
    "FreiHand": "hand21",
    "Human36m": "h36m",
    "HumanArt": "coco17",
    "InterHand3D": "interhand3d",
    "Jhmdb": "jhmdb",
    "Lapa": "lapa",
    "Locust": "locust",
    "Mpii": "mpii",
    "OCHuman": "coco17",
    "OneHand10K": "hand21",
    "PoseTrack18": "coco17",
    "PoseTrack18Video": "coco17",
    "Rhd2D": "hand21",
    "UBody2d": "coco_wholebody",
    "WFLW": "wflw",
    "Zebra": "zebra",
}
"""MMPose's data set → the option of the group ``skeleton``."""
ONE_STAGE = ("RTMOHead", "YOLOXPoseHead")
PUBLISHED_GREY = 114
"""Beside images, of the one-stage models."""
FILES = {"coco": "coco17", "300w": "face68", "ubody2d": "coco_wholebody"}
"""Of descriptions of data sets that are called otherwise than our option."""


def data_set(config: Mapping[str, Any]) -> Part:
    """The one that is tested with, or validated; empty where the configuration has none."""
    for key in ("test_dataloader", "val_dataloader"):
        found = config.get(key)
        while isinstance(found, Mapping) and isinstance(found.get("dataset"), Mapping):  # of a loader, or repeated
            found = found["dataset"]
        if isinstance(found, Mapping):
            return found
    return {"type": config["dataset_type"]} if isinstance(config.get("dataset_type"), str) else {}


def name_of_data_set(config: Mapping[str, Any]) -> str:
    """The description of keypoints that the model or its data set takes, or else the kind of the data set.

    Empty where the configuration names none.
    """
    model, found = config.get("model"), data_set(config)
    for part in (model if isinstance(model, Mapping) else {}, found):
        described = part.get("metainfo")
        if isinstance(described, Mapping) and described:
            return PurePosixPath(str(described.get("from_file", "a data set of its own"))).stem
    return kind_of(found).removesuffix("Dataset") if found else ""


def skeleton_named(config: Mapping[str, Any], count: int) -> str | None:
    """The option of the group ``skeleton`` for that data set, or for the description that it takes.

    Args:
        config: of MMPose.
        count: K of the model. None is the answer for a data set of as many keypoints that is not known.
    """
    name = name_of_data_set(config)
    if name == "DeepFashion":
        name = f"deepfashion_{data_set(config).get('subset')}"
    option = SKELETONS.get(name) or FILES.get(name, name)
    known = (option, count) in {(kind, keypoints) for _, kind, keypoints in DATA_SETS}
    return option if known and (conf_dir() / "skeleton" / f"{option}.yaml").is_file() else None


def transforms(config: Mapping[str, Any]) -> dict[str, Part]:
    """Kind → what is done to test images, as far as the configuration says."""
    given = data_set(config).get("pipeline") or config.get("test_pipeline") or config.get("val_pipeline")
    listed = given if isinstance(given, (list, tuple)) else ()
    return {kind_of(each): each for each in listed if isinstance(each, Mapping)}


def with_crops(found: Settings, config: Mapping[str, Any]) -> Settings:
    """The choices, with inputs of the size and padding that test images are given.

    Args:
        found: choices whose input is the codec's.
        config: of MMPose.

    Raises:
        UserError: where test inputs are of another size than the codec's, and maps depend on it.
    """
    done = transforms(config)
    padding = float(done.get("GetBBoxCenterScale", {}).get("padding", PADDING))
    if padding != PADDING and "estimator" not in found.groups:
        found |= Settings({}, {"augment.train.geometry.crop.padding": padding})  # evaluation takes that of training
    if grey := margin_grey(config):
        found |= Settings({}, {"margin_grey": grey})
    warp = _warp(config)
    hw = list(reversed(warp.get("input_size", []))) or found.values["input_hw"]
    if hw != found.values["input_hw"]:
        if found.groups["codec"] != "onestage":
            raise refused(
                f"test inputs of {hw} with a codec for {found.values['input_hw']}, height and width,", "equal ones"
            )
        found |= Settings({}, {"input_hw": hw})
    if kind_of(warp) == "BottomupResize":
        found |= _whole_images(found, warp)
    return found


def _warp(config: Mapping[str, Any]) -> Part:
    """What makes inputs of test images; empty where the configuration doesn't say."""
    done = transforms(config)
    return done.get("TopdownAffine") or done.get("BottomupResize") or {}


def differences(config: Mapping[str, Any], found: Settings) -> list[str]:
    """What lightpose is known to do otherwise than MMPose with a configuration, as sentences."""
    model, warp, told = config["model"], _warp(config), []
    kind, grid = kind_of(model["head"]), found.values.get("grid")
    if warp and bool(warp.get("use_udp")) != (grid == "udp"):
        told.append(
            f"its crops are {'' if warp.get('use_udp') else 'not '}of UDP, and its codec is not alike: lightpose crops "
            f"by the codec's pixel grid ({grid}), so that the network sees images up to a pixel larger or smaller"
        )
    test = model.get("test_cfg") or {}
    if found.values.get("codec.enlarge") and bool(test.get("align_corners")) != (grid == "udp"):
        told.append("MMPose enlarges maps by another pixel grid than that of its codec: its keypoints are a little off")
    if test.get("output_keypoint_indices"):
        told.append("MMPose gives only the keypoints of output_keypoint_indices; lightpose gives all of them")
    if margin_grey(config) is None:
        told.append(f"margins beside an image are black; MMPose fills them with {warp['pad_val']}, no grey")
    if kind == "DEKRHead" and "head.rescoring" not in found.values:
        told.append(
            "poses keep the scores of their keypoints; MMPose scores them anew by a small network, which this file "
            "lacks, or has for other keypoints than those of COCO and CrowdPose"
        )
    return told


def margin_grey(config: Mapping[str, Any]) -> int | None:
    """What inputs show beside a test image, 0 to 255; None for a colour, as lightpose has one value for all channels.

    Where the configuration doesn't say, as where it has nothing but a name, it is what the published ones have.
    """
    warp = _warp(config)
    usual = 0 if warp or kind_of(config["model"]["head"]) not in ONE_STAGE else PUBLISHED_GREY
    given = warp.get("pad_val") or usual
    first, *others = given if isinstance(given, (list, tuple)) else (given,)
    return int(first) if first in range(256) and all(other == first for other in others) else None


def _whole_images(found: Settings, given: Part) -> Settings:
    """The size of inputs of whole images: that of the codec with margins, or what the image's short side takes.

    Raises:
        UserError: for inputs of the image's own proportion before a head whose augmentation knows none.
    """
    kept = given.get("resize_mode", "fit") == "fit"
    if found.groups["codec"] == "onestage":
        if not kept:
            raise refused(f"BottomupResize with resize_mode={given['resize_mode']} for a one-stage head", "fit")
        return Settings()
    if kept:
        return Settings({"augment": "bottomup"})
    multiple = given.get("size_factor", 32)
    return Settings({}, {} if multiple == 64 else {"augment.eval.geometry.crop.multiple": multiple})
