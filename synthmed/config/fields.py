"""Fields of configuration dataclasses that carry their own help."""

from __future__ import annotations

from dataclasses import field
from typing import Any


def described(default: Any, meaning: str) -> Any:
    """Return a dataclass field with a default and its meaning, which `recipes show` prints."""
    return field(default=default, metadata={"meaning": meaning})
