"""timm's networks: whether a name is one of them, and which of their weights make up the head."""

from __future__ import annotations

from difflib import get_close_matches

import timm
from torch import Tensor, nn

from synthmed.errors import UsageError, nearest


def check_name(name: str) -> None:
    """Refuse a name that timm does not know: `ARCHITECTURE`, or `ARCHITECTURE.TAG` for certain weights of it.

    Raises:
        UsageError: With the names nearest to it.
    """
    architecture, _, tag = name.partition(".")
    if tag and timm.is_model(architecture):
        tagged = timm.list_pretrained(f"{architecture}.*")
        if name not in tagged:
            raise UsageError(f"timm has no weights {name}", nearest(name, tagged) if tagged else "leave out the tag")
    if not timm.is_model(name):
        close = get_close_matches(name, timm.list_models(), n=3, cutoff=0.5)
        raise UsageError(f"timm has no model {name}", f"did you mean {', '.join(close)}?" if close else "try resnet50")


def head_names(network: nn.Module) -> tuple[str, ...]:
    """Return the names of the layers that turn features into logits."""
    names: str | tuple[str, ...] = network.pretrained_cfg.get("classifier") or ()  # type: ignore[union-attr, operator]
    return (names,) if isinstance(names, str) else tuple(names)


def without_head(weights: dict[str, Tensor], heads: tuple[str, ...]) -> dict[str, Tensor]:
    """Return the weights that are not of a layer in `heads`."""
    return {key: value for key, value in weights.items() if not key.startswith(tuple(f"{head}." for head in heads))}
