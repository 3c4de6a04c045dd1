"""Exported files of lower precision, and what that costs in pixels and AP."""

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from lightpose.data.coco.onto import onto
from lightpose.data.coco.results import coco_results
from lightpose.errors import UserError, in_short
from lightpose.export.inputs import samples_of
from lightpose.geometry import transform_points
from lightpose.inference.crops import Cropper
from lightpose.inference.sources import ImageFiles, open_source
from lightpose.interop.onnx.graph import HEAD
from lightpose.interop.onnx.packages import INPUT
from lightpose.metrics.oks import evaluate_oks
from lightpose.skeleton import Skeleton
from lightpose.structures import Array, Poses

Precision = Literal["32", "16", "int8"]
NAMES: Mapping[str, str] = {"32": "float32", "16": "float16", "int8": "int8"}
"""Of the numbers, in the description of a file."""
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
QUANTISED = (*WEIGHTED, "Add", "AveragePool", "Concat", "GlobalAveragePool", "MaxPool", "Resize")
"""Operators that int8 computes: those that multiply, and what stands between them in convolutional networks."""
AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class People:
    """People to measure on.

    Attributes:
        pixels: (P, H, W, 3) uint8, what the network sees.
        image_from_input: (P, 3, 3).
        image_ids: (P,).
        ground_truth: content of an annotation file of their images, of one category.
        skeleton: of the model.
    """

    pixels: Array
    image_from_input: Array
    image_ids: list[int]
    ground_truth: dict[str, Any]
    skeleton: Skeleton

    def batches(self) -> Iterator[Array]:
        """The pixels, some at once."""
        for start in range(0, len(self.pixels), AT_ONCE):
            yield self.pixels[start : start + AT_ONCE]


@dataclass(frozen=True, slots=True)
class Loss:
    """What lower precision costs.

    Attributes:
        px: mean distance of keypoints from those of float32, in input pixels. Keypoints weigh as float32 scores them,
            since one that nobody can see may be anywhere.
        before: AP of float32.
        after: AP of the lower precision.
        people: how many were measured.
    """

    px: float
    before: float
    after: float
    people: int


def check_precision(precision: str, annotations: str | None) -> None:
    """Refuse an unknown precision, and one whose loss can't be measured.

    Raises:
        UserError: with the known ones, or asking for annotations.
    """
    if precision not in get_args(Precision):
        raise UserError(f"precision={precision} is unknown; use one of {', '.join(get_args(Precision))}")
    if precision != "32" and annotations is None:
        raise UserError(
            f"the loss of precision={precision} is measured on people with keypoints; give annotations=val.json and "
            "images=, or leave precision at 32"
        )


def find_people(cropper: Cropper, skeleton: Skeleton, annotations: str, images: str | None, most: int) -> People:
    """The people of the first images of an annotation file, until there are ``most`` or more.

    Raises:
        UserError: for a file without labelled people.
    """
    source = open_source(annotations, images)
    if not isinstance(source, ImageFiles) or source.annotated is None:
        raise UserError(f"annotations={annotations} is no COCO JSON with annotations; give one")
    samples = samples_of(cropper, source, most)
    truth = _of_images(onto(source.annotated, skeleton).ground_truth(), {sample.image_id for sample in samples})
    if not any(each["num_keypoints"] for each in truth["annotations"]):
        raise UserError(
            f"annotations={annotations} has no people with labelled keypoints among its first images, to calibrate "
            "and to measure on; give a file with people"
        )
    return People(
        np.stack([sample.image for sample in samples]),
        np.linalg.inv(np.stack([sample.input_from_image for sample in samples])),
        [sample.image_id for sample in samples],
        truth,
        skeleton,
    )


def _of_images(truth: dict[str, Any], image_ids: set[int]) -> dict[str, Any]:
    """Some images; all their people count as of one category, since what is measured is a difference."""
    first = truth["categories"][0]
    return {
        **truth,
        "images": [each for each in truth["images"] if each["id"] in image_ids],
        "annotations": [
            {**each, "category_id": first["id"]} for each in truth["annotations"] if each["image_id"] in image_ids
        ],
        "categories": [first],
    }


def reduced(graph: Any, precision: str, people: People) -> Any:
    """The same ``onnx.ModelProto`` with a network of lower precision; normalisation and decoding stay float32.

    Args:
        graph: with the head's outputs under their names.
        precision: ``16`` or ``int8``.
        people: whose activations give the ranges of int8.

    Raises:
        UserError: when ONNX Runtime can't convert it.
    """
    try:
        return _float16(graph) if precision == "16" else _int8(graph, people)
    except Exception as error:
        reason = in_short(error)
        raise UserError(f"the model can't be had in precision={precision} ({reason}); use precision=32") from error


def _float16(graph: Any) -> Any:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    inside = network(graph)
    _part_constants(graph, inside)
    outside = [node.name for node in graph.graph.node if node.name not in inside]
    return convert_float_to_float16(graph, keep_io_types=True, node_block_list=outside)


def _part_constants(graph: Any, inside: set[str]) -> None:
    """Give the network copies of the constants that it shares with others, whose own would be rounded with them."""
    outside = {name for node in graph.graph.node if node.name not in inside for name in node.input}
    shared = {each.name: each for each in graph.graph.initializer if each.name in outside}
    copied: set[str] = set()
    for node in graph.graph.node:
        for place, name in enumerate(node.input):
            if node.name in inside and name in shared:
                own = node.input[place] = f"{name}/network"
                if own not in copied:
                    graph.graph.initializer.add().CopyFrom(shared[name])
                    graph.graph.initializer[-1].name = own
                    copied.add(own)


def _int8(graph: Any, people: People) -> Any:
    import onnx
    from onnxruntime.quantization import QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    batches = people.batches()

    class Reader:
        """Gives the calibration one batch after the other."""

        def get_next(self) -> dict[str, Array] | None:
            """The next inputs; None at the end."""
            batch = next(batches, None)
            return None if batch is None else {INPUT: batch}

    kept = network(graph) - _last(graph)
    with tempfile.TemporaryDirectory() as folder:
        ready, out = Path(folder) / "ready.onnx", Path(folder) / "int8.onnx"
        quant_pre_process(graph, ready, skip_optimization=True, skip_symbolic_shape=True)
        quantize_static(
            ready,
            out,
            Reader(),
            op_types_to_quantize=list(QUANTISED),
            nodes_to_exclude=[node.name for node in graph.graph.node if node.name not in kept],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return onnx.load(out)


def network(graph: Any) -> set[str]:
    """Names of the nodes of the network: from the first that has weights on, until the head's outputs."""
    inside: set[str] = set()
    seen: set[str] = set()  # tensors that the network has made
    done = {output.name for output in graph.graph.output if output.name.startswith(HEAD)}
    decoded = set(done)
    for node in graph.graph.node:  # they are in order
        if any(name in decoded for name in node.input):
            decoded.update(node.output)
        elif node.op_type in WEIGHTED or any(name in seen for name in node.input):
            inside.add(node.name)
            seen.update(node.output)
    return inside


def _last(graph: Any) -> set[str]:
    """Names of the nodes that make the head's outputs, back to those with weights: eight bits are too few for maps."""
    makers = {name: node for node in graph.graph.node for name in node.output}
    last: set[str] = set()
    waiting = [output.name for output in graph.graph.output if output.name.startswith(HEAD)]
    while waiting:
        node = makers.get(waiting.pop())
        if node is not None and node.name not in last:
            last.add(node.name)
            waiting += [] if node.op_type in WEIGHTED else node.input
    return last


def measure(before: Any, after: Any, people: People, most_px: float, most_ap: float) -> Loss:
    """What the file of lower precision loses.

    Args:
        before: session of float32.
        after: session of the lower precision.
        people: to measure on.
        most_px: most that `Loss.px` may be.
        most_ap: most that AP may fall by.

    Raises:
        UserError: for a larger loss.
    """
    exact, rough = (_poses(session, people) for session in (before, after))
    if not np.isfinite(rough.keypoints).all():
        raise UserError("keypoints are NaN or infinity in this precision; use precision=32; nothing was written")
    weights = exact.keypoint_scores.clip(0)
    distances = np.linalg.norm(exact.keypoints - rough.keypoints, axis=-1)
    px = float((weights * distances).sum() / max(weights.sum(), 1e-9))
    before_ap, after_ap = (_average_precision(poses, people) for poses in (exact, rough))
    loss = Loss(px, before_ap, after_ap, len(people.pixels))
    if not px <= most_px:
        raise UserError(
            f"keypoints move by {px:.3g} px of the input on average, more than most_loss_px={most_px:g}; nothing was "
            "written; use a higher precision, or allow more"
        )
    if not before_ap - after_ap <= most_ap:
        raise UserError(
            f"AP falls from {before_ap:.4f} to {after_ap:.4f}, by more than most_loss_ap={most_ap:g}; nothing was "
            "written; use a higher precision, or allow more"
        )
    return loss


def _poses(session: Any, people: People) -> Poses[Array]:
    """In input pixels."""
    names = ["keypoints", "keypoint_scores", "scores"]
    parts = [session.run(names, {INPUT: np.ascontiguousarray(batch)}) for batch in people.batches()]
    keypoints, keypoint_scores, scores = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Poses(keypoints, keypoint_scores, scores, np.arange(len(scores)))


def _average_precision(poses: Poses[Array], people: People) -> float:
    pairs = zip(people.image_from_input, poses.keypoints, strict=True)
    in_image = np.stack([transform_points(matrix, points) for matrix, points in pairs])
    category_ids = [category["id"] for category in people.ground_truth["categories"]]
    results = coco_results(replace(poses, keypoints=in_image), people.image_ids, category_ids)
    return evaluate_oks(people.ground_truth, results, people.skeleton.sigmas)["AP"]
