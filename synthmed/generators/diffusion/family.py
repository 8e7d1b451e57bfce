"""The diffusion family: Medfusion's class-conditional latent diffusion models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from synthmed.formats.headers import Header
from synthmed.formats.model_files import AUTOENCODER_PREFIX, DENOISER_PREFIX
from synthmed.generators.diffusion.config import DiffusionBuild
from synthmed.generators.diffusion.recipe import DiffusionRecipe
from synthmed.generators.diffusion.settings import DiffusionSettings
from synthmed.generators.diffusion.training.config import AdversarialConfig, AutoencoderConfig, DiffusionConfig
from synthmed.generators.family import Family, Generator, Prepared, Stage, StageContext


def _load(path: Path, header: Header[Any, Any], device: Any) -> Generator:
    from synthmed.generators.diffusion.generator import load

    return load(path, header, device)


def _autoencoder(context: StageContext) -> Prepared:
    from synthmed.generators.diffusion.training.stages import prepare_autoencoder

    return prepare_autoencoder(context)


def _adversarial(context: StageContext) -> Prepared:
    from synthmed.generators.diffusion.training.stages import prepare_adversarial

    return prepare_adversarial(context)


def _denoiser(context: StageContext) -> Prepared:
    from synthmed.generators.diffusion.training.stages import prepare_denoiser

    return prepare_denoiser(context)


DIFFUSION = Family(
    name="diffusion",
    title="latent diffusion as in Medfusion: autoencoder, denoiser, many steps per image",
    build=DiffusionBuild,
    settings=DiffusionSettings,
    recipe=DiffusionRecipe,
    stages=(
        Stage("autoencoder", AutoencoderConfig, _autoencoder),
        Stage("adversarial", AdversarialConfig, _adversarial, after=("autoencoder",), optional=True),
        Stage("diffusion", DiffusionConfig, _denoiser, after=("adversarial", "autoencoder")),
    ),
    load=_load,
    parts={AUTOENCODER_PREFIX.rstrip("."): "autoencoder", DENOISER_PREFIX.rstrip("."): "denoiser"},
)
