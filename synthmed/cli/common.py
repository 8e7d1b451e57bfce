"""What all commands share: options, result tables, and the few environment variables that synthmed reads."""

from __future__ import annotations

import errno
import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from synthmed.config.limits import MAX_RANKS, MAX_SEED, MAX_THREADS, MAX_WORKERS
from synthmed.data.datasets import check_dataset_name
from synthmed.errors import CheckpointError, DataError, DeviceError, UsageError
from synthmed.files.outputs import check_output
from synthmed.files.storage import location, naming_write_errors
from synthmed.runtime.launch import check_device_name, check_threads
from synthmed.runtime.progress import printable


def output_folder(place: str | Path) -> Path:
    """Return a folder to write to, or its address; - is no folder, but stdout."""
    folder = location(place)
    if str(folder) != "-":
        check_output(folder)
    return folder


def local_folder(place: str | Path) -> Path:
    """Return a folder of this machine to write to."""
    if "://" in str(place):
        raise UsageError(f"cannot write to {place}", "this command writes to a folder of this machine")
    return output_folder(place)


def output_file(place: str | Path) -> Path:
    """Return a file of this machine to write."""
    path = Path(place)
    with naming_write_errors(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    check_output(path.parent)
    return path


def device_name(name: str) -> str:
    """Return the name of a device, of a command that will compute."""
    check_threads()
    return check_device_name(name)


def parse_number(text: str, least: int, most: int) -> int | None:
    """Return a number that is part of a word, or `None` for what is none or out of range."""
    number = int(text) if re.fullmatch(r"[0-9]{1,18}", text, re.ASCII) else None
    return number if number is not None and least <= number <= most else None


def local_output(text: str) -> Any:
    """Return the option -o of a command that writes a folder of this machine."""
    return typer.Option("--output", "-o", parser=local_folder, metavar="DIR", help=text)


def file_output(text: str, metavar: str = "FILE") -> Any:
    """Return the option -o of a command that writes one file."""
    return typer.Option("--output", "-o", parser=output_file, metavar=metavar, help=text)


def given_file(place: str | Path) -> Path:
    """Return a file to read, which is missed now rather than when it is needed."""
    path = Path(place)
    if not path.is_file():
        raise CheckpointError(f"no such file: {path}")
    return path


def _check_patterns(patterns: list[str] | None) -> list[str] | None:
    for pattern in patterns or ():
        if not pattern.strip("./"):
            raise UsageError(f"--exclude {pattern!r} fits nothing", "e.g. --exclude '*_mask.png'")
    return patterns


JsonOption = Annotated[bool, typer.Option("--json", help="Print the result on stdout as JSON instead of a table.")]
SeedOption = Annotated[
    int, typer.Option("--seed", min=0, max=MAX_SEED, help="Seed of everything random in this command.")
]
DeviceOption = Annotated[
    str,
    typer.Option("--device", callback=device_name, help="auto, cpu, cuda or cuda:N; auto takes a GPU if there is one."),
]
OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Start anew where the output folder holds work made with other settings.")
]
ShardsArgument = Annotated[
    Path, typer.Argument(metavar="DIR", parser=location, help="Folder of shards, or its address.")
]
ShardsOutputOption = Annotated[
    Path,
    typer.Option("--output", "-o", parser=output_folder, metavar="DIR", help="Folder for the shards, or its address."),
]
SplitsOption = Annotated[
    list[str] | None,
    typer.Option("--split", help="Split to use; repeat the option for several.", show_default="all splits"),
]
LoaderWorkersOption = Annotated[
    int,
    typer.Option(
        "--workers", min=1, max=MAX_WORKERS, help="DataLoader workers per training process that will read the shards."
    ),
]
RanksOption = Annotated[
    int, typer.Option("--ranks", min=1, max=MAX_RANKS, help="Training processes that will read the shards.")
]
SourceTermsOption = Annotated[
    str,
    typer.Option("--source-license", metavar="TEXT", help="Licence or terms of the source data, for the data card."),
]
ThreadsOption = Annotated[
    int | None,
    typer.Option(
        "--threads",
        min=1,
        max=MAX_THREADS,
        help="Threads that read and decode images.",
        show_default="all cores, at most 16",
    ),
]
ExcludeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--exclude",
        metavar="PATTERN",
        help="Shell pattern of files to pass over, e.g. '*_mask.png': it must fit the path inside the source, or one "
        "part of it, such as a folder's name; repeat the option for several.",
        show_default="none",
        callback=_check_patterns,
    ),
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
        parser=given_file,
        metavar="FILE",
        help="Weights of VGG-16 for LPIPS: torchvision's vgg16-397923af.pth, or the same in another file. They are "
        "never downloaded.",
        show_default="LPIPS is not used",
    ),
]


def dataset_word(word: str) -> str:
    """Return the name of a data set as an option gives it.

    Raises:
        UsageError: It is none.
    """
    try:
        return check_dataset_name(word)
    except DataError as error:
        raise UsageError(str(error)) from error


def models_home(*, to_write: bool = False) -> Path:
    """Return the folder in which trained and imported models are registered.

    `SYNTHMED_HOME` if it is set, else `synthmed` in the user's data folder.

    Raises:
        UsageError: It is a file, it cannot be written to though that is wanted, or the user has no home folder.
    """
    try:
        if home := os.environ.get("SYNTHMED_HOME"):
            folder = Path(home).expanduser()
        else:
            folder = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "synthmed"
    except RuntimeError as error:
        raise UsageError("there is no home folder to register models in", "set the variable SYNTHMED_HOME") from error
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"the variable SYNTHMED_HOME is {home!r}, which is not a folder", "name one")
    if to_write:
        try:
            check_output(folder)
        except DeviceError as error:
            raise UsageError(f"models cannot be registered: {error}", "name another folder: SYNTHMED_HOME") from error
    return folder


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
