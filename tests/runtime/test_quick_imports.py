import gc
import importlib.util
import logging
import os
import subprocess
import sys

import pytest
import scipy.signal

from lightpose.runtime.imports import quick_imports, tell_if_not_compiled


@pytest.fixture
def unloaded(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("scipy.signal")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(scipy, "signal")


@pytest.mark.parametrize("place", ["inside", "after"])
def test_what_is_left_out_is_there_when_it_is_asked_for(unloaded, place):
    def use():
        from scipy.signal import find_peaks
        from scipy.signal.windows import hann

        assert find_peaks([0, 1, 0])[0].tolist() == [1]
        assert hann(3).tolist() == [0, 1, 0]

    with quick_imports():
        assert hasattr(scipy.signal, "hamming")
        assert not hasattr(sys.modules["scipy.signal"], "__file__")
        if place == "inside":
            use()
    use()
    assert sys.modules["scipy.signal"].__file__


@pytest.mark.slow
def test_torchmetrics_does_not_load_it():
    code = """
import sys
from lightpose.runtime.imports import quick_imports
with quick_imports():
    import torchmetrics
assert not {"scipy.signal", "matplotlib"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.slow
def test_torchmetrics_does_without_transformers(tmp_path):
    (tmp_path / "transformers").mkdir()
    (tmp_path / "transformers/__init__.py").write_text("raise RuntimeError('loaded')")
    info = tmp_path / "transformers-4.50.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: transformers\nVersion: 4.50.0\n")
    code = """
from lightpose.runtime.imports import quick_imports
with quick_imports():
    import torchmetrics
from lightning_utilities.core.imports import RequirementCache
assert RequirementCache("transformers>=4.4.0")
"""
    paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, env=os.environ | {"PYTHONPATH": paths})


def test_garbage_is_collected_as_before():
    for before in (gc.disable, gc.enable):
        before()
        was = gc.isenabled()
        with quick_imports():
            assert not gc.isenabled()
        assert gc.isenabled() == was


@pytest.mark.parametrize("kept", [True, False])
def test_libraries_that_are_compiled_at_each_start_are_told(tmp_path, monkeypatch, caplog, kept):
    monkeypatch.setattr(sys, "dont_write_bytecode", not kept)
    monkeypatch.setattr(sys, "pycache_prefix", None)
    (tmp_path / "large.py").write_text("number = 1\n")
    spec = importlib.util.spec_from_file_location("large", tmp_path / "large.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with caplog.at_level(logging.INFO):
        tell_if_not_compiled(module)
    assert ("compiles large and its other libraries anew" in caplog.text) is not kept
