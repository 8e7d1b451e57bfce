"""Medfusion's variational autoencoder.

Shapes: images [N, channels, H, W] float in [-1, 1]; moments [N, 2 Z, h, w] (mean, then log-variance); latents
[N, Z, h, w], where Z is the number of latent channels and h = H / down-sampling.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from synthmed.generators.diffusion.config import VaeConfig
from synthmed.generators.diffusion.networks.blocks import Conv, DownBlock, UnetResBlock, UpBlock
from synthmed.generators.diffusion.networks.first_stage import FirstStage

LOG_VARIANCE_RANGE = (-30.0, 20.0)


class Autoencoder(FirstStage):
    """VAE with residual levels, no attention, and a second output at half size for deep supervision."""

    config: VaeConfig

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        self.config = config
        widths, strides, groups = config.widths, config.strides, config.norm_groups
        latent = config.latent_channels
        levels = range(1, len(widths))
        self.inc = UnetResBlock(config.image_channels, widths[0], groups)
        self.encoders = nn.ModuleList(DownBlock(widths[i - 1], widths[i], strides[i], groups) for i in levels)
        self.out_enc = nn.Sequential(Conv(widths[-1], 2 * latent, 3), Conv(2 * latent, 2 * latent, 1))
        self.inc_dec = UnetResBlock(latent, widths[-1], groups)
        self.decoders = nn.ModuleList(UpBlock(widths[i], widths[i - 1], strides[i], groups) for i in levels)
        self.outc = Conv(widths[0], config.image_channels, 1)
        self.outc_ver = nn.ModuleList(
            Conv(widths[i], config.image_channels, 1) for i in range(1, config.deep_supervision + 1)
        )

    @property
    def heads(self) -> list[Conv]:
        """The last layers, in the order of the outputs that they make."""
        return [self.outc, *self.outc_ver]

    def moments(self, images: Tensor) -> Tensor:
        """Return mean and log-variance, before the log-variance is clamped: [N, 2 Z, h, w]."""
        x = self.inc(images)
        for encoder in self.encoders:
            x = encoder(x)
        return self.out_enc(x)  # type: ignore[no-any-return]

    def decode(self, latents: Tensor) -> Tensor:
        """Return images [N, channels, H, W], nominally in [-1, 1], not clipped."""
        return self.decode_deep(latents)[0]

    def decode_deep(self, latents: Tensor) -> list[Tensor]:
        """Return the image, then the deep-supervision outputs, each at half the size of the one before."""
        x = self.inc_dec(latents)
        outputs: list[Tensor] = []
        for level in range(len(self.decoders), 0, -1):
            if level <= len(self.outc_ver):
                outputs.append(self.outc_ver[level - 1](x))
            x = self.decoders[level - 1](x)
        return [self.outc(x), *reversed(outputs)]


def split_moments(moments: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and clamped log-variance, each [N, Z, h, w]."""
    mean, log_variance = moments.chunk(2, dim=1)
    return mean, log_variance.clamp(*LOG_VARIANCE_RANGE)


def sample_latents(moments: Tensor, noise: Tensor) -> Tensor:
    """Return a draw from the posterior: mean + standard deviation * noise."""
    mean, log_variance = split_moments(moments)
    return mean + torch.exp(0.5 * log_variance) * noise
