from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import nn

from lightpose.callbacks.averaging import WeightAveraging


class Net(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.norm = nn.BatchNorm1d(2)


@pytest.mark.parametrize("decay", [0.3, 0.99])
def test_the_average_forgets_the_start_of_a_short_run(decay):
    net, averaging = Net(), WeightAveraging(decay)
    trainer = SimpleNamespace(global_step=0)
    averaging.setup(trainer, net, "fit")
    averaging.on_train_start(trainer, net)
    expected = {name: value.clone().double() for name, value in net.state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    for step in range(1, 30):
        with torch.no_grad():
            for value in net.state_dict().values():
                value.copy_(10 * torch.rand(value.shape, generator=generator))
        trainer.global_step = step
        for _ in range(2):  # the second batch ends no step
            averaging.on_train_batch_end(trainer, net, None, None, 0)
        kept = min(decay, (1 + step) / (10 + step))
        for name, value in net.state_dict().items():
            counts = not value.is_floating_point()
            expected[name] = value.double() if counts else kept * expected[name] + (1 - kept) * value
    for name, value in averaging._average_model.module.state_dict().items():
        torch.testing.assert_close(value.double(), expected[name], atol=1e-5, rtol=1e-5)
