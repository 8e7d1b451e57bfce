"""Running the stages of a recipe, whatever its family: each claims a folder of the run and trains in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from synthmed.config.tables import to_dict
from synthmed.data.shards.inputs import open_run
from synthmed.data.shards.read import ShardFolder, open_folder
from synthmed.errors import DataError
from synthmed.files.atomic import write_json
from synthmed.files.content import read_json
from synthmed.generators.families import FAMILIES
from synthmed.generators.family import CONFIG_NAME, Recipe, Stage, StageContext, StageRequest
from synthmed.generators.starts import find_start
from synthmed.runtime import device as devices
from synthmed.runtime import version
from synthmed.runtime.processes import Processes, join_processes
from synthmed.runtime.progress import log
from synthmed.runtime.seeds import derive_seed
from synthmed.training.config import StageConfig
from synthmed.training.loop import MODEL_NAME, Trainer
from synthmed.training.task import Task


def run_stage(request: StageRequest, stage: Stage, start: Path | None = None) -> dict[str, Any]:
    """Train one stage, from its last checkpoint if there is one, and return its last figures and model file.

    Args:
        request: What the command was asked for.
        stage: One of the recipe's family.
        start: Model file of an earlier stage, for a stage that starts from one.

    Raises:
        DataError, RecipeError, ResumeError, TrainingError, Interrupted: See their classes.
    """
    device = devices.select_device(request.device)
    devices.configure(device)
    with join_processes(device) as (processes, device):
        train, validation = _open_splits(request, processes, device)
        context = StageContext(request, train, validation, start, device, processes)
        prepared = stage.prepare(context)
        folder = request.run / stage.name
        _claim(folder, stage, context, prepared.settings)
        # Initial weights come from torch's own generator.
        torch.manual_seed(derive_seed(request.seed, "weights", stage.name))
        return _train(prepared.build(), getattr(request.recipe, stage.name), folder, context)


def run_recipe(request: StageRequest) -> Iterator[tuple[str, dict[str, Any]]]:
    """Train all stages of a recipe one after the other, and yield name and last figures of each as it is finished."""
    for stage in FAMILIES[request.recipe.family].stages_of(request.recipe):
        yield stage.name, run_stage(request, stage, find_start(stage, request.run) if stage.after else None)


def _open_splits(request: StageRequest, processes: Processes, device: torch.device) -> tuple[ShardFolder, ShardFolder]:
    """Return both splits, and say on stderr what is unusual about them.

    Raises:
        DataError: The classes differ, or one has no image to learn from.
    """
    recipe = request.recipe
    train, validation = (open_folder(request.data, split) for split in ("train", "validation"))
    if train.classes != validation.classes:
        ours, theirs = (", ".join(split.classes) for split in (train, validation))
        raise DataError(f"{request.data}: train has the classes {ours}, validation {theirs}")
    present = {entry.label for entry in train.entries}
    if missing := [name for label, name in enumerate(train.classes) if label not in present]:
        raise DataError(
            f"{request.data} has no training images of {', '.join(missing)}", "prepare the data without that class"
        )
    if processes.main:
        for note in _notes(recipe, train, device):
            log(f"note: {note}")
    return train, validation


def _notes(recipe: Recipe, train: ShardFolder, device: torch.device) -> Iterator[str]:
    """Yield what does not fit though it is no error."""
    if recipe.dataset and train.dataset != recipe.dataset:
        yield f"recipe {recipe.name} is for {recipe.dataset}, the shards are of {train.dataset}"
    if recipe.device == "gpu" and device.type == "cpu":
        yield f"recipe {recipe.name} is for a GPU: on a CPU it takes weeks; see `synthmed recipes list`"


def _claim(folder: Path, stage: Stage, context: StageContext, settings: Mapping[str, Any]) -> None:
    """Open the stage's folder for these settings, in the first process alone."""
    request = context.request
    if context.processes.main:
        # Versions may differ between two halves of a run, settings may not.
        config = {
            "recipe": request.recipe.name,
            "seed": request.seed,
            **settings,
            "data_hash": context.train.content_hash,
        }
        goes_on = (stage.name,) if _goes_on(folder / CONFIG_NAME, config, stage) else ()
        source = {
            "data_hash": str(request.data),
            "autoencoder_sha256": str(context.start),
            "vgg_sha256": str(request.vgg_weights),
        }
        inputs = {split.split: split for split in (context.train, context.validation)}
        open_run(
            folder,
            config,
            inputs,
            name=CONFIG_NAME,
            overwrite=request.overwrite,
            may_differ=goes_on,
            source=source,
            reads=[path for path in (context.start, request.vgg_weights) if path is not None],
            shared=False,
        )
        write_json(folder / "version.json", {"synthmed_version": version.__version__})
    context.processes.wait()


def _goes_on(path: Path, config: Mapping[str, Any], stage: Stage) -> bool:
    """Say whether a run differs from the one in its folder in nothing that its steps so far depend on.

    That is by more steps at a constant learning rate, or by what earlier versions did not know: which weights are kept,
    and settings that are as they were before there was a choice.
    """
    wanted = config[stage.name]
    found = read_json(path) if path.is_file() else None
    table = found.get(stage.name) if isinstance(found, dict) else None
    if not isinstance(table, dict):
        return False
    table = {**to_dict(stage.config()), "keep": wanted["keep"], **table}
    steps = table.get("steps")
    if wanted["lr_schedule"] == "constant" and isinstance(steps, int) and steps < wanted["steps"]:
        table["steps"] = wanted["steps"]
    return bool(table == wanted)


def _train(task: Task, config: StageConfig, folder: Path, context: StageContext) -> dict[str, Any]:
    trainer = Trainer(task, config, folder, context.request.seed, context.device, context.processes)
    if context.processes.main:
        size = sum(parameter.numel() for parameter in trainer.network.parameters()) / 1e6
        log(f"{folder}: {size:.2f} M parameters, {len(task.labels)} samples, {context.device}, {trainer.dtype}")
    figures = trainer.run()
    return {"model": str(folder / MODEL_NAME), **figures}
