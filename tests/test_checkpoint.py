import pytest
import torch
from torch import nn

import lightpose
from lightpose.checkpoint import check_targets, is_part
from lightpose.errors import UserError


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
    assert is_part(target)


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
        "lightpose.data.synthetic.generate",
        "lightpose.models.weights.Path",
        "lightpose.inference.results.write_csv",
    ],
)
def test_whatever_can_act_is_not(target):
    with pytest.raises(UserError, match="trust="):
        check_targets({"estimator": [{"_target_": target}]})


def test_named_strangers_are_let_in():
    check_targets({"_target_": "my_heads.Head"}, trust=["my_heads."])


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
