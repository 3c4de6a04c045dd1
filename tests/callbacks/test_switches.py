"""Settings that change at an epoch, also where a run is resumed."""

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

from lightpose.callbacks.switches import Switches
from lightpose.errors import UserError


class Recorder(L.LightningModule):
    """Notes its settings at each step."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.layer.factor, self.layer.on, self.seen = 0.1, False, []

    def training_step(self, batch, batch_idx):
        self.seen.append((self.layer.factor, self.layer.on))
        return self.layer(batch).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(folder, epochs, switches):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    saving = L.pytorch.callbacks.ModelCheckpoint(folder, save_last=True)
    return L.Trainer(max_epochs=epochs, callbacks=[Switches(switches), saving], default_root_dir=folder, **quiet)


def fit(folder, epochs, switches, ckpt=None):
    module = Recorder()
    trainer(folder, epochs, switches).fit(module, DataLoader(torch.ones(2, 1)), ckpt_path=ckpt)
    return module.seen[::2]


SWITCHES = {
    "later": {"epoch": 3, "values": {"layer.factor": 5, "layer.on": True}},
    "sooner": {"epoch": 1, "values": {"layer.factor": 2.0}},
    "none": None,
}


def test_values_change_when_their_epoch_begins_and_stay(tmp_path):
    assert fit(tmp_path, 5, SWITCHES) == [(0.1, False), (2.0, False), (2.0, False), (5, True), (5, True)]


def test_a_resumed_run_begins_with_the_values_of_its_epoch(tmp_path):
    fit(tmp_path, 4, SWITCHES)
    assert fit(tmp_path, 6, SWITCHES, tmp_path / "last.ckpt") == [(5, True), (5, True)]


def test_an_epoch_below_0_counts_from_the_end(tmp_path):
    assert fit(tmp_path, 3, {"last": {"epoch": -1, "values": {"layer.on": True}}}) == [*[(0.1, False)] * 2, (0.1, True)]
    with pytest.raises(UserError, match=r"give trainer\.max_epochs"):
        fit(tmp_path, -1, {"last": {"epoch": -1, "values": {"layer.on": True}}})


@pytest.mark.parametrize(
    ("switch", "message"),
    [
        ({"epoch": 1, "values": {"layer.factr": 1.0}}, "layer.factr, which the estimator doesn't have"),
        ({"epoch": 1, "values": {"lair.factor": 1.0}}, "lair.factor, which the estimator doesn't have"),
        ({"epoch": 1, "values": {"layer.factor": True}}, "makes layer.factor True, but it is 0.1"),
        ({"epoch": 1, "values": {"layer.weight": 1.0}}, "makes layer.weight 1.0, but it is"),
        ({"epoch": 1}, "give it epoch and values"),
    ],
)
def test_mistakes_show_before_the_run(tmp_path, switch, message):
    with pytest.raises(UserError, match=message):
        fit(tmp_path, 2, {"wrong": switch})
