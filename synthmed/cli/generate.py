"""`synthmed generate`."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from synthmed.cli.common import (
    DeviceOption,
    JsonOption,
    OverwriteOption,
    SeedOption,
    models_home,
    output_folder,
    print_json,
    print_table,
)
from synthmed.cli.generate_options import resolve_counts, resolve_share
from synthmed.cli.groups import grouped
from synthmed.cli.setting_options import given_settings, resolve_settings
from synthmed.config.limits import MAX_BATCH_SIZE, MAX_IMAGES, MAX_RANKS, MAX_WORKERS
from synthmed.data.shards.card import NOT_STATED
from synthmed.errors import CheckpointError, IncompleteError, ReaderGone, UsageError
from synthmed.files.content import hash_file
from synthmed.files.storage import location
from synthmed.formats.headers import GENERATOR
from synthmed.generators.families import read_header
from synthmed.production.extension import fit_to_folder
from synthmed.production.plan import GenerateConfig
from synthmed.runtime.launch import read_launch
from synthmed.runtime.progress import log

if TYPE_CHECKING:
    from synthmed.production.cost import Estimate


@grouped(settings=given_settings)
def generate_config(
    *,
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="Data set; takes the latest model trained or registered for it.")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", help="Model file or run folder, instead of the data set's latest.")
    ] = None,
    labels: Annotated[
        list[str] | None,
        typer.Option("--label", help="Class to make, with -n; or NAME=COUNT, as often as needed. Aliases are known."),
    ] = None,
    number: Annotated[
        int | None, typer.Option("-n", "--num-images", min=1, max=MAX_IMAGES, help="Images in all.")
    ] = None,
    balanced: Annotated[bool, typer.Option("--balanced", help="Share -n evenly between all classes.")] = False,
    match: Annotated[
        Path | None,
        typer.Option(
            "--match",
            help="Folder of real shards: make as many images of each class as its training split lacks to be balanced.",
            parser=location,
            metavar="DIR",
        ),
    ] = None,
    settings: dict[str, Any],
    image_format: Annotated[
        Literal["png", "webp", "jpg"], typer.Option("--image-format", help="png and webp are lossless.")
    ] = "png",
    precision: Annotated[
        Literal["fp32", "bf16"],
        typer.Option("--precision", help="bf16 is faster on GPUs and changes the images slightly."),
    ] = "fp32",
    workers: Annotated[
        int,
        typer.Option(
            "--workers",
            min=1,
            max=MAX_WORKERS,
            help="Number of DataLoader workers that the shard count should be a multiple of.",
        ),
    ] = 4,
    ranks: Annotated[
        int,
        typer.Option(
            "--ranks",
            min=1,
            max=MAX_RANKS,
            help="Number of training processes that the shard count should be a multiple of.",
        ),
    ] = 1,
    source_license: Annotated[
        str, typer.Option("--source-license", help="Terms of the data the model was trained on, for the data card.")
    ] = NOT_STATED,
    seed: SeedOption = 0,
) -> GenerateConfig:
    """Return what to make; a group of options.

    Raises:
        CheckpointError: There is no such model, or it cannot make images.
        UsageError: Options that do not go together.
    """
    path = _find_checkpoint(dataset, checkpoint)
    header = read_header(path)
    if header.kind != GENERATOR or not header.classes:
        what = "no classes" if header.kind == GENERATOR else f"an {header.kind} only"
        raise CheckpointError(f"{path} cannot make images: it holds {what}", "give the file of a whole model")
    return GenerateConfig(
        checkpoint=path,
        checkpoint_sha256=hash_file(path),
        header=header,
        counts=resolve_counts(header, labels or [], number, balanced, match),
        seed=seed,
        settings=resolve_settings(header, settings),
        image_format=image_format,
        workers=workers,
        ranks=ranks,
        precision=precision,
        source_terms=source_license,
    )


@grouped(config=generate_config)
def generate(
    *,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Folder for the shards, s3://... and the like too; - streams one tar to stdout. The same command "
            "resumes.",
            show_default="synthetic/DATASET",
            parser=output_folder,
            metavar="DIR",
        ),
    ] = None,
    config: GenerateConfig,
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size", min=1, max=MAX_BATCH_SIZE, help="Images sampled at once; does not change the images."
        ),
    ] = None,
    shards: Annotated[
        str | None,
        typer.Option("--shards", help="Make these shards only, e.g. 0-4,7; for several machines on one folder."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan with time, disk and memory, and make nothing.")
    ] = False,
    device: DeviceOption = "auto",
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make synthetic images of chosen classes as WebDataset shards.

    Examples:

      synthmed generate --dataset airogs --label glaucoma -n 10000 -o DIR

      synthmed generate --dataset airogs --label glaucoma=300 --label NRG=700 -o DIR

      synthmed generate --dataset airogs --match shards/airogs -o DIR

      synthmed generate --checkpoint model.safetensors --balanced -n 5000 --steps 20 --sampler dpmpp-2m -o DIR

      torchrun --nproc-per-node 8 -m synthmed generate --dataset airogs --balanced -n 100000 -o DIR
    """
    output = output or output_folder(Path("synthetic") / config.header.dataset)
    streamed = str(output) == "-"
    share = resolve_share(shards, os.environ)
    if overwrite and share.world > 1:
        raise UsageError("--overwrite with several processes", "remove the folder first")
    if streamed and not dry_run and sys.stdout.isatty():
        raise UsageError("-o - would write a tar to the terminal", "e.g. -o - | tar -t")
    if not (streamed or overwrite):
        config = fit_to_folder(config, output)
    if not share.indices(config.shards):
        log(f"nothing to do for process {share.rank} of {share.world}: there are {config.shards} shards")
    from synthmed.production import run

    place: dict[str, Any] = {"device": _own_device(device, os.environ), "batch_size": batch_size, "share": share}
    if dry_run:
        _print_plan(run.dry_run(config, None if streamed else output, **place), output, as_json)
    elif streamed:
        _stream(config, place)
    else:
        result = run.generate(config, output, overwrite=overwrite, **place)
        if share.rank == 0:
            _print_result(result, as_json)
        # Not under torchrun: it would end the other processes, which may be making those shards.
        if share.chosen is not None and share.world == 1 and result["unfinished_shards"]:
            raise IncompleteError(
                f"{output} holds {result['shards']} of {config.shards} shards, "
                f"{sum(result['images'].values())} of {config.total} images",
                "make the others with --shards, or the same command without it",
            )


def _stream(config: GenerateConfig, place: dict[str, Any]) -> None:
    from synthmed.production import run

    try:
        run.stream(config, sys.stdout.buffer, **place)
    except ReaderGone as error:
        raise IncompleteError(
            "the reader of stdout closed it before all images were written", "read the tar to its end"
        ) from error


def _print_result(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(result)
        return
    rows = [[name, count] for name, count in result["images"].items() if count]
    missing = result["unfinished_shards"]
    shards = f"{result['shards']} of {result['shards'] + missing} shards" if missing else f"{result['shards']} shards"
    print_table(f"{result['output']}: {shards}", ["label", "images"], rows)


def _print_plan(estimate: Estimate, output: Path, as_json: bool) -> None:
    plan = estimate.as_plan()
    if as_json:
        print_json(plan)
    else:
        place = "one tar on stdout" if estimate.streamed else output
        print_table(f"{place}: to be made", ["", "estimate"], [[name, value] for name, value in plan.items()])


def _own_device(device: str, environment: Mapping[str, str]) -> str:
    """Return the GPU of this process where torchrun started several on one machine."""
    local = read_launch(environment).local_rank
    if local is None or device not in ("auto", "cuda"):
        return device
    from synthmed.runtime.device import select_device

    return f"cuda:{local}" if select_device(device).type == "cuda" else device


def _find_checkpoint(dataset: str | None, checkpoint: Path | None) -> Path:
    """Return the model file that the options mean."""
    from synthmed.generators import registry

    if checkpoint is not None:
        return registry.resolve_path(checkpoint)
    if dataset is None:
        raise UsageError("which model? neither --dataset nor --checkpoint is given", "see `synthmed checkpoints list`")
    return registry.find_model(models_home(), dataset).path
