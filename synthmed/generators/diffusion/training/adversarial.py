"""Training of an autoencoder against discriminators: Medfusion's second stage, its VAEGAN.

Both sides learn in one step, from one sum of losses: what the autoencoder's side sees of a discriminator is constant,
what a discriminator sees of the outputs is detached, so each gradient is that of its own side alone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from synthmed.generators.diffusion.config import AdversarialConfig
from synthmed.generators.diffusion.networks.autoencoder import Autoencoder, split_moments
from synthmed.generators.diffusion.networks.discriminator import Discriminator
from synthmed.generators.diffusion.training.autoencoder import AutoencoderStep, in_full_precision
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
from synthmed.training.task import Draw


class AdversarialStep(AutoencoderStep):
    """Encode, sample, decode, compare, and have each output judged by a discriminator of its own.

    Args:
        network: The trained autoencoder.
        config: Weights of the losses.
        lpips: Wanted where LPIPS has a weight.
        processes: All processes of this run.
    """

    config: AdversarialConfig

    def __init__(
        self, network: Autoencoder, config: AdversarialConfig, lpips: Distance | None, processes: Processes
    ) -> None:
        super().__init__(network, config, lpips)
        self.processes = processes
        self.discriminators = nn.ModuleList(Discriminator(network.config) for _ in network.heads)

    def learners(self, config: StageConfig) -> dict[str, tuple[nn.Module, float]]:
        """Return the autoencoder and the discriminators, each with its peak learning rate."""
        return {**super().learners(config), "discriminators": (self.discriminators, self.config.discriminator_lr)}

    def forward(self, batch: list[Tensor], draw: Draw) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of both sides for uint8 images [N, 3, H, W]; the parts are those of the top output."""
        images, moments, outputs = self.reconstruct(batch, draw)
        # Averaged, unlike the targets of the first stage: as in Medfusion's code.
        targets = resize_targets(images, outputs, "area")
        with in_full_precision(images):
            losses, parts = reconstruction_losses(outputs, targets, self.config, self.lpips)
        discriminator_losses = []
        for number, (discriminator, head) in enumerate(zip(self.discriminators, self.network.heads, strict=True)):
            pair = torch.cat([targets[number], outputs[number].detach()])
            discriminator_losses.append(hinge_loss(*discriminator(pair).float().chunk(2)))
            if draw.step < self.config.start_step:
                continue
            adversarial = -judge(discriminator, outputs[number]).mean()
            weight = adaptive_weight(losses[number], adversarial, head.conv.weight, self.processes.mean)
            losses[number] = losses[number] + self.config.adversarial_weight * weight * adversarial
            if number == 0:
                parts |= {"adversarial": adversarial, "adaptive_weight": weight}
        total, rest = add_up(losses, *split_moments(moments), images[0].numel(), self.config)
        parts |= {"discriminator": torch.stack(discriminator_losses).sum(), **rest}
        return total + parts["discriminator"], parts


def judge(discriminator: nn.Module, images: Tensor) -> Tensor:
    """Return the logits of images, through which gradients flow to the images alone."""
    constants = {name: parameter.detach() for name, parameter in discriminator.named_parameters()}
    return torch.func.functional_call(discriminator, constants, (images,)).float()  # type: ignore[no-any-return]
