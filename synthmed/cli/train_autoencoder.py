"""`synthmed train-autoencoder`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from synthmed.cli.common import DeviceOption, JsonOption, OverwriteOption, SeedOption, VggOption
from synthmed.cli.training import (
    DataOption,
    RecipeOption,
    RunOption,
    SetOption,
    WorkersOption,
    find_stage,
    open_recipe,
    run_single_stage,
)
from synthmed.errors import CheckpointError, UsageError


def train_autoencoder(
    recipe: RecipeOption,
    data: DataOption,
    output: RunOption,
    adversarial: Annotated[
        bool,
        typer.Option(
            "--adversarial",
            help="Second stage: train the trained autoencoder on, against discriminators, as the recipe's section "
            "adversarial says.",
        ),
    ] = False,
    autoencoder: Annotated[
        Path | None,
        typer.Option(
            "--autoencoder",
            help="With --adversarial: model file or run folder of the autoencoder to start from. Default: the run "
            "folder's own.",
            show_default=False,
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
    """Train the autoencoder of a model: images to latents and back.

    Example: synthmed train-autoencoder --recipe airogs-64-cpu --data shards/airogs -o runs/airogs

    The same command with --adversarial then trains it on, for sharper images; train-diffusion takes the result.

    Under torchrun it trains on several GPUs: torchrun --nproc-per-node 4 -m synthmed train-autoencoder ...
    """
    if autoencoder is not None and not adversarial:
        raise UsageError("--autoencoder without --adversarial", "a first stage starts from random weights")
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
    stage, start = find_stage(request, "adversarial" if adversarial else "autoencoder"), None
    if adversarial:
        from synthmed.generators.stages import find_start

        start = find_start(stage, output, autoencoder)
        if start is None:
            raise CheckpointError(
                f"no trained autoencoder in {output}",
                "train one without --adversarial first, or name one: --autoencoder",
            )
    run_single_stage(request, stage, start, as_json)
