"""The classifier that reads labels: trained on real images once, then kept in the output folder."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import nn

from synthmed.classifier.config import ClassifierConfig
from synthmed.classifier.networks import build_network
from synthmed.classifier.training import Placement, mixed_batches, naming_lack_of_memory, train_network
from synthmed.data.labels import Classes
from synthmed.data.sets.image_set import ImageSet
from synthmed.errors import CheckpointError, DataError
from synthmed.files.atomic import write_bytes
from synthmed.files.content import hash_json
from synthmed.files.outputs import STATE_FOLDER
from synthmed.runtime.progress import log, progress
from synthmed.runtime.seeds import derive_seed

LABEL_CLASSIFIER = ClassifierConfig(model="resnet18", steps=300, batch_size=32)
MAX_SIZE = 224
FOLDER = f"{STATE_FOLDER}/label-classifier"
ARM = "real"


@dataclass(frozen=True)
class LabelClassifier:
    """A classifier trained on real images, and how."""

    network: nn.Module
    classes: Classes
    image_size: tuple[int, int]
    """Height and width of the images that it was trained on, before they were made smaller."""
    size: int
    """Side in pixels at which it looks at images."""
    placement: Placement
    settings: dict[str, Any]
    """All that its weights depend on, as JSON values."""


def open_classifier(
    train: ImageSet, folder: Path, *, placement: Placement, config: ClassifierConfig = LABEL_CLASSIFIER
) -> LabelClassifier:
    """Return the classifier of these settings, from the folder if an earlier start trained it; see `check_labels`."""
    missing = [name for label, name in enumerate(train.classes) if not (train.labels == label).any()]
    if missing or len(train.classes) < 2:
        raise DataError(
            f"{train.name} has no training images of {', '.join(missing) or 'a second class'}",
            "labels can only be checked where real images of each class are given",
        )
    size = min(MAX_SIZE, max(train.size))
    settings = {
        **dataclasses.asdict(config),
        "size": size,
        "classes": list(train.classes),
        "train": {"name": train.name, "content_hash": train.content_hash, "num_images": len(train)},
        "initial_weights": None,
        "device": placement.device.type,
        "precision": str(placement.dtype).removeprefix("torch."),
    }
    # The name of a set does not change the weights.
    fingerprint = hash_json({**settings, "train": train.content_hash, "labels": train.labels.tolist()})
    path = folder / FOLDER / f"{fingerprint[:16]}.safetensors"
    if not path.exists():
        trained = _train(train.resized(size), config, placement)
        write_bytes(path, save_tensors({k: v.cpu().contiguous() for k, v in trained.state_dict().items()}))
    # Also where it has just been written: a second start then finds the same to the last digit.
    network = _read_network(path, config.model, len(train.classes), placement)
    return LabelClassifier(network, train.classes, train.size, size, placement, settings)


def _train(images: ImageSet, config: ClassifierConfig, placement: Placement) -> nn.Module:
    batches = mixed_batches(
        {ARM: images},
        {ARM: config.batch_size},
        steps=config.steps,
        balanced=config.balanced,
        seed=derive_seed(config.seed, "label-classifier-batches"),
    )
    with (
        naming_lack_of_memory(config, "give the classifier smaller batches, or check no labels"),
        progress("training the label classifier", config.steps, "steps") as advance,
    ):
        network, final_loss = train_network(
            batches,
            num_classes=len(images.classes),
            config=config,
            arm=ARM,
            repetition=0,
            placement=placement,
            on_step=lambda: advance(1),
        )
    log(f"label classifier: {config.model} trained on {len(images)} real images, training loss {final_loss:.3f}")
    return network


def _read_network(path: Path, model: str, num_classes: int, placement: Placement) -> nn.Module:
    network = build_network(model, num_classes)
    try:
        network.load_state_dict(load_tensors(path.read_bytes()))
    except (SafetensorError, RuntimeError, OSError) as error:
        raise CheckpointError(f"{path} is not the label classifier that was kept there", "remove it") from error
    return network.to(memory_format=torch.channels_last).to(placement.device)
