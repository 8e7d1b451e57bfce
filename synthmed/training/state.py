"""The state of a training on disk: weights and the optimiser's moments, to go on from to the bit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from synthmed.errors import CheckpointError
from synthmed.files.atomic import atomic_path

OPTIMIZER = "optimizer"


def save_state(path: Path, step: int, modules: Mapping[str, nn.Module], optimizer: Optimizer) -> None:
    """Write weights and moments as `MODULE.NAME` and `optimizer.NUMBER.NAME`, atomically.

    Args:
        path: Name of the file.
        step: How many steps are done.
        modules: Everything that has weights, by name.
        optimizer: Of these modules.
    """
    tensors = {
        f"{part}.{name}": tensor for part, module in modules.items() for name, tensor in module.state_dict().items()
    }
    for number, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"{OPTIMIZER}.{number}.{name}": tensor for name, tensor in moments.items()}
    with atomic_path(path) as part_path:
        save_file(tensors, part_path, metadata={"step": str(step)})


def load_state(path: Path, modules: Mapping[str, nn.Module], optimizer: Optimizer) -> int:
    """Read a state into modules and optimiser and return the number of steps done.

    Raises:
        CheckpointError: The file is broken or the state of something else.
    """
    tensors: dict[str, dict[str, Tensor]] = {name: {} for name in (*modules, OPTIMIZER)}
    try:
        with safe_open(path, "pt") as file:
            step = int(file.metadata()["step"])
            for name in file.keys():  # noqa: SIM118 - a file, not a dict
                part, _, rest = name.partition(".")
                tensors[part][rest] = file.get_tensor(name)
        for name, module in modules.items():
            module.load_state_dict(tensors[name])
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"cannot resume from {path}: {error}", "--overwrite starts anew") from error
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors[OPTIMIZER].items():
        number, _, kind = name.partition(".")
        moments.setdefault(int(number), {})[kind] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
    return step
