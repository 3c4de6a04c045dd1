"""The report of a run: its numbers, its page, and what it does with odd names and failures."""

import csv
import re
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from lightpose.callbacks import report
from lightpose.data.pixels.decode import EncodedImage
from lightpose.report.page import write
from lightpose.report.results import Instance, Validation, overall, sample, table
from lightpose.skeleton import Skeleton
from lightpose.structures import Annotations, Sample

NAN = np.nan
ERRORS = np.array([[1, 4, NAN], [2, NAN, NAN], [3, 8, NAN], [10, NAN, NAN]], np.float32)
SCORES = np.array([[0.9, 0.6, 0.5], [0.8, 0.5, 0.5], [0.7, 0.2, 0.5], [0.2, 0.5, 0.5]], np.float32)
EVIL = '<script>alert("$x_1$")</script>'


def cells(page: str, name: str) -> list[str]:
    """The numbers in the line of the table that is called so."""
    [line] = [line for line in page.splitlines() if line.startswith(f'<tr><th scope="row">{name}</th>')]
    return re.findall("<td>(.*?)</td>", line)


def written(folder: Path, validation: Validation | None, names: tuple[str, ...] = ("nose", "tail", "ear")) -> str:
    """The page of a report on two images of 40 x 60 pixels."""
    picture = folder / f"{EVIL.replace('/', '|')}.png"
    picture.write_bytes(cv2.imencode(".png", np.full((40, 60, 3), 90, np.uint8))[1].tobytes())

    def load(index: int) -> Sample:
        points, one = np.array([[[10, 10], [50, 30], [0, 0]]], np.float32), np.ones(1, np.float32)
        labels = Annotations(points, np.full((1, 3), 2.0), np.zeros((1, 4)), one, one.astype(int), one.astype(int), one)
        image = EncodedImage(picture if index else folder / "missing.png", (40, 60))
        return Sample(image, labels, np.eye(3), 1, index, (40, 60))

    curves = {"train/loss": [(1, 0.5), (2, float("inf")), (3, 0.1)], "lr": [(1, 0.1)], "val/AP": [(3, 0.4)]}
    write(folder / "run & co/report", curves, validation, load, Skeleton.build(names), 20000)
    return (folder / "run & co/report/index.html").read_text()


def instance(index: int, errors: list[float]) -> Instance:
    return Instance(index, np.array([[12, 10], [1e7, 30], [NAN, NAN]], np.float32), np.array(errors, np.float32))


def test_the_table_holds_what_one_computes_by_hand(tmp_path):
    validation = Validation(3, "val/AP", ERRORS, SCORES)
    nose, tail, ear = table(validation, ("nose", "tail", "ear"))
    assert (nose.labels, nose.mean_px, nose.median_px, nose.p90_px) == (4, 4.0, 2.5, pytest.approx(7.9))
    assert (nose.score, tail.score) == (pytest.approx(0.65), pytest.approx(0.4))  # of labelled keypoints alone
    assert (tail.labels, tail.mean_px, tail.median_px, tail.p90_px) == (2, 6.0, 6.0, pytest.approx(7.6))
    assert ear.labels == 0 and np.isnan([ear.mean_px, ear.median_px, ear.p90_px, ear.score]).all()
    assert overall(validation).mean_px == pytest.approx(28 / 6)
    page = written(tmp_path, validation)
    assert cells(page, "nose") == ["4", "4.00", "2.50", "7.90", "0.650"]
    assert cells(page, "ear") == ["0", "n/a", "n/a", "n/a", "n/a"]
    assert cells(page, "all")[:2] == ["6", "4.67"]
    assert "step 3, whose val/AP chose" in page


def test_scores_stand_beside_what_they_get(tmp_path):
    page = written(tmp_path, Validation(3, "val/AP", ERRORS, SCORES, oks=np.where(ERRORS < 5, SCORES / 2, 0)))
    assert cells(page, "0.2-0.3") == ["2", "0.200", "0.000"]  # errors of 8 and 10 px
    assert cells(page, "0.6-0.7") == ["1", "0.600", "0.300"]  # of 4 px
    assert cells(page, "0.5-0.6") == ["0", "n/a", "n/a"]  # nothing is labelled there
    assert "Score against OKS" not in written(tmp_path, Validation(3, "val/AP", ERRORS, SCORES))


def test_names_are_text_and_a_missing_image_is_left_out(tmp_path, caplog):
    worst = [instance(1, [2, np.inf, NAN]), instance(0, [2, 3, NAN])]
    page = written(tmp_path, Validation(3, "", ERRORS, SCORES, worst=worst), (EVIL, "tail", "日本 $\\frac{"))
    assert "<script" not in page and "&lt;script&gt;alert" in page
    assert "run &amp; co" in page
    assert "not finite" in page and "the last validation, at step 3" in page
    assert "missing.png" in caplog.text
    linked = set(re.findall('src="(.*?)"', page))
    assert linked == {"curves.png", "keypoints.png", "scores.png", "worst_01.png"}
    for name in linked:
        assert cv2.imread(str(tmp_path / "run & co/report" / name)).std() > 1


def test_where_nothing_can_be_compared_a_sentence_says_why(tmp_path):
    nothing = np.empty((0, 3), np.float32)
    page = written(tmp_path, Validation(3, "val/AP", nothing, nothing, left_out=7))
    assert "7 images are left out: several people" in page and "there are no tables" in page
    assert "<table" not in page
    (tmp_path / "run & co/report/worst_02.png").touch()  # of an earlier report
    assert "<h2>Err" not in written(tmp_path, None)  # without validation
    assert not list(tmp_path.rglob("worst_*"))


def test_a_sample_is_always_the_same():
    errors = np.random.default_rng(0).random((300, 3), np.float32)
    errors[0] = [NAN, np.inf, 1]
    scores, chosen, count = sample(Validation(1, "", errors, errors / 2), 100)
    assert count == 898 and len(chosen) == 100 and np.array_equal(scores, chosen / 2)
    assert np.array_equal(sample(Validation(1, "", errors, errors / 2), 100)[1], chosen)


def test_long_curves_stay_short_and_outlive_an_interruption(monkeypatch):
    monkeypatch.setattr(report, "MOST", 10)
    callback, group = report.Report("unused"), {"lr": 0.0}
    trainer = SimpleNamespace(accumulate_grad_batches=2, optimizers=[SimpleNamespace(param_groups=[group])])
    for step in range(50):
        trainer.global_step, group["lr"] = step, step / 10
        callback.on_train_batch_end(trainer, None, {"loss": torch.tensor(step / 2)}, None, step)
    kept = list(range(0, 50, 8))
    assert callback.curves["train/loss"] == [(step, step) for step in kept]  # Lightning has divided it by 2
    state = callback.state_dict()
    other = report.Report("unused")
    other.load_state_dict({**state, "val/AP": "damaged", "val/loss": torch.zeros(3), "val/x": torch.full((1, 2), NAN)})
    assert other.curves == {"train/loss": [(s, s) for s in kept], "lr": [(s, s / 10) for s in kept]}


def test_a_run_ends_with_the_report_of_its_best_validation(trained):
    page = (trained / "report/index.html").read_text()
    step = torch.load(trained / "checkpoints/best.ckpt", weights_only=True)["global_step"]
    assert f"the validation at step {step}, whose val/AP chose" in page
    with (trained / "csv/version_0/metrics.csv").open() as file:
        [logged] = [row for row in csv.DictReader(file) if row["val/AP"] and int(row["step"]) + 1 == step]
    assert cells(page, "all")[1] == f"{float(logged['val/EPE_px']):.2f}"
    assert cells(page, "left_knee")[1] == f"{float(logged['val/EPE_px/left_knee']):.2f}"
    counts = [int(cells(page, f"{low / 10:.1f}-{(low + 1) / 10:.1f}")[0].replace(",", "")) for low in range(10)]
    assert sum(counts) == int(cells(page, "all")[0].replace(",", ""))
    means = [float(mean) for mean in re.findall(r"<figcaption><b>(.*?) px</b>", page)]
    assert len(means) == 10 and means == sorted(means, reverse=True) and means[-1] > 0
    assert all((trained / "report" / name).is_file() for name in re.findall('src="(.*?)"', page))
