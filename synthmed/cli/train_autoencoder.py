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
    detail: Annotated[
        bool,
        typer.Option(
            "--detail",
            help="Next stage: train the detail stage, which makes anew what the trained autoencoder loses, as the "
            "recipe's table detail says.",
        ),
    ] = False,
    autoencoder: Annotated[
        Path | None,
        typer.Option(
            "--autoencoder",
            help="With --adversarial or --detail: model file or run folder of the autoencoder to start from. Default: "
            "the run folder's own.",
            show_default=False,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Train the autoencoder of a model: images to latents and back.

    Example: synthmed train-autoencoder --recipe airogs-64-cpu --data shards/airogs -o runs/airogs

    The same command with --adversarial then trains it on, for sharper images, and with --detail a stage that adds what
    it loses; train-diffusion takes the result.

    Under torchrun it trains on several GPUs: torchrun --nproc-per-node 4 -m synthmed train-autoencoder ...
    """
    if adversarial and detail:
        raise UsageError("--adversarial with --detail", "train them one after the other")
    name = "adversarial" if adversarial else "detail" if detail else "autoencoder"
    stage, start = find_stage(request, name), None
    if autoencoder is not None and not stage.after:
        raise UsageError("--autoencoder without --adversarial or --detail", "a first stage starts from random weights")
    if stage.after:
        from synthmed.generators.starts import find_start

        start = find_start(stage, request.run, autoencoder)
        if start is None:
            raise CheckpointError(
                f"no trained autoencoder in {request.run}",
                f"train one without --{name} first, or name one: --autoencoder",
            )
    run_single_stage(request, stage, start, as_json)
