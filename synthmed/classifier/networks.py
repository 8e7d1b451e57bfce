"""timm classifiers: by name, with random, pretrained or given weights. Nothing is downloaded unless asked for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import timm
from torch import Tensor, nn

from synthmed.errors import UsageError
from synthmed.features.timm_features import find_timm_weights
from synthmed.features.timm_networks import check_name, head_names, without_head
from synthmed.formats.weight_files import fit_weights, read_weights
from synthmed.runtime.progress import log


def check_model(name: str, size: int | None) -> None:
    """Refuse a name that timm does not know, and a size that the model cannot take.

    Args:
        name: Of a timm model.
        size: Side of the images in pixels as asked for; `None` if it will be that of the data.

    Raises:
        UsageError: With the names nearest to it, or with the size it needs.
    """
    check_name(name)
    facts = timm.get_pretrained_cfg(name)
    if facts is not None and facts.fixed_input_size and size != facts.input_size[-1]:
        # Vision transformers, for example: their position embedding is made for one size.
        raise UsageError(
            f"{name} takes images of one size only", f"use --size {facts.input_size[-1]}, or a model such as resnet50"
        )


def build_network(name: str, num_classes: int, initial: Mapping[str, Tensor] | None = None) -> nn.Module:
    """Return a classifier, its weights random but for those in `initial`."""
    network: nn.Module = timm.create_model(name, num_classes=num_classes, in_chans=3, pretrained=False)
    if initial is not None:
        network.load_state_dict(dict(initial), strict=False)
    return network


def load_pretrained_weights(name: str) -> dict[str, Tensor]:
    """Download (or take from the cache) timm's pretrained weights of a model, without those of its head.

    Raises:
        CheckpointError: There are none, or they cannot be fetched; says which file to bring by hand.
    """
    path = find_timm_weights(name, download=True, option="--weights FILE")
    network: nn.Module = timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"file": str(path)})
    return without_head(network.state_dict(), head_names(network))


def load_weights_file(path: Path, name: str, num_classes: int) -> dict[str, Tensor]:
    """Read a model's weights from a file; a head for other classes is left out, which is said on stderr.

    Raises:
        CheckpointError: Not a file of weights, or not the weights of this model.
    """
    network = build_network(name, num_classes)
    whole, heads = network.state_dict(), head_names(network)
    weights = read_weights(path, whole)
    body, wanted = (without_head(tensors, heads) for tensors in (weights, whole))
    body = fit_weights(path, name, body, wanted, "is --model the right one?")
    head, wanted_head = (
        {key: value for key, value in tensors.items() if key not in part}
        for tensors, part in ((weights, body), (whole, wanted))
    )
    if {key: value.shape for key, value in head.items()} == {key: value.shape for key, value in wanted_head.items()}:
        return body | head
    log(f"{path}: its head is for other classes and starts at random here")
    return body
