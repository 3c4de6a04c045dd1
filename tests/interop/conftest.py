import sys
from pathlib import Path

import pytest
from tiny_export import config, heatmap_head, part, save

from lightpose.checkpoint import load
from lightpose.export.onnx import export
from lightpose.interop.onnx.graph import to_graph

sys.path.append(str(Path(__file__).parents[1] / "models"))  # recorded.py


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    """Of heatmaps, decoded by DARK."""
    settings = config(heatmap_head(), part("lightpose.codecs.heatmap.HeatmapCodec"))
    return save(tmp_path_factory.mktemp("export") / "tiny.ckpt", settings)


@pytest.fixture(scope="session")
def graph(checkpoint):
    """Of the checkpoint, with the flip test and the head's outputs."""
    return to_graph(load(checkpoint))


@pytest.fixture(scope="session")
def model(checkpoint, graph) -> Path:
    """The exported file."""
    out = checkpoint.with_name("model.onnx")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lightpose.export.onnx.to_graph", lambda _: graph)
        export(checkpoint, out, flip_test=True)
    return out
