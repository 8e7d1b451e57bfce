"""What all commands share: options, result tables, and the few environment variables that synthmed reads."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from synthmed.runtime.progress import printable

JsonOption = Annotated[bool, typer.Option("--json", help="Print the result on stdout as JSON instead of a table.")]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Seed of everything random in this command.")]
DeviceOption = Annotated[
    str, typer.Option("--device", help="auto, cpu, cuda or cuda:N; auto takes a GPU if there is one.")
]
OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Start anew where the output folder holds work made with other settings.")
]

VggOption = Annotated[
    Path | None,
    typer.Option(
        "--vgg-weights",
        help="VGG-16 for LPIPS: torchvision's vgg16-397923af.pth, or its weights as safetensors. Never downloaded.",
        show_default=False,
    ),
]


def models_home() -> Path:
    """Return the folder in which trained and imported models are registered.

    `SYNTHMED_HOME` if it is set, else `synthmed` in the user's data folder.
    """
    if home := os.environ.get("SYNTHMED_HOME"):
        return Path(home)
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "synthmed"


def print_json(value: Any) -> None:
    """Print a result on stdout as JSON."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a result on stdout as a table, numbers to the right; never cut when stdout is a pipe."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    def plain(value: object) -> Text:
        # Not text with rich's marks: a class may be called "[red]".
        return Text("\n".join(map(printable, str(value).split("\n"))))

    table = Table()
    for number, column in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[number], int | float) for row in rows)
        table.add_column(plain(column), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(plain(f"{cell:.4g}" if isinstance(cell, float) else cell) for cell in row))
    console = Console() if sys.stdout.isatty() else Console(width=200)
    with console.capture() as printed:
        # Not the table's own title: that would be broken to the table's width.
        console.print(plain(title))
        console.print(table)
    # Written here: where nobody reads stdout any more, rich would end the program with code 1.
    sys.stdout.write(printed.get())
