"""`synthmed inspect`, `verify`, `pack` and `unpack`: what can be done with folders of shards."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from synthmed.cli.common import JsonOption, OverwriteOption, print_json, print_table
from synthmed.errors import DataError
from synthmed.files.storage import location

if TYPE_CHECKING:
    from synthmed.data.shards.summary import FolderSummary, ReaderShare
    from synthmed.data.verify.folder import VerifyReport

Folder = Annotated[Path, typer.Argument(metavar="DIR", parser=location, help="Folder of shards, or its address.")]
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, help="Threads that read and decode.", show_default="all cores")
]


def inspect(
    folder: Folder,
    split: Annotated[
        str | None,
        typer.Option("--split", help="Look at this split alone.", show_default="all"),
    ] = None,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Loader workers of a training process.")] = 4,
    ranks: Annotated[int, typer.Option("--ranks", min=1, help="Training processes.")] = 1,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Of a training process.")] = 32,
    sheet: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="PNG", help="Write a sheet of samples, a row a class."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what a folder of shards holds, how it was made, and whether loader workers would starve on it.

    Readers share whole shards: with fewer shards than workers x ranks,
    some get none, and an epoch of timm shows only a part of the samples.

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
    # Training decides: a validation split is read whole by any number of readers of one process.
    trained = split or next(iter(shares))
    if warning := shares[trained].warning():
        log(f"warning: {trained}: {warning}")


def _print_summary(summary: FolderSummary, shares: dict[str, ReaderShare]) -> None:
    facts = {
        "kind": summary.kind or "not said",
        "data set": summary.dataset or "not said",
        "positive class": summary.classes.positive or "not said",
        "images": f"{summary.width} x {summary.height} pixels, {', '.join(summary.image_formats)}",
    }
    print_table(summary.folder, ["fact", "value"], [*facts.items(), *summary.made.items()])
    rows: list[list[object]] = []
    for name, found in summary.splits.items():
        lengths, share = {min(found.shard_lengths), max(found.shard_lengths)}, shares[name]
        counts = [found.counts.get(word, 0) for word in summary.classes]
        a_shard, a_reader = (" to ".join(map(str, sorted(ends))) for ends in (lengths, {share.fewest, share.most}))
        size = f"{found.size / 1e6:.1f}"
        rows.append([name, *counts, sum(counts), found.groups, len(found.shard_lengths), a_shard, a_reader, size])
    readers = next(iter(shares.values())).readers
    columns = ["split", *summary.classes, "all", "groups", "shards", "a shard", f"each of {readers} readers", "MB"]
    print_table("samples", columns, rows)


def verify(folder: Folder, threads: Threads = None, as_json: JsonOption = False) -> None:
    """Read every byte of a folder of shards and say what is wrong with it.

    Every member is read and every image decoded; the shards are compared with
    their hashes, the manifest, _info.json, sizes.json and README.md.
    Anything wrong is a row of a table, and the exit code is 3.
    Shards of other programs are checked as far as they can be.

    Example: synthmed verify shards/airogs
    """
    from synthmed.data.verify.folder import verify_folder

    report = verify_folder(folder, workers=threads)
    if as_json:
        print_json(asdict(report))
    else:
        _print_report(report)
    if report.num_problems:
        first = report.problems[0]
        raise DataError(f"{folder}: {_count(report.num_problems)}, first: {first.file}: {first.problem}")


def _count(number: int) -> str:
    return "1 problem" if number == 1 else f"{number} problems"


def _print_report(report: VerifyReport) -> None:
    classes = list(next(iter(report.splits.values())))
    rows = [
        [split, *counts.values(), sum(counts.values()), report.shards[split], f"{report.departure[split]:.1f}"]
        for split, counts in report.splits.items()
    ]
    title = f"{report.folder}: {report.size / 1e6:.1f} MB read"
    print_table(title, ["split", *classes, "all", "shards", "off the mixture"], rows)
    if report.not_checked:
        print_table("not checked", ["what: why"], [[line] for line in report.not_checked])
    if report.num_problems:
        more = _count(report.num_problems)
        if report.num_problems > len(report.problems):
            more += f", the first {len(report.problems)}"
        print_table(more, ["file", "problem"], [[found.file, found.problem] for found in report.problems])


def pack(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="Folder, zip or uncompressed tar of images.")],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", parser=location, metavar="DIR", help="Folder for the shards, or its address."),
    ],
    split: Annotated[
        Literal["train", "validation", "test"], typer.Option("--split", help="Split that the images are to be.")
    ] = "train",
    kind: Annotated[
        Literal["synthetic", "real"], typer.Option("--kind", help="synthetic: a trained model made them.")
    ] = "synthetic",
    image_format: Annotated[
        Literal["png", "keep"],
        typer.Option(
            "--image-format",
            help="png: encoded again, same pixels, marked inside as synthetic. keep: the bytes as they are, without "
            "that mark; then all must be PNG, all WebP or all JPEG.",
        ),
    ] = "png",
    classes: Annotated[
        list[str] | None,
        typer.Option(
            "--class",
            metavar="NAME",
            help="Name of a class, given once for each in label order; with class folders, the folders to look for.",
            show_default="from the source",
        ),
    ] = None,
    positive: Annotated[
        str | None,
        typer.Option("--positive", metavar="NAME", help="Class whose score AUROC ranks.", show_default="second of two"),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option("--dataset", metavar="NAME", help="Data set's name in the shards.", show_default="the source's"),
    ] = None,
    source_license: Annotated[
        str, typer.Option("--source-license", metavar="TEXT", help="Licence or terms of the source, for the data card.")
    ] = "not stated",
    max_bad: Annotated[
        float,
        typer.Option(
            "--max-bad", help="Largest share of images that may be broken, of another size than the first, or refused."
        ),
    ] = 0.01,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Loader workers the shards are to suit.")] = 4,
    ranks: Annotated[int, typer.Option("--ranks", min=1, help="Training processes the shards are to suit.")] = 1,
    threads: Threads = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make shards of any images with labels, such as those of another generator. The same command resumes.

    Labels come from StyleGAN's dataset.json, from a metadata.jsonl with
    file_name, label and perhaps group (the patient), or from the folders:
    one a class, images in any depth below. Archives are not unpacked.
    No image is resized; prepare images does that.
    Images that cannot be used are named in DIR/.synthmed/left_out.jsonl.

    Examples:

      synthmed pack gan-images --class NRG --class RG -o shards/gan

      synthmed pack stylegan.zip --class NRG --class RG --dataset airogs --positive RG -o shards/stylegan
    """
    from synthmed.data.pack.pack import PackConfig, pack_images

    config = PackConfig(
        split=split,
        kind=kind,
        image_format=image_format,
        dataset=dataset,
        positive=positive,
        classes=tuple(classes or ()),
        workers=workers,
        ranks=ranks,
        max_bad=max_bad,
        source_terms=source_license,
    )
    report = pack_images(source, output, config, overwrite=overwrite, threads=threads)
    if as_json:
        print_json(asdict(report))
        return
    title = f"{output}: {report.shards} shards of {report.width} x {report.height} {report.image_format}, {split}"
    print_table(title, ["label", "class", "images"], [[k, *item] for k, item in enumerate(report.images.items())])
    if report.left_out:
        print_table("left out", ["reason", "images"], [[reason, count] for reason, count in report.left_out.items()])


def unpack(
    folder: Folder,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="Folder for the images.")],
    splits: Annotated[
        list[str] | None, typer.Option("--split", help="Split to unpack; give it more than once.", show_default="all")
    ] = None,
    labels: Annotated[
        Literal["folders", "stylegan"],
        typer.Option(
            "--labels",
            help="folders: metadata.jsonl, as Hugging Face's imagefolder reads it; stylegan: dataset.json.",
        ),
    ] = "folders",
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write shards as FOLDER/SPLIT/CLASS/KEY.png, bytes unchanged, with a file of labels. The same command resumes.

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
