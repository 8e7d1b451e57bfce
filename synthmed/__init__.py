"""Synthetic medical images: train or load Medfusion models, make class-balanced shards, measure what they are worth.

The Python interface is `load_pipeline` and `open_shards`. Importing this module alone imports nothing heavy.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from synthmed.generators.diffusion.pipeline import Pipeline

__version__ = "0.1.0"
__all__ = ["__version__", "load_pipeline", "open_shards"]


def load_pipeline(path: str | Path, device: str = "cpu") -> Pipeline:
    """Return the model in a file made by `train-diffusion`, ready to sample; see `Pipeline` for what it can do.

    Raises:
        CheckpointError: The file is missing, broken, or its weights do not fit its configuration.
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
