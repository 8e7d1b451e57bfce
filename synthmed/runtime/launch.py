"""How this process was started: its place among those of torchrun or of a SLURM array, and the device it is to use.

The only reader of the variables that say so. It does not import torch, so that what is wrong is said at once.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from synthmed.errors import UsageError

MAX_PROCESSES, MAX_NUMBER = 1_000_000, 999_999_999
MAX_OPENMP_THREADS = 1024


@dataclass(frozen=True)
class Launch:
    """This process's place among those that torchrun started; alone if it started none."""

    rank: int = 0
    world: int = 1
    local_rank: int | None = None
    """Among the processes of this machine, if that is said."""


def read_launch(environment: Mapping[str, str] = os.environ, *, together: bool = False) -> Launch:
    """Return what torchrun says of this process; it speaks through variables, and through nothing else.

    Args:
        environment: Name -> value.
        together: Whether the processes will exchange what they compute, and so have to find each other.

    Raises:
        UsageError: A variable is missing beside the others, is no number, or is out of range.
    """
    rank, world = 0, 1
    if "RANK" in environment or "WORLD_SIZE" in environment:
        world = _number(environment, "WORLD_SIZE", 1, MAX_PROCESSES)
        rank = _number(environment, "RANK", 0, world - 1)
    most = world - 1 if "WORLD_SIZE" in environment else MAX_PROCESSES
    local_rank = _number(environment, "LOCAL_RANK", 0, most) if "LOCAL_RANK" in environment else None
    if together and world > 1:
        _number(environment, "MASTER_PORT", 1, 65535)
        if not environment.get("MASTER_ADDR"):
            raise _unusable(environment, "MASTER_ADDR", "the address of the first process's machine is wanted")
    return Launch(rank, world, local_rank)


def started_as_main() -> bool:
    """Say whether this is the only process, or the first that torchrun started."""
    return read_launch().rank == 0


def read_array_task(environment: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """Return the place of this task in its SLURM array, counted from 0, and the number of tasks; (0, 1) without one.

    Raises:
        UsageError: A variable is missing beside the others, is no number or out of range, or the array has gaps.
    """
    prefix = "SLURM_ARRAY_TASK_"
    if not {f"{prefix}ID", f"{prefix}COUNT"} & environment.keys():
        return 0, 1
    count, number = (
        _number(environment, prefix + name, least, MAX_NUMBER) for name, least in (("COUNT", 1), ("ID", 0))
    )
    if count == 1:
        return 0, 1
    first = _number(environment, f"{prefix}MIN", 0, number)
    step = _number(environment, f"{prefix}STEP", 1, MAX_NUMBER) if f"{prefix}STEP" in environment else 1
    last = first + (count - 1) * step
    if f"{prefix}MAX" in environment and environment[f"{prefix}MAX"] != str(last):
        raise _unusable(environment, f"{prefix}MAX", f"{count} tasks from {first} on would end at {last}: has it gaps?")
    if number not in range(first, last + 1, step):
        raise _unusable(environment, f"{prefix}ID", f"the array has {first} to {last} in steps of {step}")
    return (number - first) // step, count


def _number(environment: Mapping[str, str], name: str, least: int, most: int) -> int:
    """Return the number in a variable."""
    text = environment.get(name, "")
    if not re.fullmatch(r"[0-9]{1,9}", text, re.ASCII) or not least <= int(text) <= most:
        raise _unusable(environment, name, f"a number from {least} to {most} is wanted")
    return int(text)


def _unusable(environment: Mapping[str, str], name: str, wanted: str) -> UsageError:
    found = f"is {environment[name][:80]!r}" if name in environment else "is not set, but others of its kind are"
    kind = "SLURM's array" if name.startswith("SLURM") else "torchrun"
    own = "take --shards instead" if name.startswith("SLURM") else "let torchrun set it"
    return UsageError(f"the variable {name} of {kind} {found}", f"{wanted}; {own}, or unset them all")


def check_threads(environment: Mapping[str, str] = os.environ) -> None:
    """Refuse a number of threads that OpenMP cannot read, for which it would take all cores of the machine.

    Raises:
        UsageError: OMP_NUM_THREADS holds something else than numbers, or too large ones.
    """
    text = environment.get("OMP_NUM_THREADS", "1")
    # One number a level of nested loops.
    numbers = [int(word) if re.fullmatch(r" *[0-9]{1,4} *", word, re.ASCII) else 0 for word in text.split(",")]
    if not all(1 <= number <= MAX_OPENMP_THREADS for number in numbers):
        wanted = f"a number from 1 to {MAX_OPENMP_THREADS} is wanted; or unset it"
        raise UsageError(f"the variable OMP_NUM_THREADS is {text[:80]!r}", wanted)


def check_device_name(name: str) -> str:
    """Return the name of a device if it may be one: auto, cpu, cuda or cuda:N.

    Raises:
        UsageError: It is none of these.
    """
    if not re.fullmatch(r"auto|cpu(:0)?|cuda(:(0|[1-9][0-9]{0,2}))?", name, re.ASCII):
        raise UsageError(f"unknown device: {name!r}", "use auto, cpu, cuda or cuda:N")
    return name
