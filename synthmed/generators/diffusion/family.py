"""The diffusion family: Medfusion's class-conditional latent diffusion models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthmed.formats.headers import Header
from synthmed.formats.model_files import AUTOENCODER_PREFIX, DENOISER_PREFIX, DETAIL_PREFIX
from synthmed.generators.diffusion.config import DiffusionBuild
from synthmed.generators.diffusion.recipe import DiffusionRecipe
from synthmed.generators.diffusion.settings import DiffusionSettings
from synthmed.generators.diffusion.training.config import (
    AdversarialConfig,
    AutoencoderConfig,
    DetailConfig,
    DiffusionConfig,
)
from synthmed.generators.family import Family, Generator, Prepared, Stage, StageContext

if TYPE_CHECKING:
    from torch import Tensor

    from synthmed.data.datasets import DataSetInfo


def _load(path: Path, header: Header[Any, Any], device: Any) -> Generator:
    from synthmed.generators.diffusion.generator import load

    return load(path, header, device)


def _import_file(path: Path, info: DataSetInfo, **changes: Any) -> tuple[Header[Any, Any], Mapping[str, Tensor]]:
    from synthmed.generators.diffusion.medfusion import import_checkpoint

    return import_checkpoint(path, info, **changes)


def _export_tensors(header: Header[Any, Any], tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    from synthmed.generators.diffusion.medfusion import export_state_dict

    return export_state_dict(header, tensors)


def _autoencoder(context: StageContext) -> Prepared:
    from synthmed.generators.diffusion.training.stages import prepare_autoencoder

    return prepare_autoencoder(context)


def _adversarial(context: StageContext) -> Prepared:
    from synthmed.generators.diffusion.training.stages import prepare_adversarial

    return prepare_adversarial(context)


def _detail(context: StageContext) -> Prepared:
    from synthmed.generators.diffusion.training.stages import prepare_detail

    return prepare_detail(context)


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
        Stage("detail", DetailConfig, _detail, after=("adversarial", "autoencoder"), optional=True),
        Stage("diffusion", DiffusionConfig, _denoiser, after=("detail", "adversarial", "autoencoder")),
    ),
    load=_load,
    parts={
        AUTOENCODER_PREFIX.rstrip("."): "autoencoder",
        DENOISER_PREFIX.rstrip("."): "denoiser",
        DETAIL_PREFIX.rstrip("."): "detail stage",
    },
    import_file=_import_file,
    export_tensors=_export_tensors,
)
