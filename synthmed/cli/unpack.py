"""`synthmed unpack`: shards as plain files."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from synthmed.cli.common import (
    JsonOption,
    OverwriteOption,
    ShardsArgument,
    SplitsOption,
    local_output,
    print_json,
    print_table,
)

OutputOption = Annotated[Path, local_output("Folder for the images.")]
LabelsOption = Annotated[
    Literal["folders", "stylegan"],
    typer.Option(
        "--labels",
        help="File that holds the labels: folders writes metadata.jsonl, as Hugging Face's imagefolder reads it; "
        "stylegan writes dataset.json.",
    ),
]


def unpack(
    folder: ShardsArgument,
    output: OutputOption,
    splits: SplitsOption = None,
    labels: LabelsOption = "folders",
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write the images of shards as FOLDER/SPLIT/CLASS/KEY.png, bytes unchanged, and a file with their labels.

    The same command resumes.

    Example: synthmed unpack shards/airogs -o images/airogs --split train --labels stylegan
    """
    from synthmed.data.pack.unpack import unpack_folder

    report = unpack_folder(folder, output, splits=splits or (), labels=labels, overwrite=overwrite)
    if as_json:
        print_json(asdict(report))
        return
    classes = max(report.splits.values(), key=len)
    rows = [
        [split, *(counts.get(name, 0) for name in classes), sum(counts.values())]
        for split, counts in report.splits.items()
    ]
    print_table(f"{output}: labels in SPLIT/{report.label_file}", ["split", *classes, "all"], rows)
