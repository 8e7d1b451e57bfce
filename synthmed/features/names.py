"""The names of the feature extractors, and what can be said of one and of its weights before torch is imported."""

from __future__ import annotations

import os
from pathlib import Path

from synthmed.errors import CheckpointError, UsageError, nearest

NAMES = ("inception", "radiomic", "timm:MODEL")
# torch-fidelity's file, for its network.
INCEPTION_URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
)
INCEPTION_FILE = INCEPTION_URL.rpartition("/")[2]
HOW_TO_GET = f"bring {INCEPTION_URL} and use --feature-weights FILE, or --download"


def check_extractor(name: str, weights: Path | None = None) -> None:
    """Refuse a name that is none of an extractor; whether timm has the model takes timm to tell.

    Args:
        name: `inception`, `radiomic` or `timm:MODEL`.
        weights: File of its weights, if one is given.

    Raises:
        UsageError: No such extractor, or weights for one that has none.
    """
    kind, _, model = name.partition(":")
    if name not in ("inception", "radiomic") and not (kind == "timm" and model):
        raise UsageError(f"unknown feature extractor: {name!r}", nearest(name, NAMES))
    if name == "radiomic" and weights is not None:
        raise UsageError(f"radiomic features have no weights: {weights}", "leave --feature-weights out")


def check_weights_file(name: str, weights: Path | None, *, download: bool) -> None:
    """Refuse weights that are not there, as far as that can be told without torch.

    Args:
        name: Of the extractor.
        weights: The file that is given; `None` for the one in torch's or Hugging Face's cache.
        download: Whether what is missing may be fetched.

    Raises:
        CheckpointError: Says which file to bring.
    """
    if weights is not None and not weights.is_file():
        raise CheckpointError(f"no such weights file: {weights}")
    if name == "inception" and weights is None and not download:
        check_inception_file(_torch_hub() / "checkpoints" / INCEPTION_FILE)


def check_inception_file(path: Path) -> None:
    """Raise where the file of Inception's weights is not in torch's cache."""
    if not path.is_file():
        raise CheckpointError(f"no weights of Inception on this machine: {path}", HOW_TO_GET)


def _torch_hub() -> Path:
    """Return what `torch.hub.get_dir` does."""
    cache = Path(os.getenv("XDG_CACHE_HOME", "~/.cache")) / "torch"
    return Path(os.getenv("TORCH_HOME", cache)).expanduser() / "hub"
