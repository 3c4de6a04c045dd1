"""The page of models says what the experiments, the tables of MMPose's names, and the networks say."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "scripts"))
import model_zoo

from lightpose.interop.mmpose.zoo import FILE

TEXT = model_zoo.PAGE.read_text()
COUNTS = model_zoo.counts_in(TEXT)
COUNTED = ("rtmpose-t_8xb256-420e_coco-256x192", "td-reg_mobilenetv2_rle-pretrained-8xb64-210e_coco-256x192")


def test_the_page_is_not_stale() -> None:
    """All but the counts, of which the next test takes some, and `scripts/model_zoo.py --check` all."""
    assert model_zoo.page(COUNTS) == TEXT


@pytest.mark.parametrize("short", COUNTED)
def test_counts_of_published_models_are_those_of_networks(short: str) -> None:
    name = next(name for name in model_zoo.published() if name.endswith(f"/{short}"))
    assert model_zoo.count(model_zoo.build_published(name)) == COUNTS[name]


def test_counts_of_experiments_are_those_of_networks() -> None:
    assert model_zoo.count(model_zoo.build_experiment("lifting_simplebaseline")) == COUNTS["lifting_simplebaseline"]


def test_a_count_that_is_not_the_published_one_needs_a_reason() -> None:
    name = next(name for name in COUNTS if name.endswith("/rtmpose-t_8xb256-420e_coco-256x192"))
    wrong = {**COUNTS, name: model_zoo.Counts("3.34", "0.37")}
    assert model_zoo.differences(wrong)[name] == "0.37 for 0.355 GMACs"
    with pytest.raises(SystemExit, match=f"no reason is known for {name}"):
        model_zoo.page(wrong)


def test_listed_parameters_are_the_published_ones_to_the_last_digit() -> None:
    """One percent is more than the windows of a Swin: a list that is nearly right takes one network for another."""
    rows, apart = model_zoo.published(), []
    listed = [line.split() for line in FILE.read_text().splitlines()]
    for _, count, name in listed:
        text = rows[name]["params_M"]
        if text and abs(int(count) / 1e6 - float(text)) > 0.6 * 10 ** -len(text.partition(".")[2]):
            apart.append(name)
    assert sum(bool(rows[name]["params_M"]) for *_, name in listed) > 350
    assert all("hourglass" in name or "/dekr_" in name for name in apart), apart  # have layers that nothing reads
