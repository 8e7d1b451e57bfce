"""`synthmed train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from synthmed.cli.common import DeviceOption, JsonOption, OverwriteOption, SeedOption, VggOption, print_json
from synthmed.cli.training import (
    DataOption,
    RunOption,
    SetOption,
    WorkersOption,
    open_recipe,
    print_stage,
    register_stage,
)
from synthmed.runtime.progress import log


def train(
    data: DataOption,
    output: RunOption,
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe",
            "-r",
            help="Name of a recipe (see `synthmed recipes list`) or a .toml file.",
            show_default="one that suits the shards and the device",
        ),
    ] = None,
    vgg_weights: VggOption = None,
    changes: SetOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    workers: WorkersOption = 2,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train all stages of a model, one after the other. The same command goes on where it was stopped.

    Example: synthmed train --data shards/mine -o runs/mine

    When it ends, `synthmed generate` finds the model by the name of its data set. train-autoencoder and train-diffusion
    train single stages.
    """
    if recipe is None:
        recipe, changes = _chosen_recipe(data, device, changes)
    request = open_recipe(
        recipe,
        changes,
        data=data,
        run=output,
        seed=seed,
        device=device,
        num_workers=workers,
        overwrite=overwrite,
        vgg_weights=vgg_weights,
    )
    from synthmed.generators.stages import run_recipe
    from synthmed.runtime.processes import started_as_main

    results = []
    for stage, figures in run_recipe(request):
        if started_as_main():
            results.append(register_stage(stage, figures))
    if as_json and results:
        print_json(results)
    else:
        for result in results:
            print_stage(result)


def _chosen_recipe(data: Path, device: str, changes: list[str] | None) -> tuple[str, list[str]]:
    """Return a recipe that suits the data, with the user's changes after those that fit it; say which and why."""
    from synthmed.generators.choice import choose_recipe
    from synthmed.runtime.device import select_device
    from synthmed.runtime.processes import started_as_main

    choice = choose_recipe(data, select_device(device).type)
    if started_as_main():
        said = " ".join(f"--set {change}" for change in choice.changes)
        log(f"recipe: {' '.join([choice.name, said]).strip()} ({choice.reason})")
    return choice.name, [*choice.changes, *(changes or [])]
