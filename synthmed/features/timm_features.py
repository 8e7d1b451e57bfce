"""Pooled features of any of timm's networks, from a file of its weights or from Hugging Face's cache."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import timm
import torch
from timm.data.config import resolve_model_data_config
from torch import Tensor, nn
from torch.nn import functional

from synthmed.errors import CheckpointError, UsageError
from synthmed.features.slices import compute
from synthmed.features.timm_networks import head_names, without_head
from synthmed.files.content import hash_file, hash_json
from synthmed.formats.weight_files import fit_weights, read_weights
from synthmed.runtime.network import check_connection
from synthmed.runtime.progress import log

VERSION = 1  # of the features: to be raised whenever the same image gives others
FILTERS = ("bilinear", "bicubic")  # those that torch has with antialiasing; others become bicubic


class TimmExtractor:
    """What a network gives to its classifier: features after its own pooling.

    The whole image is resized to the size that the network was made for; no border is cut off, as timm's evaluation of
    classifiers does. Mean and deviation are the network's.

    Args:
        model: timm's name of the network.
        weights: File of its weights, with or without a head; half-precision ones are computed in float32.
        device: Where the network runs.

    Raises:
        CheckpointError: The file is missing, broken or holds something else.
        UsageError: The network gives no vector, or does not take colour images.
    """

    def __init__(self, model: str, weights: Path, device: torch.device) -> None:
        self.name = f"timm:{model}"
        network = _build(model)
        _load(network, model, weights)
        self._network = network.to(device).eval().requires_grad_(False)
        self._device = device
        facts: dict[str, Any] = resolve_model_data_config(network)  # type: ignore[no-untyped-call]
        channels, height, width = facts["input_size"]
        if channels != 3:
            raise UsageError(f"{model} takes images of {channels} channels", "choose a network for colour images")
        self._size = (height, width)
        self._filter = facts["interpolation"] if facts["interpolation"] in FILTERS else "bicubic"
        self._mean, self._std = (
            torch.tensor(facts[key], device=device).view(1, 3, 1, 1) * 255 for key in ("mean", "std")
        )
        self.resize = f"{height} x {width}, {self._filter} with antialiasing, whole image"
        self.num_features = self._count_features(model)
        self.weights_sha256: str | None = hash_file(weights)
        pooling = getattr(network, "global_pool", "")
        self.fingerprint = hash_json(
            {
                "name": self.name,
                "version": VERSION,
                "weights": self.weights_sha256,
                "resize": self.resize,
                "mean": list(facts["mean"]),
                "std": list(facts["std"]),
                "pooling": str(getattr(pooling, "pool_type", pooling)),
            }
        )

    def __call__(self, images: Tensor) -> Tensor:
        """Return features [N, D] float32 on the CPU of images [N, 3, H, W] uint8."""
        return compute(self._features, images, self._device)

    def _features(self, images: Tensor) -> Tensor:
        x = functional.interpolate(images.float(), self._size, mode=self._filter, antialias=True)
        # The bicubic filter reaches beyond the range of the pixels.
        features: Tensor = self._network((x.clamp(0, 255) - self._mean) / self._std)
        return features

    def _count_features(self, model: str) -> int:
        """Return D, counted: what timm states is another layer's in some networks."""
        features = self(torch.zeros(1, 3, *self._size, dtype=torch.uint8))
        if features.ndim != 2:
            raise UsageError(f"{model} gives features of shape {list(features.shape)}, no vector", "choose another one")
        return features.shape[1]


def find_timm_weights(model: str, *, download: bool, option: str = "--feature-weights FILE, or --download") -> Path:
    """Return the file of a network's published weights in Hugging Face's cache, fetched before where asked for.

    Args:
        model: timm's name of the network.
        download: Whether to fetch them if they are not there.
        option: How a file is given to the command instead.

    Raises:
        CheckpointError: There are none, they are not there, or cannot be fetched; says which file to bring.
    """
    published = timm.get_pretrained_cfg(model)
    source = published.hf_hub_id if published is not None else None
    if published is None or not source:
        raise CheckpointError(f"there are no published weights of {model}", f"bring some with {option}")
    repository, _, revision = source.partition("@")
    file = published.hf_hub_filename or "model.safetensors"
    how_to_get = f"bring {file} of huggingface.co/{source} and use {option}"
    found = huggingface_hub.try_to_load_from_cache(repository, file, revision=revision or None)
    if isinstance(found, str):
        return Path(found)
    if not download:
        raise CheckpointError(f"no weights of {model} on this machine", how_to_get)
    log(f"fetching {file} of huggingface.co/{source}")
    try:
        if not huggingface_hub.constants.HF_HUB_OFFLINE:
            check_connection(huggingface_hub.constants.ENDPOINT)
        return Path(huggingface_hub.hf_hub_download(repository, file, revision=revision or None))
    # The hub's client raises different errors in each version, some of them no OSError.
    except Exception as error:
        reason = str(error) if isinstance(error, ConnectionError) else type(error).__name__
        raise CheckpointError(f"cannot fetch the weights of {model}: {reason}", how_to_get) from error


def _build(model: str) -> nn.Module:
    """Return a network without a head, its weights random; global randomness is left as it was."""
    with torch.random.fork_rng(devices=[]):
        network: nn.Module = timm.create_model(model, num_classes=0, pretrained=False)
    return network


def _load(network: nn.Module, model: str, path: Path) -> None:
    """Fill a network from a file that may hold a head as well.

    Raises:
        CheckpointError: The file is missing, broken or holds something else.
    """
    wanted = network.state_dict()
    weights = without_head(read_weights(path, wanted), head_names(network))
    remedy = f"is it the file for timm:{model}?"
    # Some published files have names from before timm's own, which the network's module knows how to change.
    rename: Callable[..., dict[str, Tensor]] | None
    rename = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    if rename is not None and any(not key.endswith("num_batches_tracked") for key in weights.keys() ^ wanted.keys()):
        try:
            weights = without_head(rename(weights, network), head_names(network))
        except Exception as error:  # of any kind: it was written for the right files only
            raise CheckpointError(f"{path} does not hold the weights of {model}", remedy) from error
    network.load_state_dict(fit_weights(path, model, weights, wanted, remedy))
