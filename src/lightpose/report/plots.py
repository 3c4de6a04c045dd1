"""The pictures of a report, each a figure of matplotlib."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from lightpose.report.results import Curves, Instance, Row
from lightpose.skeleton import Skeleton
from lightpose.structures import Array

STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "text.parse_math": False,  # names hold any letters
    "savefig.dpi": 150,
}
"""Settings of matplotlib that the figures are made with."""

_BLUE, _ORANGE, _RED, _GREY = "#2b7bba", "#e8820c", "#d6336c", "#777777"
_WIDTH = 9.0
"""Inches."""


def curves(curves: Curves, best_step: int | None) -> Figure:
    """Losses together, then each other figure, over optimizer steps.

    Args:
        curves: with ``train/loss``, ``lr`` and figures of validations, as far as there are.
        best_step: is marked.
    """
    others = [name for name in curves if name not in ("train/loss", "val/loss", "lr") and curves[name]]
    last = max(points[-1][0] for points in curves.values() if points)
    panels = ["loss", *others, *(["lr"] if curves.get("lr") else [])]
    rows = math.ceil(len(panels) / 2)
    figure = Figure(figsize=(_WIDTH, 0.3 + 2.5 * rows), layout="constrained")
    for place, name in enumerate(panels):
        axes = figure.add_subplot(rows, 2, place + 1)
        axes.set_title({"loss": "Loss", "lr": "Learning rate"}.get(name, name.removeprefix("val/") + " in validation"))
        if name == "loss":
            _losses(axes, curves)
        elif name == "lr":
            axes.plot(*_finite(curves["lr"]), color=_GREY, linewidth=1.5)
            axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
        else:
            axes.plot(*_finite(curves[name]), color=_ORANGE, marker="o", markersize=3, linewidth=1.5)
        if best_step is not None and name != "lr":
            axes.axvline(best_step, color=_GREY, linestyle=":", linewidth=1.2)
            if name != "loss":  # where the legend is
                side: Any = "left" if best_step < last / 2 else "right"
                where = axes.get_xaxis_transform()
                axes.text(best_step, 1.0, " best ", ha=side, va="top", color=_GREY, fontsize=8, transform=where)
        axes.set(xlabel="step", xlim=(0, 1.02 * last))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    return figure


def _losses(axes: Axes, curves: Curves) -> None:
    steps, losses = _finite(curves.get("train/loss", []))
    width = max(1, len(losses) // 50)
    lowest = []
    if len(losses):
        axes.plot(steps, losses, color=_BLUE, alpha=0.3 if width > 1 else 1, linewidth=0.8 if width > 1 else 1.5)
        if width > 1:
            smooth = np.convolve(losses, np.full(width, 1 / width), "valid")
            axes.plot(steps[width // 2 :][: len(smooth)], smooth, color=_BLUE, linewidth=1.5)
        axes.lines[-1].set_label("training" + (", smoothed" if width > 1 else ""))
        lowest.append(losses)
    steps, losses = _finite(curves.get("val/loss", []))
    if len(losses):
        axes.plot(steps, losses, color=_ORANGE, marker="o", markersize=3, linewidth=1.5, label="validation")
        lowest.append(losses)
    values = np.concatenate([*lowest, [np.nan]])
    if np.nanmin(values, initial=np.inf) > 0 and np.nanmax(values, initial=0) > 5 * np.nanmin(values, initial=np.inf):
        _logarithmic(axes)
    axes.legend(loc="upper right")


def _logarithmic(axes: Axes) -> None:
    """Let the y axis be logarithmic, with plain numbers."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def _finite(points: Sequence[tuple[int, float]]) -> tuple[Array, Array]:
    """Steps and values."""
    steps, values = np.array(points, np.float64).reshape(-1, 2).T
    finite = np.isfinite(values)
    return steps[finite], values[finite]


def keypoints(rows: Sequence[Row]) -> Figure:
    """The table as a picture: of each keypoint the median, the mean and the 90th percentile, with the numbers.

    Args:
        rows: one a keypoint.
    """
    figure = Figure(figsize=(_WIDTH, 1.0 + 0.24 * len(rows)), layout="constrained")
    axes, numbers = figure.subplots(1, 2, sharey=True, width_ratios=(5, 3))
    places = np.arange(len(rows), dtype=np.float64)
    median, mean, p90 = (np.array([getattr(row, name) for row in rows]) for name in ("median_px", "mean_px", "p90_px"))
    finite = np.isfinite(p90)
    axes.hlines(places[finite], median[finite], p90[finite], color=_BLUE, alpha=0.35, linewidth=5)
    axes.plot(median, places, "o", color=_BLUE, markersize=5, label="median")
    axes.plot(mean, places, "D", color=_ORANGE, markersize=4, label="mean")
    axes.plot(p90, places, "|", color=_BLUE, markersize=9, markeredgewidth=2, label="90th percentile")
    axes.set_yticks(places, [short(row.name) for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(left=0)
    axes.set_xlabel("error in image pixels")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    numbers.set_axis_off()
    numbers.set_xlim(0, 1)
    for column, head in enumerate(("labels", "mean", "median", "p90", "score"), 1):
        at: Any = {"x": column / 5, "ha": "right", "va": "center", "fontsize": 8}
        numbers.text(y=-0.9, s=head, color=_GREY, **at)
        for place, row in enumerate(rows):
            numbers.text(y=place, s=cells(row)[column - 1], **at)
    figure.legend(loc="outside lower left", ncols=3)
    return figure


def cells(row: Row) -> tuple[str, ...]:
    """The numbers of a row as text: labels, mean, median, 90th percentile, score."""
    pixels = (number(value, 2) for value in (row.mean_px, row.median_px, row.p90_px))
    return f"{row.labels:,}", *pixels, number(row.score, 3)


def number(value: float, digits: int) -> str:
    """A number as text."""
    return f"{value:.{digits}f}" if math.isfinite(value) else "n/a"


def short(name: str, length: int = 28) -> str:
    """The name, its middle left out where it is long."""
    half = (length - 1) // 2
    return name if len(name) <= length else f"{name[:half]}…{name[-half:]}"


def scores(scores: Array, errors: Array) -> Figure:
    """Errors over scores; and what a threshold keeps.

    Args:
        scores: (n,) of keypoints.
        errors: (n,) in image pixels.
    """
    figure = Figure(figsize=(_WIDTH, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    floor = max(float(np.quantile(errors, 0.001)), 0.01)
    left.scatter(scores, errors.clip(floor), s=5, color=_BLUE, alpha=0.25, linewidths=0, rasterized=True)
    _logarithmic(left)
    low, high = float(scores.min()), float(scores.max())
    edges = np.linspace(low, high, 21)
    bins = np.digitize(scores, edges[1:-1])
    centres = (edges[1:] + edges[:-1]) / 2
    full = [place for place in range(20) if (bins == place).sum() >= 10]
    for share, style, label in ((0.5, "-", "median"), (0.9, "--", "90th percentile")):
        values = [np.quantile(errors[bins == place], share).clip(floor) for place in full]
        left.plot(centres[full], values, style, color=_ORANGE, linewidth=2, label=label)
    left.set(title="Error against score", xlabel="keypoint score", ylabel="error in image pixels")
    if full:
        left.legend(loc="upper right")

    order = np.argsort(scores)
    thresholds = np.linspace(low, high, 101)
    first = np.searchsorted(scores[order], thresholds)
    kept = [errors[order][start:] for start in first]
    for share, style, label in ((0.5, "-", "median"), (0.9, "--", "90th percentile")):
        values = [np.quantile(part, share) if len(part) else np.nan for part in kept]
        right.plot(thresholds, values, style, color=_ORANGE, linewidth=2, label=f"{label} of the error")
    right.set(title="What a threshold keeps", xlabel="threshold of the score", ylabel="error in image pixels")
    right.set_ylim(bottom=0)
    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator(5))
    shares = right.twinx()
    shares.plot(thresholds, 100 - 100 * first / len(order), color=_BLUE, linewidth=1.5, label="keypoints kept")
    shares.set(ylim=(0, 103), ylabel="keypoints kept, %")
    shares.grid(False)
    shares.spines["right"].set_visible(True)
    lines = [*right.lines, *shares.lines]
    right.legend(handles=lines, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, fontsize=8)
    return figure


def instance(found: Instance, labels: Array, image: Array, title: str, skeleton: Skeleton) -> Figure:
    """Prediction and label on the part of the image where they are, joined by lines.

    Args:
        found: what was predicted, and its errors.
        labels: (K, 2) image px.
        image: (H, W, 3) uint8.
        title: of the picture.
        skeleton: links of K keypoints.
    """
    labelled = ~np.isnan(found.errors_px)
    predicted = np.isfinite(found.keypoints).all(1)
    left, top, right, bottom = _view(labels[labelled], found.keypoints[labelled & predicted], image.shape[:2])
    width, height = right - left, bottom - top
    scale = 5.0 / max(width, height)
    figure = Figure(figsize=(max(width * scale, 3.2) + 0.2, height * scale + 0.9), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(
        image[top:bottom, left:right],
        extent=(left - 0.5, right - 0.5, bottom - 0.5, top - 0.5),
        interpolation="hanning",
    )
    size = min(1.0, math.sqrt(17 / skeleton.num_keypoints))
    for points, shown, color in ((labels, labelled, _LABEL), (found.keypoints, labelled & predicted, _PREDICTION)):
        ends = [points[[start, end]] for start, end in skeleton.links if shown[start] and shown[end]]
        axes.add_collection(LineCollection(ends, colors=color, linewidths=1.3 * size, alpha=0.55))
    both = labelled & predicted
    joins = np.stack([labels[both], found.keypoints[both]], 1)
    outline = [withStroke(linewidth=2.6 * size, foreground="black", alpha=0.5)]
    axes.add_collection(
        LineCollection(list(joins), colors=_JOIN, linewidths=1.4 * size, linestyles="-", path_effects=outline)
    )
    marks: Any = {"linestyle": "none", "markeredgewidth": 0.8 * size, "markersize": 6 * size}
    axes.plot(*labels[labelled].T, "o", color=_LABEL, markeredgecolor="black", label="label", **marks)
    axes.plot(*found.keypoints[both].T, "X", color=_PREDICTION, markeredgecolor="black", label="prediction", **marks)
    axes.set(xlim=(left - 0.5, right - 0.5), ylim=(bottom - 0.5, top - 0.5), xticks=[], yticks=[], aspect="equal")
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.set_title(title, fontsize=8, fontweight="normal", loc="left", wrap=True)
    figure.legend(loc="outside lower left", ncols=2, fontsize=8)
    return figure


_LABEL, _PREDICTION, _JOIN = "#4cc3ff", "#ffa21f", "#ff3d6e"


def _view(labels: Array, predictions: Array, image_hw: tuple[int, ...]) -> tuple[int, int, int, int]:
    """The part of the image around the points, with a margin: left, top, right, bottom."""
    height, width = image_hw
    points = np.concatenate([labels, predictions]).clip(0, [width - 1, height - 1])
    low, high = points.min(0), points.max(0)
    middle, side = (low + high) / 2, np.maximum(1.3 * (high - low), 0.45 * (high - low).max()).clip(48)
    left, top = np.maximum(np.floor(middle - side / 2), 0).astype(int).tolist()
    right, bottom = np.minimum(np.ceil(middle + side / 2) + 1, [width, height]).astype(int).tolist()
    return left, top, right, bottom
