"""Medfusion's discriminator: is this patch of an image real, or did the autoencoder make it?

Shapes: images [N, channels, H, W] float in [-1, 1]; logits [N, 1, h, w], one a patch, where h = H / down-sampling.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from synthmed.generators.diffusion.config import VaeConfig
from synthmed.generators.diffusion.networks.blocks import BasicBlock, Conv


class Discriminator(nn.Module):
    """Strided blocks with the widths of the autoencoder, then a convolution to one logit, which starts at zero."""

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        widths, groups = config.widths, config.norm_groups
        self.inc = BasicBlock(config.image_channels, widths[0], groups, config.strides[0])
        self.encoder = nn.Sequential(
            *(
                BasicBlock(*pair, groups, stride)
                for pair, stride in zip(pairwise(widths), config.strides[1:], strict=True)
            )
        )
        self.outc = Conv(widths[-1], 1, 3)
        for parameter in self.outc.parameters():
            nn.init.zeros_(parameter)

    def forward(self, images: Tensor) -> Tensor:
        """Return a logit for each patch: above zero for real."""
        return self.outc(self.encoder(self.inc(images)))  # type: ignore[no-any-return]
