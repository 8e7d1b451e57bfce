"""`synthmed train-diffusion`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from synthmed.cli.common import DeviceOption, JsonOption, OverwriteOption, SeedOption, models_home
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
from synthmed.generators import registry


def train_diffusion(
    recipe: RecipeOption,
    data: DataOption,
    output: RunOption,
    autoencoder: Annotated[
        Path | None,
        typer.Option(
            "--autoencoder",
            help="Model file or run folder of the autoencoder, or diffusers' folder of Stable Diffusion's "
            "(AutoencoderKL). Default: the run folder's own, of its adversarial stage if there is one, else the latest "
            "one trained on this data set.",
        ),
    ] = None,
    changes: SetOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    workers: WorkersOption = 2,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train the denoiser of a model on the latents of a trained autoencoder.

    Example: synthmed train-diffusion --recipe airogs-64-cpu --data shards/airogs -o runs/airogs

    When it ends, `synthmed generate --dataset airogs` finds the model by itself.
    """
    request = open_recipe(
        recipe,
        changes,
        data=data,
        run=output,
        seed=seed,
        device=device,
        num_workers=workers,
        overwrite=overwrite,
    )
    stage = find_stage(request, "diffusion")
    from synthmed.data.shards.read import open_folder
    from synthmed.generators.stages import find_start

    start = find_start(stage, output, autoencoder)
    if start is None:
        dataset = open_folder(data, "train").dataset or data.resolve().name
        start = registry.find_model(models_home(), dataset, kind="autoencoder").path
    run_single_stage(request, stage, start, as_json)
