"""A user's own folder behind --config-dir: what is wrong in it is told in a sentence that names file and line."""

import re
import sys

import pytest
import torch

import lightpose
from lightpose.cli import eval as eval_command
from lightpose.cli import predict, train
from lightpose.errors import UserError

CODE = """
import torch
from torch import nn
from torchmetrics import Metric

from lightpose.models.base import Head
from lightpose.models.heads.heatmap import HeatmapHead
from lightpose.models.losses.heatmap import KeypointMSE


class Mine(HeatmapHead):
    pass


class Silent(Head):
    def __init__(self, in_channels, strides, stages, spec, **options):
        super().__init__()


class Uncritical(Head):
    emits = frozenset({"heatmap"})

    def __init__(self, in_channels, strides, stages, spec):
        super().__init__()


class Mistyped(Mine):
    def __init__(self, **options):
        super().__init__(**options)
        self.no_such_thing


class Far(Mine):
    def forward(self, features):
        return super().forward([features[7]])


class Bare(KeypointMSE):
    def forward(self, outputs, targets):
        return super().forward(outputs, targets)["heatmap"]


class Scaled(KeypointMSE):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, outputs, targets):
        return {"heatmap": self.scale * super().forward(outputs, targets)["heatmap"]}


class Count(Metric):
    figures, higher_is_better = ("count",), True

    def __init__(self, skeleton):
        super().__init__()
        self.add_state("count", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, poses, batch):
        self.count += len(poses)

    def compute(self):
        return {"count": self.count}


class Unsaid(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 8, 32, 32)

    def forward(self, images):
        return [self.layer(images)]
"""
HEAD = "_target_: {}\n_partial_: true\nupsample: deconv\nchannels: 8\ncriterion: {{_target_: {}}}\n"
MSE = "lightpose.models.losses.heatmap.KeypointMSE"
FILES = {
    "own_code.py": CODE,
    "own_needs.py": "import os\nimport no_such_library\n",
    "own_syntax.py": "def f(:\n",
    "own_fails.py": "\n\nraise RuntimeError('not today')\n",
    **{
        f"head/{name}.yaml": HEAD.format(target, criterion)
        for name, target, criterion in (
            ("mine", "own_code.Mine", MSE),
            ("needs", "own_needs.Head", MSE),
            ("syntax", "own_syntax.Head", MSE),
            ("fails", "own_fails.Head", MSE),
            ("nowhere", "own_cod.Mine", MSE),
            ("absent", "own_code.Mien", MSE),
            ("pathless", "Mine", MSE),
            ("silent", "own_code.Silent", MSE),
            ("mistyped", "own_code.Mistyped", MSE),
            ("far", "own_code.Far", MSE),
            ("bare", "own_code.Mine", "own_code.Bare"),
            ("scaled", "lightpose.models.heads.heatmap.HeatmapHead", "own_code.Scaled"),
        )
    },
    "head/uncritical.yaml": "_target_: own_code.Uncritical\n_partial_: true\n",
    "head/whole.yaml": "_target_: own_code.Mine\n",
    "head/targetless.yaml": "channels: 8\n",
    "head/broken.yaml": "_target_: own_code.Mine\n  bad: [\n",
    "backbone/unsaid.yaml": "_target_: own_code.Unsaid\n",
    "metric/count.yaml": "count:\n  _target_: own_code.Count\n  _partial_: true\n",
}
SAID = {
    "head=needs": r"own_needs can't be imported \(ModuleNotFoundError: .*no_such_library.*own_needs.py, line 2\)",
    "head=syntax": r"own_syntax can't be imported \(SyntaxError.*own_syntax.py, line 1\); install or mend",
    "head=fails": r"own_fails can't be imported \(RuntimeError: not today, in .*own_fails.py, line 3\)",
    "head=nowhere": r"there is no module own_cod; the folder with own_cod.py must be that of --config-dir, or .*PATH",
    "head=absent": r"own_code \(.*own_code.py\) has no Mien; did you mean Mine",
    "head.criterion._target_=lightpose.models.losses.heatmaps.KeypointMSE": (
        r"lightpose.models.losses \(.*losses.__init__.py\) has no heatmaps; did you mean heatmap"
    ),
    "head=pathless": r"head._target_=Mine: a path with its module is expected, such as my_parts.MyHead",
    "head=silent": r"head Silent doesn't say what it emits; set emits = ",
    "head=uncritical": r"head Uncritical has no criterion; set self.criterion .* or define a method criterion",
    "head=mistyped": r"a part of your own: AttributeError .*no_such_thing.*own_code.py, line \d+ ",
    "head=far": r"can't be run on images of 64x64 .*IndexError.*own_code.py, line \d+\); .* or mend the part",
    "head=bare": r"the loss of head Mine is Tensor .* return a mapping of named losses",
    "head=whole": r"head=whole: the YAML of this part lacks _partial_: true",
    "head=targetless": r"head=targetless: expected a part with its _target_",
    "head=broken": r"head/broken.yaml is no YAML file \(mapping values .* in line 2\); mend it",
    "backbone=unsaid": r"backbone Unsaid has no out_channels and no strides .*; derive it from .*FeatureModule",
    "head=mine +head.chanels=3": r"\+head.chanels=3: own_code.Mine has no such option; it has .*channels",
    "head=mine head.chanels=3": r"no key 'head.chanels'; did you mean head.channels",
    "head=mine head.channels=x": r"head.channels=x: expected a whole number",
    "head=simcc": r"asks for the shape of 'x' but codec expects \['heatmap'\]; use head=.*head=mine.* or codec=simcc",
    "head=rle": r"use .* or codec=rle",
}


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own") / "mine"
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    path, modules = list(sys.path), set(sys.modules)
    yield folder
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name.startswith("own_"):
            del sys.modules[name]


@pytest.mark.parametrize("options", SAID)
def test_what_is_wrong_is_told_in_a_sentence(run, mine, people, tiny, tmp_path, options):
    keys = {option.partition("=")[0] for option in options.split()}
    few = [each for each in tiny if each.split("=")[0].split(".")[0] not in keys]
    files = (f"data.train={people}", f"output_dir={tmp_path}/run")
    code, out, err = run(train.main, "--config-dir", mine, *files, *few, *options.split())
    lines = [line for line in (out + err).splitlines() if "rror" in line]
    assert code == 1 and len(lines) == 1 and re.search(SAID[options], lines[0]), lines
    assert not list(tmp_path.iterdir())


def test_help_lists_the_users_options(run, mine):
    code, out, _ = run(train.main, "--config-dir", mine, "--help")
    assert code == 0
    heads = next(line for line in out.splitlines() if line.startswith("head: "))
    assert "mine" in heads and "heatmap_offset" in heads
    assert "own" not in next(line for line in run(train.main, "--help")[1].splitlines() if line.startswith("head: "))


def test_a_folder_of_options_is_looked_at_first(run, mine, tmp_path):
    code, _, err = run(train.main, f"--config-dir={tmp_path}/nowhere", "head=mine")
    assert code == 1 and "nowhere is no folder; give the one that holds yours" in err
    (tmp_path / "head").mkdir()
    (tmp_path / "head/heatmap.yaml").write_text("_target_: own_code.Mine\n")
    code, _, err = run(train.main, f"--config-dir={tmp_path}", "head=heatmap")
    assert code == 1 and "head/heatmap.yaml has the name of an option of lightpose; give the file another name" in err


def test_only_what_predicts_needs_trust(run, mine, people, tiny, tmp_path):
    """The head is ours, its criterion and a metric are the user's: predicting asks for neither, scoring for both."""
    files = (f"data.train={people}", f"data.val={people}", f"output_dir={tmp_path}/run", "trainer.max_epochs=1")
    parts = ("head=scaled", "metric=[oks,count]", "logger.csv.name=csv")
    code, _, err = run(train.main, "--config-dir", mine, *files, *tiny, *parts)
    assert code == 0, err
    hparams = next((tmp_path / "run/csv").rglob("hparams.yaml")).read_text()
    assert "own_code.Scaled" in hparams and "batch_size: 8" in hparams
    ckpt = tmp_path / "run/checkpoints/best.ckpt"
    out = (f"source={people.parent / 'images'}", f"out={tmp_path}/found", "draw=false", "device=cpu", "num_workers=0")
    code, _, err = run(predict.main, f"ckpt={ckpt}", *out)
    assert code == 0, err
    assert (tmp_path / "found/predictions.json").exists()
    code, _, err = run(eval_command.main, f"ckpt={ckpt}", f"out={tmp_path}/eval", "num_workers=0")
    assert code == 1 and "own_code.Count, own_code.Scaled" in err and "say so with trust=own_code\n" in err
    code, out, err = run(eval_command.main, f"ckpt={ckpt}", f"out={tmp_path}/eval", "num_workers=0", "trust=own_code")
    assert code == 0 and "count " in out, err

    estimator = lightpose.load(ckpt)
    assert len(estimator.metrics) == 1
    with pytest.raises(UserError, match=r"own_code.Scaled was left out, .*trust='own_code', training=True"):
        estimator.net.head.criterion({}, None)
    whole = lightpose.load(ckpt, trust="own_code", training=True)
    assert len(whole.metrics) == 2
    stored = torch.load(ckpt, weights_only=True)["state_dict"]
    assert torch.equal(whole.net.head.criterion.scale, stored["net.head.criterion.scale"])


def test_a_checkpoint_of_a_module_that_is_not_there(run, mine, trained, tmp_path, monkeypatch):
    content = torch.load(trained / "checkpoints/best.ckpt", weights_only=True)
    content["lightpose"]["config"]["estimator"]["head"]["_target_"] = "own_elsewhere.Head"
    torch.save(content, tmp_path / "a.ckpt")
    with pytest.raises(UserError, match=r"own_elsewhere.Head, which is not part of lightpose.* trust=own_elsewhere$"):
        lightpose.load(tmp_path / "a.ckpt")
    with pytest.raises(UserError, match=r"own_elsewhere can't be imported \(ModuleNot.*add its folder to PYTHONPATH"):
        lightpose.load(tmp_path / "a.ckpt", trust="own_elsewhere")
