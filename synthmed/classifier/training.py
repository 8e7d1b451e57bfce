"""Training one timm classifier on batches that are mixed from one or more sets, and its predictions.

No checkpoint is selected: the last weights are tested, and training uses neither the validation nor the test split.

images: uint8 [N, 3, H, W], inside as float32 normalised with ImageNet's mean and standard deviation, which pretrained
networks expect; labels: int64 [N]; logits: [N, K].
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from synthmed.classifier.augmentation import augment
from synthmed.classifier.config import ClassifierConfig
from synthmed.classifier.networks import build_network
from synthmed.data.pixels import to_float
from synthmed.data.sets.batches import StepBatches
from synthmed.data.sets.image_set import ImageSet
from synthmed.errors import DeviceError, TrainingError
from synthmed.runtime import device as devices
from synthmed.runtime.seeds import derive_seed, torch_generator
from synthmed.training.learning_rates import warmup_cosine

# ImageNet's mean and standard deviation are given for [0, 1]; ours is [-1, 1].
IMAGENET_MEAN = 2 * torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1) - 1
IMAGENET_STD = 2 * torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
WARMUP_SHARE = 0.1
TEST_BATCH_SIZE = 128


@dataclass(frozen=True)
class Placement:
    """Where and in which number type a training runs."""

    device: torch.device
    dtype: torch.dtype
    """Of matrix products and convolutions in training; testing is always in float32."""


def normalise(images: Tensor) -> Tensor:
    """Return images in [-1, 1] as a network wants them, channels last in memory."""
    mean, std = IMAGENET_MEAN.to(images.device), IMAGENET_STD.to(images.device)
    return ((images - mean) / std).contiguous(memory_format=torch.channels_last)


def learning_rate(step: int, config: ClassifierConfig) -> float:
    """Return the learning rate of a step: a linear warm-up, then half a cosine down to zero."""
    return warmup_cosine(step, config.lr, max(1, round(WARMUP_SHARE * config.steps)), config.steps)


def make_optimizer(network: nn.Module, config: ClassifierConfig) -> torch.optim.AdamW:
    """Return AdamW with weight decay on matrices and kernels, none on biases and norms."""
    groups: list[dict[str, Any]] = [
        {"params": [parameter for parameter in network.parameters() if parameter.ndim > 1]},
        {"params": [parameter for parameter in network.parameters() if parameter.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, weight_decay=config.weight_decay, fused=True)


def mixed_batches(
    sources: Mapping[str, ImageSet], shares: Mapping[str, int], *, steps: int, balanced: bool, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield one batch (images, labels) per step.

    Each source goes through all its images, in a new random order each time, before it repeats one.

    Args:
        sources: Sets by name.
        shares: Images of each source in a batch.
        steps: Number of batches.
        balanced: Draw the classes of each source equally often.
        seed: Seed of the orders.
    """
    labels = {name: torch.from_numpy(sources[name].labels) for name in shares}
    orders = [
        StepBatches(labels[name], count, steps, derive_seed(seed, name), balanced=balanced)
        for name, count in shares.items()
    ]
    for chosen in zip(*orders, strict=True):
        parts = list(zip(shares, chosen, strict=True))
        yield (
            torch.cat([sources[name].load(indices) for name, indices in parts]),
            torch.cat([labels[name][indices] for name, indices in parts]),
        )


def train_network(
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    num_classes: int,
    config: ClassifierConfig,
    arm: str,
    repetition: int,
    placement: Placement,
    initial: Mapping[str, Tensor] | None = None,
    on_step: Callable[[], None] = lambda: None,
) -> tuple[nn.Module, float]:
    """Train one classifier and return it with its loss, the mean over the last tenth of the steps.

    Args:
        batches: `config.steps` batches of images (uint8) and labels.
        num_classes: K.
        config: Settings.
        arm: Goes into the seeds of augmentation.
        repetition: Index among the trainings of its arm; those of the same index start from the same weights.
        placement: Device and number type.
        initial: Weights to start from instead of random ones, without those of the head.
        on_step: Called after each step.

    Raises:
        TrainingError: The loss is not finite.
    """
    device = placement.device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        # Initial weights, dropout and stochastic depth draw from torch's global generator.
        torch.manual_seed(derive_seed(config.seed, "classifier", repetition))
        network = build_network(config.model, num_classes, initial).to(memory_format=torch.channels_last).to(device)
        optimizer, losses = make_optimizer(network, config), list[float]()
        for step, (images, labels) in enumerate(batches):
            generator = torch_generator(config.seed, "classifier", arm, repetition, step)
            shown = augment(to_float(images.to(device)), generator, flips=config.flips, light=config.augment)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, config)
            losses.append(_train_step(network, optimizer, shown, labels.to(device), placement, step))
            on_step()
    return network, float(np.mean(losses[-max(1, len(losses) // 10) :]))


@contextlib.contextmanager
def naming_lack_of_memory(config: ClassifierConfig, remedy: str) -> Iterator[None]:
    """Turn a lack of memory into an error that says what to do.

    Raises:
        DeviceError: The device's or the machine's memory is used up.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not devices.is_out_of_memory(error):
            raise
        raise DeviceError(f"out of memory in batches of {config.batch_size} images", remedy) from error


def _train_step(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    placement: Placement,
    step: int,
) -> float:
    network.train()
    with devices.autocast(placement.device, placement.dtype):
        logits = network(normalise(images))
    loss = F.cross_entropy(logits.float(), labels)
    if not math.isfinite(value := loss.item()):
        raise TrainingError(
            f"the classifier's loss is {value} at step {step}", "try a smaller --lr, or --precision fp32"
        )
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return value


@torch.inference_mode()
def predict(network: nn.Module, images: ImageSet, device: torch.device) -> NDArray[np.float64]:
    """Return the probability of each class for each image: [N, K], in float32 arithmetic."""
    network.eval()
    logits = (network(normalise(to_float(block.to(device)))) for block in images.blocks(TEST_BATCH_SIZE))
    return np.concatenate([part.double().softmax(dim=1).cpu().numpy() for part in logits])
