"""Files of weights, opened as data: PyTorch's zip format, the one that came before it, and safetensors.

PyTorch's file is a pickle and, beside it, storages: blocks of numbers, of which tensors are views. The pickle is
interpreted, never executed; tensors come as `StoredTensor`, a place in a storage, and are read one by one when they are
wanted. Which format a file has is seen in it: endings say little.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import struct
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from synthmed.errors import CheckpointError
from synthmed.files.zips import open_zip
from synthmed.formats import safetensors_files
from synthmed.formats.pickles import Named, Understanding, interpret

if TYPE_CHECKING:
    from torch import Tensor

MAX_PICKLE_BYTES = 16 << 20  # a full-size checkpoint with its optimiser has one of about 1 MB
MAX_DIMENSIONS = 16
ZIP_START = b"PK\x03\x04"
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
TENSOR_BUILDERS = {"_rebuild_tensor_v2", "_rebuild_tensor"}
DTYPES = {
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "DoubleStorage": "<f8",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "b1",
    "BFloat16Storage": "<i2",  # which numpy does not know; torch is told when it is read
}
# What safetensors calls the same numbers.
KINDS = {
    "F32": "FloatStorage",
    "F16": "HalfStorage",
    "F64": "DoubleStorage",
    "BF16": "BFloat16Storage",
    "I64": "LongStorage",
    "I32": "IntStorage",
    "I16": "ShortStorage",
    "I8": "CharStorage",
    "U8": "ByteStorage",
    "BOOL": "BoolStorage",
}
FLOATS = {"FloatStorage", "HalfStorage", "DoubleStorage", "BFloat16Storage"}


@dataclass(frozen=True)
class Storage:
    """A block of numbers in the file; a view of it begins at number `start`."""

    kind: str
    key: str
    length: int
    start: int = 0

    @property
    def item_bytes(self) -> int:
        """Bytes of a number; the kind is one of `DTYPES`."""
        return int(DTYPES[self.kind][-1])

    @property
    def floating(self) -> bool:
        """Whether the numbers are floats."""
        return self.kind in FLOATS


@dataclass(frozen=True)
class StoredTensor:
    """A tensor's place in a storage; strides and offset count elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True)
class Contents:
    """What a file holds: the pickle's value, and the storages by key as (first byte, number of bytes) in the file."""

    root: Any
    places: dict[str, tuple[int, int]]


class CheckpointFile:
    """A file of weights, opened as data.

    Attributes:
        root: What the file holds: dicts, lists, tuples, numbers, strings, `StoredTensor`, `Named` and `Call`; of
            safetensors, a dict of `StoredTensor`.
        size: Bytes of the file.

    Raises:
        CheckpointError: The file is not such a checkpoint, is broken, or asks for what no checkpoint needs.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # A pipe of that name would be waited for.
        if os.path.exists(path) and not os.path.isfile(path):
            raise CheckpointError(f"cannot read {path}: it is no file")
        with self._naming_errors(), open(path, "rb") as file:
            self.size = file.seek(0, io.SEEK_END)
            file.seek(0)
            start = file.read(16)
            if safetensors_files.is_safetensors(start):
                contents = _read_safetensors(file, self.size)
            else:
                contents = (read_zip if start.startswith(ZIP_START) else read_legacy)(file, self.size)
        self.root, self._places = contents.root, contents.places

    @contextlib.contextmanager
    def _naming_errors(self) -> Iterator[None]:
        """Name the file in whatever is wrong with it."""
        try:
            yield
        except FileNotFoundError as error:
            raise CheckpointError(f"no such checkpoint: {self.path}") from error
        except CheckpointError as error:
            raise CheckpointError(f"{self.path}: {error}") from error
        # RuntimeError is what zipfile raises for encryption and NotImplementedError, one of its kind, for odd versions.
        except (zipfile.BadZipFile, OSError, EOFError, ValueError, RuntimeError, LookupError, struct.error) as error:
            raise CheckpointError(f"{self.path} is broken or holds no weights: {str(error)[:200]}") from error

    def check(self, tensor: StoredTensor) -> None:
        """Raise unless the file holds the whole of a tensor, without reading it.

        Raises:
            CheckpointError: The tensor reaches beyond its storage, or the storage is not in the file.
        """
        with self._naming_errors():
            self._reach(tensor)

    def read(self, tensor: StoredTensor) -> Tensor:
        """Return a tensor of the stored type.

        Raises:
            CheckpointError: The tensor reaches beyond its storage, or the storage is not in the file.
        """
        import numpy as np
        import torch

        with self._naming_errors():
            begin, count = self._reach(tensor)
            kind = tensor.storage.kind
            # Read, not mapped: mapped pages count as memory, too, and checking them takes seven times as long.
            values = torch.from_numpy(np.fromfile(self.path, DTYPES[kind], count, offset=begin))
            if kind == "BFloat16Storage":
                values = values.view(torch.bfloat16)
            return values.as_strided(tensor.shape, tensor.strides)

    def _reach(self, tensor: StoredTensor) -> tuple[int, int]:
        """Return the first byte of a tensor in the file, and how many values there are from its first to its last."""
        storage = tensor.storage
        if storage.kind not in DTYPES:
            raise CheckpointError(f"has numbers of a kind that no checkpoint needs: {storage.kind[:100]!r}")
        if storage.key not in self._places:
            raise CheckpointError(f"lacks the storage {storage.key[:100]!r}")
        first, num_bytes = self._places[storage.key]
        itemsize = storage.item_bytes
        if num_bytes != storage.length * itemsize:
            raise CheckpointError(f"declares {storage.length} values in a storage of {num_bytes} bytes")
        count = math.prod(tensor.shape)
        last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True))
        # More values than the storage has: a stride of 0 could make gigabytes of one number.
        if count and (count > storage.length or tensor.offset + last >= storage.length):
            raise CheckpointError(f"has a tensor of shape {list(tensor.shape)} that reaches beyond its storage")
        return first + tensor.offset * itemsize, last + 1 if count else 0


def _read_safetensors(file: IO[bytes], size: int) -> Contents:
    """Read safetensors: each tensor is a storage of its own, under its own name."""
    root, places = {}, {}
    for name, place in safetensors_files.read_contents(file, size).tensors.items():
        storage = Storage(KINDS.get(place.dtype, place.dtype), name, math.prod(place.shape))
        strides = tuple(math.prod(place.shape[axis + 1 :]) for axis in range(len(place.shape)))
        root[name], places[name] = StoredTensor(storage, 0, place.shape, strides), (place.first, place.num_bytes)
    return Contents(root, places)


def read_zip(file: IO[bytes], size: int) -> Contents:
    """Read the format that PyTorch has written since 1.6: `NAME/data.pkl` and `NAME/data/KEY` for each storage."""
    with open_zip(file) as archive:
        members = archive.infolist()
        _check_members(members, size)
        (pickled,) = [info for info in members if info.filename.endswith("/data.pkl")]
        if pickled.file_size > MAX_PICKLE_BYTES:
            raise CheckpointError(f"has a pickle of {pickled.file_size} bytes, more than {MAX_PICKLE_BYTES}")
        folder = pickled.filename.removesuffix("data.pkl")
        order = [info for info in members if info.filename == f"{folder}byteorder"]
        if order and archive.read(order[0])[:6] != b"little":
            raise CheckpointError("was written on a big-endian machine")
        root = interpret(archive.read(pickled), _Torch())
    data = f"{folder}data/"
    stored = [info for info in members if info.filename.startswith(data)]
    return Contents(root, {info.filename.removeprefix(data): _member_place(file, info, size) for info in stored})


def _check_members(members: list[zipfile.ZipInfo], size: int) -> None:
    pickles = [info.filename for info in members if info.filename.endswith("data.pkl")]
    if len(pickles) != 1 or pickles[0].count("/") != 1 or not pickles[0].endswith("/data.pkl"):
        raise CheckpointError(f"holds {len(pickles)} pickles named data.pkl in one folder, not 1")
    for info in members:
        name = info.filename
        if name.startswith("/") or ".." in name.split("/") or "\\" in name:
            raise CheckpointError(f"has a member with a path that escapes: {name[:100]!r}")
        # PyTorch stores; a compressed member could hold far more than the file's size.
        if info.compress_type != zipfile.ZIP_STORED:
            raise CheckpointError(f"has a compressed member: {name[:100]!r}")
        if info.file_size != info.compress_size or info.file_size > size:
            raise CheckpointError(f"has a member larger than the file: {name[:100]!r}")


def _member_place(file: IO[bytes], info: zipfile.ZipInfo, size: int) -> tuple[int, int]:
    """Return where a stored member's bytes begin, behind its local header, and how many there are."""
    file.seek(info.header_offset)
    header = file.read(30)
    first = info.header_offset + 30 + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    if header[:4] != ZIP_START or first + info.file_size > size:
        raise CheckpointError(f"is cut short or broken at {info.filename[:100]!r}")
    return first, info.file_size


def read_legacy(file: IO[bytes], size: int) -> Contents:
    """Read the format before PyTorch 1.6: five pickles, then each storage as its length (int64) and its numbers.

    The pickles are a magic number, a protocol number, facts of the machine, the object, and the keys of the storages in
    the order in which they follow.
    """
    file.seek(0)
    # So much at most is ever in memory, whatever lengths a pickle states.
    stream = io.BytesIO(file.read(MAX_PICKLE_BYTES))
    try:
        magic = interpret(stream)
    except CheckpointError:
        magic = None
    if magic != LEGACY_MAGIC:
        raise CheckpointError("is neither safetensors nor a PyTorch checkpoint, in the zip format or the one before it")
    protocol, machine = interpret(stream), interpret(stream)
    if protocol != LEGACY_PROTOCOL or not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise CheckpointError("was written by a PyTorch older than 0.2 or on a big-endian machine")
    meaning = _Torch()
    root, keys = interpret(stream, meaning), interpret(stream)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise CheckpointError("has no list of storages")
    places: dict[str, tuple[int, int]] = {}
    first = stream.tell()
    for key in keys:
        storage = meaning.storages.get(key)
        if storage is None or storage.kind not in DTYPES:
            raise CheckpointError(f"has a storage of no known kind: {key[:100]!r}")
        num_bytes = storage.length * storage.item_bytes
        file.seek(first)
        if int.from_bytes(file.read(8), "little") != storage.length or first + 8 + num_bytes > size:
            raise CheckpointError(f"is cut short or broken at the storage {key[:100]!r}")
        places[key] = first + 8, num_bytes
        first += 8 + num_bytes
    return Contents(root, places)


class _Torch(Understanding):
    """What PyTorch's pickles mean; `storages` gets every storage that is mentioned, by key."""

    def __init__(self) -> None:
        self.storages: dict[str, Storage] = {}

    def call(self, target: Any, arguments: Any) -> Any:
        """Return the value of the few calls that checkpoints are made of; a record of any other call."""
        if not isinstance(target, Named) or not isinstance(arguments, tuple):
            return super().call(target, arguments)
        if target == Named("collections", "OrderedDict") and not arguments:
            return {}
        if target.module == "torch._utils" and target.name in TENSOR_BUILDERS:
            storage, offset, shape, strides = arguments[:4]
            if not isinstance(storage, Storage):
                raise TypeError("a tensor without a storage")
            if len(shape) != len(strides):
                raise ValueError("a tensor with unequal shape and strides")
            return StoredTensor(storage, storage.start + _sizes((offset,))[0], _sizes(shape), _sizes(strides))
        if target == Named("torch._utils", "_rebuild_parameter"):
            return arguments[0]
        return super().call(target, arguments)

    def persistent(self, identifier: Any) -> Any:
        """Return the storage, or in old files the class of a module, that PyTorch leaves out of its pickle."""
        if not isinstance(identifier, tuple):
            raise TypeError("an object outside that is no tuple")
        if identifier[0] == "module":
            return identifier[1]
        what, kind, key, _device, length, *rest = identifier
        if what != "storage" or not isinstance(kind, Named) or not isinstance(key, str | int):
            raise TypeError("an object outside that is no storage")
        # Old files may give a view: its key, its first number, its length. Its tensors count from its first number.
        view = rest[0] if rest else None
        start = 0 if view is None else _sizes((view[1],))[0]
        found = Storage(kind.name, str(key), _sizes((length,))[0], start)
        known = self.storages.setdefault(found.key, found)
        if (known.kind, known.length) != (found.kind, found.length):
            raise ValueError("a storage of two kinds")
        return found


def _sizes(values: Any) -> tuple[int, ...]:
    """Return whole numbers that fit a file offset."""
    if not isinstance(values, tuple | list) or len(values) > MAX_DIMENSIONS:
        raise ValueError("a shape that is none")
    if not all(isinstance(value, int) and -1 < value < 1 << 62 for value in values):
        raise ValueError("a size below zero or beyond reason")
    return tuple(values)
