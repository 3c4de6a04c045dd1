"""head=visibility and codec=visibility on the command line: what stands inside, and what is refused."""

import json

import pytest
from omegaconf import OmegaConf

import lightpose
from lightpose.cli import predict, train
from lightpose.cli.arguments import with_inner_options

WRAPPED = ["head=visibility", "codec=visibility"]


@pytest.fixture
def small(people, tiny, tmp_path):
    """Overrides of a training of one step."""
    few = [option for option in tiny if option != "head.channels=8"]  # which a wrapper has not
    return [f"data.train={people}", *few, "trainer.max_steps=1", f"output_dir={tmp_path}/run"]


@pytest.fixture
def refused(run, small):
    """Gives the sentence that a training is refused with."""

    def call(*arguments):
        code, out, err = run(train.main, *small, *arguments)
        [line] = [line for line in err.splitlines() if line.startswith("error: ")]
        assert code == 1 and "Traceback" not in out + err
        return line

    return call


def test_options_inside_become_what_hydra_calls_them():
    given = ["head.head=simcc", "codec.codec=simcc,rle", "head.head.channels=8", "head.head={_target_:a}", "neck=fpn"]
    assert with_inner_options(given) == ["head@head.head=simcc", "codec@codec.codec=simcc,rle", *given[2:]]


def test_a_wrapper_trains_predicts_and_is_scored(run, small, people, tmp_path):
    inside = ["head.head=simcc", "codec.codec=simcc", "head.head.upsample_to=16", "head.head.channels=8"]
    code, _, err = run(
        train.main,
        *small,
        *WRAPPED,
        *inside,
        f"data.val={people}",
        "metric=[oks,visibility]",
        "monitor=val/occlusion_AP",
    )
    assert code == 0, err
    checkpoint = tmp_path / "run/checkpoints/best.ckpt"
    estimator = lightpose.load(checkpoint)
    assert type(estimator.net.head.head).__name__ == "SimCCHead" and estimator.net.head.head.upsample
    figures = (tmp_path / "run").glob("csv/*/metrics.csv")
    assert "val/occlusion_AP,val/occlusion_AP_of_scores" in next(figures).read_text()
    code, _, err = run(predict.main, f"ckpt={checkpoint}", f"source={people}", f"out={tmp_path}/found", "device=cpu")
    assert code == 0, err
    found = json.loads((tmp_path / "found/predictions.json").read_text())
    assert found and all(len(pose["visibility"]) == 17 for pose in found)
    assert all(0 <= value <= 1 for pose in found for value in pose["visibility"])
    assert "nose_visibility" in (tmp_path / "found/predictions.csv").read_text().splitlines()[0]


def test_what_an_experiment_says_of_a_codec_holds_for_the_one_inside(run, small, tmp_path):
    given = ["experiment=topdown_hrnet", *WRAPPED, *small, "head.head.channels=8", "codec.codec.refine=none"]
    code, _, err = run(train.main, *given)
    assert code == 0, err
    codec = OmegaConf.load(tmp_path / "run/config.yaml").codec
    assert codec.codec.centers == "rounded" and codec.codec.truncate == 3.0  # the experiment's
    assert codec.codec.refine == "none"  # the command line's
    assert codec.keys() == {"_target_", "_partial_", "codec"}


@pytest.mark.parametrize(
    ("given", "fix"),
    [
        (
            [*WRAPPED, "head.head=simcc"],
            "head.head asks for the shape of 'x' but codec.codec expects ['heatmap']; use head.head=",
        ),
        ([*WRAPPED, "codec.codec=simcc"], "use head.head=rtmcc or head.head=rtmw or head.head=simcc"),
        ([*WRAPPED, "codec.codec=rle", "head.head=regression"], "use head.head=rle"),
        (["codec=visibility"], "use head=visibility"),
        (["codec=visibility", "codec.codec=simcc", "head=simcc"], "head=visibility head.head=simcc"),
        (["head=visibility"], "codec=visibility"),
        (["head.head=simcc"], "add head=visibility codec=visibility"),
        ([*WRAPPED, "head.head=simc"], "did you mean simcc"),
        ([*WRAPPED, "codec.codec=visibility"], "without a wrapper"),
        ([*WRAPPED, "head.head.foo=1"], "head.head.foo"),
        (["metric=visibility", "data.val=VAL"], "head=visibility codec=visibility"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_to_type(refused, people, given, fix):
    assert fix in refused(*[option.replace("VAL", str(people)) for option in given])
