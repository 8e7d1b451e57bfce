"""A network's weights in files of others: found in whatever they are wrapped in, and checked against the network.

Files are read as data, by their content and not by their ending, and never unpickled. Knows no network: what a file
must hold is handed in as names and shapes.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthmed.config.tables import shown
from synthmed.errors import CheckpointError
from synthmed.formats.torch_files import CheckpointFile, StoredTensor
from synthmed.runtime.progress import log

if TYPE_CHECKING:
    from torch import Tensor

# Where training programs keep a network's weights among other things, the first that is there; as timm does, an
# average over the training is preferred.
SECTIONS = (
    *("state_dict_ema", "model_ema", "ema_state_dict", "ema", "teacher"),
    *("state_dict", "model_state_dict", "model_state", "model", "network", "net", "module", "weights", "params"),
)
MAX_SECTIONS = 4
MAX_NAME = 200
# What wrappers put before all names: DataParallel, compile, Lightning and their like.
PREFIX = re.compile(r"(module|model|network|net|state_dict|backbone|encoder|student|teacher)\.")
# What they put anywhere, when a part of a network is wrapped; no network calls a layer so.
INSERTED = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
COUNTER = "num_batches_tracked"
"""End of the names of batch norm's counters: they take no part in the result, and many files leave them out."""
COUNTER_OF_AVERAGES = "n_averaged"  # stands outside the prefix that torch's AveragedModel gives


def find_tensors(file: CheckpointFile, wanted: Collection[str] = (), *, usual: str = "") -> dict[str, StoredTensor]:
    """Return the tensors of a file by the names that the network gives them, unread; notes on stderr say what came off.

    Args:
        file: It may hold them under `state_dict`, `model` and the like, beside other things, and with what wrappers put
            before the names.
        wanted: The network's own names: as soon as one of them is there, nothing more comes off.
        usual: Where such files always have them, of which nothing is said.

    Raises:
        CheckpointError: There is no table of names and tensors, or it declares more than the file can hold.
    """
    path, table = file.path, file.root
    for _ in range(MAX_SECTIONS):
        if not (sections := _sections(table)):
            break
        others = f", not those under {', '.join(sections[1:])}" if sections[1:] else ""
        if sections != [usual]:
            log(f"note: {path}: the weights are those under {sections[0]}{others}")
        table = table[sections[0]]
    if not _holds_tensors(table):
        whole = " (it holds a whole module: save its state_dict())" if type(table).__name__ == "Call" else ""
        raise CheckpointError(f"{path} has no state_dict: names, and a tensor for each{whole}")
    for name, value in table.items():
        if not isinstance(name, str) or not name.isprintable() or len(name) > MAX_NAME:
            raise CheckpointError(f"{path}: a name in its state_dict is none of a tensor: {shown(name)}")
        if not isinstance(value, StoredTensor):
            raise CheckpointError(f"{path}: {name!r} in its state_dict is no tensor")
    # Many names may point to one storage: without a bound a small file could fill the memory.
    if (values := sum(math.prod(place.shape) for place in table.values())) > file.size:
        raise CheckpointError(f"{path} declares {values} weights in {file.size} bytes")
    found, removed = _without_wrappers(table, wanted)
    if removed:
        log(f"note: {path}: names are taken without {' and '.join(removed)}")
    return found


def _sections(table: Any) -> list[str]:
    """Return where in a table there are weights, the section to take first; nothing where they lie in it itself."""
    if not isinstance(table, dict):
        return []
    inside = {key: value for key, value in table.items() if isinstance(key, str) and isinstance(value, dict)}
    known = [key for key in SECTIONS if any(map(_holds_tensors, (inside.get(key), *_parts(inside.get(key)))))]
    own = [key for key, value in inside.items() if _holds_tensors(value)]
    return known or (own if len(own) == 1 and not _holds_tensors(table) else [])


def _parts(table: Any) -> list[Any]:
    return [table.get(key) for key in SECTIONS] if isinstance(table, dict) else []


def _holds_tensors(table: Any) -> bool:
    return isinstance(table, dict) and any(isinstance(value, StoredTensor) for value in table.values())


def _without_wrappers(
    tensors: Mapping[str, StoredTensor], wanted: Collection[str]
) -> tuple[dict[str, StoredTensor], list[str]]:
    """Return the tensors without what wrappers add to their names, and what that was."""
    found = {INSERTED.sub("", name): tensor for name, tensor in tensors.items()}
    removed = sorted({match[0] for name in tensors for match in INSERTED.finditer(name)})
    if len(found) < len(tensors):
        found, removed = dict(tensors), []
    while found.keys().isdisjoint(wanted):
        names = [name for name in found if name != COUNTER_OF_AVERAGES]
        prefix = PREFIX.match(names[0] if names else "")
        if prefix is None or not all(name.startswith(prefix[0]) for name in names):
            break
        removed.append(prefix[0])
        found = {name.removeprefix(prefix[0]): found[name] for name in names}
    return found, removed


def read_weights(
    path: Path, wanted: Collection[str], *, part: str = "", remedy: str | None = None
) -> dict[str, Tensor]:
    """Return a file's tensors by the names that the network gives them, floats in single precision.

    Args:
        path: safetensors or PyTorch's format, whatever its ending.
        wanted: The network's names.
        part: Only tensors whose names begin so are read.
        remedy: What to do where there is no such file.

    Raises:
        CheckpointError: The file is missing, broken, or holds something else.
    """
    if not os.path.exists(path):
        raise CheckpointError(f"no such weights file: {path}", remedy)
    file = CheckpointFile(path)
    places = {name: place for name, place in find_tensors(file, wanted).items() if name.startswith(part)}
    tensors = {name: file.read(place) for name, place in places.items()}
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


def fit_weights(
    path: Path, name: str, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], remedy: str | None = None
) -> dict[str, Tensor]:
    """Return a network's state dict from a file's tensors: its own names, all of them.

    Args:
        path: The file, for the error.
        name: The network, for the error.
        found: The file's tensors.
        wanted: The network's state dict; only names, shapes and kinds of numbers are looked at.
        remedy: What to do about it.

    Raises:
        CheckpointError: Says how many are missing, extra or of another shape, and which is the first; or not finite.
    """
    import torch

    counters = {key: torch.zeros_like(value, device="cpu") for key, value in wanted.items() if key.endswith(COUNTER)}
    given = {key: tensor for key, tensor in found.items() if not key.endswith(COUNTER)}
    # Some programs make floats of all tensors, whatever they are.
    given |= {key: found[key].to(counter.dtype) for key, counter in counters.items() if key in found}
    if faults := _faults(given, {key: value for key, value in wanted.items() if key in given or key not in counters}):
        raise CheckpointError(f"{path} does not hold the weights of {name}: {'; '.join(faults)}", remedy)
    for key, tensor in given.items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{path} has weights that are not finite: {key}", remedy)
    return counters | given


def _faults(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    """Return for each kind of fault the first tensor that has it, and how many have."""
    shared = [(key, given[key], wanted[key]) for key in wanted if key in given]
    kinds = (
        ([f"{key} is missing" for key in wanted if key not in given], f" of {len(wanted)}"),
        ([f"{key} is not part of it" for key in given if key not in wanted], ""),
        (
            [
                f"{key} has shape {list(tensor.shape)}, not {list(own.shape)}"
                for key, tensor, own in shared
                if tensor.shape != own.shape
            ],
            "",
        ),
        (
            [
                f"{key} is of {tensor.dtype}, not of {own.dtype}"
                for key, tensor, own in shared
                if tensor.is_floating_point() != own.is_floating_point()
            ],
            "",
        ),
    )
    return [f"{faults[0]} ({len(faults)}{total} tensors)" for faults, total in kinds if faults]


def hash_weights(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of weights, whatever kind of file they were in."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {list(tensors[name].shape)} {tensors[name].dtype}\n".encode())
        digest.update(tensors[name].flatten().numpy().data)
    return digest.hexdigest()
