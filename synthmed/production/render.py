"""The one place where images are made: planned images in, samples out, on one device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import synthmed
from synthmed.data.images import encode_image
from synthmed.data.pixels import to_rgb_arrays, to_uint8
from synthmed.data.shards.plan import safe_key
from synthmed.data.shards.write import Sample
from synthmed.generators.diffusion.pipeline import load_pipeline
from synthmed.production.plan import SPLIT, GenerateConfig, Planned
from synthmed.runtime import device as devices
from synthmed.runtime.seeds import derive_seed

BATCH_SIZES = {"cuda": 64, "cpu": 16}
# Pillow lets go of the interpreter while it encodes, so that threads are enough.
ENCODERS = 4


@dataclass(frozen=True)
class Speed:
    """What one batch costs."""

    images_per_sec: float
    memory_gib: float
    """Of the process, or of the GPU if there is one."""


class Maker:
    """Samples batches on a device and encodes them beside it.

    Args:
        config: What to make.
        device: As on the command line.
        batch_size: Images sampled at once; halved where the device's memory is too small for it.

    Attributes:
        sampling_sec: Time spent denoising and decoding so far.
    """

    def __init__(self, config: GenerateConfig, device: str = "auto", batch_size: int | None = None) -> None:
        chosen = devices.select_device(device)
        devices.configure(chosen, any_threads=True)
        self.config = config
        self.pipeline = load_pipeline(config.checkpoint, chosen)
        self.fitting = devices.FittingBatches(chosen, batch_size or BATCH_SIZES[chosen.type], "images")
        self.sampling_sec = 0.0
        self._encoders = ThreadPoolExecutor(ENCODERS)

    def batches(self, planned: Sequence[Planned]) -> Iterator[list[Future[Sample]]]:
        """Yield the samples of a shard in the order of the plan, batch by batch, while they are still being encoded."""
        # Equal batches: none of them small, which would cost nearly as much as a full one.
        count = -(-len(planned) // self.fitting.size)
        for number in range(count):
            batch = planned[number * len(planned) // count : (number + 1) * len(planned) // count]
            images = self.sample(batch)
            yield [self._encoders.submit(self._encode, *pair) for pair in zip(batch, images, strict=True)]

    def sample(self, batch: Sequence[Planned]) -> NDArray[np.uint8]:
        """Return images [N, H, W, 3].

        Raises:
            DeviceError: The device has no memory for a single one.
        """
        timer = devices.Timer(self.pipeline.device)
        done = self.fitting.map(self._sample, batch)
        self.sampling_sec += timer.elapsed_sec()
        return np.concatenate(done)

    def _sample(self, batch: Sequence[Planned]) -> NDArray[np.uint8]:
        config, sampler = self.config, self.config.sampler
        dtype = devices.select_dtype(config.precision, self.pipeline.device)  # type: ignore[arg-type]
        with devices.autocast(self.pipeline.device, dtype):
            images = self.pipeline.sample(
                [image.label for image in batch],
                seeds=[derive_seed(config.seed, "image", image.label, image.index) for image in batch],
                sampler=sampler.sampler,
                steps=sampler.steps,
                eta=sampler.eta,
                guidance_scale=sampler.guidance_scale,
            )
        return to_rgb_arrays(to_uint8(images.float()))

    def measure(self) -> Speed:
        """Return what a batch costs, from one pass of the denoiser and one decoding."""
        import torch

        count, device = min(self.fitting.size, self.config.total), self.pipeline.device
        latents = torch.zeros(count, *self.pipeline.latent_shape, device=device)
        times = torch.zeros(count, dtype=torch.int64, device=device)
        dtype = devices.select_dtype(self.config.precision, device)  # type: ignore[arg-type]
        with devices.autocast(device, dtype):
            timer = devices.Timer(device)
            self.pipeline.denoise(latents, times, None)
            passes = timer.elapsed_sec() * self.config.sampler.passes
            timer = devices.Timer(device)
            self.pipeline.decode(latents)
            decoding = timer.elapsed_sec()
        return Speed(count / (passes + decoding), devices.peak_memory_gib(device))

    def _encode(self, image: Planned, pixels: NDArray[np.uint8]) -> Sample:
        config, model = self.config, self.config.model
        name = model.classes[image.label]
        metadata: dict[str, str | int | float | bool] = {
            "label": image.label,
            "label_name": name,
            "dataset": model.dataset,
            "split": SPLIT,
            "synthetic": True,
            "seed": config.seed,
            "index": image.index,
            "sampler": config.sampler.sampler,
            "steps": config.sampler.steps,
            "eta": config.sampler.eta,
            "guidance_scale": config.sampler.guidance_scale,
            "precision": config.precision,
            "checkpoint_sha256": config.checkpoint_sha256,
            "synthmed_version": synthmed.__version__,
        }
        text = {key: str(value) for key, value in metadata.items()}
        data = encode_image(pixels, config.image_format, text=text, synthetic=True)
        # The position comes first, so that keys ascend; the seed keeps the keys of two runs apart.
        slug = safe_key(name, max_bytes=32)
        key = f"synthetic-s{config.seed}-{image.position:08d}-{slug}-{image.index:08d}"
        return Sample(key, data, config.image_format, image.label, metadata)
