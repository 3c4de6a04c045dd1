"""A model that has diverged, or that overflows, gives a sentence and no file of NaN."""

import pytest
import torch

import lightpose
from lightpose.cli import predict
from lightpose.errors import UserError
from lightpose.estimators.base import PoseEstimator


@pytest.mark.parametrize("name", ["net.head.final.weight", "net.backbone.model.bn1.running_var"])
def test_a_checkpoint_with_nan_is_named(run, checkpoint, folder, tmp_path, name):
    content = torch.load(checkpoint, weights_only=True)
    content["state_dict"][name].view(-1)[-1] = torch.nan
    torch.save(content, tmp_path / "nan.ckpt")
    with pytest.raises(UserError, match="diverged"):
        lightpose.load(tmp_path / "nan.ckpt")
    code, _, err = run(predict.main, f"ckpt={tmp_path / 'nan.ckpt'}", f"source={folder}", f"out={tmp_path / 'out'}")
    assert code == 1 and "nan.ckpt" in err and name in err and "Traceback" not in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_results_that_arent_finite_are_not_written(run, trained, people, tmp_path, monkeypatch, value):
    whole = PoseEstimator.predict_step

    def spoilt(self, batch, batch_idx):
        poses = whole(self, batch, batch_idx)
        poses.keypoints[-1, 0] = value
        return poses

    monkeypatch.setattr(PoseEstimator, "predict_step", spoilt)
    checkpoint = f"ckpt={trained / 'checkpoints/last.ckpt'}"
    code, _, err = run(predict.main, checkpoint, f"source={people}", f"out={tmp_path / 'out'}", "device=cpu")
    assert code == 1 and "last.ckpt" in err and "NaN" in err and "Traceback" not in err
    assert not (tmp_path / "out").exists()
