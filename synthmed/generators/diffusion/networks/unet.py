"""Medfusion's denoisers: `unet2`, its present build, and `unet1`, which older checkpoints hold.

Shapes: x_t and what is predicted, eps or x_0, [N, Z, h, w] float; t [N] int64 in 0 .. T - 1; labels [N] int64, below
zero for "no label".
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from synthmed.generators.diffusion.config import UnetConfig
from synthmed.generators.diffusion.networks.blocks import (
    BasicDown,
    BasicUp,
    Conv,
    DownBlock,
    LabelEmbedding,
    TimeEmbedding,
    UnetResBlock,
    UpBlock,
)

BLOCKS_PER_LEVEL = 2


class Denoiser(nn.Module):
    """What both builds share: embeddings, the channels that go in and come out, and the interface."""

    def __init__(self, config: UnetConfig, latent_channels: int, num_classes: int, guide_channels: int = 0) -> None:
        super().__init__()
        self.config = config
        self.in_channels = latent_channels * (2 if config.self_conditioning else 1) + guide_channels
        self.out_channels = latent_channels * (2 if config.learned_variance else 1)
        self.time_embedder = TimeEmbedding(config.emb_channels)
        if config.conditional and num_classes:
            self.cond_embedder = LabelEmbedding(num_classes, config.emb_channels)

    @property
    def conditional(self) -> bool:
        """Whether labels make a difference."""
        return hasattr(self, "cond_embedder")

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        labels: Tensor | None = None,
        *,
        self_conditioned: bool = False,
        guide: Tensor | None = None,
    ) -> Tensor:
        """Predict the noise in `x_t`, the clean latents or v, as the configuration's objective says.

        Args:
            x_t: Noisy latents.
            t: Their timesteps.
            labels: Their classes, if any.
            self_conditioned: Whether this is a pass after the first, for a network with self-conditioning.
            guide: What a network that was built for it sees beside `x_t`: [N, guide channels, h, w].
        """
        emb: Tensor = self.time_embedder(t)
        if labels is not None and self.conditional:
            emb = emb + self.cond_embedder(labels)
        if self.config.self_conditioning:
            # The idea (Chen et al. 2023) is to feed the estimate of the pass before. Medfusion's code hands it in and
            # then feeds x_t itself; its networks learnt from that, and meet zeros in the first step of sampling alone.
            x_t = torch.cat([x_t, x_t if self_conditioned else torch.zeros_like(x_t)], dim=1)
        if guide is not None:
            x_t = torch.cat([x_t, guide], dim=1)
        # The variance, where there is one, comes after the prediction and has a meaning in ancestral sampling alone.
        return self.run(x_t, emb)[:, : self.out_channels // 2 if self.config.learned_variance else None]

    def run(self, x: Tensor, emb: Tensor) -> Tensor:
        """Return the network's output, [N, out channels, h, w], for its input [N, in channels, h, w]."""
        raise NotImplementedError


class InBlock(nn.ModuleList):
    """A residual block on the way down."""

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        return self[0](x, emb)  # type: ignore[no-any-return]


class OutBlock(nn.ModuleList):
    """A residual block on the way up, a place for attention, and upsampling where a level ends."""

    def forward(self, x: Tensor, emb: Tensor, size: Sequence[int] | None) -> Tensor:
        x = self[0](x, emb)
        return self[2](x, size) if len(self) > 1 else x


class Unet2(Denoiser):
    """UNet with concatenated skips, two blocks a level on the way down and three on the way up.

    The indices inside `middle_block` and `out_blocks` leave a place for attention, which no published model uses.
    """

    def __init__(self, config: UnetConfig, latent_channels: int, num_classes: int, guide_channels: int = 0) -> None:
        super().__init__(config, latent_channels, num_classes, guide_channels)
        widths, strides, groups, emb = config.widths, config.strides, config.norm_groups, config.emb_channels
        self.in_conv = Conv(self.in_channels, widths[0], 3)
        skip_widths = [widths[0]]
        self.in_blocks = nn.ModuleList()
        last_level = len(widths) - 1
        for level in range(1, last_level + 1):
            for block in range(BLOCKS_PER_LEVEL):
                incoming = widths[level - 1] if block == 0 else widths[level]
                self.in_blocks.append(InBlock([UnetResBlock(incoming, widths[level], groups, emb)]))
                skip_widths.append(widths[level])
            if level < last_level:
                self.in_blocks.append(BasicDown(widths[level], widths[level], strides[level]))
                skip_widths.append(widths[level])
        middle = [UnetResBlock(widths[-1], widths[-1], groups, emb) for _ in range(2)]
        self.middle_block = nn.ModuleList([middle[0], nn.Identity(), middle[1]])
        self.out_blocks = self._build_out_blocks(skip_widths)
        self.outc = nn.Sequential(OrderedDict(conv=Conv(widths[0], self.out_channels, 1)))

    def _build_out_blocks(self, skip_widths: list[int]) -> nn.ModuleList:
        """Build the way up in running order, which is the reverse of the order of names."""
        widths, strides = self.config.widths, self.config.strides
        groups, emb = self.config.norm_groups, self.config.emb_channels
        running: list[nn.Module] = []
        width = widths[-1]
        for level in range(len(widths) - 1, 0, -1):
            for block in range(BLOCKS_PER_LEVEL, -1, -1):
                outgoing = widths[level] if block else widths[level - 1]
                stage: list[nn.Module] = [UnetResBlock(width + skip_widths.pop(), outgoing, groups, emb)]
                if block == 0 and level > 1:
                    stage += [nn.Identity(), BasicUp(outgoing, outgoing, strides[level - 1])]
                running.append(OutBlock(stage))
                width = outgoing
        return nn.ModuleList(reversed(running))

    def run(self, x: Tensor, emb: Tensor) -> Tensor:
        """Return the network's output; see `Denoiser`."""
        x = self.in_conv(x)
        skips = [x]
        for block in self.in_blocks:
            x = block(x) if isinstance(block, BasicDown) else block(x, emb)
            skips.append(x)
        x = self.middle_block[0](x, emb)
        x = self.middle_block[2](x, emb)
        for stage in reversed(self.out_blocks):
            x = torch.cat([x, skips.pop()], dim=1)
            x = stage(x, emb, skips[-1].shape[2:] if skips else None)
        return self.outc(x)  # type: ignore[no-any-return]


class Unet1(Denoiser):
    """UNet with added skips and one block a level, built like the autoencoder."""

    def __init__(self, config: UnetConfig, latent_channels: int, num_classes: int, guide_channels: int = 0) -> None:
        super().__init__(config, latent_channels, num_classes, guide_channels)
        widths, strides, groups, emb = config.widths, config.strides, config.norm_groups, config.emb_channels
        levels = range(1, len(widths))
        self.inc = UnetResBlock(self.in_channels, widths[0], groups, emb)
        self.encoders = nn.ModuleList(DownBlock(widths[i - 1], widths[i], strides[i], groups, emb) for i in levels)
        self.decoders = nn.ModuleList(UpBlock(widths[i], widths[i - 1], strides[i], groups, emb) for i in levels)
        self.outc = nn.Sequential(OrderedDict(conv=Conv(widths[0], self.out_channels, 1)))

    def run(self, x: Tensor, emb: Tensor) -> Tensor:
        """Return the network's output; see `Denoiser`."""
        x = self.inc(x, emb)
        skips = []
        for encoder in self.encoders:
            skips.append(x)
            x = encoder(x, emb)
        for decoder in reversed(self.decoders):
            x = decoder(x, skips.pop(), emb)
        return self.outc(x)  # type: ignore[no-any-return]


def build_denoiser(config: UnetConfig, latent_channels: int, num_classes: int, *, guide_channels: int = 0) -> Denoiser:
    """Return a denoiser with fresh weights.

    Args:
        config: Which build, and how wide.
        latent_channels: Z.
        num_classes: 0 for an unconditional model.
        guide_channels: Channels of a guide that it sees beside the noisy latents.
    """
    build = {"unet1": Unet1, "unet2": Unet2}[config.build]
    return build(config, latent_channels, num_classes, guide_channels)
