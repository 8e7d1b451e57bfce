"""`synthmed inspect`: what a folder of shards holds."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from synthmed.cli.common import (
    JsonOption,
    LoaderWorkersOption,
    RanksOption,
    ShardsArgument,
    output_file,
    print_json,
    print_table,
)
from synthmed.config.limits import MAX_BATCH_SIZE

if TYPE_CHECKING:
    from synthmed.data.shards.summary import FolderSummary, ReaderShare

SplitOption = Annotated[str | None, typer.Option("--split", help="Show this split alone.", show_default="all splits")]
BatchSizeOption = Annotated[
    int, typer.Option("--batch-size", min=1, max=MAX_BATCH_SIZE, help="Images per batch of a training process.")
]
SheetOption = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        parser=output_file,
        metavar="PNG",
        help="Write a contact sheet of samples to this file, one row per class.",
        show_default="no sheet",
    ),
]


def inspect(
    folder: ShardsArgument,
    split: SplitOption = None,
    workers: LoaderWorkersOption = 4,
    ranks: RanksOption = 1,
    batch_size: BatchSizeOption = 32,
    sheet: SheetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a folder of shards holds, how it was made, and whether every DataLoader worker gets samples from it.

    Loader workers share whole shards: where there are fewer shards than workers
    x ranks, some workers get none, and an epoch of timm shows only a part of
    the samples.

    Example: synthmed inspect shards/airogs --workers 8 --ranks 4 -o samples.png
    """
    from synthmed.data.shards.summary import encode_sheet, share_shards, summarise_folder
    from synthmed.files.atomic import write_bytes
    from synthmed.runtime.progress import log

    summary, opened = summarise_folder(folder, split)
    shares = {
        name: share_shards(found.shard_lengths, workers=workers, ranks=ranks, batch_size=batch_size)
        for name, found in summary.splits.items()
    }
    if sheet is not None:
        write_bytes(sheet, encode_sheet(opened[0]))
    if as_json:
        readers = {name: {**asdict(share), "warning": share.warning()} for name, share in shares.items()}
        print_json({**asdict(summary), "readers": readers, "sheet": sheet and str(sheet)})
    else:
        _print_summary(summary, shares)
    # Only training matters: a validation split is read whole, by any number of workers of one process.
    trained = split or next(iter(shares))
    if warning := shares[trained].warning():
        log(f"warning: {trained}: {warning}")


def _print_summary(summary: FolderSummary, shares: dict[str, ReaderShare]) -> None:
    facts = {
        "kind": summary.kind or "not stated",
        "data set": summary.dataset or "not stated",
        "positive class": summary.classes.positive or "not stated",
        "images": f"{summary.width} x {summary.height} pixels, {', '.join(summary.image_formats)}",
    }
    print_table(summary.folder, ["fact", "value"], [*facts.items(), *summary.made.items()])
    rows: list[list[object]] = []
    for name, found in summary.splits.items():
        lengths, share = {min(found.shard_lengths), max(found.shard_lengths)}, shares[name]
        counts = [found.counts.get(word, 0) for word in summary.classes]
        per_shard, per_reader = (" to ".join(map(str, sorted(ends))) for ends in (lengths, {share.fewest, share.most}))
        size = f"{found.size / 1e6:.1f}"
        rows.append([name, *counts, sum(counts), found.groups, len(found.shard_lengths), per_shard, per_reader, size])
    readers = next(iter(shares.values())).readers
    columns = ["split", *summary.classes, "all", "groups", "shards", "per shard", f"each of {readers} readers", "MB"]
    print_table("samples", columns, rows)
