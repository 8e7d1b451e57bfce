"""The state of a training on disk, from which it goes on to the bit: weights, optimisers' moments, the task's own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from synthmed.errors import CheckpointError
from synthmed.files.atomic import atomic_path
from synthmed.training.kept import Kept
from synthmed.training.task import TaskState

AVERAGED = "averaged"
KEPT = "kept"
OPTIMIZER = "optimizer"
TASK = "task"


class Stored(NamedTuple):
    """What the weights and moments of a state belong to.

    Args:
        modules: Everything that has weights, by name; `averaged` is among them.
        optimizers: Of the trained modules; the parameters are counted over all of them, in their order.
        kept: The best averaged weights; `None` where the last ones count.
    """

    modules: Mapping[str, nn.Module]
    optimizers: Sequence[Optimizer]
    kept: Kept | None = None


def save_state(path: Path, step: int, stored: Stored, task: TaskState) -> None:
    """Write a state atomically.

    Tensors are named `MODULE.NAME`, `optimizer.INDEX.NAME` and `task.NAME`; the task's numbers are in the header. The
    best weights are a module `kept`, which is left out while they are the averaged ones; their facts are in the header.

    Args:
        path: Name of the file.
        step: How many steps are done.
        stored: Modules and optimisers.
        task: The task's own state.
    """
    kept, modules, metadata = stored.kept, dict(stored.modules), {}
    if kept is not None:
        metadata[KEPT] = json.dumps(kept.facts)
        if kept.step not in (None, step):
            modules[KEPT] = kept.network
    tensors = {
        f"{part}.{name}": tensor for part, module in modules.items() for name, tensor in module.state_dict().items()
    }
    for first, optimizer in _with_first_index(stored.optimizers):
        for index, moments in optimizer.state_dict()["state"].items():
            found = {name: moment for name, moment in moments.items() if isinstance(moment, Tensor)}
            tensors |= {f"{OPTIMIZER}.{first + index}.{name}": moment for name, moment in found.items()}
    tensors |= {f"{TASK}.{name}": value for name, value in task.items() if isinstance(value, Tensor)}
    numbers = {name: value for name, value in task.items() if not isinstance(value, Tensor)}
    with atomic_path(path) as part_path:
        save_file(tensors, part_path, metadata={"step": str(step), TASK: json.dumps(numbers), **metadata})


def load_state(path: Path, stored: Stored) -> tuple[int, TaskState]:
    """Read a state into modules, optimisers and kept weights; return the number of steps done and the task's own state.

    A state of an earlier version says nothing of kept weights: `stored.kept` is then not `restored`.

    Raises:
        CheckpointError: The file is broken or the state of something else.
    """
    tensors: dict[str, dict[str, Tensor]] = {name: {} for name in (*stored.modules, KEPT, OPTIMIZER, TASK)}
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
            for name in file.keys():  # noqa: SIM118 - a file, not a dict
                part, _, rest = name.partition(".")
                tensors[part][rest] = file.get_tensor(name)
        for name, module in stored.modules.items():
            module.load_state_dict(tensors[name])
        _load_moments(stored.optimizers, tensors[OPTIMIZER])
        step = int(metadata["step"])
        if stored.kept is not None and KEPT in metadata:
            facts = dict(json.loads(metadata[KEPT]))
            stored.kept.restore(facts, tensors[AVERAGED if facts.get("kept_step") == step else KEPT])
        return step, {**json.loads(metadata.get(TASK, "{}")), **tensors[TASK]}
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"cannot resume from {path}: {error}", "--overwrite starts anew") from error


def _load_moments(optimizers: Sequence[Optimizer], tensors: Mapping[str, Tensor]) -> None:
    moments: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, _, name = key.partition(".")
        moments.setdefault(int(index), {})[name] = tensor
    for first, optimizer in _with_first_index(optimizers):
        own = range(first, first + _count_parameters(optimizer))
        state = {index - first: moments.pop(index) for index in own if index in moments}
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    if moments:
        raise ValueError(f"no parameter has index {min(moments)}")


def _with_first_index(optimizers: Sequence[Optimizer]) -> list[tuple[int, Optimizer]]:
    """Return each optimiser with the index of its first parameter."""
    counts = [_count_parameters(optimizer) for optimizer in optimizers]
    return [(sum(counts[:place]), optimizer) for place, optimizer in enumerate(optimizers)]


def _count_parameters(optimizer: Optimizer) -> int:
    return sum(len(group["params"]) for group in optimizer.param_groups)
