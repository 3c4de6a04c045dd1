"""What an exported file says of itself: JSON under one name in its metadata."""

import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, get_args

import lightpose
from lightpose.building import margin_grey
from lightpose.errors import UserError
from lightpose.geometry import Grid, check_grid
from lightpose.skeleton import Skeleton

if TYPE_CHECKING:
    from lightpose.estimators.base import PoseEstimator

NAME = "lightpose"
"""Of the entry in ``metadata_props``."""
LARGEST_SIDE = 16_384
Kind = Literal["topdown", "whole_image", "bottomup", "lifter"]


@dataclass(frozen=True, slots=True)
class Description:
    """All that a program needs beside the graph, as plain data.

    Attributes:
        version: of lightpose, which wrote the file.
        estimator: ``topdown`` takes crops of boxes, ``whole_image`` whole images of one person, ``bottomup`` whole
            images of any number of people, ``lifter`` sequences of keypoints.
        codec: class that decodes, for information.
        input_hw: height and width of the input; None of sequences.
        frames: of a sequence; None of images.
        causal: whether the pose of a sequence is that of its last frame, and not of the middle one.
        grid: how a box fills the input, see `lightpose.geometry`.
        padding: factor on the box; None where there is none.
        flip_test: whether the graph averages with the mirror image.
        precision: of weights and arithmetic.
        image_bits: of the values of 16-bit images.
        mirror_pairs: keypoints that change places when the image is mirrored.
        skeleton: see `lightpose.skeleton.Skeleton.to_dict`.
        config: what cropping, data and metrics are built from, as in a checkpoint.
        margin_grey: value of each channel beside an image, 0 to 255; 0 in files of earlier versions, which don't say.
    """

    version: str
    estimator: Kind
    codec: str
    input_hw: tuple[int, int] | None
    frames: int | None
    causal: bool
    grid: Grid
    padding: float | None
    flip_test: bool
    precision: str
    image_bits: int
    mirror_pairs: list[list[str]]
    skeleton: dict[str, Any]
    config: dict[str, Any]
    margin_grey: int = 0


def describe(estimator: "PoseEstimator", image_bits: int) -> Description:
    """The description of a loaded estimator."""
    assert estimator.config is not None
    skeleton, config = estimator.skeleton, estimator.config
    pairs = [
        [name, skeleton.keypoints[other]]
        for name, (row, other) in zip(skeleton.keypoints, enumerate(skeleton.swap), strict=True)
        if row < other
    ]
    augment = {"eval": config["augment"]["eval"]}
    steps = [step for step in (augment["eval"].get("geometry") or {}).values() if isinstance(step, Mapping)]
    paddings = [step["padding"] for step in steps if "padding" in step]
    kind: Kind = "topdown" if estimator.takes_boxes else "whole_image"
    parts: dict[str, Any] = {"metrics": config["estimator"].get("metrics") or {}}
    if not estimator.one_person:
        kind = "lifter" if estimator.takes_sequences else "bottomup"
        parts["codec"] = config["estimator"]["codec"]
    return Description(
        version=lightpose.__version__,
        estimator=kind,
        codec=type(estimator.codec).__name__,
        input_hw=estimator.input_hw,
        frames=config["data"]["reader"]["frames"] if estimator.takes_sequences else None,
        causal=bool(getattr(estimator, "causal", False)),
        grid=estimator.grid,
        padding=paddings[0] if paddings else None,
        flip_test=estimator.flip_test,
        precision="float32",
        image_bits=image_bits,
        mirror_pairs=pairs,
        skeleton=skeleton.to_dict(),
        config={
            "augment": augment,
            "data": {**(config.get("data") or {}), "train": None, "transforms": {"train": {}, **augment}},
            "estimator": parts,
        },
        margin_grey=margin_grey(config),
    )


def written(description: Description) -> str:
    """The JSON."""
    return json.dumps(asdict(description))


def read(text: str | None, path: Any) -> tuple[Description, Skeleton]:
    """The description in a file, and its skeleton.

    Args:
        text: of the entry; None where there is none.
        path: of the file, for messages.

    Raises:
        UserError: naming what it lacks.
    """
    again = "give a file that lightpose-export wrote"
    if text is None:
        raise UserError(f"{path} is an ONNX file without lightpose's description in its metadata; {again}")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"the description in {path} is no JSON ({error}); {again}") from error
    needed = [each.name for each in fields(Description) if each.default is MISSING]
    if missing := [name for name in needed if not isinstance(content, dict) or name not in content]:
        raise UserError(f"the description in {path} lacks {', '.join(missing)}; {again}")
    description = Description(**{each.name: content[each.name] for each in fields(Description) if each.name in content})
    sequences, sides = description.estimator == "lifter", description.input_hw
    size = isinstance(sides, list) and len(sides) == 2 and all(type(s) is int and 0 < s <= LARGEST_SIDE for s in sides)
    bits, frames = description.image_bits, description.frames
    for name, fits in {
        "input_hw": sides is None if sequences else size,
        "frames": type(frames) is int and 0 < frames <= LARGEST_SIDE if sequences else frames is None,
        "causal": isinstance(description.causal, bool),
        "estimator": description.estimator in get_args(Kind),
        "grid": isinstance(description.grid, str),
        "image_bits": type(bits) is int,
        "config": isinstance(description.config, dict),
    }.items():
        if not fits:
            raise UserError(f"the description in {path} has a {name} that is none; {again}")
    check_grid(description.grid)
    try:
        return description, Skeleton.from_dict(description.skeleton)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"the description in {path} has a skeleton that can't be used ({error!r}); {again}") from error
