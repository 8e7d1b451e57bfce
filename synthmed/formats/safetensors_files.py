"""safetensors files: their own list of what they hold, read strictly and without a tensor's values.

A file is a length (8 bytes), a list in JSON of so many bytes, and numbers. Readers take the numbers from where the list
says, so that a list which doubles, overlaps or leaves a gap is refused before any of them is read.
"""

from __future__ import annotations

import errno
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from synthmed.config.tables import shown
from synthmed.errors import CheckpointError
from synthmed.files.content import unique_keys

MAX_LIST_BYTES = 4 << 20  # a list of 10,000 tensors has half of that
MAX_DIMENSIONS = 16
MAX_NAME = 200
LENGTH_BYTES = 8
REMEDY = "give a whole model file made by synthmed; Medfusion's .ckpt: `synthmed checkpoints import`"
ITEM_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3"), 1),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 2),
    **dict.fromkeys(("I32", "U32", "F32"), 4),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 8),
}


@dataclass(frozen=True)
class Place:
    """Where the file says that a tensor lies."""

    dtype: str
    shape: tuple[int, ...]
    first: int
    """First byte, counted from the file's beginning."""
    num_bytes: int


@dataclass(frozen=True)
class Contents:
    """What a file says it holds."""

    metadata: dict[str, str]
    tensors: dict[str, Place]


def is_safetensors(start: bytes) -> bool:
    """Say whether a file that begins so is meant as safetensors: its list opens behind a length."""
    return start[LENGTH_BYTES : LENGTH_BYTES + 1] == b"{"


def read_contents(file: IO[bytes], size: int) -> Contents:
    """Return what an open safetensors file holds.

    Args:
        file: Its beginning is looked for.
        size: Bytes of the file.

    Raises:
        CheckpointError: It is no such file, is cut short, or its list cannot be true.
    """
    file.seek(0)
    length = int.from_bytes(file.read(LENGTH_BYTES), "little")
    if not 2 <= length <= min(MAX_LIST_BYTES, size - LENGTH_BYTES):
        raise CheckpointError("is not a safetensors file")
    try:
        table = json.loads(file.read(length).decode(), object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:
        raise CheckpointError("is not a safetensors file") from error
    if not isinstance(table, dict):
        raise CheckpointError("is not a safetensors file")
    metadata = table.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise CheckpointError("is not a safetensors file: its metadata are no texts")
    begin = LENGTH_BYTES + length
    tensors = {name: _place(name, entry, begin) for name, entry in table.items()}
    _check_places(tensors, begin, size)
    return Contents(metadata, tensors)


def read_file(path: Path) -> Contents:
    """Return what a safetensors file holds.

    Raises:
        CheckpointError: It is missing, no such file, cut short, or its list cannot be true.
    """
    try:
        # A pipe of that name would be waited for.
        if os.path.exists(path) and not os.path.isfile(path):
            raise OSError(errno.EINVAL, "it is no file")
        with open(path, "rb") as file:
            return read_contents(file, path.stat().st_size)
    except FileNotFoundError as error:
        raise CheckpointError(f"no such model file: {path}") from error
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise CheckpointError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    except CheckpointError as error:
        raise CheckpointError(f"{path} {error}", REMEDY) from error


def _place(name: str, entry: Any, begin: int) -> Place:
    """Return a tensor's place from its entry in the list."""
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [int(first), int(end)], **rest} if not rest:
            pass
        case _:
            raise CheckpointError(f"has no place for its tensor {shown(name)}: {shown(entry)}")
    if dtype not in ITEM_BYTES:
        raise CheckpointError(f"has numbers of a kind that is not known: {shown(dtype)}")
    whole = all(type(number) is int and 0 <= number < 1 << 62 for number in (*shape, first, end))
    if not whole or len(shape) > MAX_DIMENSIONS or len(name) > MAX_NAME or not name.isprintable():
        raise CheckpointError(f"has no place for its tensor {shown(name)}: {shown(entry)}")
    if end - first != math.prod(shape) * ITEM_BYTES[dtype]:
        raise CheckpointError(f"has a tensor of shape {shown(shape)} in {end - first} bytes: {shown(name)}")
    return Place(dtype, tuple(shape), begin + first, end - first)


def _check_places(tensors: dict[str, Place], begin: int, size: int) -> None:
    """Raise unless the tensors fill the file: one behind the other, none over another and nothing besides them."""
    for name, place in sorted(tensors.items(), key=lambda item: (item[1].first, item[1].num_bytes)):
        if place.first != begin:
            raise CheckpointError(f"has a gap before its tensor {shown(name)}, or another one over it")
        begin += place.num_bytes
    if begin != size:
        raise CheckpointError(f"has {size} bytes, its tensors end at {begin}: it is broken or cut short")
