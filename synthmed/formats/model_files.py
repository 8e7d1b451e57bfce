"""synthmed's model files: one safetensors file, tensors under Medfusion's pipeline names, configuration in the header.

`latent_embedder.*` is the autoencoder, `noise_estimator.*` the denoiser where there is one. An autoencoder that
diffusers saved, without such a header, is read as if it were one of ours. No pickle is ever read.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from synthmed import __version__
from synthmed.config.tables import from_dict, to_dict
from synthmed.errors import CheckpointError, RecipeError
from synthmed.files.atomic import atomic_file
from synthmed.files.content import hash_file, hash_json
from synthmed.formats.diffusers_files import AutoencoderKLConfig, read_config_beside, with_present_names
from synthmed.generators.diffusion.config import SamplerConfig, ScheduleConfig, UnetConfig, VaeConfig

if TYPE_CHECKING:
    from torch import Tensor

FORMAT_VERSION = 1
AUTOENCODER_PREFIX = "latent_embedder."
DENOISER_PREFIX = "noise_estimator."
MAX_HEADER_BYTES = 1 << 20


@dataclass(frozen=True)
class ModelConfig:
    """Everything that is needed to use a model file, and where the model comes from."""

    kind: Literal["autoencoder", "pipeline"] = "pipeline"
    dataset: str = ""
    classes: tuple[str, ...] = ()
    aliases: dict[str, str] = field(default_factory=dict)
    positive: str = ""
    size: int | tuple[int, int] = 64
    """Side of square images in pixels, or height and width of others."""
    vae: VaeConfig | AutoencoderKLConfig = field(default_factory=VaeConfig)
    unet: UnetConfig = field(default_factory=UnetConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    latent_scale: float = 1.0
    training: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        factor = self.vae.downsampling
        if min(self.height_width) < 1 or any(side % factor for side in self.height_width):
            raise RecipeError(f"size is {self.size}", f"sides must be multiples of the down-sampling, {factor}")
        if not 0 < self.latent_scale < math.inf:
            raise RecipeError(f"latent_scale is {self.latent_scale}", "it must be above zero and finite")
        if len(set(self.classes)) != len(self.classes):
            raise RecipeError(f"classes are {list(self.classes)}", "no name may stand twice")
        if self.kind == "pipeline" and not self.unet.conditional and len(self.classes) > 1:
            raise RecipeError(f"classes are {list(self.classes)}", "a model with unet.conditional false has one")
        for alias, name in self.aliases.items():
            if name not in self.classes:
                raise RecipeError(f"alias {alias} stands for {name}", f"classes are {list(self.classes)}")

    @property
    def any_size(self) -> bool:
        """Whether `size` means nothing: Stable Diffusion's autoencoder alone was made for no size of images."""
        return self.kind == "autoencoder" and isinstance(self.vae, AutoencoderKLConfig)

    @property
    def height_width(self) -> tuple[int, int]:
        """Height and width of the images in pixels."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size


def save_model(path: Path, config: ModelConfig, tensors: Mapping[str, Tensor], *, half: bool = False) -> None:
    """Write a model file atomically.

    Args:
        path: Its name, ending in `.safetensors`.
        config: Stored in the header.
        tensors: Under Medfusion's pipeline names.
        half: Store floats in half precision; they are computed with in single precision all the same.
    """
    header = {"format_version": FORMAT_VERSION, "synthmed_version": __version__, "config": to_dict(config)}
    write_tensors(path, tensors, {"synthmed": json.dumps(header, sort_keys=True)}, half=half)


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


def read_config(path: Path) -> ModelConfig:
    """Return the configuration in a model file's header, without reading its weights or importing torch.

    Raises:
        CheckpointError: Neither a model file of synthmed nor an autoencoder that diffusers saved.
    """
    header = _read_header(path)
    if found := _foreign_config(path, header):
        return ModelConfig(kind="autoencoder", vae=found, training={"imported_from": path.name, "finished": True})
    try:
        stored = json.loads(header["__metadata__"]["synthmed"])
        version, table = stored["format_version"], stored["config"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is not a model file of synthmed",
            "see `synthmed checkpoints list`; an AutoencoderKL needs its config.json beside it",
        ) from error
    if version != FORMAT_VERSION:
        raise CheckpointError(f"{path} has format version {version}, this synthmed reads {FORMAT_VERSION}")
    try:
        return from_dict(ModelConfig, table, path.name)
    except (RecipeError, TypeError) as error:
        raise CheckpointError(f"the configuration in {path} is not valid: {error}") from error


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


def with_training(config: ModelConfig, **facts: Any) -> ModelConfig:
    """Return the configuration with facts of its training added."""
    return dataclasses.replace(config, training={**config.training, **facts})


def count_parameters(path: Path) -> dict[str, int]:
    """Return the number of values of the autoencoder and of the denoiser, from a model file's header alone.

    Raises:
        CheckpointError: The header is broken.
    """
    counts = {"autoencoder": 0, "denoiser": 0}
    try:
        for name, entry in _read_header(path).items():
            if name != "__metadata__":
                part = "denoiser" if name.startswith(DENOISER_PREFIX) else "autoencoder"
                counts[part] += math.prod(int(size) for size in entry["shape"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"the header of {path} is broken") from error
    return counts
