"""Progress and log lines, on stderr only: stdout belongs to results."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

Advance = Callable[[int], None]


def printable(text: str) -> str:
    """Return a text with escapes in place of control characters and of what UTF-8 does not have.

    Names from files reach the terminal: they could move its cursor, and a lone surrogate cannot be written at all.
    """
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def log(message: str) -> None:
    """Print a message on stderr, above a progress bar if one is shown."""
    # The bar redirects writes to sys.stderr, so a plain print does not tear it.
    print("\n".join(map(printable, message.split("\n"))), file=sys.stderr, flush=True)


@contextlib.contextmanager
def progress(description: str, total: int, unit: str, done: int = 0) -> Iterator[Advance]:
    """Show a bar with count, rate and time left while the block runs; silent where stderr is no terminal.

    Args:
        description: What is being done.
        total: Units in the whole work.
        unit: Name of one unit in the plural, e.g. "images".
        done: Units that an earlier run had finished; they do not count for the rate.

    Yields:
        A function to call with the number of units just finished.
    """
    if not sys.stderr.isatty():
        yield lambda count: None
        return
    from rich import progress as rich
    from rich.console import Console

    columns = (
        rich.TextColumn("{task.description}"),
        rich.BarColumn(),
        rich.MofNCompleteColumn(),
        rich.TextColumn("{task.fields[rate]}"),
        rich.TimeElapsedColumn(),
        rich.TextColumn("left"),
        rich.TimeRemainingColumn(),
    )
    with rich.Progress(*columns, console=Console(stderr=True), redirect_stdout=False) as bar:
        task = bar.add_task(description, total=total, completed=done, rate="")

        def advance(count: int) -> None:
            bar.advance(task, count)
            speed = bar.tasks[0].speed
            bar.update(task, rate=f"{speed:.3g} {unit}/s" if speed else "")

        yield advance
