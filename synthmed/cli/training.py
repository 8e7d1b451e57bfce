"""What the training commands share: their options, the request, and what follows a finished stage."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from synthmed.cli.common import (
    DeviceOption,
    OverwriteOption,
    SeedOption,
    VggOption,
    local_output,
    models_home,
    print_json,
    print_table,
)
from synthmed.config.limits import MAX_THREADS
from synthmed.data.shards.read import find_shards
from synthmed.errors import DataError, UsageError
from synthmed.files.content import hash_file
from synthmed.files.storage import location
from synthmed.generators import registry
from synthmed.generators.families import FAMILIES, load_recipe, read_header
from synthmed.generators.family import Recipe, Stage, StageRequest
from synthmed.runtime.launch import read_launch, started_as_main
from synthmed.runtime.progress import log


def training_request(
    data: Annotated[
        Path,
        typer.Option(
            "--data",
            "-d",
            help="Folder of shards made by `synthmed prepare`, with train and validation.",
            parser=location,
            metavar="DIR",
        ),
    ],
    output: Annotated[
        Path,
        local_output("Run folder; all stages of a model share one. The same command resumes."),
    ],
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe",
            "-r",
            help="Name of a recipe (see `synthmed recipes list`) or a .toml file.",
            show_default="one that suits the shards and the device",
        ),
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a recipe value: table.key=value. Give it as often as needed."),
    ] = None,
    vgg_weights: VggOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    workers: Annotated[
        int,
        typer.Option(
            "--workers", min=0, max=MAX_THREADS, help="Processes that load images which do not fit in memory."
        ),
    ] = 2,
    overwrite: OverwriteOption = False,
) -> StageRequest:
    """Return what a training is asked for; a group of options."""
    read_launch(together=True)
    models_home(to_write=True)
    run, given = None if overwrite else output, changes or []
    if recipe is None:
        check_data(data)
        recipe, given = _choose(data, run, device, given)
        chosen = load_recipe(recipe, given)
    else:
        # A wrong recipe is told before torch is imported.
        chosen = _fit(load_recipe(recipe, given), data, run, recipe, given)
    return StageRequest(chosen, data, output, seed, device, workers, overwrite, vgg_weights)


def _choose(data: Path, run: Path | None, device: str, given: list[str]) -> tuple[str, list[str]]:
    """Return a recipe that suits the data, with the user's changes after those that fit it; say which and why."""
    from synthmed.generators.choice import choose_recipe
    from synthmed.runtime.device import select_device

    choice = choose_recipe(data, select_device(device).type, run)
    _say_recipe(choice.name, choice.changes, choice.reason)
    return choice.name, [*choice.changes, *given]


def _fit(chosen: Recipe, data: Path, run: Path | None, name: str, given: list[str]) -> Recipe:
    """Return a named recipe with one channel for grey images, unless the user has said how many; say so."""
    from synthmed.generators.choice import fit_channels

    keys = {change.partition("=")[0].strip() for change in given}
    if keys >= {change.partition("=")[0] for change in chosen.with_channels(1)}:
        return chosen
    changes: list[str] = []
    with contextlib.suppress(DataError):  # told when the data are opened, after what is wrong with the command
        changes = fit_channels(chosen, data, run)
    if not changes:
        return chosen
    _say_recipe(name, changes, "the images are grey: one channel")
    return load_recipe(name, [*changes, *given])


def _say_recipe(name: str, changes: Sequence[str], reason: str) -> None:
    if started_as_main():
        said = " ".join(f"--set {change}" for change in changes)
        log(f"recipe: {' '.join([name, said]).strip()} ({reason})")


def find_stage(request: StageRequest, name: str) -> Stage:
    """Return the stage of the recipe's family that a command trains.

    Raises:
        UsageError: The family has none of that name.
    """
    family = FAMILIES[request.recipe.family]
    names = [stage.name for stage in family.stages]
    if name not in names:
        raise UsageError(
            f"recipe {request.recipe.name} is of the family {family.name}, which has no stage {name}",
            f"it has {', '.join(names)}: use `synthmed train`",
        )
    return family.stage(name)


def register_model(figures: dict[str, Any]) -> None:
    """Make a finished model findable by its data set."""
    registry.register(models_home(to_write=True), Path(figures["model"]))


def stage_result(stage: str, figures: dict[str, Any]) -> dict[str, Any]:
    """Return what a command says of a finished stage."""
    path = Path(figures["model"])
    return {"stage": stage, "dataset": read_header(path).dataset, "sha256": hash_file(path), **figures}


def check_data(data: Path) -> None:
    """Refuse a folder that holds no shards to train on, before torch is imported.

    Raises:
        DataError: There is no such folder, or it lacks a split.
    """
    for split in ("train", "validation"):
        find_shards(data, split)


def run_single_stage(request: StageRequest, stage: Stage, start: Path | None, as_json: bool) -> None:
    """Train one stage and print its last figures, in the first process alone."""
    check_data(request.data)
    from synthmed.generators.stages import run_stage

    figures = run_stage(request, stage, start)
    if not started_as_main():
        return
    register_model(figures)
    result = stage_result(stage.name, figures)
    if as_json:
        print_json(result)
    else:
        print_stage(result)


def print_stage(result: dict[str, Any]) -> None:
    """Print the figures of a finished stage as a table."""
    print_table(f"trained {result['stage']}", ["figure", "value"], list(result.items()))
