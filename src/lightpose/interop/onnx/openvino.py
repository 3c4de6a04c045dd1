"""Runs ONNX files by OpenVINO, on the CPU."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightpose.errors import UserError
from lightpose.interop.onnx.packages import OPENVINO, packages
from lightpose.structures import Array

_TYPES = {"u8": "tensor(uint8)", "f32": "tensor(float)"}


@dataclass(frozen=True, slots=True)
class Value:
    """An input or output as ONNX Runtime describes it.

    Attributes:
        name: of the tensor.
        type: such as ``tensor(float)``.
        shape: a length that may vary is None.
    """

    name: str
    type: str
    shape: list[int | None]


class OpenvinoSession:
    """What lightpose uses of an ``onnxruntime.InferenceSession``, by OpenVINO.

    Args:
        content: of an ONNX file.
        threads: most that it takes.
        what: the file, for messages.

    Raises:
        UserError: without OpenVINO, and when it refuses the graph.
    """

    def __init__(self, content: bytes, threads: int, what: Any) -> None:
        (openvino,) = packages(OPENVINO)
        exact = {  # else it takes bfloat16 where the CPU has it
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
        }
        try:
            core = openvino.Core()
            graph = core.read_model(content)
            self.model = core.compile_model(graph, "CPU", exact)
            self.request = self.model.create_infer_request()
        except Exception as error:
            reason = " ".join(str(error).split())[-300:]
            raise UserError(f"OpenVINO can't run {what} ({reason}); use device=cpu") from error
        # Compiled, a tensor has further names, of the casts of a file of float16.
        self.names = [[port.get_any_name() for port in ports] for ports in (graph.inputs, graph.outputs)]

    def get_inputs(self) -> list[Value]:
        """The inputs."""
        return [_value(*each) for each in zip(self.names[0], self.model.inputs, strict=True)]

    def get_outputs(self) -> list[Value]:
        """The outputs."""
        return [_value(*each) for each in zip(self.names[1], self.model.outputs, strict=True)]

    def run(self, names: Sequence[str], inputs: Mapping[str, Array]) -> list[Array]:
        """The outputs of these names, as arrays of their own."""
        self.request.infer(dict(inputs))
        return [self.request.get_tensor(name).data.copy() for name in names]


def _value(name: str, port: Any) -> Value:
    shape = [side.get_length() if side.is_static else None for side in port.get_partial_shape()]
    kind = port.get_element_type().get_type_name()
    return Value(name, _TYPES.get(kind, kind), shape)
