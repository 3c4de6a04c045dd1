"""Shows what a sweep found: a table, a CSV file, a picture."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from lightpose.cli.app import visible
from lightpose.report.sweep import REFUSED, Trial, picture


def print_table(trials: Sequence[Trial], figure: str) -> None:
    """A row for each trial: its figure and what sets it apart; then why trials were refused."""
    columns = dict.fromkeys(key for trial in trials for key in trial.values)
    heads = [escape(visible(head)) for head in ("trial", figure, *columns, "")]
    table = Table(*heads, box=None, header_style="bold", pad_edge=False)
    for trial in trials:
        values = (visible(_short(trial.values.get(key, ""))) for key in columns)
        value = "n/a" if trial.value is None else f"{trial.value:.4f}"
        table.add_row(str(trial.number), value, *map(Text, values), trial.state)
    Console(file=sys.stdout, width=None if sys.stdout.isatty() else 200).print(table)
    for trial in trials:
        if trial.state == REFUSED:
            print(visible(f"trial {trial.number} was refused: {trial.said}"))


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def write_results(folder: Path, trials: Sequence[Trial], figure: str, higher: bool, logarithmic: Sequence[str]) -> None:
    """Write ``sweep.csv`` and ``sweep.png``.

    Args:
        folder: of the sweep.
        trials: so far, with the same keys.
        figure: what their values are.
        higher: whether a high value is good.
        logarithmic: keys with a logarithmic axis.
    """
    import matplotlib

    from lightpose.data.coco.results import write_csv
    from lightpose.report.plots import STYLE
    from lightpose.runtime.aside import written_aside

    keys = list(trials[0].values)
    rows = [
        [trial.number, trial.state, "" if trial.value is None else trial.value, *trial.values.values(), trial.said]
        for trial in trials
    ]
    write_csv(folder / "sweep.csv", [["trial", "state", figure, *keys, "said"], *rows])
    with matplotlib.rc_context(STYLE), written_aside(folder / "sweep.png") as part:
        picture(trials, figure, higher, logarithmic).savefig(part, format="png")
