"""An estimator as one ONNX graph, from stored pixels to poses."""

import re
import warnings
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from lightpose.errors import UserError
from lightpose.estimators.base import PoseEstimator
from lightpose.interop.onnx.packages import INPUT, LARGEST, WRITING, packages
from lightpose.structures import Poses

HEAD = "head/"
"""Before the names of the head's outputs, which a graph has until it is proven."""
BATCH = "N"
OPSET = 18
_NOT_OF_A_CROP = ("batch_index", "boxes_xyxy", "box_scores", "track_ids", "extras")
ONE_PERSON = "heatmap, heatmap_offset, simcc, regression, rle, integral, megvii or probpose"


class FromPixels(nn.Module):
    """What an exported file computes: `PoseEstimator.outputs` of uint8 pixels, decoded.

    Args:
        estimator: of one person per input, in evaluation mode.
    """

    def __init__(self, estimator: PoseEstimator) -> None:
        super().__init__()
        self.estimator = estimator

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Columns of `Poses` in input pixels, and the head's outputs, by name; of images (N, H, W, 3) uint8 RGB."""
        outputs = self.estimator.outputs(images.permute(0, 3, 1, 2))
        columns = columns_of(self.estimator.codec.decode(outputs))
        return {**columns, **{f"{HEAD}{name}": output for name, output in outputs.items()}}


def columns_of(poses: Poses) -> dict[str, Any]:
    """What a codec of one person per input says of each, by name."""
    names = [each.name for each in fields(poses) if each.name not in _NOT_OF_A_CROP]
    columns = {name: getattr(poses, name) for name in names if getattr(poses, name) is not None}
    return {**columns, **poses.extras}


def check_exportable(estimator: PoseEstimator) -> None:
    """Refuse what no graph is made of.

    Raises:
        UserError: naming the codec and what to choose instead.
    """
    codec = type(estimator.codec).__name__
    if not estimator.one_person:
        what = "takes sequences of keypoints" if estimator.takes_sequences else "finds any number of people"
        raise UserError(
            f"{codec} {what}, and only models of one person per input can be exported; train with "
            f"estimator=topdown and codec={ONE_PERSON}"
        )
    size = sum(each.numel() * each.element_size() for each in estimator.net.state_dict().values())
    if size > LARGEST:
        raise UserError(
            f"the weights take {size / 2**30:.1f} GiB, and an ONNX file holds less than 2; choose a smaller backbone"
        )


def to_graph(estimator: PoseEstimator) -> Any:
    """The ``onnx.ModelProto`` of `FromPixels`, its outputs under their names, for any batch size.

    Args:
        estimator: that `check_exportable` lets pass, on the CPU, in evaluation mode.

    Raises:
        UserError: when the network or the codec can't be traced, or has an operator that ONNX lacks.
    """
    packages(WRITING)
    module = FromPixels(estimator).eval()
    assert estimator.input_hw is not None
    images = torch.zeros(2, *estimator.input_hw, 3, dtype=torch.uint8)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        names = list(module(images))  # this call also fills the caches of the codecs, which tracing must not
        try:
            program = _traced(module, images)
        except Exception as error:
            raise UserError(_why_not_traced(estimator, images, error)) from error
        try:
            exported = torch.onnx.export(
                program, dynamo=True, input_names=[INPUT], output_names=names, opset_version=OPSET, verbose=False
            )
        except Exception as error:
            raise UserError(_why_not_written(error)) from error
    assert exported is not None
    return _cleaned(exported.model_proto)


def without_head(graph: Any) -> Any:
    """The same graph, whose only outputs are those of the poses."""
    kept = [output for output in graph.graph.output if not output.name.startswith(HEAD)]
    smaller = type(graph)()
    smaller.CopyFrom(graph)
    del smaller.graph.output[:]
    smaller.graph.output.extend(kept)
    return smaller


def _traced(module: nn.Module, images: Tensor) -> Any:
    return torch.export.export(module, (images,), dynamic_shapes=({0: torch.export.Dim(BATCH)},), strict=False)


def _why_not_traced(estimator: PoseEstimator, images: Tensor, error: Exception) -> str:
    """Whether it is the network or the codec, and why."""
    reason = " ".join(str(error).split())[:300]
    try:
        _traced(_Outputs(estimator).eval(), images)
    except Exception:
        return f"the network can't be traced for export ({reason}); choose another backbone, neck or head"
    codec = type(estimator.codec).__name__
    return (
        f"{codec}.decode can't be traced for export, as where its shapes depend on what it finds ({reason}); choose "
        f"codec={ONE_PERSON}"
    )


def _why_not_written(error: BaseException) -> str:
    cause: BaseException | None = error
    said = ""
    while cause is not None:
        said += f" {cause}"
        cause = cause.__cause__
    if operator := re.search(r"OpOverload\(op='([\w.]+)'", said):
        return f"the operator {operator[1]} has no counterpart in ONNX; leave out the part of the model that uses it"
    return f"the model can't be written as ONNX ({' '.join(str(error).split())[:300]}); choose other parts"


class _Outputs(nn.Module):
    def __init__(self, estimator: PoseEstimator) -> None:
        super().__init__()
        self.estimator = estimator

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return self.estimator.outputs(images.permute(0, 3, 1, 2))


def _cleaned(graph: Any) -> Any:
    """The graph without the tracer's notes, such as paths of source files; its batch size goes by `BATCH`."""
    inner = graph.graph
    symbol = inner.input[0].type.tensor_type.shape.dim[0].dim_param
    values = (*inner.input, *inner.output, *inner.value_info)
    for each in (graph, inner, *inner.node, *inner.initializer, *values, *graph.functions):
        each.ClearField("metadata_props")
        each.ClearField("doc_string")
    for value in values:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param == symbol:
                dim.dim_param = BATCH
    return graph
