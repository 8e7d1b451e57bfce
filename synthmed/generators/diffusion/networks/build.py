"""The networks that a model file holds, without memory for their weights, and whether given weights fit them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from synthmed.errors import CheckpointError
from synthmed.formats.model_files import AUTOENCODER_PREFIX, DENOISER_PREFIX, DETAIL_PREFIX
from synthmed.generators.diffusion.config import VaeConfig
from synthmed.generators.diffusion.header import DiffusionHeader
from synthmed.generators.diffusion.networks.autoencoder import Autoencoder
from synthmed.generators.diffusion.networks.detail import DetailNetwork
from synthmed.generators.diffusion.networks.stable_diffusion import StableDiffusionAutoencoder
from synthmed.generators.diffusion.networks.unet import build_denoiser


class _WithoutInitialisation(TorchFunctionMode):
    """Leaves out torch's initialisers: where there is no memory, some of them load a compiler of 400 MB in vain."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":
            return None
        return func(*args, **(kwargs or {}))


def build_networks(header: DiffusionHeader) -> dict[str, nn.Module]:
    """Return the networks by the prefix of their tensors, with parameters that have a shape and no values.

    `load_state_dict(..., assign=True)` gives them values. A small file may declare a network of any size, and weights
    that are loaded need no second place beside random ones.
    """
    with torch.device("meta"), _WithoutInitialisation():
        build = header.build
        vae = build.vae
        first_stage = Autoencoder(vae) if isinstance(vae, VaeConfig) else StableDiffusionAutoencoder(vae)
        modules: dict[str, nn.Module] = {AUTOENCODER_PREFIX: first_stage}
        if build.detail is not None:
            modules[DETAIL_PREFIX] = DetailNetwork(build.detail.unet, vae.image_channels, len(header.classes))
        if build.unet is not None:
            modules[DENOISER_PREFIX] = build_denoiser(build.unet, vae.latent_channels, len(header.classes))
    return modules


def check_shapes(header: DiffusionHeader, shapes: Mapping[str, tuple[int, ...]], path: Path) -> None:
    """Raise unless a file's tensors are exactly what its networks want.

    Args:
        header: What the networks are built from.
        shapes: Of the file's tensors, under the names of a model file.
        path: For the message.

    Raises:
        CheckpointError: One is missing, has another shape or is not known.
    """
    networks = build_networks(header).items()
    wanted = {prefix + name: tuple(value.shape) for prefix, net in networks for name, value in net.state_dict().items()}
    for name, shape in wanted.items():
        if name not in shapes:
            raise CheckpointError(f"{path} lacks the tensor {name}")
        if shapes[name] != shape:
            raise CheckpointError(f"{path}: {name} has shape {list(shapes[name])}, its header wants {list(shape)}")
    if unknown := sorted(shapes.keys() - wanted.keys()):
        raise CheckpointError(f"{path} has a tensor that its header has no place for: {unknown[0][:200]}")
