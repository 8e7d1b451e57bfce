"""`synthmed pack`: images of any other program as shards."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from synthmed.cli.common import (
    ExcludeOption,
    JsonOption,
    LoaderWorkersOption,
    OverwriteOption,
    PositiveOption,
    RanksOption,
    ShardsOutputOption,
    SourceTermsOption,
    ThreadsOption,
    dataset_word,
    print_json,
    print_table,
)
from synthmed.data.shards.card import NOT_STATED

if TYPE_CHECKING:
    from synthmed.data.pack.pack import PackReport

SourceArgument = Annotated[Path, typer.Argument(metavar="SOURCE", help="Folder, zip or uncompressed tar of images.")]
SplitOption = Annotated[
    Literal["train", "validation", "test"], typer.Option("--split", help="Split that the images become.")
]
KindOption = Annotated[
    Literal["synthetic", "real"],
    typer.Option("--kind", help="What the images are; synthetic means that a trained model made them."),
]
FormatOption = Annotated[
    Literal["png", "keep"],
    typer.Option(
        "--image-format",
        help="png encodes the same pixels again and marks synthetic images inside the file. keep takes the bytes as "
        "they are, without that mark; then all images must be PNG, all WebP or all JPEG.",
    ),
]
ClassesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--class",
        metavar="NAME",
        help="Name of a class; give one per class, in label order. With class folders, these are the folders to use.",
        show_default="the names in the source",
    ),
]
DatasetOption = Annotated[
    str | None,
    typer.Option(
        "--dataset",
        parser=dataset_word,
        metavar="NAME",
        help="Name of the data set in the shards.",
        show_default="the source's name",
    ),
]
MaxBadOption = Annotated[
    float,
    typer.Option(
        "--max-bad",
        min=0,
        max=1,
        help="Largest share of images that may be left out because they are broken, of another size than the first "
        "image, or refused for their name.",
    ),
]


def pack(
    source: SourceArgument,
    output: ShardsOutputOption,
    split: SplitOption = "train",
    kind: KindOption = "synthetic",
    image_format: FormatOption = "png",
    classes: ClassesOption = None,
    positive: PositiveOption = None,
    dataset: DatasetOption = None,
    source_license: SourceTermsOption = NOT_STATED,
    exclude: ExcludeOption = None,
    max_bad: MaxBadOption = 0.01,
    workers: LoaderWorkersOption = 4,
    ranks: RanksOption = 1,
    threads: ThreadsOption = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make shards of any images with labels, such as those of another generator. The same command resumes.

    Labels come from StyleGAN's dataset.json, from a metadata.jsonl with
    file_name, label and perhaps group (the patient), or from the folders: one
    per class, with images in any depth below. Archives are not unpacked. Images
    are not resized; `synthmed prepare images` does that. Images that cannot be
    used are named in DIR/.synthmed/left_out.jsonl.

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
        exclude=tuple(exclude or ()),
        source_terms=source_license,
    )
    report = pack_images(source, output, config, overwrite=overwrite, threads=threads)
    if as_json:
        print_json(asdict(report))
    else:
        _print_report(report)


def _print_report(report: PackReport) -> None:
    shards = f"{report.shards} shards of {report.width} x {report.height} {report.image_format}, {report.split}"
    images = [[label, *item] for label, item in enumerate(report.images.items())]
    print_table(f"{report.output}: {shards}", ["label", "class", "images"], images)
    if report.left_out:
        print_table("left out", ["reason", "images"], list(report.left_out.items()))
