"""synthmed's model files: one safetensors file of weights, with a header that says everything needed to use them.

An autoencoder that diffusers saved, without a header, is read as if it were one of ours. No pickle is ever read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthmed.config.tables import to_dict
from synthmed.errors import CheckpointError
from synthmed.files.atomic import atomic_file
from synthmed.files.content import hash_file, hash_json
from synthmed.formats.diffusers_files import AutoencoderKLConfig, read_config_beside, with_present_names
from synthmed.formats.headers import Header, table_of_diffusers, table_of_version_1
from synthmed.runtime import version

if TYPE_CHECKING:
    from torch import Tensor

FORMAT_VERSION = 2
AUTOENCODER_PREFIX = "latent_embedder."
DENOISER_PREFIX = "noise_estimator."
MAX_HEADER_BYTES = 1 << 20


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
        CheckpointError: Neither a model file of synthmed nor an autoencoder that diffusers saved.
    """
    header = _read_header(path)
    if found := _foreign_config(path, header):
        return table_of_diffusers(found, path)
    try:
        stored = json.loads(header["__metadata__"]["synthmed"])
        version = stored["format_version"]
        if version not in (1, FORMAT_VERSION):
            raise CheckpointError(f"{path} has format version {version}, this synthmed reads 1 and {FORMAT_VERSION}")
        table = table_of_version_1(stored["config"], path) if version == 1 else stored["header"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is not a model file of synthmed",
            "see `synthmed checkpoints list`; an AutoencoderKL needs its config.json beside it",
        ) from error
    if not isinstance(table, dict) or not isinstance(table.get("family"), str):
        raise CheckpointError(f"the configuration in {path} is not valid: it names no family")
    return table


def _read_header(path: Path) -> Any:
    """Return the JSON header of a safetensors file, whatever it holds."""
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= MAX_HEADER_BYTES:
                raise CheckpointError(f"{path} is not a safetensors file", "give a model file made by synthmed")
            return json.loads(file.read(length))
    except FileNotFoundError as error:
        raise CheckpointError(f"no such model file: {path}") from error
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not a safetensors file", "give a model file made by synthmed") from error


def _foreign_config(path: Path, header: Any) -> AutoencoderKLConfig | None:
    """Return the configuration of an autoencoder that diffusers saved; `None` for any other file."""
    try:
        ours = "synthmed" in header["__metadata__"]
    except (KeyError, TypeError):
        ours = False
    return None if ours else read_config_beside(path)


def hash_model(path: Path) -> str:
    """Return the SHA-256 of a model file, or of weights and configuration of what diffusers saved in two files."""
    config = _foreign_config(path, _read_header(path))
    sha256 = hash_file(path)
    return sha256 if config is None else hash_json([sha256, to_dict(config)])


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Return a model file's weights in single precision, under Medfusion's pipeline names.

    Raises:
        CheckpointError: The file is broken, or a weight is not finite.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {path}: {error}", "the file is broken or cut short") from error
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise CheckpointError(f"{path} has weights that are not floats: {name}")
        tensors[name] = tensor.float()
        if not is_finite(tensors[name]):
            raise CheckpointError(f"{path} has weights that are not finite: {name}")
    if _foreign_config(path, _read_header(path)):
        return {AUTOENCODER_PREFIX + name: tensor for name, tensor in with_present_names(tensors).items()}
    return tensors


def is_finite(tensor: Tensor) -> bool:
    """Say whether all values of a float tensor on the CPU are finite."""
    import numpy as np

    # Five times as fast as torch's own.
    return bool(np.isfinite(tensor.detach().numpy()).all())


def count_parameters(path: Path) -> dict[str, int]:
    """Return the number of values by the first word of the tensors' names, from a model file's header alone.

    Raises:
        CheckpointError: The header is broken.
    """
    counts: dict[str, int] = {}
    header = _read_header(path)
    prefix = AUTOENCODER_PREFIX if _foreign_config(path, header) else ""
    try:
        for name, entry in header.items():
            if name != "__metadata__":
                part = (prefix + name).partition(".")[0]
                counts[part] = counts.get(part, 0) + math.prod(int(size) for size in entry["shape"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"the header of {path} is broken") from error
    return counts
