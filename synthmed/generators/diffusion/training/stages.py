"""The stages of a diffusion model: what each checks before its folder is claimed, and what it then trains."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from synthmed.config.tables import to_marks
from synthmed.data.sets.image_set import ImageSet, open_images
from synthmed.data.shards.read import ShardFolder
from synthmed.errors import CheckpointError, RecipeError
from synthmed.files.content import hash_file, hash_json
from synthmed.formats.model_files import hash_model
from synthmed.generators.diffusion.config import DetailBuild, DiffusionBuild, FirstStageConfig
from synthmed.generators.diffusion.header import DiffusionHeader
from synthmed.generators.diffusion.networks.autoencoder import Autoencoder
from synthmed.generators.diffusion.pipeline import Pipeline, load_pipeline
from synthmed.generators.diffusion.recipe import DiffusionRecipe
from synthmed.generators.diffusion.training.adversarial import AdversarialStep
from synthmed.generators.diffusion.training.autoencoder import AutoencoderStep, AutoencoderTask
from synthmed.generators.diffusion.training.config import AutoencoderConfig
from synthmed.generators.diffusion.training.denoiser import DiffusionTask
from synthmed.generators.diffusion.training.detail import DetailTask
from synthmed.generators.diffusion.training.latents import LatentSet, encode_split, measure_latent_scale
from synthmed.generators.family import Prepared, StageContext
from synthmed.metrics.perceptual import HOW_TO_GET, Lpips
from synthmed.runtime.progress import log
from synthmed.training.task import Task


def prepare_autoencoder(context: StageContext) -> Prepared:
    """Return the first stage: images to latents and back."""
    recipe: DiffusionRecipe = context.recipe
    header = _header(context, DiffusionBuild(recipe.vae))
    lpips, hashes = _open_lpips(context, recipe.autoencoder, "autoencoder")

    def build() -> Task:
        step = AutoencoderStep(Autoencoder(recipe.vae), recipe.autoencoder, lpips)
        train, validation = (_open_images(context, split, recipe.vae) for split in (context.train, context.validation))
        return AutoencoderTask(header, step, train, validation, context.request.num_workers)

    return Prepared({**_tables(recipe, "data", "vae", "autoencoder"), **hashes}, build)


def prepare_adversarial(context: StageContext) -> Prepared:
    """Return the training of a trained autoencoder against discriminators."""
    recipe: DiffusionRecipe = context.recipe
    path, first_stage = _open_autoencoder(context)
    network = first_stage.autoencoder
    if not isinstance(network, Autoencoder):
        raise CheckpointError(f"{path} is not Medfusion's autoencoder", "the adversarial stage trains no other")
    vae = first_stage.header.build.vae
    header = _header(context, DiffusionBuild(vae))
    lpips, hashes = _open_lpips(context, recipe.adversarial, "adversarial")

    def build() -> Task:
        _say_start(context)
        step = AdversarialStep(network.requires_grad_(True), recipe.adversarial, lpips, context.processes)
        train, validation = (_open_images(context, split, vae) for split in (context.train, context.validation))
        return AutoencoderTask(header, step, train, validation, context.request.num_workers)

    facts = {"autoencoder_sha256": hash_file(path), **hashes}
    return Prepared({**_tables(recipe, "data", "adversarial"), **facts}, build)


def prepare_detail(context: StageContext) -> Prepared:
    """Return the training of the detail stage on the reconstructions of a trained autoencoder."""
    recipe: DiffusionRecipe = context.recipe
    path, first_stage = _open_autoencoder(context)
    vae = first_stage.header.build.vae
    header = _header(context, DiffusionBuild(vae, detail=DetailBuild(recipe.detail_unet, recipe.schedule)))

    def build() -> Task:
        _say_start(context)
        request = context.request
        train, validation = (_open_images(context, split, vae) for split in (context.train, context.validation))
        return DetailTask(header, recipe.detail, first_stage, train, validation, request.seed, request.num_workers)

    tables = _tables(recipe, "data", "detail_unet", "schedule", "detail")
    return Prepared({**tables, "autoencoder_sha256": hash_model(path)}, build)


def prepare_denoiser(context: StageContext) -> Prepared:
    """Return the training of the denoiser on the latents of a trained autoencoder."""
    recipe: DiffusionRecipe = context.recipe
    path, first_stage = _open_autoencoder(context)
    vae, sha256 = first_stage.header.build.vae, hash_model(path)
    whole = dataclasses.replace(first_stage.header.build, unet=recipe.unet, schedule=recipe.schedule)
    # A model that cannot be is better said now than after the split is encoded.
    _header(context, whole)

    def build() -> Task:
        _say_start(context)
        train, validation = (
            _encode(context, first_stage, split, sha256) for split in (context.train, context.validation)
        )
        scale = 1.0
        if recipe.diffusion.latent_scale == "measured":
            scale = measure_latent_scale(train, vae.latent_channels)
        header = _header(context, dataclasses.replace(whole, latent_scale=scale))
        return DiffusionTask(header, recipe.diffusion, first_stage, train, validation, context.request.seed)

    tables = _tables(recipe, "data", "unet", "schedule", "diffusion", "sampler")
    return Prepared({**tables, "autoencoder_sha256": sha256}, build)


def _tables(recipe: DiffusionRecipe, *names: str) -> dict[str, Any]:
    return {name: to_marks(getattr(recipe, name)) for name in names}


def _header(context: StageContext, build: DiffusionBuild) -> DiffusionHeader:
    """Return the header of the model file to make: of the whole model, or of its first stage alone.

    Raises:
        RecipeError: Such a model cannot be.
    """
    recipe: DiffusionRecipe = context.recipe
    if recipe.data.size % build.vae.downsampling:
        raise RecipeError(
            f"data.size {recipe.data.size} is not a multiple of the down-sampling {build.vae.downsampling}",
            "change data.size or the autoencoder",
        )
    if build.unet is None:
        return DiffusionHeader(build=build, kind="autoencoder", **context.header_fields)
    sampling = recipe.sampler if build.detail else dataclasses.replace(recipe.sampler, detail_steps=0)
    return DiffusionHeader(build=build, sampling=sampling, **context.header_fields)


def _open_images(context: StageContext, split: ShardFolder, vae: FirstStageConfig) -> ImageSet:
    """Return the images of a split as the model takes them."""
    images = open_images(split, size=context.recipe.data.size, channels=vae.image_channels)
    if context.processes.main:
        images.log_resized()
    return images


def _open_autoencoder(context: StageContext) -> tuple[Path, Pipeline]:
    """Return the autoencoder to start from, and say on stderr what is unusual about it."""
    path = context.start
    assert path is not None
    first_stage = load_pipeline(path, context.device)
    if context.processes.main:
        if first_stage.header.training.get("finished") is False:
            log(f"note: the training of {path} is not finished")
        if first_stage.header.build.vae != context.recipe.vae:
            log(f"note: {path} is not built as the recipe's [vae] says; the file counts")
    return path, first_stage


def _say_start(context: StageContext) -> None:
    if context.processes.main:
        log(f"autoencoder: {context.start}")


def _open_lpips(context: StageContext, config: AutoencoderConfig, table: str) -> tuple[Lpips | None, dict[str, str]]:
    """Return LPIPS where the recipe gives it a weight, and the hash that a run's settings keep of it."""
    if config.lpips_weight == 0:
        return None, {}
    path = context.request.vgg_weights
    if path is None:
        raise CheckpointError(
            f"{table}.lpips_weight is {config.lpips_weight:g} and needs the weights of VGG-16",
            f"{HOW_TO_GET}; or train without: --set {table}.lpips_weight=0",
        )
    return Lpips(path, context.device), {"vgg_sha256": hash_file(path)}


def _encode(context: StageContext, first_stage: Pipeline, split: ShardFolder, sha256: str) -> LatentSet:
    """Return the latents of a split, each process having encoded its part."""
    config = context.recipe.diffusion
    flips = config.flips if split is context.train else "none"
    images = _open_images(context, split, first_stage.header.build.vae)
    key = hash_json([sha256, split.content_hash, split.split, flips, config.latents, images.size])
    return encode_split(
        first_stage.autoencoder,
        images,
        flips=flips,
        keep=config.latents,
        cache=context.request.run / "latents" / f"{split.split}-{key[:16]}",
        device=context.device,
        processes=context.processes,
    )
