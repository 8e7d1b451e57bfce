"""The stages of a model, from a recipe and a folder of shards to a model file.

A run folder holds `autoencoder/`, `adversarial/` where that stage was trained, `diffusion/` and `latents/`; all stages
of one model share it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from synthmed import __version__
from synthmed.config.tables import to_dict
from synthmed.data.sets.image_set import ImageSet, open_images
from synthmed.data.shards.read import ShardFolder, open_folder
from synthmed.errors import CheckpointError, DataError, RecipeError
from synthmed.files.atomic import write_json
from synthmed.files.content import hash_file, hash_json
from synthmed.files.outputs import open_output
from synthmed.formats.diffusers_files import FirstStageConfig, find_weights
from synthmed.formats.model_files import ModelConfig, hash_model
from synthmed.generators.diffusion.config import AutoencoderConfig, Recipe
from synthmed.generators.diffusion.networks.autoencoder import Autoencoder
from synthmed.generators.diffusion.pipeline import Pipeline, load_pipeline
from synthmed.generators.diffusion.training.adversarial import AdversarialStep
from synthmed.generators.diffusion.training.autoencoder import AutoencoderStep, AutoencoderTask
from synthmed.generators.diffusion.training.denoiser import DiffusionTask, encode_split, measure_latent_scale
from synthmed.metrics.perceptual import HOW_TO_GET, Lpips
from synthmed.runtime import device as devices
from synthmed.runtime.processes import Processes, join_processes
from synthmed.runtime.progress import log
from synthmed.training.config import StageConfig
from synthmed.training.loop import MODEL_NAME, Trainer
from synthmed.training.task import Task

CONFIG_NAME = "config.json"


@dataclass(frozen=True)
class StageRequest:
    """What a training command was asked for.

    Args:
        recipe: All settings.
        data: Folder of real shards with a train and a validation split.
        run: Run folder.
        seed: Of everything random.
        device: As on the command line.
        num_workers: Processes that load images which do not fit in memory.
        overwrite: Start anew where the folder holds other work.
        vgg_weights: File of VGG-16, where the recipe gives LPIPS a weight.
    """

    recipe: Recipe
    data: Path
    run: Path
    seed: int = 0
    device: str = "auto"
    num_workers: int = 2
    overwrite: bool = False
    vgg_weights: Path | None = None


def train_autoencoder(request: StageRequest) -> dict[str, Any]:
    """Train the first stage and return its last figures and model file.

    Raises:
        DataError, RecipeError, ResumeError, TrainingError, Interrupted: See their classes.
    """
    recipe = request.recipe
    with join_processes(_device(request)) as (processes, device):
        train, validation = _open_splits(request, processes)
        _check_size(recipe, recipe.vae)
        model = _model_config(request, train)
        lpips, hashes = _open_lpips(request, "autoencoder", device)
        folder = request.run / "autoencoder"
        sections = {name: to_dict(getattr(recipe, name)) for name in ("data", "vae", "autoencoder")}
        _claim(folder, request, processes, {**sections, "data_hash": train.content_hash, **hashes})
        # Initial weights come from torch's own generator.
        _seed_weights(request.seed, "autoencoder")
        step = AutoencoderStep(Autoencoder(recipe.vae), recipe.autoencoder, lpips)
        task = AutoencoderTask(model, step, *_open_images(request, model, train, validation), request.num_workers)
        return _train(task, recipe.autoencoder, folder, request.seed, device, processes)


def train_adversarial(request: StageRequest, autoencoder: Path) -> dict[str, Any]:
    """Train a trained autoencoder against discriminators and return its last figures and model file."""
    recipe = request.recipe
    with join_processes(_device(request)) as (processes, device):
        train, validation = _open_splits(request, processes)
        first_stage = _open_autoencoder(request, autoencoder, device, processes)
        _check_size(recipe, first_stage.config.vae)
        model = _model_config(request, train, vae=first_stage.config.vae)
        lpips, hashes = _open_lpips(request, "adversarial", device)
        folder = request.run / "adversarial"
        sections = {name: to_dict(getattr(recipe, name)) for name in ("data", "adversarial")}
        facts = {"data_hash": train.content_hash, "autoencoder_sha256": hash_file(autoencoder), **hashes}
        _claim(folder, request, processes, {**sections, **facts})
        if processes.main:
            log(f"autoencoder: {autoencoder}")
        _seed_weights(request.seed, "adversarial")
        network = first_stage.autoencoder.requires_grad_(True)
        if not isinstance(network, Autoencoder):
            raise CheckpointError(
                f"{autoencoder} is not Medfusion's autoencoder", "the adversarial stage trains no other"
            )
        step = AdversarialStep(network, recipe.adversarial, lpips, processes)
        task = AutoencoderTask(model, step, *_open_images(request, model, train, validation), request.num_workers)
        return _train(task, recipe.adversarial, folder, request.seed, device, processes)


def train_diffusion(request: StageRequest, autoencoder: Path) -> dict[str, Any]:
    """Train the second stage on a trained autoencoder and return its last figures and model file."""
    recipe = request.recipe
    with join_processes(_device(request)) as (processes, device):
        train, validation = _open_splits(request, processes)
        first_stage = _open_autoencoder(request, autoencoder, device, processes)
        _check_size(recipe, first_stage.config.vae)
        folder = request.run / "diffusion"
        autoencoder_hash = hash_model(autoencoder)
        names = ("data", "unet", "schedule", "diffusion", "sampler")
        sections = {name: to_dict(getattr(recipe, name)) for name in names}
        facts = {"data_hash": train.content_hash, "autoencoder_sha256": autoencoder_hash}
        _claim(folder, request, processes, {**sections, **facts})
        if processes.main:
            log(f"autoencoder: {autoencoder}")
        latents = []
        if not processes.main:
            processes.wait()  # the first process fills the cache
        for split, flips in ((train, recipe.diffusion.flips), (validation, "none")):
            images = open_images(split, size=recipe.data.size, channels=first_stage.config.vae.image_channels)
            keep = recipe.diffusion.latents
            key = hash_json([autoencoder_hash, split.content_hash, split.split, flips, keep, recipe.data.size])
            cache = request.run / "latents" / f"{split.split}-{key[:16]}.safetensors"
            latents.append(
                encode_split(first_stage.autoencoder, images, flips=flips, keep=keep, cache=cache, device=device)
            )
        if processes.main:
            processes.wait()
        scale = 1.0
        if recipe.diffusion.latent_scale == "measured":
            scale = measure_latent_scale(latents[0], first_stage.config.vae.latent_channels)
        model = _model_config(request, train, vae=first_stage.config.vae, latent_scale=scale)
        _seed_weights(request.seed, "diffusion")
        task = DiffusionTask(model, recipe.diffusion, first_stage.autoencoder, latents[0], latents[1], request.seed)
        return _train(task, recipe.diffusion, folder, request.seed, device, processes)


def _check_size(recipe: Recipe, vae: FirstStageConfig) -> None:
    """Raise unless the autoencoder gives back images of the size that it gets."""
    if recipe.data.size % vae.downsampling:
        raise RecipeError(
            f"data.size {recipe.data.size} is not a multiple of the down-sampling {vae.downsampling}",
            "change data.size or the autoencoder",
        )


def _device(request: StageRequest) -> Any:
    device = devices.select_device(request.device)
    devices.configure(device)
    return device


def _seed_weights(seed: int, stage: str) -> None:
    import torch

    from synthmed.runtime.seeds import derive_seed

    torch.manual_seed(derive_seed(seed, "weights", stage))


def _open_splits(request: StageRequest, processes: Processes) -> tuple[ShardFolder, ShardFolder]:
    train, validation = (open_folder(request.data, split) for split in ("train", "validation"))
    if train.classes != validation.classes:
        raise DataError(f"{request.data}: train has classes {train.classes}, validation {validation.classes}")
    if request.recipe.dataset and train.dataset != request.recipe.dataset and processes.main:
        log(f"note: recipe {request.recipe.name} is for {request.recipe.dataset}, the shards are of {train.dataset}")
    return train, validation


def _open_images(
    request: StageRequest, model: ModelConfig, train: ShardFolder, validation: ShardFolder
) -> tuple[ImageSet, ImageSet]:
    """Return the images of both splits as the model takes them."""
    size, channels = request.recipe.data.size, model.vae.image_channels
    return open_images(train, size=size, channels=channels), open_images(validation, size=size, channels=channels)


def _open_autoencoder(request: StageRequest, path: Path, device: Any, processes: Processes) -> Pipeline:
    """Return a trained autoencoder, and say on stderr what is unusual about it."""
    first_stage = load_pipeline(path, device)
    if processes.main:
        if first_stage.config.training.get("finished") is False:
            log(f"note: the training of {path} is not finished")
        if first_stage.config.vae != request.recipe.vae:
            log(f"note: {path} is not built as the recipe's [vae] says; the file counts")
    return first_stage


def _open_lpips(request: StageRequest, section: str, device: Any) -> tuple[Lpips | None, dict[str, str]]:
    """Return LPIPS where the recipe's section gives it a weight, and the hash that a run's settings keep of it."""
    config: AutoencoderConfig = getattr(request.recipe, section)
    if config.lpips_weight == 0:
        return None, {}
    if request.vgg_weights is None:
        raise CheckpointError(
            f"{section}.lpips_weight is {config.lpips_weight:g} and needs the weights of VGG-16",
            f"{HOW_TO_GET}; or train without: --set {section}.lpips_weight=0",
        )
    return Lpips(request.vgg_weights, device), {"vgg_sha256": hash_file(request.vgg_weights)}


def _model_config(request: StageRequest, train: ShardFolder, **changes: Any) -> ModelConfig:
    recipe = request.recipe
    fields: dict[str, Any] = {
        "dataset": train.dataset or request.data.resolve().name,
        "classes": train.classes,
        "aliases": dict(train.aliases),
        "positive": train.positive or train.classes[-1],
        "size": recipe.data.size,
        "vae": recipe.vae,
        "unet": recipe.unet,
        "schedule": recipe.schedule,
        "sampler": recipe.sampler,
        "training": {"recipe": recipe.name, "images": len(train.entries), "data_hash": train.content_hash},
    }
    return ModelConfig(**{**fields, **changes})


def _claim(folder: Path, request: StageRequest, processes: Processes, settings: dict[str, Any]) -> None:
    """Open the stage's folder for these settings, in the first process alone."""
    if processes.main:
        # Versions may differ between two halves of a run, settings may not.
        config = {"recipe": request.recipe.name, "seed": request.seed, **settings}
        open_output(folder, config, name=CONFIG_NAME, overwrite=request.overwrite)
        write_json(folder / "version.json", {"synthmed_version": __version__})
    processes.wait()


def _train(
    task: Task, config: StageConfig, folder: Path, seed: int, device: Any, processes: Processes
) -> dict[str, Any]:
    trainer = Trainer(task, config, folder, seed, device, processes)
    if processes.main:
        size = count_parameters(trainer.network) / 1e6
        log(f"{folder}: {size:.2f} M parameters, {len(task.labels)} samples, {device}, {trainer.dtype}")
    figures = trainer.run()
    return {"model": str(folder / MODEL_NAME), **figures}


def count_parameters(module: nn.Module) -> int:
    """Return the number of a module's trainable values."""
    return sum(parameter.numel() for parameter in module.parameters())


def find_autoencoder(
    run: Path, chosen: Path | None, stages: Sequence[str] = ("adversarial", "autoencoder")
) -> Path | None:
    """Return the autoencoder named on the command line, else the one in the run folder, else `None`.

    Args:
        run: The run folder.
        chosen: Model file, run folder or folder that diffusers saved, from the command line.
        stages: Of a run folder, the preferred one first.
    """
    if chosen is not None and chosen.is_file():
        return find_weights(chosen) or chosen
    for stage in stages:
        path = (chosen or run) / stage / MODEL_NAME
        if path.is_file():
            return path
    if chosen is None:
        return None
    if found := find_weights(chosen):
        return found
    raise CheckpointError(
        f"no such autoencoder: {chosen}", "give a model file, its run folder, or a folder that diffusers saved"
    )
