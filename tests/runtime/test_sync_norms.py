import copy

import timm
import torch
from torch import nn

from lightpose.cli import setup
from lightpose.runtime.sync_norms import SyncBatchNorms


def test_norms_keep_the_activations_that_they_hold():
    torch.manual_seed(0)
    net = timm.create_model("mobilenetv3_small_050", features_only=True).eval()
    images = torch.randn(1, 3, 64, 64)
    expected = net(images)
    converted = SyncBatchNorms().apply(copy.deepcopy(net))
    norms = [module for module in converted.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert norms and all(isinstance(norm, nn.SyncBatchNorm) for norm in norms)
    for ours, theirs in zip(SyncBatchNorms().revert(converted)(images), expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    lost = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(net))(images)[-1]
    assert not torch.allclose(lost, expected[-1])


def test_the_trainer_has_them_on_request(tmp_path):
    for wanted in (True, False):
        trainer = {"_target_": "lightning.Trainer", "accelerator": "cpu", "strategy": "auto", "precision": "32-true"}
        config = {"callbacks": {}, "logger": {}, "output_dir": str(tmp_path)}
        made = setup.make_trainer({**config, "trainer": {**trainer, "sync_batchnorm": wanted}})
        assert isinstance(made._accelerator_connector._layer_sync, SyncBatchNorms) == wanted
