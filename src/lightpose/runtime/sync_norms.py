"""Batch norms that take their statistics over all processes."""

from lightning.pytorch.plugins.layer_sync import TorchSyncBatchNorm
from timm.layers.norm_act import convert_sync_batchnorm
from torch import nn


class SyncBatchNorms(TorchSyncBatchNorm):
    """What ``trainer.sync_batchnorm=true`` does, for networks of timm, too.

    Their norms hold an activation, which torch's conversion would leave out.
    """

    def apply(self, model: nn.Module) -> nn.Module:
        """The model with its batch norms exchanged."""
        converted: nn.Module = convert_sync_batchnorm(model)
        return converted

    def revert(self, model: nn.Module) -> nn.Module:
        """The same model: outside of training these norms work as any others."""
        return model
