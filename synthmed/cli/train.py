"""`synthmed train-autoencoder` and `synthmed train-diffusion`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from synthmed.cli.common import (
    DeviceOption,
    JsonOption,
    OverwriteOption,
    SeedOption,
    VggOption,
    models_home,
    print_json,
    print_table,
)
from synthmed.errors import CheckpointError, UsageError
from synthmed.files.storage import location

if TYPE_CHECKING:
    from synthmed.generators.diffusion.training.stages import StageRequest

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
    request = _request(recipe, changes, data, output, seed, device, workers, overwrite, vgg_weights)
    from synthmed.generators.diffusion.training import stages

    if not adversarial:
        _finish("autoencoder", stages.train_autoencoder(request), as_json)
        return
    start = stages.find_autoencoder(output, autoencoder, stages=("autoencoder",))
    if start is None:
        raise CheckpointError(
            f"no trained autoencoder in {output}", "train one without --adversarial first, or name one: --autoencoder"
        )
    _finish("adversarial", stages.train_adversarial(request, start), as_json)


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
    request = _request(recipe, changes, data, output, seed, device, workers, overwrite)
    from synthmed.data.shards.read import open_folder
    from synthmed.generators import registry
    from synthmed.generators.diffusion.training.stages import find_autoencoder
    from synthmed.generators.diffusion.training.stages import train_diffusion as run

    first_stage = find_autoencoder(output, autoencoder)
    if first_stage is None:
        dataset = open_folder(data, "train").dataset or data.resolve().name
        first_stage = registry.find_model(models_home(), dataset, kind="autoencoder").path
    _finish("diffusion", run(request, first_stage), as_json)


def _request(
    recipe: str,
    changes: list[str] | None,
    data: Path,
    output: Path,
    seed: int,
    device: str,
    workers: int,
    overwrite: bool,
    vgg_weights: Path | None = None,
) -> StageRequest:
    from synthmed.config.recipes import load_recipe

    # Before torch is imported: a wrong recipe is told in a fraction of a second.
    resolved = load_recipe(recipe, changes or [])
    from synthmed.generators.diffusion.training.stages import StageRequest

    return StageRequest(resolved, data, output, seed, device, workers, overwrite, vgg_weights)


def _finish(stage: str, figures: dict[str, Any], as_json: bool) -> None:
    """Register the model and print the last figures, in the first process alone."""
    from synthmed.generators import registry
    from synthmed.runtime.processes import started_as_main

    if not started_as_main():
        return
    entry = registry.register(models_home(), Path(figures["model"]))
    result = {"stage": stage, "dataset": entry.config.dataset, "sha256": entry.sha256, **figures}
    if as_json:
        print_json(result)
    else:
        print_table(f"trained {stage}", ["figure", "value"], list(result.items()))
