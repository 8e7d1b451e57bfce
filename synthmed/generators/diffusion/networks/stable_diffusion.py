"""Stable Diffusion's autoencoder (Rombach et al. 2022) as a first stage, built by the diffusers library.

Parameters have diffusers' own names. The library is imported when the first such network is built.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from synthmed.errors import CheckpointError
from synthmed.formats.diffusers_files import AutoencoderKLConfig, constructor_arguments
from synthmed.generators.diffusion.networks.first_stage import FirstStage


class StableDiffusionAutoencoder(FirstStage):
    """An AutoencoderKL, without the scaling that diffusers' pipelines put between it and a denoiser.

    Raises:
        CheckpointError: The package diffusers is missing or does not load.
    """

    def __init__(self, config: AutoencoderKLConfig) -> None:
        super().__init__()
        self.config = config
        network = _autoencoder_kl()(**constructor_arguments(config))
        self.encoder, self.decoder = network.encoder, network.decoder
        self.quant_conv = network.quant_conv or nn.Identity()
        self.post_quant_conv = network.post_quant_conv or nn.Identity()

    def moments(self, images: Tensor) -> Tensor:
        """Return mean and log-variance, before the log-variance is clamped: [N, 2 Z, h, w]."""
        return self.quant_conv(self.encoder(images))  # type: ignore[no-any-return]

    def decode(self, latents: Tensor) -> Tensor:
        """Return images [N, C, H, W], nominally in [-1, 1], not clipped."""
        return self.decoder(self.post_quant_conv(latents))  # type: ignore[no-any-return]


def _autoencoder_kl() -> Any:
    """Return diffusers' class."""
    try:
        # A network may be built on the meta device; what the library makes when it is imported must not lie there.
        with torch.device("cpu"):
            from diffusers import AutoencoderKL
    except (ImportError, RuntimeError) as error:  # its lazy modules raise RuntimeError
        raise CheckpointError(
            f"Stable Diffusion's autoencoder needs the package diffusers: {str(error).splitlines()[0]}",
            "pip install 'synthmed[diffusers]'",
        ) from error
    return AutoencoderKL
