"""Training of an autoencoder against discriminators: Medfusion's second stage, its VAEGAN.

Both sides learn in every step and from the same outputs, those of the weights at the step's beginning.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from synthmed.generators.diffusion.networks.autoencoder import Autoencoder, split_moments
from synthmed.generators.diffusion.networks.discriminator import Discriminator
from synthmed.generators.diffusion.training.autoencoder import AutoencoderStep, in_full_precision
from synthmed.generators.diffusion.training.config import AdversarialConfig
from synthmed.generators.diffusion.training.losses import (
    adaptive_weight,
    add_up,
    hinge_loss,
    reconstruction_losses,
    resize_targets,
)
from synthmed.metrics.perceptual import Distance
from synthmed.runtime.processes import Processes
from synthmed.training.config import StageConfig
from synthmed.training.draw import Draw
from synthmed.training.updates import Update


class AdversarialStep(AutoencoderStep):
    """Encode, sample, decode, compare, and have each output judged by a discriminator of its own.

    Args:
        network: The trained autoencoder.
        config: Weights of the losses.
        lpips: Needed where LPIPS has a weight.
        processes: All processes of this run.
    """

    config: AdversarialConfig

    def __init__(
        self, network: Autoencoder, config: AdversarialConfig, lpips: Distance | None, processes: Processes
    ) -> None:
        super().__init__(network, config, lpips)
        self.processes = processes
        self.discriminators = nn.ModuleList(Discriminator(network.config) for _ in network.heads)
        self._pairs: list[tuple[Tensor, Tensor]] = []

    def updates(self, config: StageConfig) -> Sequence[Update]:
        """Return the autoencoder's update, then that of the discriminators."""
        judged = Update("discriminators", self.discriminators, self.judge, self.config.discriminator_lr)
        return [*super().updates(config), judged]

    def forward(self, batch: list[Tensor], draw: Draw) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the autoencoder's loss for uint8 images [N, 3, H, W]; the parts are those of the top output."""
        images, moments, outputs = self.reconstruct(batch, draw)
        # Averaged, unlike the targets of the first stage: as in Medfusion's code.
        targets = resize_targets(images, outputs, "area")
        self._pairs = [(target, output.detach()) for target, output in zip(targets, outputs, strict=True)]
        with in_full_precision(images):
            losses, parts = reconstruction_losses(outputs, targets, self.config, self.lpips)
        if draw.step >= self.config.start_step:
            for index, discriminator in enumerate(self.discriminators):
                adversarial = -discriminator(outputs[index]).float().mean()
                last_layer = self.network.heads[index].conv.weight
                weight = adaptive_weight(losses[index], adversarial, last_layer, self.processes.mean)
                losses[index] = losses[index] + self.config.adversarial_weight * weight * adversarial
                if index == 0:
                    parts |= {"adversarial": adversarial, "adaptive_weight": weight}
        total, rest = add_up(losses, *split_moments(moments), images[0].numel(), self.config)
        return total, parts | rest

    def judge(self, _batch: list[Tensor], _draw: Draw) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the discriminators' loss for what the autoencoder made of this batch, in `forward` just before."""
        losses = [
            hinge_loss(*discriminator(torch.cat(pair)).float().chunk(2))
            for discriminator, pair in zip(self.discriminators, self._pairs, strict=True)
        ]
        loss = torch.stack(losses).sum()
        return loss, {"discriminator": loss}
