"""Writes a report: the pictures, and the page that shows them."""

import logging
import warnings
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from string import Template

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from lightpose.data.pixels.decode import EncodedImage
from lightpose.errors import UserError
from lightpose.metrics.calibration import calibration
from lightpose.report import plots
from lightpose.report.results import Curves, Instance, Validation, overall, sample, table
from lightpose.runtime.aside import written_aside
from lightpose.skeleton import Skeleton
from lightpose.structures import Sample

log = logging.getLogger(__name__)

_KEYPOINT = ("keypoint", "labels", "mean, px", "median, px", "90th percentile, px", "mean score")
_PAGE = Path(__file__).with_name("page.html")


def write(
    folder: Path,
    curves: Curves,
    validation: Validation | None,
    load: Callable[[int], Sample],
    skeleton: Skeleton,
    points: int,
) -> None:
    """Write ``index.html`` and the PNG files that it shows.

    Args:
        folder: made if it isn't there; files of an earlier report are replaced.
        curves: of the training.
        validation: whose errors are shown; None for curves alone.
        load: gives the sample at a position in the validation set.
        skeleton: the keypoints.
        points: how many keypoints are drawn at most in the plot of error against score.

    Raises:
        OSError: when a file can't be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(plots.STYLE):
        best = validation.step if validation is not None and validation.monitor else None
        _save(plots.curves(curves, best), folder / "curves.png")
        sections = [_section("Curves", _picture("curves.png", "Losses, figures of validation, learning rate"))]
        if validation is not None:
            sections += _errors(folder, validation, load, skeleton, points)
    title = "/".join(folder.absolute().parent.parts[-2:])
    page = Template(_PAGE.read_text(encoding="utf-8")).substitute(
        title=escape(title), facts=_facts(curves, validation), sections="\n".join(sections)
    )
    with written_aside(folder / "index.html") as part:
        part.write_text(page, encoding="utf-8")
    for picture in folder.glob("worst_[0-9][0-9].png"):
        if picture.name not in page:  # of an earlier report
            picture.unlink()


def _save(figure: Figure, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of letters that the font lacks
        figure.savefig(path)


def _facts(curves: Curves, validation: Validation | None) -> str:
    """What a reader wants first, as tiles."""
    steps = max((points[-1][0] for points in curves.values() if points), default=0)
    facts = {"steps": f"{steps:,}"}
    if validation is not None:
        facts |= {"best step" if validation.monitor else "last validation at step": f"{validation.step:,}"}
        at = {name: value for name, points in curves.items() for step, value in points if step == validation.step}
        facts |= {name: f"{value:.3g}" for name, value in at.items() if name.startswith("val/")}
        row = overall(validation)
        _, _, median, p90, _ = plots.cells(row)
        facts |= {"median error, px": median, "90th percentile, px": p90, "keypoints compared": f"{row.labels:,}"}
    return "\n".join(f"<div><b>{escape(value)}</b>{escape(name)}</div>" for name, value in facts.items())


def _errors(
    folder: Path, validation: Validation, load: Callable[[int], Sample], skeleton: Skeleton, points: int
) -> list[str]:
    """The sections about one validation."""
    which = (
        f"the validation at step {validation.step:,}, whose {validation.monitor} chose the best checkpoint"
        if validation.monitor
        else f"the last validation, at step {validation.step:,}"
    )
    remarks = f"Errors are distances in image pixels between predicted and labelled keypoints, in {which}."
    if validation.left_out:
        remarks += (
            f" {validation.left_out:,} images are left out: several people are labelled or found in them, and nothing "
            "says which prediction is whose."
        )
    scores, errors, count = sample(validation, points)
    if not count:
        remarks += " No predicted keypoint could be compared with a label, so there are no tables of errors."
        return [_section("Errors", f"<p>{escape(remarks)}</p>")]
    rows = table(validation, skeleton.keypoints)
    _save(plots.keypoints(rows), folder / "keypoints.png")
    _save(plots.scores(scores, errors), folder / "scores.png")
    shown = "Each point is a labelled keypoint"
    shown += f"; {len(scores):,} of {count:,} are drawn, chosen at random with a fixed seed." if count > points else "."
    parts = [
        _section(
            "Errors by keypoint",
            f"<p>{escape(remarks)} The score is the mean of what the model gives where there is a label.</p>",
            _table(_KEYPOINT, [(row.name, *plots.cells(row)) for row in (*rows, overall(validation))]),
            _picture("keypoints.png", "Errors of each keypoint"),
        ),
        _section(
            "Error against score",
            f"<p>{escape(shown)} At the right: error of the keypoints at or above a threshold, and how many they "
            "are.</p>",
            _picture("scores.png", "Error against score, and what a threshold keeps"),
        ),
    ]
    if validation.oks is not None:
        counted = validation.labelled & np.isfinite(validation.scores)
        bins = calibration(validation.scores[counted], validation.oks[counted])
        about = (
            "The OKS of a keypoint is 1 without an error, and the smaller the larger its error is for the size of the "
            "person. A model whose scores are the OKS to expect has the same number in both columns."
        )
        lines = [
            (each.name, f"{each.count:,}", plots.number(each.score, 3), plots.number(each.oks, 3)) for each in bins
        ]
        heads = ("score", "keypoints", "mean score", "mean OKS")
        parts.append(_section("Score against OKS", f"<p>{escape(about)}</p>", _table(heads, lines)))
    figures = [
        text for rank, found in enumerate(validation.worst, 1) if (text := _worst(folder, rank, found, load, skeleton))
    ]
    if figures:
        about = "The instances with the largest mean error. A line joins each prediction with its label."
        parts.append(_section("Worst images", f"<p>{about}</p>", f'<div class="worst">{"".join(figures)}</div>'))
    return parts


def _worst(folder: Path, rank: int, found: Instance, load: Callable[[int], Sample], skeleton: Skeleton) -> str | None:
    """One of the worst instances, drawn; None for an image that can't be read any more."""
    try:
        item = load(found.index)
        encoded = isinstance(item.image, EncodedImage)
        pixels = item.image.decode()[0] if encoded else item.image
    except (UserError, OSError) as problem:
        log.warning("the report shows one image fewer: %s", problem)
        return None
    name = "/".join(Path(item.image.name).parts[-2:]) if encoded else f"image {item.image_id}"
    error = f"{found.mean_px:.1f} px" if np.isfinite(found.mean_px) else "not finite"
    largest = [place for place in np.argsort(-found.errors_px, kind="stable")[:3] if found.errors_px[place] >= 0]
    details = ", ".join(
        f"{plots.short(skeleton.keypoints[place])} {found.errors_px[place]:.0f} px" for place in largest
    )
    title = f"{rank}. {error}   {plots.short(name, 60)}\n{details}"
    file = f"worst_{rank:02d}.png"
    _save(plots.instance(found, item.instances.keypoints[0, :, :2], pixels, title, skeleton), folder / file)
    caption = f"<b>{escape(error)}</b> {escape(name)}<br>{escape(details)}<br>annotation {int(item.instances.ids[0])}"
    return f"<figure>{_picture(file, f'Prediction and label in {name}')}<figcaption>{caption}</figcaption></figure>"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells, the first of which is a name."""
    head = "".join(f'<th scope="col">{each}</th>' for each in heads)
    lines = []
    for name, *values in rows:
        cells = "".join(f"<td>{value}</td>" for value in values)
        lines.append(f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>')
    body = "\n".join(lines)
    return (
        f'<div class="scroll" tabindex="0"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n'
        "</table></div>"
    )


def _section(title: str, *parts: str) -> str:
    return "\n".join([f"<section><h2>{title}</h2>", *parts, "</section>"])


def _picture(file: str, alternative: str) -> str:
    return f'<a href="{file}"><img class="plot" src="{file}" alt="{escape(alternative)}" loading="lazy"></a>'
