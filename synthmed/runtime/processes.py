"""The processes of one training: one alone, or several started by torchrun."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, distributed

from synthmed.errors import DeviceError
from synthmed.runtime.device import select_device
from synthmed.runtime.launch import read_launch

BUCKET_BYTES = 25 << 20
"""Most that is sent in one message where many tensors are: few large messages are faster than many small ones."""


@dataclass(frozen=True)
class Processes:
    """This process's place among all."""

    rank: int = 0
    world: int = 1

    @property
    def main(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def any(self, *flags: bool) -> list[bool]:
        """Return for each flag whether it is set in any process, the same answer everywhere."""
        if self.world == 1:
            return list(flags)
        tensor = torch.tensor(flags, dtype=torch.int32, device=_collective_device())
        distributed.all_reduce(tensor, distributed.ReduceOp.MAX)
        return [bool(flag) for flag in tensor.tolist()]

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of a tensor over all processes."""
        if self.world == 1:
            return values
        total = values.detach().clone().to(_collective_device())
        distributed.all_reduce(total)
        return total.to(values.device) / self.world

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replace tensors, of the same shapes in all processes, by their means over the processes."""
        if self.world > 1:
            _exchange(tensors, lambda flat: distributed.all_reduce(flat.div_(self.world)))

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Replace tensors by those of the first process."""
        if self.world > 1:
            # As bytes, since not every backend sends every type.
            _exchange(tensors, lambda flat: distributed.broadcast(flat.view(torch.uint8), 0))

    def wait(self) -> None:
        """Go on when all processes have come here."""
        if self.world > 1:
            distributed.barrier()


@torch.no_grad()
def _exchange(tensors: Iterable[Tensor], collective: Callable[[Tensor], object]) -> None:
    """Run an in-place collective operation on many tensors, joined to few."""
    for bucket in _buckets(tensors):
        flat = torch.cat([tensor.reshape(-1) for tensor in bucket]).to(_collective_device())
        collective(flat)
        parts = torch.split(flat.to(bucket[0].device), [tensor.numel() for tensor in bucket])
        for tensor, part in zip(bucket, parts, strict=True):
            tensor.copy_(part.view_as(tensor))


def _buckets(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Yield tensors in groups of one type and a bounded size."""
    started: dict[torch.dtype, tuple[list[Tensor], int]] = {}
    for tensor in tensors:
        bucket, size = started.pop(tensor.dtype, ([], 0))
        if bucket and size + tensor.nbytes > BUCKET_BYTES:
            yield bucket
            bucket, size = [], 0
        bucket.append(tensor)
        started[tensor.dtype] = bucket, size + tensor.nbytes
    yield from (bucket for bucket, _ in started.values())


def _collective_device() -> torch.device:
    # NCCL moves GPU tensors only, gloo is what runs on the CPU.
    if distributed.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


@contextlib.contextmanager
def join_processes(device: torch.device) -> Iterator[tuple[Processes, torch.device]]:
    """Join the processes that torchrun started, if it did; yields them and this process's own device.

    Raises:
        UsageError: The variables that torchrun speaks through make no sense.
        DeviceError: This process's GPU is not there, or the others cannot be reached.
    """
    launch = read_launch(together=True)
    if launch.world == 1:
        yield Processes(), device
        return
    if device.type == "cuda":
        device = select_device(f"cuda:{launch.local_rank or 0}")
        torch.cuda.set_device(device)
    try:
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    except (RuntimeError, ValueError) as error:
        raise DeviceError(f"cannot join the {launch.world} processes: {error}", "did all of them start?") from error
    try:
        yield Processes(launch.rank, launch.world), device
    finally:
        distributed.destroy_process_group()
