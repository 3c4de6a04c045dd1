"""An exported file as a function of pixels, in NumPy alone: nobody who only predicts needs torch."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from lightpose.errors import UserError, in_short
from lightpose.geometry import transform_points
from lightpose.interop.onnx.description import NAME, Description, read
from lightpose.interop.onnx.packages import INPUT, SEQUENCES
from lightpose.interop.onnx.session import Content, open_session
from lightpose.skeleton import Skeleton
from lightpose.structures import Array, Poses


def checked_outputs(
    session: Any, description: Description, num_keypoints: int, path: str | Path, per_frame: bool = False
) -> dict[str, tuple[int, ...]]:
    """Output of a session → shape without the batch.

    Args:
        session: of `open_session`.
        description: of the file.
        num_keypoints: K.
        path: of the file, for messages.
        per_frame: whether each frame of a sequence gets a pose.

    Raises:
        UserError: naming an input or output that is not what the description promises.
    """
    sides, frames = description.input_hw, description.frames
    name, kind, size = (INPUT, "uint8", (*sides, 3)) if sides else (SEQUENCES, "float", (frames, num_keypoints, 3))
    again = "so give a file that lightpose-export wrote"
    inputs = [(each.name, each.type, each.shape[1:]) for each in session.get_inputs()]
    if inputs != [(name, f"tensor({kind})", [*size])]:
        raise UserError(f"{path} takes {inputs}; expected {name} of {kind} {('N', *size)}, {again}")
    found = {each.name: tuple(each.shape[1:]) for each in session.get_outputs()}
    if description.estimator == "bottomup":
        if "valid" not in found:
            raise UserError(f"{path} gives {', '.join(found)}; expected candidates and valid, {again}")
        return found
    each = (frames,) if per_frame else ()
    needed = {
        "keypoints": (*each, num_keypoints, 2 if sides else 3),
        "keypoint_scores": (*each, num_keypoints),
        "scores": each,
    }
    known: dict[str, tuple[Any, ...]] = {**needed, "visibility": (*each, num_keypoints)}
    for name in (*needed, *(name for name in known if name in found and name not in needed)):
        if found.get(name) != known[name]:
            raise UserError(
                f"{path} gives {name} of shape {found.get(name)} for each input; expected {known[name]}, {again}"
            )
    return found


def run(session: Any, shapes: Mapping[str, tuple[int, ...]], inputs: Array, path: str | Path) -> dict[str, Array]:
    """What the file gives, by name.

    Args:
        session: of `open_session`.
        shapes: of `checked_outputs`.
        inputs: (N, H, W, 3) uint8 RGB, or (N, T, K, 3) float32 sequences; contiguous.
        path: of the file, for messages.

    Raises:
        UserError: when it fails, or gives something else than it promises.
    """
    names = list(shapes)
    try:
        found = dict(zip(names, session.run(names, {session.get_inputs()[0].name: inputs}), strict=True))
    except Exception as error:
        reason = in_short(error)
        raise UserError(f"{path} can't be computed ({reason}); take a smaller batch_size") from error
    for name, shape in shapes.items():
        expected = (len(inputs), *shape)
        if found[name].shape != expected:
            raise UserError(f"{path} gives {name} of shape {found[name].shape}; expected {expected}")
    return found


@dataclass(frozen=True, slots=True)
class Inputs:
    """What goes through the graph at once.

    Attributes:
        pixels: (B, H, W, 3) uint8 RGB.
        image_from_input: (B, 3, 3) float32.
    """

    pixels: Array
    image_from_input: Array


class ArrayModel:
    """What `Predictor` uses of an estimator, of a file that gives one pose for each input.

    Args:
        session: of `open_session`.
        description: of the file.
        skeleton: of the description.
        path: of the file, for messages.
    """

    def __init__(self, session: Any, description: Description, skeleton: Skeleton, path: str | Path) -> None:
        self.session, self.path, self.skeleton = session, path, skeleton
        self.takes_boxes = description.estimator == "topdown"
        self.config, self.input_hw = description.config, description.input_hw
        self.output_shapes = checked_outputs(session, description, skeleton.num_keypoints, path)

    def predict(self, inputs: Inputs, boxes_xyxy: Array, box_scores: Array) -> Poses[Array]:
        """Poses in image pixels, with the boxes (B, 4) that they were found in, and the scores (B,) of these."""
        found = run(self.session, self.output_shapes, inputs.pixels, self.path)
        columns = {each.name: found.pop(each.name) for each in fields(Poses) if each.name in found}
        pairs = zip(inputs.image_from_input, columns["keypoints"], strict=True)
        columns["keypoints"] = np.stack([transform_points(matrix, points) for matrix, points in pairs])
        columns |= {"batch_index": np.arange(len(boxes_xyxy)), "boxes_xyxy": boxes_xyxy, "box_scores": box_scores}
        return Poses(**columns, extras=found)


def load_arrays(content: Content, path: str | Path, device: str | None = None) -> ArrayModel | None:
    """The model in a file that lightpose-export wrote. Nothing in the file is executed but its graph.

    None where poses are not one for each image: `lightpose.interop.onnx.model.load_onnx` takes those files.

    Args:
        content: of an ``.onnx`` file, see `lightpose.interop.onnx.session.content_of`.
        path: of the file.
        device: see `open_session`.

    Raises:
        UserError: for a file that can't be used, and for a device that can't be had.
    """
    data, metadata = content
    description, skeleton = read(metadata.get(NAME), path)
    if description.estimator not in ("topdown", "whole_image"):
        return None
    return ArrayModel(open_session(data, device, path), description, skeleton, path)
