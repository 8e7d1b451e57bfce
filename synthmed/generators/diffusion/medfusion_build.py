"""How a Medfusion checkpoint's networks are built: from the shapes of its tensors and from what it says of itself.

Shapes tell widths and channels, also those of self-conditioning and of a learned variance; `hyper_parameters` tell what
shapes do not. A file may lack them: then the published settings are meant.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from synthmed.config.tables import shown
from synthmed.errors import CheckpointError
from synthmed.formats.torch_files import StoredTensor
from synthmed.generators.diffusion.config import ScheduleConfig, UnetConfig, VaeConfig

# Neither file says how many groups its norms have unless `norm_name` is there, and shapes do not tell.
VAE_GROUPS = 8
UNET_GROUPS = 32
OBJECTIVES: Mapping[str, Literal["eps", "x_0"]] = {"x_T": "eps", "x_0": "x_0"}
Stored = Mapping[str, StoredTensor]


def vae_config(tensors: Stored, parameters: Mapping[str, Any], path: Path) -> VaeConfig:
    """Return the architecture of an autoencoder.

    Args:
        tensors: Under the autoencoder's own names.
        parameters: What it was made with; empty for the one inside a pipeline's file, which does not say.
        path: For messages.

    Raises:
        CheckpointError: An option that synthmed cannot compute.
        LookupError, RecipeError: It is not built as Medfusion's.
    """
    _refuse_unsupported(tensors, parameters, path)
    widths = _widths(tensors, "inc.block_seq.0.basic_block.conv.weight", "encoders.{}.down_op.down_op.weight")
    heads = [name for name in tensors if re.fullmatch(r"outc_ver\.\d+\.conv\.weight", name)]
    return VaeConfig(
        image_channels=tensors["inc.block_seq.0.basic_block.conv.weight"].shape[1],
        latent_channels=tensors["inc_dec.block_seq.0.basic_block.conv.weight"].shape[1],
        widths=widths,
        strides=(1, *[2] * (len(widths) - 1)),
        norm_groups=_groups(parameters, VAE_GROUPS, path),
        deep_supervision=len(heads),
    )


def unet_config(tensors: Stored, parameters: Mapping[str, Any], latent_channels: int, path: Path) -> UnetConfig:
    """Return the architecture of a denoiser and the meaning of its output; arguments and errors as for `vae_config`."""
    arguments = plain_dict(parameters.get("noise_estimator_kwargs"))
    _refuse_unsupported(tensors, arguments, path)
    if (objective := parameters.get("estimator_objective", "x_T")) not in list(OBJECTIVES):
        raise CheckpointError(f"{path} predicts {shown(objective)}", "synthmed supports x_T and x_0")
    build: Literal["unet2", "unet1"] = "unet2" if "in_conv.conv.weight" in tensors else "unet1"
    if build == "unet1":
        first, level, every = "inc.block_seq.0.basic_block.conv.weight", "encoders.{}.down_op.down_op.weight", 1
    else:
        # Two blocks and a strided convolution a level.
        first, level, every = "in_conv.conv.weight", "in_blocks.{}.0.block_seq.0.basic_block.conv.weight", 3
    widths = _widths(tensors, first, level, every=every)
    return UnetConfig(
        build=build,
        widths=widths,
        strides=(1, *[2] * (len(widths) - 1)),
        norm_groups=_groups(arguments, UNET_GROUPS, path),
        emb_channels=tensors["time_embedder.time_emb.1.weight"].shape[0],
        objective=OBJECTIVES[objective],
        conditional="cond_embedder.embedding.weight" in tensors,
        learned_variance=tensors["outc.conv.conv.weight"].shape[0] == 2 * latent_channels,
        self_conditioning=tensors[first].shape[1] == 2 * latent_channels,
        clip_x_0=bool(parameters.get("clip_x0", False)),
    )


def schedule_config(parameters: Mapping[str, Any], path: Path) -> ScheduleConfig:
    """Return the noise schedule; errors as for `vae_config`."""
    arguments = plain_dict(parameters.get("noise_scheduler_kwargs"))
    if not arguments:
        return ScheduleConfig()
    if arguments.get("betas") is not None or arguments.get("T") not in (None, arguments.get("timesteps", 1000)):
        raise CheckpointError(f"{path} has a noise schedule with betas or T of its own", "synthmed supports none such")
    # The defaults of Medfusion's class, which are not the published settings.
    return ScheduleConfig(
        strategy=_one_of(arguments.get("schedule_strategy", "cosine"), ("scaled_linear", "linear", "cosine"), path),
        num_timesteps=int(arguments.get("timesteps", 1000)),
        beta_start=float(arguments.get("beta_start", 0.0001)),
        beta_end=float(arguments.get("beta_end", 0.02)),
    )


def num_classes(tensors: Stored) -> int:
    """Return how many classes a denoiser's label embedding has; 0 for an unconditional one."""
    embedding = tensors.get("cond_embedder.embedding.weight")
    return embedding.shape[0] if embedding else 0


def plain_dict(value: Any) -> dict[str, Any]:
    """Return a dict, or what an object of a dict's kind was filled with."""
    return value if isinstance(value, dict) else getattr(value, "items", None) or {}


def _one_of(value: Any, choices: tuple[Any, ...], path: Path) -> Any:
    if value not in choices:
        raise CheckpointError(f"{path} has the noise schedule {shown(value)}", f"known: {', '.join(choices)}")
    return value


def _widths(tensors: Stored, first: str, level: str, *, every: int = 1) -> tuple[int, ...]:
    """Return the widths of the levels from the shapes of their convolutions."""
    widths = [tensors[first].shape[0]]
    while (name := level.format(every * (len(widths) - 1))) in tensors:
        widths.append(tensors[name].shape[0])
    return tuple(widths)


def _groups(parameters: Mapping[str, Any], default: int, path: Path) -> int:
    """Return the groups of the norms from `norm_name`, e.g. ("GROUP", {"num_groups": 8, "affine": True})."""
    match parameters.get("norm_name"):
        case ("GROUP", {"num_groups": int(groups)}):
            return groups
        case None:
            return default
        case other:
            raise CheckpointError(f"{path} has the norm {shown(other)}", "synthmed supports group norm")


def _all(*allowed: Any) -> Callable[[Any], bool]:
    """Return whether a value, or each value of a list, is one of those."""
    return lambda value: all(item in allowed for item in (value if isinstance(value, list | tuple) else [value]))


def _sized(number: int) -> tuple[Any, ...]:
    """Return the ways to write a number for both axes."""
    return number, (number, number), [number, number]


def _is_swish(value: Any) -> bool:
    name = value[0] if isinstance(value, tuple | list) and value else value
    return isinstance(name, str) and name.casefold() == "swish"


# Options of Medfusion's networks and the values of them that synthmed computes; most others have other tensors, too.
SUPPORTED: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "use_attention": (_all("none", None), "models without attention"),
    "spatial_dims": (_all(2), "2-D models"),
    "kernel_sizes": (_all(*_sized(3)), "kernels of 3 x 3"),
    "strides": (
        lambda value: _all(*_sized(1))(value[:1]) and _all(*_sized(2))(value[1:]),
        "strides 1, 2, 2, ...",
    ),
    "act_name": (_is_swish, "Swish"),
    "use_res_block": (_all(True), "residual blocks"),
    "learnable_interpolation": (_all(True), "convolutions on the way down and up"),
    "num_res_blocks": (_all(2), "two blocks a level"),
    "time_embedder_kwargs": (lambda value: set(plain_dict(value)) <= {"emb_dim"}, "Medfusion's own embedding"),
}


def _refuse_unsupported(tensors: Stored, parameters: Mapping[str, Any], path: Path) -> None:
    """Refuse by name what Medfusion's code can build and synthmed cannot."""
    if any(len(tensor.shape) == 5 for tensor in tensors.values()):
        raise CheckpointError(f"{path} holds a 3-D model", "synthmed supports 2-D models")
    for option, (supported, what) in SUPPORTED.items():
        if option in parameters and not supported(parameters[option]):
            raise CheckpointError(f"{path} has {option} {shown(parameters[option])}", f"synthmed supports {what}")
