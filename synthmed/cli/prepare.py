"""`synthmed prepare`: a data set release, or drawn eyes, as shards."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from synthmed.cli.common import (
    ExcludeOption,
    JsonOption,
    OverwriteOption,
    PositiveOption,
    SeedOption,
    ShardsOutputOption,
    SourceTermsOption,
    dataset_word,
    print_json,
    print_table,
)
from synthmed.config.limits import MAX_PHANTOMS, MAX_THREADS
from synthmed.data.datasets import AIROGS, CRCDX, PHANTOM_FUNDUS, DataSetInfo, chexpert_info
from synthmed.data.shards.card import NOT_STATED

if TYPE_CHECKING:
    from synthmed.data.prepare.raw import Release
    from synthmed.data.prepare.report import PrepareReport

CHEXPERT = chexpert_info()

prepare_app = typer.Typer(
    name="prepare",
    help="Turn a data set release, as its authors publish it, into shards with train, validation and test splits.",
    epilog="Splits never share a patient. Images that cannot be used are named in DIR/.synthmed/left_out.jsonl. "
    "The same command resumes.",
)


@prepare_app.callback(invoke_without_command=True)
def prepare_command(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        sys.stdout.write(context.get_help() + "\n")


SourceArgument = Annotated[Path, typer.Argument(metavar="SOURCE", help="Folder into which the release was unpacked.")]
SizeOption = Annotated[
    int, typer.Option("--size", min=16, max=2048, help="Width and height of the images in the shards, in pixels.")
]
ResizeOption = Annotated[
    Literal["crop", "stretch"],
    typer.Option(
        "--resize",
        help="crop brings the short side to the size and cuts out the centre; stretch keeps the whole image, but not "
        "its proportions.",
    ),
]
ValidationOption = Annotated[
    float, typer.Option("--validation", min=0, max=1, help="Share of the images for the validation split.")
]
TestOption = Annotated[float, typer.Option("--test", min=0, max=1, help="Share of the images for the test split.")]
MaxBadOption = Annotated[
    float,
    typer.Option(
        "--max-bad",
        min=0,
        max=1,
        help="Largest share of images that may be left out because they are missing, unreadable, duplicates, of "
        "two classes with the same pixels, or too small (the short side below 16 pixels or half of --size).",
    ),
]
FormatOption = Annotated[
    Literal["png", "webp", "jpg"], typer.Option("--image-format", help="png and webp are lossless; jpg has quality 95.")
]
NameOption = Annotated[
    str | None,
    typer.Option(
        "--name",
        parser=dataset_word,
        metavar="NAME",
        help="Name of the data set in the shards.",
        show_default="the data set's own name",
    ),
]
FolderNameOption = Annotated[
    str | None,
    typer.Option(
        "--name",
        parser=dataset_word,
        metavar="NAME",
        help="Name of the data set in the shards.",
        show_default="the name of SOURCE",
    ),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=1,
        max=MAX_THREADS,
        help="Threads that decode and encode images.",
        show_default="all cores, at most 16",
    ),
]
AirogsGroupsOption = Annotated[
    Path | None,
    typer.Option(
        "--groups",
        metavar="CSV",
        help="Table with the columns challenge_id and group: the patient of every image, which the release does not "
        "state.",
        show_default="every image is a patient of its own",
    ),
]
OwnValidationOption = Annotated[
    float,
    typer.Option(
        "--validation",
        min=0,
        max=1,
        help="Share of the images for the validation split; of the training images, if the release has a test split.",
    ),
]
OwnTestOption = Annotated[
    float,
    typer.Option(
        "--test", min=0, max=1, help="Share of the images for the test split; not used if the release has a test split."
    ),
]
FindingOption = Annotated[
    str, typer.Option("--finding", help="Column of train.csv that is the positive class, any of the 14 findings.")
]
UncertainOption = Annotated[
    Literal["positive", "negative", "drop"],
    typer.Option("--uncertain", help="Class of images whose finding is uncertain (-1); drop leaves them out."),
]
BlankOption = Annotated[
    Literal["negative", "drop"],
    typer.Option("--blank", help="Class of images whose finding is blank; drop leaves them out."),
]
FoldersArgument = Annotated[
    Path,
    typer.Argument(metavar="SOURCE", help="Folder with one folder of images per class, or any with --labels."),
]
GroupPatternOption = Annotated[
    str | None,
    typer.Option(
        "--group-pattern",
        metavar="REGEX",
        help="Regular expression that finds the patient in an image's path below its class folder: the first group, or "
        "the whole match if the expression has no group.",
        show_default="every image is a patient of its own",
    ),
]
GroupsOption = Annotated[
    Path | None,
    typer.Option(
        "--groups",
        metavar="CSV",
        help="Table of patients: the column group names the patient, another one the image by its path, its name, or "
        "that without the ending.",
        show_default="every image is a patient of its own",
    ),
]
LabelsOption = Annotated[
    Path | None,
    typer.Option(
        "--labels",
        metavar="CSV",
        help="Table of labels, for images that do not lie in one folder per class: its values are the classes.",
        show_default="the folders are the classes",
    ),
]
ImageColumnOption = Annotated[
    str | None,
    typer.Option(
        "--image-column",
        metavar="NAME",
        help="Column that names the image, of --labels, or else of --groups.",
        show_default="the one called image, file, path or alike, or else the first",
    ),
]
LabelColumnOption = Annotated[
    str | None,
    typer.Option(
        "--label-column",
        metavar="NAME",
        help="Column of --labels with the label.",
        show_default="the one called label, class, diagnosis or alike",
    ),
]
GroupColumnOption = Annotated[
    str | None,
    typer.Option(
        "--group-column",
        metavar="NAME",
        help="Column with the patient, of --groups, or else of --labels.",
        show_default="group; in --labels also one called patient, subject or alike",
    ),
]
NumImagesOption = Annotated[
    int,
    typer.Option(
        "--num-images", "-n", min=1, max=MAX_PHANTOMS, help="Number of images in all, half of them of each class."
    ),
]
PhantomSizeOption = Annotated[
    int, typer.Option("--size", min=32, max=1024, help="Width and height of the images, in pixels.")
]


@prepare_app.command("airogs", epilog="Example: synthmed prepare airogs ~/airogs -o data/airogs")
def prepare_airogs(
    source: SourceArgument,
    output: ShardsOutputOption,
    groups: AirogsGroupsOption = None,
    exclude: ExcludeOption = None,
    size: SizeOption = AIROGS.size,
    resize: ResizeOption = AIROGS.resize,
    validation: ValidationOption = 0.1,
    test: TestOption = 0.3,
    max_bad: MaxBadOption = 0.01,
    image_format: FormatOption = "png",
    name: NameOption = None,
    source_license: SourceTermsOption = NOT_STATED,
    workers: WorkersOption = None,
    seed: SeedOption = 0,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> None:
    """AIROGS fundus photographs, prepared as published by default.

    Reads train_labels.csv (challenge_id,class) and <challenge_id>.jpg in any
    depth of folders. NRG is class 0, RG 1.
    """
    from synthmed.data.prepare.releases import read_airogs

    _prepare(read_airogs(source, groups, exclude or ()), locals())


@prepare_app.command("crcdx", epilog="Example: synthmed prepare crcdx ~/CRC_DX -o data/crcdx")
def prepare_crcdx(
    source: SourceArgument,
    output: ShardsOutputOption,
    exclude: ExcludeOption = None,
    size: SizeOption = CRCDX.size,
    resize: ResizeOption = CRCDX.resize,
    validation: OwnValidationOption = 0.1,
    test: OwnTestOption = 0.3,
    max_bad: MaxBadOption = 0.01,
    image_format: FormatOption = "png",
    name: NameOption = None,
    source_license: SourceTermsOption = NOT_STATED,
    workers: WorkersOption = None,
    seed: SeedOption = 0,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> None:
    """CRCDX histology tiles, prepared as published by default.

    Reads tiles in folders MSIH (class 0) and nonMSIH (1), with the patient from
    the TCGA barcode in their names. The release's own train and test splits are
    kept.
    """
    from synthmed.data.prepare.releases import read_crcdx

    _prepare(read_crcdx(source, exclude or ()), locals())


@prepare_app.command(
    "chexpert", epilog="Example: synthmed prepare chexpert ~/CheXpert-v1.0-small -o data/chexpert --finding Edema"
)
def prepare_chexpert(
    source: SourceArgument,
    output: ShardsOutputOption,
    finding: FindingOption = "Cardiomegaly",
    uncertain: UncertainOption = "positive",
    blank: BlankOption = "negative",
    exclude: ExcludeOption = None,
    size: SizeOption = CHEXPERT.size,
    resize: ResizeOption = CHEXPERT.resize,
    validation: ValidationOption = 0.1,
    test: TestOption = 0.3,
    max_bad: MaxBadOption = 0.01,
    image_format: FormatOption = "png",
    name: NameOption = None,
    source_license: SourceTermsOption = NOT_STATED,
    workers: WorkersOption = None,
    seed: SeedOption = 0,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> None:
    """CheXpert's frontal chest X-rays, prepared as published by default.

    Reads the images of train.csv, with the patient from their path. They are
    made grey, and the darkest and brightest value of each becomes 0 and 255.
    """
    from synthmed.data.prepare.chexpert import read_chexpert

    _prepare(read_chexpert(source, finding, uncertain, blank, exclude or ()), locals())


@prepare_app.command(
    "images", epilog="Example: synthmed prepare images tiles -o data/tiles --group-pattern '^[^_]+_[^_]+'"
)
def prepare_images(
    source: FoldersArgument,
    output: ShardsOutputOption,
    labels: LabelsOption = None,
    image_column: ImageColumnOption = None,
    label_column: LabelColumnOption = None,
    group_column: GroupColumnOption = None,
    group_pattern: GroupPatternOption = None,
    groups: GroupsOption = None,
    positive: PositiveOption = None,
    exclude: ExcludeOption = None,
    size: SizeOption = DataSetInfo.size,
    resize: ResizeOption = DataSetInfo.resize,
    validation: ValidationOption = 0.1,
    test: TestOption = 0.3,
    max_bad: MaxBadOption = 0.01,
    image_format: FormatOption = "png",
    name: FolderNameOption = None,
    source_license: SourceTermsOption = NOT_STATED,
    workers: WorkersOption = None,
    seed: SeedOption = 0,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> None:
    """Any images, in one folder per class or with a table of their labels.

    The sorted names of the folders, or the sorted values in the table, are the
    classes in label order.
    """
    from synthmed.data.prepare.columns import ColumnNames
    from synthmed.data.prepare.image_tables import read_image_table
    from synthmed.data.prepare.releases import read_image_folders

    names = ColumnNames(image_column, label_column, group_column)
    if labels is not None:
        release = read_image_table(source, labels, names, name, group_pattern, groups, positive, exclude or ())
    else:
        names.check_table(groups)
        release = read_image_folders(source, name, group_pattern, groups, positive, names, exclude or ())
    _prepare(release, locals())


@prepare_app.command("phantom", epilog="Example: synthmed prepare phantom -n 2000 --size 64 -o data/phantom")
def prepare_phantom(
    output: ShardsOutputOption,
    num_images: NumImagesOption,
    size: PhantomSizeOption = PHANTOM_FUNDUS.size,
    validation: ValidationOption = 0.1,
    test: TestOption = 0.3,
    image_format: FormatOption = "png",
    workers: WorkersOption = None,
    seed: SeedOption = 0,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> None:
    """Drawn eye fundus images with a known cup-to-disc ratio; no data from elsewhere is needed."""
    from synthmed.phantoms.release import phantom_release

    _prepare(phantom_release(num_images), locals())


_CONFIG = ("size", "resize", "validation", "test", "max_bad", "seed", "name", "image_format")


def _prepare(release: Release, options: dict[str, Any]) -> None:
    """Prepare a release as the arguments of a command say, and print the report."""
    from synthmed.data.prepare.prepare import PrepareConfig, prepare_release

    chosen = {name: options[name] for name in _CONFIG if name in options}
    config = PrepareConfig(**chosen, source_terms=options.get("source_license", NOT_STATED))
    output = options["output"]
    report = prepare_release(release, output, config, overwrite=options["overwrite"], workers=options["workers"])
    if options["json"]:
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
        print_table("left out", ["reason", "images"], list(report.left_out.items()))
    if report.published:
        counts = [[check.name, check.found, check.published] for check in report.published]
        print_table(report.verdict, ["count", "found", "published"], counts)
