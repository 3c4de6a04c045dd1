from types import SimpleNamespace

import pytest
import torch

from lightpose.callbacks.nan_guard import NanGuard
from lightpose.errors import UserError


def _batch(first_id):
    ids = torch.tensor([[first_id], [first_id + 1]])
    return SimpleNamespace(image_ids=ids[:, 0] * 10, instances=SimpleNamespace(ids=ids))


def _run(guard, losses):
    for index, value in enumerate(losses, start=guard.count):
        loss = torch.tensor(value)
        outputs = {"loss": loss, "losses": {"heatmap": torch.tensor(1.0), "offset": loss - 1}}
        guard.on_train_batch_end(SimpleNamespace(global_step=index), None, outputs, _batch(2 * index), index)


def test_a_few_bad_steps_are_forgiven():
    _run(NanGuard(patience=3), [1.0, float("nan"), float("nan"), 1.0, float("inf"), 1.0] * 5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_stops_and_names_term_and_samples(bad):
    with pytest.raises(UserError) as error:
        _run(NanGuard(patience=3), [1.0] * 4 + [bad] * 8)
    message = str(error.value)
    assert "since step 4" in message and "term offset" in message
    assert "annotation ids [8, 9]" in message and "images [80, 90]" in message


def test_short_epochs_are_watched_too():
    guard = NanGuard(patience=3)
    with pytest.raises(UserError, match="since step 2"):
        for _ in range(5):
            _run(guard, [1.0, 1.0][: 2 - guard.count] or [float("nan")] * 2)


def test_refuses_to_write_broken_weights_and_only_those():
    guard = NanGuard(patience=10)
    model = torch.nn.Linear(2, 2)
    _run(guard, [1.0, 1.0, float("nan")])
    checkpoint = {"state_dict": model.state_dict()}
    guard.on_save_checkpoint(None, model, checkpoint)  # a step that a gradient scaler has left out
    with torch.no_grad():
        model.weight[0, 0] = float("nan")
    with pytest.raises(UserError, match="since step 2"):
        guard.on_save_checkpoint(None, model, checkpoint)
