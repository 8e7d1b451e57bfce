"""What stands between images and latents: the interface of Medfusion's autoencoder and of Stable Diffusion's.

Shapes: images [N, C, H, W] float in [-1, 1]; moments [N, 2 Z, h, w] (mean, then log-variance); latents [N, Z, h, w].
"""

from __future__ import annotations

from torch import Tensor, nn

from synthmed.generators.diffusion.config import FirstStageConfig


class FirstStage(nn.Module):
    """An autoencoder whose latents have a mean and a variance; its configuration tells image and latent channels."""

    config: FirstStageConfig

    @property
    def downsampling(self) -> int:
        """Factor between the sides of an image and of its latents."""
        return self.config.downsampling

    def moments(self, images: Tensor) -> Tensor:
        """Return mean and log-variance, before the log-variance is clamped: [N, 2 Z, h, w]."""
        raise NotImplementedError

    def decode(self, latents: Tensor) -> Tensor:
        """Return images [N, C, H, W], nominally in [-1, 1], not clipped."""
        raise NotImplementedError
