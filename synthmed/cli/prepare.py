"""`synthmed prepare`: a data set release, or drawn phantoms, into real shards."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from synthmed.cli.common import JsonOption, OverwriteOption, SeedOption, print_json, print_table
from synthmed.data.shards.card import NOT_STATED
from synthmed.files.storage import location

if TYPE_CHECKING:
    from synthmed.data.prepare.raw import Release
    from synthmed.data.prepare.report import PrepareReport

prepare_app = typer.Typer(
    name="prepare",
    help="Turn a data set release, as its authors publish it, into shards with train, validation and test splits.",
    epilog="Splits never share a patient. Images that cannot be used are named in DIR/.synthmed/left_out.jsonl. "
    "The same command goes on where it was stopped.",
)


@prepare_app.callback(invoke_without_command=True)
def prepare_command(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        sys.stdout.write(context.get_help() + "\n")


Source = Annotated[Path, typer.Argument(metavar="SOURCE", help="Folder into which the release was unpacked.")]
Output = Annotated[
    Path, typer.Option("--output", "-o", parser=location, metavar="DIR", help="Folder for the shards, or its address.")
]
Size = Annotated[
    int | None,
    typer.Option("--size", min=16, max=2048, help="Width and height in pixels.", show_default="as published"),
]
ResizeOption = Annotated[
    Literal["crop", "stretch"] | None,
    typer.Option(
        "--resize",
        help="crop: short side to the size, centre cut out; stretch: proportions are not kept.",
        show_default="as published",
    ),
]
Validation = Annotated[float, typer.Option("--validation", help="Share of the images for the validation split.")]
Test = Annotated[float, typer.Option("--test", help="Share of the images for the test split.")]
MaxBad = Annotated[
    float,
    typer.Option(
        "--max-bad",
        help="Largest share of images that may be missing, unreadable, too small (short side under half the size, or "
        "under 16) or duplicate; they are left out.",
    ),
]
FormatOption = Annotated[
    Literal["png", "webp", "jpg"], typer.Option("--image-format", help="png and webp are lossless; jpg is quality 95.")
]
Name = Annotated[
    str | None, typer.Option("--name", help="Name of the data set in the shards.", show_default="the data set's own")
]
Terms = Annotated[
    str, typer.Option("--source-license", metavar="TEXT", help="Licence or terms of the source, for the data card.")
]
Workers = Annotated[
    int | None, typer.Option("--workers", min=1, help="Threads that decode and encode.", show_default="all cores")
]


@prepare_app.command("airogs", epilog="Example: synthmed prepare airogs ~/airogs -o data/airogs")
def prepare_airogs(
    source: Source,
    output: Output,
    groups: Annotated[
        Path | None,
        typer.Option(
            "--groups",
            metavar="CSV",
            help="Columns challenge_id and group: the patient of every image, which the release does not state.",
            show_default="each image its own patient",
        ),
    ] = None,
    size: Size = None,
    resize: ResizeOption = None,
    validation: Validation = 0.1,
    test: Test = 0.3,
    max_bad: MaxBad = 0.01,
    image_format: FormatOption = "png",
    name: Name = None,
    source_license: Terms = NOT_STATED,
    workers: Workers = None,
    seed: SeedOption = 0,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> None:
    """Fundus photographs: train_labels.csv (challenge_id,class), <challenge_id>.jpg in any depth; NRG 0, RG 1."""
    from synthmed.data.prepare.releases import read_airogs

    _prepare(read_airogs(source, groups), **_common(locals()))


@prepare_app.command("crcdx", epilog="Example: synthmed prepare crcdx ~/CRC_DX -o data/crcdx")
def prepare_crcdx(
    source: Source,
    output: Output,
    size: Size = None,
    resize: ResizeOption = None,
    validation: Annotated[
        float, typer.Option("--validation", help="Share for the validation split; of train, if there is a test set.")
    ] = 0.1,
    test: Annotated[
        float, typer.Option("--test", help="Share for the test split; not used if the release has one.")
    ] = 0.3,
    max_bad: MaxBad = 0.01,
    image_format: FormatOption = "png",
    name: Name = None,
    source_license: Terms = NOT_STATED,
    workers: Workers = None,
    seed: SeedOption = 0,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> None:
    """Histology tiles in folders MSIH (0) and nonMSIH (1); patient from the TCGA barcode; own train and test kept."""
    from synthmed.data.prepare.releases import read_crcdx

    _prepare(read_crcdx(source), **_common(locals()))


@prepare_app.command(
    "chexpert", epilog="Example: synthmed prepare chexpert ~/CheXpert-v1.0-small -o data/chexpert --finding Edema"
)
def prepare_chexpert(
    source: Source,
    output: Output,
    finding: Annotated[
        str, typer.Option("--finding", help="Column of train.csv that is the positive class, any of the 14.")
    ] = "Cardiomegaly",
    uncertain: Annotated[
        Literal["positive", "negative", "drop"], typer.Option("--uncertain", help="What -1 counts as.")
    ] = "positive",
    blank: Annotated[
        Literal["negative", "drop"], typer.Option("--blank", help="What an empty cell counts as.")
    ] = "negative",
    size: Size = None,
    resize: ResizeOption = None,
    validation: Validation = 0.1,
    test: Test = 0.3,
    max_bad: MaxBad = 0.01,
    image_format: FormatOption = "png",
    name: Name = None,
    source_license: Terms = NOT_STATED,
    workers: Workers = None,
    seed: SeedOption = 0,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> None:
    """Frontal chest X-rays of train.csv, patient from the path; grey, stretched, minimum and maximum to 0 and 255."""
    from synthmed.data.prepare.releases import read_chexpert

    _prepare(read_chexpert(source, finding, uncertain, blank), **_common(locals()))


@prepare_app.command(
    "images", epilog="Example: synthmed prepare images tiles -o data/tiles --group-pattern '^[^_]+_[^_]+'"
)
def prepare_images(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="Folder with one folder of images a class.")],
    output: Output,
    group_pattern: Annotated[
        str | None,
        typer.Option(
            "--group-pattern",
            metavar="REGEX",
            help="Searched in an image's path below its class folder: the first group, or the whole match without one,"
            " is the patient.",
        ),
    ] = None,
    groups: Annotated[
        Path | None,
        typer.Option("--groups", metavar="CSV", help="Column group: the patient; another column: the image's name."),
    ] = None,
    positive: Annotated[
        str | None,
        typer.Option("--positive", help="Class whose score AUROC ranks.", show_default="the second of two"),
    ] = None,
    size: Size = None,
    resize: ResizeOption = None,
    validation: Validation = 0.1,
    test: Test = 0.3,
    max_bad: MaxBad = 0.01,
    image_format: FormatOption = "png",
    name: Annotated[
        str | None, typer.Option("--name", help="Name of the data set.", show_default="the folder's name")
    ] = None,
    source_license: Terms = NOT_STATED,
    workers: Workers = None,
    seed: SeedOption = 0,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> None:
    """Any images, one folder a class; labels in the order of the sorted folder names."""
    from synthmed.data.prepare.releases import read_image_folders

    release = read_image_folders(source, name, group_pattern, groups, positive)
    _prepare(release, **_common(locals()))


@prepare_app.command("phantom", epilog="Example: synthmed prepare phantom -n 2000 --size 64 -o data/phantom")
def prepare_phantom(
    output: Output,
    num_images: Annotated[int, typer.Option("--num-images", "-n", min=1, help="Images in all, both classes alike.")],
    size: Annotated[int, typer.Option("--size", min=32, max=1024, help="Width and height in pixels.")] = 64,
    validation: Validation = 0.1,
    test: Test = 0.3,
    image_format: FormatOption = "png",
    workers: Workers = None,
    seed: SeedOption = 0,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> None:
    """Drawn eye fundus images with known cup-to-disc ratio: no external data needed."""
    from synthmed.phantoms.release import phantom_release

    _prepare(phantom_release(num_images), **_common(locals()))


_CONFIG = ("validation", "test", "max_bad", "seed", "name", "image_format")


def _common(given: dict[str, Any]) -> dict[str, Any]:
    """Return the options that all releases share from a command's arguments."""
    config = {key: given[key] for key in _CONFIG if key in given}
    if "source_license" in given:
        config["source_terms"] = given["source_license"]
    as_published = {key: given.get(key) for key in ("size", "resize")}
    return {"config": config, **as_published, **{key: given[key] for key in ("output", "overwrite", "workers", "json")}}


def _prepare(
    release: Release,
    config: dict[str, Any],
    size: int | None,
    resize: Literal["crop", "stretch"] | None,
    output: Path,
    overwrite: bool,
    workers: int | None,
    json: bool,
) -> None:
    from synthmed.data.prepare.prepare import PrepareConfig, prepare_release

    info = release.info
    settings = PrepareConfig(size=size or info.size, resize=resize or info.resize, **config)
    report = prepare_release(release, output, settings, overwrite=overwrite, workers=workers)
    if json:
        print_json({"output": str(output), **asdict(report)})
    else:
        _print_report(report, output)


def _print_report(report: PrepareReport, output: Path) -> None:
    rows = [
        [split, *counts.values(), sum(counts.values()), report.groups[split]] for split, counts in report.splits.items()
    ]
    totals = [sum(column) for column in zip(*(row[1:] for row in rows), strict=True)]
    print_table(str(output), [report.dataset, *report.classes, "all", "groups"], [*rows, ["all", *totals]])
    if report.left_out:
        print_table("left out", ["reason", "images"], [[reason, count] for reason, count in report.left_out.items()])
    if report.published:
        counts = [[check.name, check.found, check.published] for check in report.published]
        print_table(report.verdict, ["count", "found", "published"], counts)
