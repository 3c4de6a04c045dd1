import sys

import pytest
import torch
from torch import nn

import lightpose
from lightpose.errors import UserError
from lightpose.trust import DATA, NETWORK, check_targets, is_part


@pytest.mark.parametrize(
    "target",
    [
        "lightpose.codecs.heatmap.HeatmapCodec",
        "lightpose.estimators.optim.warmup_cosine",
        "lightpose.data.datamodule.PoseDataModule",
        "torch.nn.Identity",
        "torch.optim.AdamW",
    ],
)
def test_parts_are_trusted(target):
    assert is_part(target, DATA if target.startswith("lightpose.data.") else NETWORK)


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "torch.hub.load",
        "torch.load",
        "torch.os.system",
        "torch.utils.cpp_extension.load_inline",
        "timm.models.load_checkpoint",
        "lightpose.checkpoint.Path.unlink",
        "lightpose.data.synthetic.generate.generate",
        "lightpose.models.weights.Path",
        "lightpose.data.coco.results.write_csv",
    ],
)
def test_whatever_can_act_is_not(target):
    with pytest.raises(UserError, match="trust="):
        check_targets({"estimator": [{"_target_": target}]})


@pytest.fixture
def my_heads(tmp_path, monkeypatch):
    """A user's module, which defines a class and a function, and holds a class and a module of others."""
    (tmp_path / "my_heads.py").write_text(
        "import os\nfrom pathlib import Path\nclass Head: ...\ndef schedule(optimizer): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("my_heads", None)


@pytest.mark.parametrize("trust", ["my_heads", "my_heads.", ["my_heads"], ("other", "my_heads.Head")])
def test_a_trusted_module_lets_in_its_classes(my_heads, trust):
    check_targets({"_target_": "my_heads.Head"}, trust)


@pytest.mark.parametrize("trust", ["my_head", ["my"], "other", (), ["my_heads.Hea"]])
def test_a_name_is_trusted_whole(my_heads, trust):
    with pytest.raises(UserError, match=r"my_heads\.Head"):
        check_targets({"_target_": "my_heads.Head"}, trust)


@pytest.mark.parametrize(
    "target", ["my_heads.os.system", "my_heads.Path", "my_heads.schedule", "my_heads.os", "my_heads.x"]
)
def test_a_trusted_module_lets_in_nothing_else(my_heads, target):
    with pytest.raises(UserError, match="in full"):
        check_targets({"_target_": target}, "my_heads")


def test_a_function_is_trusted_by_its_full_name(my_heads):
    check_targets({"_target_": "my_heads.schedule"}, ["my_heads.schedule"])


@pytest.mark.parametrize("trust", ["", [""], ["a b"], [3], ["my_heads.*"], [None]])
def test_what_is_no_name_is_not_trusted(trust):
    with pytest.raises(UserError, match="trust names"):
        check_targets({}, trust)


def test_a_trusted_module_that_is_not_there_is_named():
    with pytest.raises(UserError, match="PYTHONPATH"):
        check_targets({"_target_": "not_there.Head"}, "not_there")


def test_load_needs_nothing_else(trained, tmp_path, monkeypatch):
    checkpoint = (tmp_path / "moved.ckpt").resolve()
    checkpoint.write_bytes((trained / "checkpoints/last.ckpt").read_bytes())
    monkeypatch.chdir(tmp_path)
    estimator = lightpose.load(checkpoint)
    with torch.inference_mode():
        outputs = estimator.net(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
    assert outputs["heatmap"].shape == (1, 17, 16, 16)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"not a checkpoint", "can't be read as a checkpoint"),
        (None, "no checkpoint at"),
        ({"state_dict": {}}, "holds no lightpose configuration"),
        (nn.Linear(1, 1), "can't be read as a checkpoint"),
    ],
)
def test_what_can_not_be_loaded_says_why(tmp_path, content, expected):
    path = tmp_path / "x.ckpt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(UserError, match=expected):
        lightpose.load(path)


def test_untrusted_checkpoint_runs_nothing(trained, tmp_path):
    content = torch.load(trained / "checkpoints/last.ckpt", weights_only=True)
    content["lightpose"]["config"]["estimator"]["preprocessor"] = {"_target_": "os.mkdir", "path": f"{tmp_path}/made"}
    torch.save(content, tmp_path / "evil.ckpt")
    with pytest.raises(UserError, match=r"os\.mkdir"):
        lightpose.load(tmp_path / "evil.ckpt")
    assert not (tmp_path / "made").exists()
