"""Fields of configuration dataclasses that carry their own help."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import field
from typing import Any

MAX_WIDTH = 16_384
"""Most channels of a layer: keeps what a hostile file can make networks ask for within reason."""
MAX_SIDE = 4096
"""Most pixels of an image's side that a model may have."""


def described(
    default: Any,
    meaning: str,
    *,
    option: str = "",
    minimum: float | None = None,
    maximum: float | None = None,
    choices: Sequence[str] = (),
    off: str = "",
) -> Any:
    """Return a dataclass field that knows what it means and how the command line takes it.

    Args:
        default: Value where nothing is said.
        meaning: For `recipes show` and `--help`.
        option: Name on the command line where it is not the field's own.
        minimum: Smallest value that the command line takes.
        maximum: Largest one.
        choices: The words that the command line takes.
        off: Name of the option that stands for 0.
    """
    hints = {"option": option, "minimum": minimum, "maximum": maximum, "choices": tuple(choices), "off": off}
    return field(default=default, metadata={"meaning": meaning, **hints})


def meaning(config: type[Any], name: str) -> str:
    """Return what a field of a configuration means, as a sentence for a command's help."""
    text: str = {entry.name: entry.metadata["meaning"] for entry in dataclasses.fields(config)}[name]
    return f"{text[0].upper()}{text[1:]}."
