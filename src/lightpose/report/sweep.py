"""The picture of a sweep: the figure of each trial, and how it depends on what was searched."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from lightpose.report.plots import short

FINISHED, STOPPED, REFUSED = "finished", "stopped early", "refused"

_BLUE, _ORANGE, _RED, _GREY = "#2b7bba", "#e8820c", "#d6336c", "#777777"
_LOOKS: Mapping[str, Any] = {
    FINISHED: {"marker": "o", "color": _BLUE},
    STOPPED: {"marker": "x", "color": _ORANGE},
    REFUSED: {"marker": "|", "color": _GREY},
}


@dataclass(frozen=True)
class Trial:
    """One job of a sweep.

    Attributes:
        number: the name of its folder.
        state: `FINISHED`, `STOPPED` or `REFUSED`.
        value: the figure that it reached, None if there is none.
        values: what it was given, by key; texts, or numbers of a range.
        said: why it was refused.
    """

    number: int
    state: str
    value: float | None
    values: Mapping[str, Any]
    said: str = ""


def best_of(trials: Sequence[Trial], higher: bool) -> Trial | None:
    """The trial with the best figure of those that finished."""
    finished = [(trial.value, trial) for trial in trials if trial.state == FINISHED and trial.value is not None]
    return (max if higher else min)(finished, key=lambda pair: pair[0])[1] if finished else None


def picture(trials: Sequence[Trial], figure_name: str, higher: bool, logarithmic: Sequence[str]) -> Figure:
    """The figure of each trial in their order, and over each key that was searched.

    Refused trials, which have no figure, are ticks at the bottom.

    Args:
        trials: one or more, with the same keys.
        figure_name: what their values are.
        higher: whether a high value is good.
        logarithmic: keys whose axes are logarithmic.
    """
    keys = list(trials[0].values)
    rows = math.ceil((1 + len(keys)) / 2)
    figure = Figure(figsize=(9.0, 0.5 + 2.7 * rows), layout="constrained")
    best = best_of(trials, higher)
    for place, key in enumerate([None, *keys], 1):
        axes = figure.add_subplot(rows, 2, place)
        names: list[str] = []
        if key is not None and any(isinstance(trial.values[key], str) for trial in trials):
            names = sorted({str(trial.values[key]) for trial in trials})
            axes.set_xticks(range(len(names)), [short(name, 16) for name in names])
            axes.set_xlim(-0.5, len(names) - 0.5)
        elif key in logarithmic:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axes.xaxis.set_major_formatter("{x:g}")
            axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set(xlabel="trial" if key is None else short(key, 40), ylabel=figure_name)

        def across(trial: Trial, key: str | None = key, names: list[str] = names) -> float:
            if key is None:
                return trial.number
            return names.index(str(trial.values[key])) if names else float(trial.values[key])

        for state, look in _LOOKS.items():
            shown = [trial for trial in trials if trial.state == state]
            places = [across(trial) for trial in shown]
            if state == REFUSED:
                at_bottom: Any = {"transform": axes.get_xaxis_transform(), "label": state if shown else None}
                axes.plot(places, [0.02] * len(shown), linestyle="", **at_bottom, **look)
            else:
                heights = [math.nan if trial.value is None else trial.value for trial in shown]
                axes.plot(places, heights, linestyle="", markersize=5, label=state if shown else None, **look)
        if best is not None:
            axes.plot(across(best), best.value, "o", color=_RED, markersize=9, fillstyle="none", label="best")  # type: ignore[arg-type]
        if key is None:
            _best_so_far(axes, trials, higher)
            axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    handles = {
        label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4)
    return figure


def _best_so_far(axes: Axes, trials: Sequence[Trial], higher: bool) -> None:
    finished = [(trial.number, trial.value) for trial in trials if trial.state == FINISHED and trial.value is not None]
    if len(finished) > 1:
        numbers, values = np.array(finished, np.float64).T
        best = (np.maximum if higher else np.minimum).accumulate(values)
        axes.step(numbers, best, where="post", color=_GREY, linewidth=1.2, zorder=1)
