import pytest

from lightpose.cli.setup import choose_monitor
from lightpose.errors import UserError

LIGHTNING = "lightning.pytorch.callbacks"
BEST = {"monitor": "${monitor}", "mode": "${monitor_mode}"}


class Score:
    figures, higher_is_better = ("AP",), True


class Estimator:
    metrics = (Score(),)


def chosen(written, monitor=None, mode=None, val="val.json"):
    """The callbacks of a run, of which those that refer to the monitored figure have it filled in."""
    given = {"${monitor}": monitor, "${monitor_mode}": mode}
    resolved = {
        name: callback and {key: given.get(value, value) for key, value in callback.items()}
        for name, callback in written.items()
    }
    config = {"monitor": monitor, "monitor_mode": mode, "data": {"val": val}, "callbacks": resolved}
    return choose_monitor(config, written, Estimator())["callbacks"]


def test_the_best_checkpoint_watches_the_main_figure():
    assert chosen({"best": BEST}) == {"best": {"monitor": "val/AP", "mode": "max"}}
    assert chosen({"best": BEST}, "val/loss") == {"best": {"monitor": "val/loss", "mode": "min"}}
    assert chosen({"best": BEST}, "val/AP", "min") == {"best": {"monitor": "val/AP", "mode": "min"}}


def test_early_stopping_that_names_no_figure_watches_it_too():
    stop = {"_target_": f"{LIGHTNING}.EarlyStopping"}
    for written in (stop, {**stop, "monitor": None}, {**stop, "monitor": "${monitor}"}):
        assert chosen({"stop": written})["stop"] == {**stop, "monitor": "val/AP", "mode": "max"}


def test_a_callback_that_is_not_meant_stays_as_it_is():
    last = {"_target_": "lightpose.callbacks.checkpoints.ModelCheckpoint", "filename": "last", "monitor": None}
    own = {"_target_": "builtins.dict", "mode": None}
    stop = {"_target_": f"{LIGHTNING}.EarlyStopping", "monitor": "val/loss"}
    written = {"last": last, "own": own, "stop": stop, "off": None}
    assert chosen(written) == written


def test_another_figure_for_the_best_checkpoint_brings_its_own_mode():
    assert chosen({"best": {**BEST, "monitor": "val/loss"}})["best"] == {"monitor": "val/loss", "mode": "min"}


def test_a_figure_that_there_will_not_be_is_refused():
    stop = {"_target_": f"{LIGHTNING}.EarlyStopping"}
    with pytest.raises(UserError, match=r"callbacks.stop watches val/AP.*add data.val"):
        chosen({"stop": stop}, val=None)
