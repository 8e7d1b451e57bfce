"""`synthmed train-diffusion`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from synthmed.cli.common import JsonOption, models_home
from synthmed.cli.groups import grouped
from synthmed.cli.training import find_stage, run_single_stage, training_request
from synthmed.data.datasets import dataset_name
from synthmed.generators import registry
from synthmed.generators.family import StageRequest


@grouped(request=training_request)
def train_diffusion(
    *,
    request: StageRequest,
    autoencoder: Annotated[
        Path | None,
        typer.Option(
            "--autoencoder",
            help="Model file or run folder of the autoencoder, or diffusers' folder of Stable Diffusion's "
            "(AutoencoderKL). Default: the run folder's own, with its detail stage, or of its adversarial stage, if "
            "there is one, else the latest one trained on this data set.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Train the denoiser of a model on the latents of a trained autoencoder.

    Example: synthmed train-diffusion --recipe airogs-64-cpu --data shards/airogs -o runs/airogs

    When it ends, `synthmed generate --dataset airogs` finds the model by itself.
    """
    stage = find_stage(request, "diffusion")
    from synthmed.data.shards.read import open_folder
    from synthmed.generators.starts import find_start

    start = find_start(stage, request.run, autoencoder)
    if start is None:
        dataset = open_folder(request.data, "train").dataset or dataset_name(request.data.resolve().name)
        start = registry.find_model(models_home(), dataset, kind="autoencoder").path
    run_single_stage(request, stage, start, as_json)
