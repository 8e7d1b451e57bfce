"""A release before any of its images is opened: what there is, and what cannot be used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from synthmed.data.datasets import DataSetInfo
from synthmed.data.images import ImageArray
from synthmed.data.shards.plan import safe_key

Draw = Callable[["RawItem", int, int], tuple[ImageArray, dict[str, str | int | float | bool]]]


MAX_ID_BYTES = 60  # split and number stand before it in a sample's key


@dataclass(frozen=True, slots=True)
class RawItem:
    """One image of a release."""

    path: Path | None
    """None where the release lists an image that is not there, or the image is drawn."""
    source: str
    """Path inside the release, with '/'; it names the image in reports and in its `.json`."""
    key: str
    """What identifies the image in the release, in the alphabet of a key."""
    label: int
    group: str
    """Patient or other unit that must stay in one split."""
    split: str | None = None
    """Split that the release itself gives it; None leaves it to us."""
    sha256: bytes = b""
    """Of the file's bytes as they were checked; empty until then."""
    grey: bool | None = None
    """Whether it has no colours; None where nobody has looked."""


@dataclass(frozen=True, slots=True)
class Problem:
    """An image that cannot be used, and why."""

    source: str
    reason: str
    """missing, refused, unreadable, wrong size, duplicate, label conflict or no patient."""
    detail: str


@dataclass(frozen=True)
class Release:
    """All that a reader found."""

    info: DataSetInfo
    items: list[RawItem]
    problems: list[Problem] = field(default_factory=list)
    """Images left out already for what the release says of them."""
    counts: dict[str, int] = field(default_factory=dict)
    """Counts as listed by the release, under the names of `info.published`."""
    notes: list[str] = field(default_factory=list)
    """Lines to tell the user."""
    draw: Draw | None = None
    """Makes the image of an item from seed and size, with what is known about it; `None` where images are files."""


def path_key(inside: str) -> str:
    """Return what identifies an image by its path inside the release, for a sample's key."""
    path = PurePosixPath(inside)
    name = str(path.with_suffix("")) if path.name else inside  # a table may call an image "/"
    return safe_key(name.replace("/", "-"), max_bytes=MAX_ID_BYTES)
