"""The options of `synthmed prepare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from synthmed.cli.common import (
    BitsOption,
    JsonOption,
    OverwriteOption,
    SeedOption,
    ShardsOutputOption,
    SourceTermsOption,
    dataset_word,
)
from synthmed.config.limits import MAX_PHANTOMS, MAX_THREADS
from synthmed.data.shards.card import NOT_STATED

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


def _name(shown: str) -> Any:
    return typer.Option(
        "--name",
        parser=dataset_word,
        metavar="NAME",
        help="Name of the data set in the shards.",
        show_default=shown,
    )


NameOption = Annotated[str | None, _name("the data set's own name")]
FolderNameOption = Annotated[str | None, _name("the name of SOURCE")]
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


def release_job(
    output: ShardsOutputOption,
    max_bad: MaxBadOption = 0.01,
    image_format: FormatOption = "png",
    bits: BitsOption = None,
    source_license: SourceTermsOption = NOT_STATED,
    workers: WorkersOption = None,
    seed: SeedOption = 0,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> dict[str, Any]:
    """Return what is asked for alike of every release that is read from files, by the names of the options."""
    return locals()
