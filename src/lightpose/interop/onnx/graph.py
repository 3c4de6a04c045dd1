"""An estimator as one ONNX graph, from stored pixels, or keypoints, to poses."""

import importlib
import re
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from lightpose.checkpoint import section
from lightpose.codecs.people import best_boxes
from lightpose.errors import UserError, in_short
from lightpose.estimators.base import PoseEstimator
from lightpose.interop.onnx.columns import columns_of, finds_many
from lightpose.interop.onnx.packages import INPUT, LARGEST, SEQUENCES, WRITING, packages

HEAD = "head/"
"""Before the names of the head's outputs, which a graph has until it is proven."""
BATCH = "N"
OPSET = 18
DEFORMABLE = "torchvision.deform_conv2d"
DEFORMABLE_OPSET = 19
ONE_PERSON = "heatmap, heatmap_offset, simcc, regression, rle, integral, megvii or probpose"
MANY = "onestage, displacement, cid or associative_embedding"


class FromInputs(nn.Module):
    """What an exported file computes: `PoseEstimator.outputs`, decoded as far as a graph can.

    Args:
        estimator: in evaluation mode.
    """

    def __init__(self, estimator: PoseEstimator) -> None:
        super().__init__()
        self.estimator = estimator

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        """Columns and the head's outputs, by name; of images (N, H, W, 3) uint8 RGB, or sequences (N, T, K, 3)."""
        outputs = head_outputs(self.estimator, inputs)
        columns = columns_of(outputs, self.estimator)
        return {**columns, **{f"{HEAD}{name}": output for name, output in outputs.items()}}


def head_outputs(estimator: PoseEstimator, inputs: Tensor) -> dict[str, Tensor]:
    """The head's outputs of a graph's inputs."""
    return estimator.outputs(inputs if estimator.takes_sequences else inputs.permute(0, 3, 1, 2))


def input_of(estimator: PoseEstimator) -> tuple[str, Tensor]:
    """Name of the input, and two that are all zeros."""
    if estimator.takes_sequences:
        frames = int(section(estimator.config, "data", "reader")["frames"])
        return SEQUENCES, torch.zeros(2, frames, estimator.skeleton.num_keypoints, 3)
    assert estimator.input_hw is not None
    return INPUT, torch.zeros(2, *estimator.input_hw, 3, dtype=torch.uint8)


def check_exportable(estimator: PoseEstimator) -> None:
    """Refuse what no graph is made of.

    Raises:
        UserError: naming the codec and what to choose instead.
    """
    codec = estimator.codec
    if finds_many(estimator) and not (hasattr(codec, "candidates") and hasattr(codec, "chosen")):
        raise UserError(
            f"{type(codec).__name__} finds any number of people, but has no methods candidates and chosen, which give "
            f"a graph a fixed number (lightpose.codecs.base); define them, or choose codec={MANY}"
        )
    size = sum(each.numel() * each.element_size() for each in estimator.net.state_dict().values())
    if size > LARGEST:
        raise UserError(
            f"the weights take {size / 2**30:.1f} GiB, and an ONNX file holds less than 2; choose a smaller backbone"
        )


def to_graph(estimator: PoseEstimator) -> Any:
    """The ``onnx.ModelProto`` of `FromInputs`, its outputs under their names, for any batch size.

    Args:
        estimator: that `check_exportable` lets pass, on the CPU, in evaluation mode.

    Raises:
        UserError: when the network or the codec can't be traced, or has an operator that ONNX lacks.
    """
    packages(WRITING)
    module = FromInputs(estimator).eval()
    name, inputs = input_of(estimator)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        names = list(module(inputs))  # this call also fills the caches of the codecs, which tracing must not
        try:
            program = _traced(module, inputs)
        except Exception as error:
            raise UserError(_why_not_traced(estimator, inputs, error)) from error
        deforms = any(DEFORMABLE in str(node.target) for node in program.graph.nodes)
        try:
            exported = torch.onnx.export(
                program,
                dynamo=True,
                input_names=[name],
                output_names=names,
                opset_version=DEFORMABLE_OPSET if deforms else OPSET,
                custom_translation_table={best_boxes._opoverload: _suppression},
                verbose=False,
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


def _suppression(boxes: Any, scores: Any, overlap: float, least: float) -> Any:
    """`best_boxes` in ONNX."""
    op: Any = importlib.import_module("onnxscript").opset18
    every, most = op.Constant(value_floats=[overlap, least]), op.Constant(value_ints=[2**31 - 1])
    of_overlap, of_score = op.Gather(every, [0]), op.Gather(every, [1])
    found = op.NonMaxSuppression(boxes, op.Unsqueeze(scores, [1]), most, of_overlap, of_score)  # (n, 3)
    places = op.Gather(found, [0, 2], axis=1)  # of row, class and box
    ones = op.Expand(op.Constant(value_floats=[1.0]), op.Gather(op.Shape(found), [0]))
    return op.Cast(op.ScatterND(op.Sub(scores, scores), places, ones), to=9)  # to bool


def _traced(module: nn.Module, inputs: Tensor) -> Any:
    return torch.export.export(module, (inputs,), dynamic_shapes=({0: torch.export.Dim(BATCH)},), strict=False)


def _why_not_traced(estimator: PoseEstimator, inputs: Tensor, error: Exception) -> str:
    """Whether it is the network or the codec, and why."""
    reason = in_short(error)
    try:
        _traced(_Outputs(estimator).eval(), inputs)
    except Exception:
        return f"the network can't be traced for export ({reason}); choose another backbone, neck or head"
    codec, many = type(estimator.codec).__name__, finds_many(estimator)
    return (
        f"{codec}.{'candidates' if many else 'decode'} can't be traced for export, as where its shapes depend on what "
        f"it finds ({reason}); choose codec={MANY if many else 'lifting' if estimator.takes_sequences else ONE_PERSON}"
    )


def _why_not_written(error: BaseException) -> str:
    cause: BaseException | None = error
    said = ""
    while cause is not None:
        said += f" {cause}"
        cause = cause.__cause__
    if operator := re.search(r"OpOverload\(op='([\w.]+)'", said):
        return f"the operator {operator[1]} has no counterpart in ONNX; leave out the part of the model that uses it"
    return f"the model can't be written as ONNX ({in_short(error)}); choose other parts"


class _Outputs(nn.Module):
    def __init__(self, estimator: PoseEstimator) -> None:
        super().__init__()
        self.estimator = estimator

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        return head_outputs(self.estimator, inputs)


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
