"""What the training commands share: their options, the request, and what follows a finished stage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from synthmed.cli.common import models_home, print_json, print_table
from synthmed.errors import UsageError
from synthmed.files.storage import location
from synthmed.generators import registry
from synthmed.generators.families import FAMILIES, load_recipe
from synthmed.generators.family import Stage, StageRequest

RecipeOption = Annotated[
    str, typer.Option("--recipe", "-r", help="Name of a recipe (see `synthmed recipes list`) or a .toml file.")
]
DataOption = Annotated[
    Path,
    typer.Option(
        "--data",
        "-d",
        help="Folder of shards made by `synthmed prepare`, with train and validation.",
        parser=location,
        metavar="DIR",
    ),
]
RunOption = Annotated[
    Path, typer.Option("--output", "-o", help="Run folder; all stages of a model share one. The same command resumes.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change a recipe value: section.key=value. Give it as often as needed."),
]
WorkersOption = Annotated[
    int, typer.Option("--workers", min=0, help="Processes that load images which do not fit in memory.")
]


def open_recipe(recipe: str, changes: Sequence[str] | None, **request: Any) -> StageRequest:
    """Return what a training is asked for; a wrong recipe is told before torch is imported."""
    return StageRequest(load_recipe(recipe, changes or []), **request)


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


def register_stage(stage: str, figures: dict[str, Any]) -> dict[str, Any]:
    """Make a finished stage's model findable, and return what the command says of it."""
    entry = registry.register(models_home(), Path(figures["model"]))
    return {"stage": stage, "dataset": entry.header.dataset, "sha256": entry.sha256, **figures}


def run_single_stage(request: StageRequest, stage: Stage, start: Path | None, as_json: bool) -> None:
    """Train one stage and print its last figures, in the first process alone."""
    from synthmed.generators.stages import run_stage
    from synthmed.runtime.processes import started_as_main

    figures = run_stage(request, stage, start)
    if not started_as_main():
        return
    result = register_stage(stage.name, figures)
    if as_json:
        print_json(result)
    else:
        print_stage(result)


def print_stage(result: dict[str, Any]) -> None:
    """Print the figures of a finished stage as a table."""
    print_table(f"trained {result['stage']}", ["figure", "value"], list(result.items()))
