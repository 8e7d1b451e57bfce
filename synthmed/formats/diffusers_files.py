"""Stable Diffusion's autoencoder as the diffusers library saves it: what its files hold, in synthmed's terms.

That is a folder with `config.json` and weights, or a pipeline's folder with these in `vae/`. Weights are one file, or
several that an index names; a variant, such as `fp16`, stands in their names. Nothing is downloaded.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any, Literal, TypeVar

from synthmed.config.fields import MAX_WIDTH
from synthmed.config.tables import from_dict, shown
from synthmed.errors import CheckpointError, RecipeError

Value = TypeVar("Value")

CONFIG_NAME = "config.json"
# Whole files before indices of several, safetensors before pickles, and no variant before one.
WEIGHTS_NAMES = tuple(
    name.format(ending)
    for ending in ("safetensors", "bin")
    for name in (
        *("diffusion_pytorch_model.{}", "diffusion_pytorch_model.{}.index.json"),
        *("diffusion_pytorch_model.*.{}", "diffusion_pytorch_model.{}.index.*.json"),
    )
)
SHARD = re.compile(r"diffusion_pytorch_model.*-\d{5}-of-\d{5}\b.*")
MAX_SHARDS = 1000
MAX_CONFIG_BYTES = 1 << 20
# Bounds on what a hostile file can ask for; the published ones have 4 levels of 2 or 3 blocks.
MAX_LEVELS = 8
MAX_LAYERS = 16
# How diffusers' own pipelines use the latents. Here their scale is measured, so that none of these may count.
UNUSED = ("sample_size", "scaling_factor", "shift_factor", "latents_mean", "latents_std", "force_upcast")
# Attention's parameters had other names when the Stable Diffusion 1 weights were saved.
OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
OLD_NAME = re.compile(rf"(\.attentions\.\d+\.)({'|'.join(OLD_NAMES)})\.")


@dataclass(frozen=True)
class AutoencoderKLConfig:
    """Architecture of an AutoencoderKL: diffusers' own arguments and defaults."""

    build: Literal["AutoencoderKL"] = "AutoencoderKL"
    in_channels: int = 3
    out_channels: int = 3
    down_block_types: tuple[Literal["DownEncoderBlock2D", "AttnDownEncoderBlock2D"], ...] = ("DownEncoderBlock2D",)
    up_block_types: tuple[Literal["UpDecoderBlock2D", "AttnUpDecoderBlock2D"], ...] = ("UpDecoderBlock2D",)
    block_out_channels: tuple[int, ...] = (64,)
    layers_per_block: int = 1
    act_fn: Literal["silu", "swish", "mish", "gelu", "relu"] = "silu"
    latent_channels: int = 4
    norm_num_groups: int = 32
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    mid_block_add_attention: bool = True

    def __post_init__(self) -> None:
        widths, groups = self.block_out_channels, self.norm_num_groups
        if self.in_channels not in (1, 3) or self.out_channels != self.in_channels:
            raise RecipeError(
                f"in_channels is {self.in_channels} and out_channels {self.out_channels}", "both must be 1, or both 3"
            )
        if not len(widths) == len(self.down_block_types) == len(self.up_block_types):
            raise RecipeError(
                f"{len(widths)} block_out_channels, {len(self.down_block_types)} down_block_types and "
                f"{len(self.up_block_types)} up_block_types",
                "there must be as many of each",
            )
        for name, value, most in (
            ("the number of block_out_channels", len(widths), MAX_LEVELS),
            ("layers_per_block", self.layers_per_block, MAX_LAYERS),
            ("latent_channels", self.latent_channels, MAX_WIDTH),
            ("norm_num_groups", groups, MAX_WIDTH),
            *(("one of block_out_channels", width, MAX_WIDTH) for width in widths),
        ):
            if not 1 <= value <= most:
                raise RecipeError(f"{name} is {value}", f"it must be in 1 .. {most}")
        if any(width % groups for width in widths):
            raise RecipeError(
                f"block_out_channels are {list(widths)}", f"they must be multiples of norm_num_groups = {groups}"
            )

    @property
    def image_channels(self) -> int:
        """Channels of the images, as Medfusion's configuration calls them."""
        return self.in_channels

    @property
    def downsampling(self) -> int:
        """Factor between the sides of an image and of its latents: every level but the last halves."""
        return 1 << (len(self.block_out_channels) - 1)


def find_weights(path: Path) -> Path | None:
    """Return the weights in a folder of diffusers, or in its `vae`, or their index; `None` where there are none.

    Raises:
        CheckpointError: There are parts of weights without their index.
    """
    for folder in filter(os.path.isdir, (path, path / "vae")):
        for name in WEIGHTS_NAMES:
            found = [file for file in sorted(folder.glob(name)) if file.is_file()]
            if whole := [file for file in found if not SHARD.match(file.name)]:
                return whole[0]
        if parts := sorted(folder.glob("diffusion_pytorch_model*-of-*")):
            raise CheckpointError(f"{parts[0]} is one of several files, and their .index.json is missing", "bring it")
    return None


def weight_files(weights: Path) -> list[Path]:
    """Return the files that hold the weights: that file itself, or those beside it that it names as an index.

    Raises:
        CheckpointError: An index is broken, names files elsewhere, or one that is missing.
    """
    if weights.suffix != ".json":
        return [weights]
    table = _read_json(weights)
    names = table.get("weight_map") if isinstance(table, dict) else None
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise CheckpointError(f"{weights} is no index of weights: it has no weight_map")
    files = sorted(set(names.values()))
    if not 1 <= len(files) <= MAX_SHARDS:
        raise CheckpointError(f"{weights} names {len(files)} files", f"1 to {MAX_SHARDS}")
    for name in files:
        if not SHARD.fullmatch(name) or not name.isprintable() or PureWindowsPath(name).name != name:
            raise CheckpointError(f"{weights} names a file that is none of its parts: {name[:100]!r}")
        if not weights.with_name(name).is_file():
            raise CheckpointError(f"{weights} names {name[:100]}, which is missing", "bring it too")
    return [weights.with_name(name) for name in files]


def _read_json(path: Path) -> Any:
    """Return what a small JSON file holds.

    Raises:
        CheckpointError: It cannot be read. A missing one is a FileNotFoundError.
    """
    try:
        with open(path, "rb") as file:
            return json.loads(file.read(MAX_CONFIG_BYTES))
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error


def read_config_beside(weights: Path) -> AutoencoderKLConfig | None:
    """Return what diffusers' `config.json` beside a weights file says; `None` where there is none of diffusers.

    Raises:
        CheckpointError: It is broken, of another network, or asks for what is not supported.
    """
    path = weights.with_name(CONFIG_NAME)
    try:
        table = _read_json(path)
    except FileNotFoundError:
        return None
    if not isinstance(table, dict) or "_class_name" not in table:
        return None
    if table["_class_name"] != "AutoencoderKL":
        raise CheckpointError(f"{path} is of {shown(table['_class_name'])}", "only AutoencoderKL is supported")
    arguments = {key: value for key, value in table.items() if not key.startswith("_") and key not in UNUSED}
    try:
        return from_dict(AutoencoderKLConfig, arguments, CONFIG_NAME)
    except RecipeError as error:
        raise CheckpointError(f"{path} is not valid: {error}") from error


def with_present_names(tensors: Mapping[str, Value]) -> dict[str, Value]:
    """Return an AutoencoderKL's tensors under the names that diffusers gives them today."""
    return {OLD_NAME.sub(lambda found: f"{found[1]}{OLD_NAMES[found[2]]}.", name): tensors[name] for name in tensors}


def constructor_arguments(config: AutoencoderKLConfig) -> dict[str, Any]:
    """Return the arguments of diffusers' class."""
    return {name: value for name, value in vars(config).items() if name != "build"}
