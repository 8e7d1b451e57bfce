"""Files of a network's weights: safetensors, and PyTorch's own format, which is read as data and never unpickled.

Knows no network: what a file must hold is handed in as names and shapes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from synthmed.errors import CheckpointError
from synthmed.formats.torch_files import CheckpointFile, StoredTensor


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file by name: safetensors where its name ends so, else a state dict of torch.save.

    Raises:
        CheckpointError: The file is missing, broken, or holds something else.
    """
    return read_safetensors(path) if path.suffix == ".safetensors" else _read_state_dict(path)


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file by name.

    Raises:
        CheckpointError: The file is missing or is none.
    """
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"no such weights file: {path}") from error
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a safetensors file: {error}", "other formats can run code") from error
    return tensors


def _read_state_dict(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(f"no such weights file: {path}")
    file = CheckpointFile(path)
    places = file.root
    if not isinstance(places, dict) or not all(isinstance(place, StoredTensor) for place in places.values()):
        raise CheckpointError(f"{path} does not hold a state dict: names, and a tensor for each")
    # Many names may point to one storage: without a bound a small file could fill the memory.
    if sum(math.prod(place.shape) for place in places.values()) > file.size:
        raise CheckpointError(f"{path} declares more numbers than it has bytes")
    return {str(name): file.read(place) for name, place in places.items()}


def check_weights(
    path: Path, name: str, found: Mapping[str, Tensor], wanted: Mapping[str, Any], remedy: str | None = None
) -> None:
    """Raise unless a file's tensors are those of a network, in name, shape and being finite.

    Args:
        path: The file, for the error.
        name: The network, for the error.
        found: The file's tensors.
        wanted: The network's state dict; only shapes are looked at.
        remedy: What to do about it.

    Raises:
        CheckpointError: Names what is missing, extra, of another shape or not finite.
    """
    # Counters of batch norm batches take no part in the result, and many files leave them out.
    required = {key for key in wanted if not key.endswith("num_batches_tracked")}
    wrong = [f"{key} is missing" for key in sorted(required - found.keys())]
    wrong += [f"{key} is not part of it" for key in sorted(found.keys() - wanted.keys())]
    for key in sorted(found.keys() & wanted.keys()):
        if found[key].shape != wanted[key].shape:
            wrong.append(f"{key} has shape {list(found[key].shape)}, not {list(wanted[key].shape)}")
    if wrong:
        listed = "; ".join(wrong[:3]) + (f"; and {len(wrong) - 3} more" if len(wrong) > 3 else "")
        raise CheckpointError(f"{path} does not hold the weights of {name}: {listed}", remedy)
    for key, tensor in found.items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{path} has weights that are not finite: {key}", remedy)
