"""synthmed's model files: one safetensors file of weights, with a header that says everything needed to use them.

An autoencoder that diffusers saved, without a header, is read as if it were one of ours: from any of the formats in
`torch_files`, and from several files that an index names. No pickle is ever run.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthmed.config.tables import shown, to_dict
from synthmed.errors import CheckpointError
from synthmed.files.atomic import atomic_file
from synthmed.files.content import hash_file, hash_json, unique_keys
from synthmed.formats.diffusers_files import (
    AutoencoderKLConfig,
    read_config_beside,
    weight_files,
    with_present_names,
)
from synthmed.formats.headers import Header, table_of_diffusers, table_of_version_1
from synthmed.formats.safetensors_files import read_file
from synthmed.formats.torch_files import CheckpointFile, StoredTensor
from synthmed.formats.weight_files import find_tensors
from synthmed.runtime import version

if TYPE_CHECKING:
    from torch import Tensor

FORMAT_VERSION = 2
AUTOENCODER_PREFIX = "latent_embedder."
DENOISER_PREFIX = "noise_estimator."
DETAIL_PREFIX = "detail."


def save_model(path: Path, header: Header[Any, Any], tensors: Mapping[str, Tensor], *, half: bool = False) -> None:
    """Write a model file atomically.

    Args:
        path: Its name, ending in `.safetensors`.
        header: What the file says of itself.
        tensors: Under the family's names.
        half: Store floats in half precision; they are computed with in single precision all the same.
    """
    stored = {"format_version": FORMAT_VERSION, "synthmed_version": version.__version__, "header": header.as_table()}
    write_tensors(path, tensors, {"synthmed": json.dumps(stored, sort_keys=True)}, half=half)


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None, *, half: bool = False
) -> None:
    """Write tensors as a safetensors file, atomically, with memory for one tensor at a time.

    The format's own library wants all of them at once, which doubles the memory where `tensors` reads them from a file.

    Args:
        path: The file.
        tensors: By name; each is asked for twice, for its shape and for its values.
        metadata: For the file's header.
        half: Store half precision instead of single precision.
    """
    import torch

    dtype, code = (torch.float16, "F16") if half else (torch.float32, "F32")
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name in sorted(tensors):
        shape = list(tensors[name].shape)
        start, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": code, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    # Readers map the file, and where a weight lies in memory can turn the last bit of what is computed with it: so that
    # images do not depend on the length of the header, the weights begin at a multiple of 64.
    text += b" " * (-(8 + len(text)) % 64)
    with atomic_file(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in sorted(tensors):
            file.write(tensors[name].detach().cpu().to(dtype).contiguous().numpy().data)


def read_table(path: Path) -> dict[str, Any]:
    """Return the table of a model file's header, without reading its weights or importing torch.

    Raises:
        CheckpointError: Neither a model file of synthmed nor an autoencoder that diffusers saved, or cut short.
    """
    if found := _foreign_config(path):
        return table_of_diffusers(found, path)
    try:
        stored = json.loads(read_file(path).metadata["synthmed"], object_pairs_hook=unique_keys)
        version = stored["format_version"]
        if version not in (1, FORMAT_VERSION):
            raise CheckpointError(
                f"{path} has format version {shown(version)}, this synthmed reads 1 and {FORMAT_VERSION}"
            )
        table = table_of_version_1(stored["config"], path) if version == 1 else stored["header"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is not a model file of synthmed",
            "see `synthmed checkpoints list`; an AutoencoderKL needs its config.json beside it",
        ) from error
    if not isinstance(table, dict) or not isinstance(table.get("family"), str):
        raise CheckpointError(f"the configuration in {path} is not valid: it names no family")
    return table


def is_model_file(path: Path) -> bool:
    """Say whether a file is a model file of synthmed, as far as its list of tensors says."""
    with contextlib.suppress(CheckpointError):
        return "synthmed" in read_file(path).metadata
    return False


def _foreign_config(path: Path) -> AutoencoderKLConfig | None:
    """Return the configuration of an autoencoder that diffusers saved; `None` for any other file."""
    return None if is_model_file(path) or not os.path.isfile(path) else read_config_beside(path)


def hash_model(path: Path) -> str:
    """Return the SHA-256 of a model file, or of weights and configuration of what diffusers saved in several files."""
    config = _foreign_config(path)
    if config is None:
        return hash_file(path)
    return hash_json([*map(hash_file, weight_files(path)), to_dict(config)])


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a model file's tensors by name, without reading their values or importing torch.

    Raises:
        CheckpointError: The file is broken or cut short.
    """
    if _foreign_config(path) is None:
        return {name: place.shape for name, place in read_file(path).tensors.items()}
    return {name: place.shape for name, (_, place) in _foreign_places(path).items()}


def _foreign_places(path: Path) -> dict[str, tuple[CheckpointFile, StoredTensor]]:
    """Return where the tensors of an autoencoder that diffusers saved lie, by the names of a model file."""
    places: dict[str, tuple[CheckpointFile, StoredTensor]] = {}
    for part in weight_files(path):
        file = CheckpointFile(part)
        found = {AUTOENCODER_PREFIX + name: tensor for name, tensor in with_present_names(find_tensors(file)).items()}
        if twice := sorted(found.keys() & places.keys()):
            raise CheckpointError(f"{part} holds a tensor that another file of {path.name} holds too: {twice[0]}")
        places |= {name: (file, tensor) for name, tensor in found.items()}
    return places


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Return a model file's weights in single precision, under Medfusion's pipeline names.

    Raises:
        CheckpointError: The file is broken, or a weight is not finite.
    """
    if _foreign_config(path) is not None:
        tensors = {name: file.read(place) for name, (file, place) in _foreign_places(path).items()}
    else:
        tensors = _load_own(path)
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise CheckpointError(f"{path} has weights that are not floats: {name}")
        tensors[name] = tensor.float()
        if not is_finite(tensors[name]):
            raise CheckpointError(f"{path} has weights that are not finite: {name}")
    return tensors


def _load_own(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    read_file(path)
    try:
        # Mapped: see `write_tensors` for why their place in memory matters.
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {path}: {error}", "the file is broken or cut short") from error
    return tensors


def is_finite(tensor: Tensor) -> bool:
    """Say whether all values of a float tensor on the CPU are finite."""
    import numpy as np

    # Five times as fast as torch's own.
    return bool(np.isfinite(tensor.detach().numpy()).all())


def count_parameters(path: Path) -> dict[str, int]:
    """Return the number of values by the first word of the tensors' names, without reading them.

    Raises:
        CheckpointError: The file is broken or cut short.
    """
    counts: dict[str, int] = {}
    for name, shape in read_shapes(path).items():
        part = name.partition(".")[0]
        counts[part] = counts.get(part, 0) + math.prod(shape)
    return counts
