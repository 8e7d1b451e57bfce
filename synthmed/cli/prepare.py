"""`synthmed prepare`: a data set release, or drawn eyes, as shards."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from synthmed.cli import prepare_options as options
from synthmed.cli.common import (
    ExcludeOption,
    JsonOption,
    OverwriteOption,
    PositiveOption,
    SeedOption,
    ShardsOutputOption,
    print_json,
    print_table,
)
from synthmed.cli.groups import grouped
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


@prepare_app.command("airogs", epilog="Example: synthmed prepare airogs ~/airogs -o data/airogs")
@grouped(job=options.release_job)
def prepare_airogs(
    *,
    source: options.SourceArgument,
    job: dict[str, Any],
    groups: options.AirogsGroupsOption = None,
    exclude: ExcludeOption = None,
    size: options.SizeOption = AIROGS.size,
    resize: options.ResizeOption = AIROGS.resize,
    validation: options.ValidationOption = 0.1,
    test: options.TestOption = 0.3,
    name: options.NameOption = None,
) -> None:
    """AIROGS fundus photographs, prepared as published by default.

    Reads train_labels.csv (challenge_id,class) and <challenge_id>.jpg in any
    depth of folders. NRG is class 0, RG 1.
    """
    from synthmed.data.prepare.releases import read_airogs

    _prepare(read_airogs(source, groups, exclude or ()), locals() | job)


@prepare_app.command("crcdx", epilog="Example: synthmed prepare crcdx ~/CRC_DX -o data/crcdx")
@grouped(job=options.release_job)
def prepare_crcdx(
    *,
    source: options.SourceArgument,
    job: dict[str, Any],
    exclude: ExcludeOption = None,
    size: options.SizeOption = CRCDX.size,
    resize: options.ResizeOption = CRCDX.resize,
    validation: options.OwnValidationOption = 0.1,
    test: options.OwnTestOption = 0.3,
    name: options.NameOption = None,
) -> None:
    """CRCDX histology tiles, prepared as published by default.

    Reads tiles in folders MSIH (class 0) and nonMSIH (1), with the patient from
    the TCGA barcode in their names. The release's own train and test splits are
    kept.
    """
    from synthmed.data.prepare.releases import read_crcdx

    _prepare(read_crcdx(source, exclude or ()), locals() | job)


@prepare_app.command(
    "chexpert", epilog="Example: synthmed prepare chexpert ~/CheXpert-v1.0-small -o data/chexpert --finding Edema"
)
@grouped(job=options.release_job)
def prepare_chexpert(
    *,
    source: options.SourceArgument,
    job: dict[str, Any],
    finding: options.FindingOption = "Cardiomegaly",
    uncertain: options.UncertainOption = "positive",
    blank: options.BlankOption = "negative",
    exclude: ExcludeOption = None,
    size: options.SizeOption = CHEXPERT.size,
    resize: options.ResizeOption = CHEXPERT.resize,
    validation: options.ValidationOption = 0.1,
    test: options.TestOption = 0.3,
    name: options.NameOption = None,
) -> None:
    """CheXpert's frontal chest X-rays, prepared as published by default.

    Reads the images of train.csv, with the patient from their path. They are
    made grey, and the darkest and brightest value of each becomes 0 and 255.
    """
    from synthmed.data.prepare.chexpert import read_chexpert

    _prepare(read_chexpert(source, finding, uncertain, blank, exclude or ()), locals() | job)


@prepare_app.command(
    "images", epilog="Example: synthmed prepare images tiles -o data/tiles --group-pattern '^[^_]+_[^_]+'"
)
@grouped(job=options.release_job)
def prepare_images(
    *,
    source: options.FoldersArgument,
    job: dict[str, Any],
    labels: options.LabelsOption = None,
    image_column: options.ImageColumnOption = None,
    label_column: options.LabelColumnOption = None,
    group_column: options.GroupColumnOption = None,
    group_pattern: options.GroupPatternOption = None,
    groups: options.GroupsOption = None,
    positive: PositiveOption = None,
    exclude: ExcludeOption = None,
    size: options.SizeOption = DataSetInfo.size,
    resize: options.ResizeOption = DataSetInfo.resize,
    validation: options.ValidationOption = 0.1,
    test: options.TestOption = 0.3,
    name: options.FolderNameOption = None,
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
    _prepare(release, locals() | job)


@prepare_app.command("phantom", epilog="Example: synthmed prepare phantom -n 2000 --size 64 -o data/phantom")
def prepare_phantom(
    output: ShardsOutputOption,
    num_images: options.NumImagesOption,
    size: options.PhantomSizeOption = PHANTOM_FUNDUS.size,
    validation: options.ValidationOption = 0.1,
    test: options.TestOption = 0.3,
    image_format: options.FormatOption = "png",
    workers: options.WorkersOption = None,
    seed: SeedOption = 0,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> None:
    """Drawn eye fundus images with a known cup-to-disc ratio; no data from elsewhere is needed."""
    from synthmed.phantoms.release import phantom_release

    _prepare(phantom_release(num_images), locals())


_CONFIG = ("size", "resize", "validation", "test", "max_bad", "seed", "name", "image_format", "bits")


def _prepare(release: Release, given: dict[str, Any]) -> None:
    """Prepare a release as the arguments of a command say, and print the report."""
    from synthmed.data.prepare.prepare import PrepareConfig, prepare_release

    chosen = {name: given[name] for name in _CONFIG if name in given}
    config = PrepareConfig(**chosen, source_terms=given.get("source_license", NOT_STATED))
    output = given["output"]
    report = prepare_release(release, output, config, overwrite=given["overwrite"], workers=given["workers"])
    if given["json"]:
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
