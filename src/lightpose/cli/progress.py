"""A bar that says how fast work goes and how long it will take."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def counted(items: Iterable[T], what: str, total: int | None, unit: str) -> Iterator[T]:
    """The same items, counted on the terminal: how many of how many, how many a second, and the time left.

    Where standard output is no terminal nothing is shown.

    Args:
        items: any.
        what: is done, such as ``predicting``.
        total: how many there will be; None where nobody knows.
        unit: what they are, such as ``frames``.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        Task,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(TextColumn):
        """Items a second, of late."""

        def render(self, task: Task) -> Text:
            speed = task.completed / task.elapsed if task.finished and task.elapsed else task.speed
            return Text("" if speed is None else f"{speed:.{0 if speed >= 100 else 1}f} {unit}/s")

    console = Console()
    time = TimeElapsedColumn() if total is None else TimeRemainingColumn(elapsed_when_finished=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(""), time)
    with Progress(*columns, console=console, disable=not console.is_terminal, speed_estimate_period=10) as progress:
        yield from progress.track(items, total=total, description=what)
