"""Synthetic medical images: train generative models, make class-balanced shards, measure what they are worth.

Importing this module alone imports nothing heavy: the functions import what they need when they are called.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthmed.errors import (
    CheckpointError,
    DataError,
    DeviceError,
    IncompleteError,
    InputError,
    Interrupted,
    RecipeError,
    ResumeError,
    SynthmedError,
    TrainingError,
    UsageError,
)
from synthmed.runtime.version import __version__

if TYPE_CHECKING:
    from synthmed.data.labels import Classes
    from synthmed.formats.headers import Header
    from synthmed.generators.diffusion.pipeline import Pipeline
    from synthmed.generators.diffusion.settings import DiffusionSettings
    from synthmed.generators.family import Family, Generator, NotFiniteError

__all__ = [
    "CheckpointError",
    "Classes",
    "DataError",
    "DeviceError",
    "DiffusionSettings",
    "Family",
    "Generator",
    "Header",
    "IncompleteError",
    "InputError",
    "Interrupted",
    "NotFiniteError",
    "Pipeline",
    "RecipeError",
    "ResumeError",
    "SynthmedError",
    "TrainingError",
    "UsageError",
    "__version__",
    "load_generator",
    "load_pipeline",
    "open_shards",
]
_TYPES = {
    "Classes": "data.labels",
    "DiffusionSettings": "generators.diffusion.settings",
    "Family": "generators.family",
    "Generator": "generators.family",
    "Header": "formats.headers",
    "NotFiniteError": "generators.family",
    "Pipeline": "generators.diffusion.pipeline",
}


def __getattr__(name: str) -> Any:
    if name not in _TYPES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_TYPES[name]}"), name)


def load_generator(path: str | Path, device: str = "cpu") -> Generator:
    """Return the model in a file, of whatever family, ready to sample; see `Generator` for what it can do.

    Raises:
        CheckpointError: The file is missing, broken, or its weights do not fit its header.
    """
    from synthmed.generators.families import load_generator as load

    return load(path, device)


def load_pipeline(path: str | Path, device: str = "cpu") -> Pipeline:
    """Return the networks of a diffusion model, with everything that its sampling can be told; see `Pipeline`.

    Raises:
        CheckpointError: The file is missing, broken, of another family, or its weights do not fit its header.
    """
    from synthmed.generators.diffusion.pipeline import load_pipeline as load

    return load(path, device)


def open_shards(folder: str | Path, split: str = "train") -> Any:
    """Return a webdataset pipeline over a split: (uint8 tensor [3, H, W], label, metadata) for each sample.

    It takes webdataset's own methods, e.g. `.shuffle(1000).batched(32)`. Loader workers and, under torch.distributed,
    ranks share the shards between them.

    Args:
        folder: A folder of shards, or its address in a store, e.g. s3://bucket/folder.
        split: train, validation or test.

    Raises:
        DataError: The folder has no such split, or a shard is not in the contract's form.
    """
    from synthmed.data.sets.open_shards import open_shards as open_split
    from synthmed.files.storage import location

    return open_split(location(folder), split)
