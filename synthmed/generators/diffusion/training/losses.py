"""Losses of the autoencoder, averaged over images, channels and pixels, so that no weight depends on the image size."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from synthmed.generators.diffusion.training.config import AutoencoderConfig
from synthmed.metrics.perceptual import MIN_SIZE as LPIPS_SIZE
from synthmed.metrics.perceptual import Distance

SSIM_WINDOW = 11


def ssim(images: Tensor, targets: Tensor) -> Tensor:
    """Return the structural similarity of each image and channel: [N, C], for float images in [0, 1].

    Wang et al. 2004: Gaussian window of 11 with sigma 1.5, over the windows that lie inside the image, population
    variances.
    """
    offsets = torch.arange(SSIM_WINDOW, dtype=images.dtype, device=images.device) - SSIM_WINDOW // 2
    taps = torch.exp(-(offsets**2) / (2 * 1.5**2))
    taps = taps / taps.sum()

    def blur(x: Tensor) -> Tensor:
        groups = x.shape[1]
        x = functional.conv2d(x, taps.view(1, 1, 1, -1).expand(groups, 1, 1, -1), groups=groups)
        return functional.conv2d(x, taps.view(1, 1, -1, 1).expand(groups, 1, -1, 1), groups=groups)

    blurred = blur(torch.cat([images, targets, images**2, targets**2, images * targets], dim=1))
    mean_x, mean_y, square_x, square_y, product = blurred.chunk(5, dim=1)
    variance_x, variance_y = square_x - mean_x**2, square_y - mean_y**2
    covariance = product - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    contrast = (2 * covariance + c2) / (variance_x + variance_y + c2)
    similarity: Tensor = luminance * contrast
    return similarity.mean(dim=(2, 3))


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return the divergence from the standard normal, summed over each image's latents: [N]."""
    return 0.5 * (mean**2 + log_variance.exp() - log_variance - 1).sum(dim=(1, 2, 3))


def reconstruction_loss(
    output: Tensor, target: Tensor, config: AutoencoderConfig, lpips: Distance | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return pixel distance + weight * (1 - SSIM) + weight * LPIPS, averaged over a batch, and these three.

    Medfusion sums it over an image's channels and pixels; here it is the mean. A term of weight zero is left out, and
    so is one whose window or network is larger than the image.

    Args:
        output: What the network made, [N, C, H, W] float32, nominally in [-1, 1].
        target: What it should be, likewise, in [-1, 1].
        config: Weights of the terms.
        lpips: Needed where LPIPS has a weight.
    """
    size, difference = min(target.shape[2:]), output - target
    parts = {"pixel": (difference**2 if config.pixel_loss == "mse" else difference.abs()).mean()}
    total = parts["pixel"]
    if config.ssim_weight > 0 and size >= SSIM_WINDOW:
        unit = [((x + 1) / 2).clamp(0, 1) for x in (output, target)]
        parts["ssim"] = functional.relu(ssim(*unit)).mean()
        total = total + config.ssim_weight * (1 - parts["ssim"])
    if config.lpips_weight > 0 and size >= LPIPS_SIZE:
        assert lpips is not None
        parts["lpips"] = lpips(output, target).mean()
        total = total + config.lpips_weight * parts["lpips"]
    return total, parts


def resize_targets(images: Tensor, outputs: Sequence[Tensor], mode: str = "nearest-exact") -> list[Tensor]:
    """Return for each output the images at its size."""
    return [
        images if x.shape == images.shape else functional.interpolate(images, x.shape[2:], mode=mode) for x in outputs
    ]


def reconstruction_losses(
    outputs: Sequence[Tensor], targets: Sequence[Tensor], config: AutoencoderConfig, lpips: Distance | None
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Return the loss of each output, and the parts of the top one's."""
    found = [reconstruction_loss(*pair, config, lpips) for pair in zip(outputs, targets, strict=True)]
    return [loss for loss, _ in found], found[0][1]


def add_up(
    losses: Sequence[Tensor], mean: Tensor, log_variance: Tensor, values: int, config: AutoencoderConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return top loss + weight * deep losses + weight * KL, and the last two.

    Args:
        losses: Losses of the top output and of the deep-supervision outputs (scalars).
        mean: Mean of the latents [N, Z, h, w].
        log_variance: Clamped log-variance of the latents, likewise.
        values: Values per image, channels times pixels, by which the KL divergence is divided: Medfusion adds it to
            sums over an image, which are means here.
        config: Weights.
    """
    kl = kl_divergence(mean, log_variance).mean()
    total, parts = losses[0] + config.kl_weight * kl / values, {"kl_nats": kl}
    if len(losses) > 1:
        parts["deep"] = torch.stack(list(losses[1:])).sum()
        total = total + config.deep_weight * parts["deep"]
    return total, parts


def autoencoder_loss(
    outputs: Sequence[Tensor],
    mean: Tensor,
    log_variance: Tensor,
    images: Tensor,
    config: AutoencoderConfig,
    lpips: Distance | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss of a batch and its parts: those of the top output, the deep outputs' loss, KL in nats per image.

    Args:
        outputs: The reconstruction, then the deep-supervision outputs.
        mean: Mean of the latents [N, Z, h, w].
        log_variance: Clamped log-variance of the latents, likewise.
        images: What was encoded, [N, C, H, W] in [-1, 1].
        config: Weights of the terms.
        lpips: Needed where LPIPS has a weight.
    """
    losses, parts = reconstruction_losses(outputs, resize_targets(images, outputs), config, lpips)
    total, rest = add_up(losses, mean, log_variance, images[0].numel(), config)
    return total, parts | rest


def hinge_loss(real: Tensor, generated: Tensor) -> Tensor:
    """Return the loss of a discriminator from its logits (Lim and Ye 2017, eq. 9), halved as in VQGAN."""
    return 0.5 * (functional.relu(1 - real).mean() + functional.relu(1 + generated).mean())


def adaptive_weight(
    reconstruction: Tensor, adversarial: Tensor, last_layer: Tensor, mean: Callable[[Tensor], Tensor]
) -> Tensor:
    """Return the weight that gives the adversarial loss the same pull on the last layer (Esser et al. 2021, eq. 7).

    With Medfusion's bounds. Its losses are sums where these are means, beside which its 1e-4 counts for more, so the
    weight of a discriminator that has learnt nothing yet rises more gently.

    Args:
        reconstruction: Reconstruction loss of an output (scalar).
        adversarial: Adversarial loss of the same output (scalar).
        last_layer: Weight of the layer that made the output.
        mean: Averages a tensor over all processes.
    """
    pulls = [
        torch.linalg.vector_norm(mean(torch.autograd.grad(loss, last_layer, retain_graph=True)[0]))
        for loss in (reconstruction, adversarial)
    ]
    ratio: Tensor = pulls[0] / (pulls[1] + 1e-4)
    return ratio.clamp(max=1e4).detach()
