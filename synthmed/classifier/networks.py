"""timm classifiers: by name, with random, pretrained or given weights. Nothing is downloaded unless asked for."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import timm
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from synthmed.errors import CheckpointError, UsageError
from synthmed.progress import log


def check_model(name: str, size: int | None) -> None:
    """Refuse a name that timm does not know, and a size that the model cannot take.

    Args:
        name: Of a timm model.
        size: Side of the images in pixels as asked for; `None` if it will be that of the data.

    Raises:
        UsageError: With the names nearest to it, or with the size it needs.
    """
    if not timm.is_model(name):
        close = get_close_matches(name, timm.list_models(), n=3, cutoff=0.5)
        raise UsageError(f"timm has no model {name}", f"did you mean {', '.join(close)}?" if close else "try resnet50")
    facts = timm.get_pretrained_cfg(name)
    if facts is not None and facts.fixed_input_size and size != facts.input_size[-1]:
        # Vision transformers, for one: their position embedding is made for one size.
        raise UsageError(
            f"{name} takes images of one size only", f"use --size {facts.input_size[-1]}, or a model such as resnet50"
        )


def build_network(name: str, num_classes: int, initial: Mapping[str, Tensor] | None = None) -> nn.Module:
    """Return a classifier, its weights random but for those in `initial`."""
    network: nn.Module = timm.create_model(name, num_classes=num_classes, in_chans=3, pretrained=False)
    if initial is not None:
        network.load_state_dict(dict(initial), strict=False)
    return network


def head_names(network: nn.Module) -> tuple[str, ...]:
    """Return the names of the layers that turn features into logits."""
    names: str | tuple[str, ...] = network.pretrained_cfg.get("classifier") or ()  # type: ignore[union-attr, operator]
    return (names,) if isinstance(names, str) else tuple(names)


def load_pretrained_weights(name: str) -> dict[str, Tensor]:
    """Download (or take from the cache) timm's pretrained weights of a model, without those of its head.

    Raises:
        CheckpointError: There are none, or they cannot be fetched; says which file to bring by hand.
    """
    source = build_network(name, 2).pretrained_cfg.get("hf_hub_id")  # type: ignore[union-attr, operator]
    log(f"fetching the pretrained weights of {name} from huggingface.co/{source}, unless they are in the cache")
    try:
        network: nn.Module = timm.create_model(name, pretrained=True)
    # Building the network has worked above, so what fails is the fetching: with a different error in each version of
    # the hub's client, some of them no OSError.
    except Exception as error:
        remedy = f"bring model.safetensors of huggingface.co/{source} to this machine and use --weights FILE"
        raise CheckpointError(f"no pretrained weights of {name} to be had: {type(error).__name__}", remedy) from error
    return _without_head(network.state_dict(), head_names(network))


def load_weights_file(path: Path, name: str, num_classes: int) -> dict[str, Tensor]:
    """Read a model's weights from a safetensors file; a head for other classes is left out, which is said on stderr.

    Raises:
        CheckpointError: Not a safetensors file, or not the weights of this model.
    """
    try:
        weights: dict[str, Tensor] = load_file(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"no such weights file: {path}") from error
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a safetensors file: {error}", "other formats can run code") from error
    network = build_network(name, num_classes)
    wanted, heads = network.state_dict(), head_names(network)
    body = _without_head(weights, heads)
    _check_shapes(path, name, body, _without_head(wanted, heads))
    head = {key: value for key, value in weights.items() if key not in body}
    if {key: value.shape for key, value in head.items()} == {
        key: value.shape for key, value in wanted.items() if key not in _without_head(wanted, heads)
    }:
        return weights
    log(f"{path}: its head is for other classes and starts at random here")
    return body


def _without_head(weights: dict[str, Tensor], heads: tuple[str, ...]) -> dict[str, Tensor]:
    return {key: value for key, value in weights.items() if not key.startswith(tuple(f"{head}." for head in heads))}


def _check_shapes(path: Path, name: str, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    # Counters of batch norm batches take no part in the result, and many files leave them out.
    required = {key for key in wanted if not key.endswith("num_batches_tracked")}
    wrong = [f"{key} is missing" for key in sorted(required - found.keys())]
    wrong += [f"{key} is not part of it" for key in sorted(found.keys() - wanted.keys())]
    for key in sorted(found.keys() & wanted.keys()):
        if found[key].shape != wanted[key].shape:
            wrong.append(f"{key} has shape {list(found[key].shape)}, not {list(wanted[key].shape)}")
    if wrong:
        listed = "; ".join(wrong[:3]) + (f"; and {len(wrong) - 3} more" if len(wrong) > 3 else "")
        raise CheckpointError(f"{path} does not hold the weights of {name}: {listed}", "is --model the right one?")
