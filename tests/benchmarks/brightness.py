"""Why deterministic samplers may spread brightness too much: what a denoiser makes of an image's mean in much noise.

    python tests/benchmarks/brightness.py MODEL SHARDS [IMAGES]

First, at some timesteps, the mean of the latents (over all pixels of a channel) as the denoiser estimates it, against
the true one: where there is nearly nothing to be seen, a good estimate hardly varies. A network that predicts the noise
gets this wrong, because the mean is a tiny part of its loss; divided by the little signal there is, the error is many
times the spread of real images, and without fresh noise the sampler keeps it. A network that predicts v does not.
Then the standard deviation of the mean grey of each class, of real and of sampled images.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from synthmed.data.pixels import to_float, to_uint8
from synthmed.data.sets.image_set import open_images
from synthmed.data.shards.read import open_folder
from synthmed.generators.diffusion.pipeline import Pipeline, load_pipeline
from synthmed.generators.registry import resolve_path

TIMESTEPS = (999, 950, 900, 800, 700, 600)
SEEN = 128
BATCH = 50
SAMPLERS = (("dpmpp-2m", 20, 0.0), ("ddim", 20, 0.0), ("ddim", 20, 1.0))


def estimated_means(pipeline: Pipeline, images: Tensor, labels: Tensor) -> None:
    """Print the spread of the true and of the estimated means of the latents, [N, C, H, W] uint8 images."""
    build, schedule = pipeline.header.build, pipeline.schedule
    x_0 = pipeline.moments(to_float(images))[0] * build.latent_scale
    print(f"standard deviation of the latents' means: {_deviations(x_0).std():.3f}")
    generator = torch.Generator().manual_seed(0)
    for t in TIMESTEPS:
        eps, times = torch.randn(x_0.shape, generator=generator), torch.full((len(x_0),), t)
        x_t = schedule.add_noise(x_0, eps, times)
        noise = pipeline.denoise(x_t, times, labels)
        estimate = (x_t - schedule.sqrt_one_minus_alphas_cumprod[t] * noise) / schedule.sqrt_alphas_cumprod[t]
        print(f"  log-SNR {schedule.log_snr[t]:5.1f}: estimated {_deviations(estimate).std():.3f}")


def _deviations(latents: Tensor) -> Tensor:
    means = latents.mean(dim=(2, 3))
    return means - means.mean(dim=0)


def main(model: str, shards: str, count: str = "100") -> None:
    """Print both."""
    pipeline = load_pipeline(resolve_path(Path(model)))
    build, (side, _) = pipeline.header.build, pipeline.header.height_width
    real = open_images(open_folder(Path(shards), "train"), size=side, channels=build.vae.image_channels)
    seen = min(SEEN, len(real))
    estimated_means(pipeline, real.load(range(seen)), torch.from_numpy(real.labels[:seen]))
    for label, name in enumerate(pipeline.header.classes):
        grey = real.load(np.flatnonzero(real.labels == label)).float().mean(dim=(1, 2, 3))
        print(f"{name}: mean grey varies by {grey.std():.1f} in real images")
        for sampler, steps, eta in SAMPLERS:
            found = []
            for first in range(0, int(count), BATCH):
                seeds = range(first, min(first + BATCH, int(count)))
                images = pipeline.sample([label] * len(seeds), seeds=seeds, sampler=sampler, steps=steps, eta=eta)
                found.append(to_uint8(images).float().mean(dim=(1, 2, 3)))
            print(f"  {sampler}, {steps} steps, eta {eta:g}: {torch.cat(found).std():.1f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
