"""The data set that an MMPose configuration tests with, and how it makes inputs of its images."""

import logging
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from lightpose.interop.mmpose.backbones import Part, kind_of
from lightpose.interop.mmpose.parts_of_names import DATA_SETS
from lightpose.interop.mmpose.settings import Settings, refused

_log = logging.getLogger(__name__)
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
    "OneHand10K": "hand21",
    "PoseTrack18": "coco17",
    "Rhd2D": "hand21",
    "UBody2d": "coco_wholebody",
    "WFLW": "wflw",
    "Zebra": "zebra",
}
"""MMPose's data set → the option of the group ``skeleton``."""
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


def skeleton_named(config: Mapping[str, Any], count: int) -> str | None:
    """The option of the group ``skeleton`` for that data set, or for the description that it takes.

    Args:
        config: of MMPose.
        count: K of the model. None is the answer for a data set of as many keypoints that is not known.
    """
    found = data_set(config)
    described = found.get("metainfo")
    if isinstance(described, Mapping) and described:
        stem = PurePosixPath(str(described.get("from_file", ""))).stem
        option = FILES.get(stem, stem)
    else:
        option = SKELETONS.get(kind_of(found).removesuffix("Dataset"), "")
    return option if (option, count) in {(kind, keypoints) for _, kind, keypoints in DATA_SETS} else None


def transforms(config: Mapping[str, Any]) -> dict[str, Part]:
    """Kind → what is done to test images, as far as the configuration says."""
    given = data_set(config).get("pipeline") or config.get("test_pipeline") or config.get("val_pipeline") or ()
    return {kind_of(each): each for each in given if isinstance(each, Mapping)}


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
    warp = done.get("TopdownAffine") or done.get("BottomupResize") or {}
    hw = list(reversed(warp.get("input_size", []))) or found.values["input_hw"]
    if hw != found.values["input_hw"]:
        if found.groups["codec"] != "onestage":
            raise refused(
                f"test inputs of {hw} with a codec for {found.values['input_hw']}, height and width,", "equal ones"
            )
        found |= Settings({}, {"input_hw": hw})
    if warp and bool(warp.get("use_udp")) != (found.values["grid"] == "udp"):
        _log.warning(
            "the crops of this configuration are %sof UDP, and its codec is not alike: lightpose crops by the codec's "
            "pixel grid (%s), so that the network sees images up to a pixel larger or smaller",
            "" if warp.get("use_udp") else "not ",
            found.values["grid"],
        )
    return found
