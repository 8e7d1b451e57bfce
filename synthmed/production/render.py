"""Where images are made: planned images in, samples out, on one device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from synthmed.config.tables import to_marks
from synthmed.data.images import encode_image
from synthmed.data.pixels import to_rgb_arrays
from synthmed.data.shards.plan import safe_key
from synthmed.data.shards.write import MetadataValue, Sample
from synthmed.errors import CheckpointError
from synthmed.generators.families import load_generator
from synthmed.generators.family import Cost, NotFiniteError
from synthmed.production.plan import SPLIT, GenerateConfig, Planned
from synthmed.runtime import device as devices
from synthmed.runtime import version
from synthmed.runtime.progress import log
from synthmed.runtime.seeds import derive_seed

BATCH_SIZES = {"cuda": 64, "cpu": 16}
# Pillow lets go of the interpreter while it encodes, so that threads are enough.
ENCODERS = 4


class Renderer:
    """Samples batches on a device and encodes them beside it.

    Args:
        config: What to make.
        device: As on the command line.
        batch_size: Images sampled at once; halved where the device's memory is too small for it.

    Attributes:
        sampling_sec: Time spent sampling so far.
    """

    def __init__(self, config: GenerateConfig, device: str = "auto", batch_size: int | None = None) -> None:
        chosen = devices.select_device(device)
        devices.configure(chosen, any_threads=True)
        self.config = config
        self.generator = load_generator(config.checkpoint, chosen)
        self.fitting = devices.FittingBatches(chosen, batch_size or BATCH_SIZES[chosen.type], "images")
        self.sampling_sec = 0.0
        self._dtype = devices.select_dtype(config.precision, chosen)
        self._said_blank = False
        self._encoders = ThreadPoolExecutor(ENCODERS)

    def batches(self, planned: Sequence[Planned]) -> Iterator[list[Future[Sample]]]:
        """Yield the samples of a shard in the order of the plan, batch by batch, while they are still being encoded."""
        # Equal batches: none of them small, which would cost nearly as much as a full one.
        count = -(-len(planned) // self.fitting.size)
        for index in range(count):
            batch = planned[index * len(planned) // count : (index + 1) * len(planned) // count]
            images = self.sample(batch)
            yield [self._encoders.submit(self._encode, *pair) for pair in zip(batch, images, strict=True)]

    def sample(self, batch: Sequence[Planned]) -> NDArray[np.uint8]:
        """Return images [N, H, W, 3].

        Raises:
            DeviceError: The device has no memory for a single one.
        """
        timer = devices.Timer(self.generator.device)
        done = self.fitting.map(self._sample, batch)
        self.sampling_sec += timer.elapsed_sec()
        return np.concatenate(done)

    def _sample(self, batch: Sequence[Planned]) -> NDArray[np.uint8]:
        seeds = [derive_seed(self.config.seed, "image", image.label, image.index) for image in batch]
        try:
            with devices.autocast(self.generator.device, self._dtype):
                images = self.generator.sample([image.label for image in batch], seeds, self.config.settings)
        except NotFiniteError as error:
            image, config = batch[error.position], self.config
            raise CheckpointError(
                f"{config.checkpoint} makes an image that is not finite: {config.header.classes[image.label]}, "
                f"index {image.index}, seed {config.seed}",
                "other settings, e.g. less --guidance, or another model",
            ) from error
        made = to_rgb_arrays(images)
        if not self._said_blank and (made == made[:, :1, :1]).all():
            self._said_blank = True
            log(f"note: all images of a batch of {len(made)} are blank, each of one colour: look at settings and model")
        return made

    def cost(self) -> Cost:
        """Return what a batch costs, of the largest size that fits.

        Raises:
            DeviceError: The device has no memory for a single image.
        """
        with devices.autocast(self.generator.device, self._dtype):
            return self.fitting.fit(lambda size: self.generator.cost(self.config.settings, size), self.config.total)

    def _encode(self, image: Planned, pixels: NDArray[np.uint8]) -> Sample:
        config, header = self.config, self.config.header
        name = header.classes[image.label]
        metadata: dict[str, MetadataValue] = {
            "label": image.label,
            "label_name": name,
            "dataset": header.dataset,
            "split": SPLIT,
            "synthetic": True,
            **header.family_mark,
            "seed": config.seed,
            "index": image.index,
            **to_marks(config.settings),
            "precision": config.precision,
            "checkpoint_sha256": config.checkpoint_sha256,
            "synthmed_version": version.__version__,
        }
        text = {key: str(value) for key, value in metadata.items()}
        data = encode_image(pixels, config.image_format, text=text, synthetic=True)
        # The position comes first, so that keys ascend; the seed keeps the keys of two runs apart.
        slug = safe_key(name, max_bytes=32)
        key = f"synthetic-s{config.seed}-{image.position:08d}-{slug}-{image.index:08d}"
        return Sample(key, data, config.image_format, image.label, metadata)
