"""`synthmed train-autoencoder`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from synthmed.cli.common import JsonOption
from synthmed.cli.groups import grouped
from synthmed.cli.training import find_stage, run_single_stage, training_request
from synthmed.errors import CheckpointError, UsageError
from synthmed.generators.family import StageRequest


@grouped(request=training_request)
def train_autoencoder(
    *,
    request: StageRequest,
    adversarial: Annotated[
        bool,
        typer.Option(
            "--adversarial",
            help="Second stage: train the trained autoencoder on, against discriminators, as the recipe's table "
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
    as_json: JsonOption = False,
) -> None:
    """Train the autoencoder of a model: images to latents and back.

    Example: synthmed train-autoencoder --recipe airogs-64-cpu --data shards/airogs -o runs/airogs

    The same command with --adversarial then trains it on, for sharper images; train-diffusion takes the result.

    Under torchrun it trains on several GPUs: torchrun --nproc-per-node 4 -m synthmed train-autoencoder ...
    """
    if autoencoder is not None and not adversarial:
        raise UsageError("--autoencoder without --adversarial", "a first stage starts from random weights")
    stage, start = find_stage(request, "adversarial" if adversarial else "autoencoder"), None
    if adversarial:
        from synthmed.generators.starts import find_start

        start = find_start(stage, request.run, autoencoder)
        if start is None:
            raise CheckpointError(
                f"no trained autoencoder in {request.run}",
                "train one without --adversarial first, or name one: --autoencoder",
            )
    run_single_stage(request, stage, start, as_json)
