"""What all commands share: options, result tables, and the few environment variables that synthmed reads."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from synthmed.files.storage import location
from synthmed.runtime.progress import printable

JsonOption = Annotated[bool, typer.Option("--json", help="Print the result on stdout as JSON instead of a table.")]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Seed of everything random in this command.")]
DeviceOption = Annotated[
    str, typer.Option("--device", help="auto, cpu, cuda or cuda:N; auto takes a GPU if there is one.")
]
OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Start anew where the output folder holds work made with other settings.")
]
ShardsArgument = Annotated[
    Path, typer.Argument(metavar="DIR", parser=location, help="Folder of shards, or its address.")
]
ShardsOutputOption = Annotated[
    Path, typer.Option("--output", "-o", parser=location, metavar="DIR", help="Folder for the shards, or its address.")
]
SplitsOption = Annotated[
    list[str] | None,
    typer.Option("--split", help="Split to use; repeat the option for several.", show_default="all splits"),
]
LoaderWorkersOption = Annotated[
    int, typer.Option("--workers", min=1, help="DataLoader workers per training process that will read the shards.")
]
RanksOption = Annotated[int, typer.Option("--ranks", min=1, help="Training processes that will read the shards.")]
SourceTermsOption = Annotated[
    str,
    typer.Option("--source-license", metavar="TEXT", help="Licence or terms of the source data, for the data card."),
]
BitsOption = Annotated[
    int | None,
    typer.Option(
        "--bits",
        min=8,
        max=16,
        help="Bits of the values in 16-bit grey images whose header does not state them, as in PNG: 12 makes 4095 "
        "white.",
        show_default="16",
    ),
]
ThreadsOption = Annotated[
    int | None,
    typer.Option("--threads", min=1, help="Threads that read and decode images.", show_default="all cores, at most 16"),
]
PositiveOption = Annotated[
    str | None,
    typer.Option(
        "--positive",
        metavar="NAME",
        help="Positive class, whose probability the AUROC ranks images by.",
        show_default="the second of two classes",
    ),
]
VggOption = Annotated[
    Path | None,
    typer.Option(
        "--vgg-weights",
        metavar="FILE",
        help="Weights of VGG-16 for LPIPS: torchvision's vgg16-397923af.pth, or the same as safetensors. They are "
        "never downloaded.",
        show_default="LPIPS is not used",
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
    """Print a result on stdout as a table, numbers aligned to the right; a pipe gets every row uncut."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    def plain(value: object) -> Text:
        # As plain text, because rich would take a class called "[red]" for markup.
        return Text("\n".join(map(printable, str(value).split("\n"))))

    table = Table()
    for index, column in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[index], int | float) for row in rows)
        table.add_column(plain(column), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(plain(f"{cell:.4g}" if isinstance(cell, float) else cell) for cell in row))
    console = Console() if sys.stdout.isatty() else Console(width=200)
    with console.capture() as printed:
        # The table's own title would be wrapped to the width of the table.
        console.print(plain(title))
        console.print(table)
    # Written here, because rich would exit with code 1 where nobody reads stdout any more.
    sys.stdout.write(printed.get())
