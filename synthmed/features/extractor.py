"""What every feature extractor offers, and the one way to open one by name.

Images are [N, 3, H, W] uint8; features [N, D] float32. Nothing is downloaded unless that is asked for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from synthmed.features.names import check_extractor


class Extractor(Protocol):
    """A function from images to features, and what determines it."""

    name: str
    """As `open_extractor` takes it."""
    num_features: int
    """D."""
    fingerprint: str
    """Hex SHA-256 over everything that determines the features; the key of the cache."""

    def __call__(self, images: Tensor) -> Tensor:
        """Return features [N, D] float32 on the CPU; a row depends on its image alone, to rounding.

        Args:
            images: [N, 3, H, W] uint8 on any device. One batch: the caller bounds N, and so the memory.
        """
        ...


class FeatureExtractor(Extractor, Protocol):
    """An extractor with what results state of it."""

    weights_sha256: str | None
    """Of the file with its weights; `None` where it has none."""
    resize: str
    """How images of other sizes are brought to its own."""


def open_extractor(
    name: str, *, weights: Path | None = None, device: torch.device, download: bool = False
) -> FeatureExtractor:
    """Return an extractor, ready to use.

    Args:
        name: `inception`, `radiomic` or `timm:MODEL`.
        weights: File of its weights; by default the one that lies in the library's cache on this machine.
        device: Where its network runs.
        download: Fetch weights that are not in the cache.

    Raises:
        UsageError: No such extractor, or weights for one that has none.
        CheckpointError: The weights are missing, broken or of something else; says which file to bring.
    """
    check_extractor(name, weights)
    if name == "radiomic":
        from synthmed.features.radiomic import RadiomicExtractor

        return RadiomicExtractor()
    if name == "inception":
        from synthmed.features.inception import InceptionExtractor, find_inception_weights

        return InceptionExtractor(weights or find_inception_weights(download=download), device)
    from synthmed.features.timm_features import TimmExtractor, find_timm_weights
    from synthmed.features.timm_networks import check_name

    model = name.removeprefix("timm:")
    check_name(model)
    return TimmExtractor(model, weights or find_timm_weights(model, download=download), device)
