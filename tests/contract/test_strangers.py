"""Parts from a folder outside the package, through the commands; and what is said of parts that break a contract."""

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lightpose.cli import eval as eval_command
from lightpose.cli import predict, train
from lightpose.codecs.heatmap import HeatmapCodec
from lightpose.data.coco.dataset import CocoInstances
from lightpose.metrics.keypoints import PCK
from lightpose.models.base import Head
from lightpose.models.heads.heatmap import HeatmapHead
from lightpose.models.losses.heatmap import KeypointMSE
from lightpose.structures import Targets

STRANGERS = Path(__file__).parent / "strangers"
CONF = ("--config-dir", f"{STRANGERS}/conf")


@pytest.mark.parametrize(("part", "most"), [("csv_reader", 40), ("balanced", 20), ("reach", 55)])
def test_a_part_is_one_small_file(part, most):
    assert len((STRANGERS / f"{part}.py").read_text().splitlines()) < most


def test_a_criterion_trains_weights_of_its_own_and_a_run_goes_on_with_them(run, tiny, people, tmp_path):
    given = (*CONF, f"data.train={people}", *tiny, "head=balanced", "codec=heatmap_offset")
    last = tmp_path / "run/checkpoints/last.ckpt"
    values, steps = [], []
    for epochs, start in ((1, f"output_dir={tmp_path}/run"), (2, f"resume={last}")):
        code, out, err = run(train.main, *given, start, f"trainer.max_epochs={epochs}")
        assert code == 0, out + err
        content = torch.load(last, weights_only=True)
        values.append(content["state_dict"]["net.head.criterion.log_variance.offset"])
        optimizer = content["optimizer_states"][0]
        scalars = [state for state in optimizer["state"].values() if state["exp_avg"].ndim == 0]
        assert len(scalars) == 2  # one for each loss
        steps.append({int(state["step"]) for state in scalars})
    assert values[0] != 0 and values[1] != values[0]
    assert steps[1] == {2 * step for step in steps[0]} and steps[0] != {0}


def test_one_more_number_for_each_keypoint_reaches_json_and_csv(run, tiny, people, tmp_path):
    files = (f"data.train={people}", f"data.val={people}", f"output_dir={tmp_path}/run", "trainer.max_epochs=1")
    small = [option.replace("head.channels", "head.head.channels") for option in tiny]
    code, out, err = run(train.main, *CONF, *files, *small, "head=reach", "codec=reach")
    assert code == 0, out + err
    given = (f"ckpt={tmp_path}/run/checkpoints/best.ckpt", "trust=reach")
    code, out, err = run(eval_command.main, *given, f"out={tmp_path}/eval")
    assert code == 0, out + err
    given = (*given, f"source={people}", f"out={tmp_path}/found", "draw=false", "device=cpu")
    code, out, err = run(predict.main, *given)
    assert code == 0, out + err
    names, reached = CocoInstances(people).skeleton.keypoints, {}
    for folder in ("found", "eval"):
        poses = json.loads((tmp_path / folder / "predictions.json").read_text())
        with (tmp_path / folder / "predictions.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert len(poses) == len(rows) > 0
        assert [[float(row[f"{name}_reach"]) for name in names] for row in rows] == [pose["reach"] for pose in poses]
        reached[folder] = {(pose["image_id"], *np.round(pose["keypoints"][:2])): pose["reach"] for pose in poses}
    same = reached["found"].keys() & reached["eval"].keys()
    assert 2 * len(same) > len(reached["eval"])  # some round otherwise
    for key in same:
        np.testing.assert_allclose(reached["eval"][key], reached["found"][key], atol=1e-3)


# -- parts that break a contract ---------------------------------------------------------------------------------


class ListHead(HeatmapHead):
    def forward(self, features):
        return list(super().forward(features).values())


class StagelessHead(HeatmapHead):
    def __init__(self, in_channels, strides, spec, criterion, upsample, channels, groups, hidden):
        super().__init__(in_channels, strides, spec, criterion, upsample, channels, 1, groups, hidden)


class SilentHead(Head):
    def __init__(self, in_channels, strides, stages, spec, **options):
        super().__init__()


class NumberLoss(KeypointMSE):
    def forward(self, outputs, targets):
        return super().forward(outputs, targets)["heatmap"]


class UnreducedLoss(KeypointMSE):
    def forward(self, outputs, targets):
        return {"heatmap": outputs["heatmap"].square().mean((2, 3))}


class DetachedLoss(KeypointMSE):
    def forward(self, outputs, targets):
        return {"heatmap": super().forward(outputs, targets)["heatmap"].detach()}


class DividingLoss(KeypointMSE):
    def forward(self, outputs, targets):
        return {"heatmap": outputs["heatmap"].square().sum() / targets.weights["heatmap"].sum()}


class LossOfAReservedName(KeypointMSE):
    def forward(self, outputs, targets):
        return {"loss": super().forward(outputs, targets)["heatmap"]}


class ForgetfulCodec(HeatmapCodec):
    def encode(self, batch):
        return Targets({}, {})


class UndecodingCodec(HeatmapCodec):
    decode = HeatmapCodec.__mro__[1].decode


class ShortExtra(HeatmapCodec):
    def decode(self, outputs):
        poses = super().decode(outputs)
        return replace(poses, extras={"age": poses.scores[1:]})


class TakenExtra(HeatmapCodec):
    def decode(self, outputs):
        poses = super().decode(outputs)
        return replace(poses, extras={"x1": poses.scores})


class FailingCodec(HeatmapCodec):
    def decode(self, outputs):
        raise KeyError("depth")


class EndlessReader(CocoInstances):
    __len__ = CocoInstances.__mro__[2].__len__


class EmptyReader(CocoInstances):
    def __len__(self):
        return 0


class FlatReader(CocoInstances):
    def load(self, index, rng):
        sample = super().load(index, rng)
        return replace(sample, instances=replace(sample.instances, visible=sample.instances.visible[0]))


class FigureMetric(PCK):
    def compute(self):
        return 0.5


class OtherFigures(PCK):
    def compute(self):
        return {"other": 0.5}


def nothing(sample, rng):
    pass


def halved(sample, rng):
    return replace(sample, image=sample.image[::2, ::2])


HERE = "test_strangers."
STEP = "+augment.train.pixels.mine={_target_:hydra.utils.get_method,path:" + HERE
BROKEN = [
    (f"head._target_={HERE}ListHead", "ListHead gives a list; let its forward return a mapping from heatmap"),
    (f"head._target_={HERE}StagelessHead", "can't be built with in_channels, strides, stages, spec .* take all four"),
    (f"head._target_={HERE}SilentHead", "SilentHead doesn't say what it emits; set emits = "),
    ("head._target_=torch.nn.Identity", "Identity is no lightpose.models.base.Head; derive it"),
    (f"head.criterion._target_={HERE}NumberLoss", "is a? ?Tensor of shape .* return a mapping of named losses"),
    (
        f"head.criterion._target_={HERE}UnreducedLoss",
        r"the loss 'heatmap' .* shape \(1, 17\) .* return a tensor of one",
    ),
    (f"head.criterion._target_={HERE}DetachedLoss", "depends on no weight that trains; leave out .detach"),
    (f"head.criterion._target_={HERE}DividingLoss", "of which nothing is visible, heatmap is nan; keep them finite"),
    (f"head.criterion._target_={HERE}LossOfAReservedName", "the name of the sum of all losses; give it another name"),
    (f"codec._target_={HERE}ForgetfulCodec", "makes no target heatmap, which its spec promises; make it"),
    (f"codec._target_={HERE}UndecodingCodec", "UndecodingCodec has no decode; derive it"),
    (f"codec._target_={HERE}ShortExtra", r"extra 'age', which is .* shape \(0,\) .* expected a tensor of 1 rows"),
    (f"codec._target_={HERE}TakenExtra", "the extra 'x1' has the name of another field .* give it another name"),
    (
        f"codec._target_={HERE}FailingCodec",
        r"FailingCodec, .* fails .* \(KeyError: 'depth', in .*test_strangers.py, line",
    ),
    (f"reader._target_={HERE}EndlessReader", "the reader EndlessReader has no method __len__; define it"),
    (f"reader._target_={HERE}EmptyReader", "EmptyReader has no samples; look at its annotation file"),
    (f"reader._target_={HERE}FlatReader", r"visible that are .* shape \(17,\) .* expected an array of shape \(1, 17\)"),
    (f"metric=pck metric.pck._target_={HERE}FigureMetric", "gives a float; return a mapping of figures"),
    (f"metric=pck metric.pck._target_={HERE}OtherFigures", "declares the figures PCK.*, but computes"),
    ("+callbacks.mine._target_=collections.Counter", "collections.Counter is no .*Callback; derive it"),
    (STEP + "nothing}", "function returns a NoneType; return a new Sample"),
    (STEP + "halved}", r"turned an input of shape \(64, 64, 3\) and uint8 into \(32, 32, 3\)"),
]


@pytest.mark.parametrize(("fault", "said"), BROKEN, ids=[fault.rpartition(".")[2][:20] for fault, _ in BROKEN])
def test_a_part_that_breaks_its_contract_is_named_before_training(run, tiny, people, tmp_path, fault, said):
    files = (f"data.train={people}", f"data.val={people}", f"output_dir={tmp_path}/run", "trainer.max_epochs=1")
    code, _, err = run(train.main, *files, *tiny, *fault.split())
    assert code == 1
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert re.search(said, line), line
    assert not (tmp_path / "run/checkpoints").exists()
