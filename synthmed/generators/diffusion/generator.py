"""A diffusion model as the rest of synthmed sees it: labels and seeds in, uint8 images out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from synthmed.data.pixels import to_uint8
from synthmed.generators.diffusion.header import DiffusionHeader
from synthmed.generators.diffusion.pipeline import Pipeline, load_pipeline
from synthmed.generators.diffusion.settings import DiffusionSettings
from synthmed.generators.family import Cost, NotFiniteError, OnStep
from synthmed.runtime.device import Timer, peak_memory_gib


class DiffusionGenerator:
    """A loaded diffusion model; see `generators.family.Generator`.

    Args:
        pipeline: Its networks.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline

    @property
    def header(self) -> DiffusionHeader:
        """What the model file says of itself."""
        return self.pipeline.header

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.pipeline.device

    def sample(
        self, labels: Sequence[int], seeds: Sequence[int], settings: DiffusionSettings, on_step: OnStep | None = None
    ) -> Tensor:
        """Return one image per label and seed: uint8 [N, 3, H, W]; raises as `Generator.sample`."""
        images = self.pipeline.sample(
            labels,
            seeds=seeds,
            sampler=settings.sampler,
            steps=settings.steps,
            eta=settings.eta,
            guidance_scale=settings.guidance_scale,
            detail_steps=settings.detail_steps,
            on_step=on_step,
        )
        # As numbers of 8 bits they would be black.
        if broken := (~images.isfinite().flatten(1).all(dim=1)).nonzero().flatten().tolist():
            raise NotFiniteError(broken[0])
        return to_uint8(images.float()).expand(-1, 3, -1, -1)

    def cost(self, settings: DiffusionSettings, batch_size: int) -> Cost:
        """Return what batches of a size cost, from the second of two passes of each network."""
        latents = torch.zeros(batch_size, *self.pipeline.latent_shape, device=self.device)
        times = torch.zeros(batch_size, dtype=torch.int64, device=self.device)
        for _ in range(2):
            timer = Timer(self.device)
            self.pipeline.denoise(latents, times, None)
            passes = timer.elapsed_sec() * settings.passes
            timer = Timer(self.device)
            images = self.pipeline.decode(latents)
            decoding = timer.elapsed_sec()
            timer = Timer(self.device)
            self.pipeline.refine(images, [0] * batch_size, min(1, settings.detail_steps))
            detail = timer.elapsed_sec() * settings.detail_steps
        return Cost(batch_size / (passes + decoding + detail), peak_memory_gib(self.device))


def load(path: Path, header: DiffusionHeader, device: torch.device | str) -> DiffusionGenerator:
    """Return the model in a file, ready to sample."""
    return DiffusionGenerator(load_pipeline(path, device, header))
