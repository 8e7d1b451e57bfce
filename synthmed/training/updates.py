"""Updates: a step of the loop is a sequence of them, each of which changes one module."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from synthmed.runtime.processes import Processes
from synthmed.training.config import StageConfig
from synthmed.training.draw import Draw

Loss = Callable[[list[Tensor], Draw], tuple[Tensor, dict[str, Tensor]]]
"""Gives the loss of a batch (scalar), and what to log beside it (scalars)."""


@dataclass(frozen=True)
class Update:
    """One optimiser step on the parameters of one module, down the gradient of a loss of its own.

    Updates of the same name share module and optimiser: say, a loss in every step and a penalty in every 16th.

    Args:
        name: Name of the module in the state file.
        module: Whose parameters change; those of no other module do, whatever the loss goes through.
        loss: Gives the loss. What is random in it comes from the draw.
        lr: Peak learning rate.
        every: Taken in each step whose index is a multiple of this.
        optimizer: Makes the optimiser, from a list of parameters and `lr`; `None` for AdamW as configured.
    """

    name: str
    module: nn.Module
    loss: Loss
    lr: float
    every: int = 1
    optimizer: Callable[..., Optimizer] | None = None

    def make_optimizer(self, config: StageConfig) -> Optimizer:
        """Return a new optimiser of the module's parameters."""
        parameters = list(self.module.parameters())
        if self.optimizer is not None:
            return self.optimizer(parameters, lr=self.lr)
        return AdamW(parameters, lr=self.lr, betas=(0.9, config.beta2), weight_decay=config.weight_decay)


def set_gradients(loss: Tensor, module: nn.Module, limit: float, processes: Processes) -> Tensor:
    """Set the gradients of a module's parameters, averaged over all processes and clipped, and return their norm.

    Args:
        loss: Loss of this process's samples (scalar).
        module: Nothing outside it gets a gradient.
        limit: Largest norm of all gradients together.
        processes: All processes of this run.

    Returns:
        The norm before clipping (scalar).
    """
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    torch.autograd.backward(loss, inputs=parameters)
    if processes.world > 1:
        _average_gradients(parameters, processes)
    return nn.utils.clip_grad_norm_(parameters, limit)


def _average_gradients(parameters: list[nn.Parameter], processes: Processes) -> None:
    """Average gradients; a parameter that was used in some processes counts as zero in the others.

    One that no process used keeps no gradient, so that the optimiser leaves it alone as it does for one process.
    """
    unused = [parameter for parameter in parameters if parameter.grad is None]
    for parameter in unused:
        parameter.grad = torch.zeros_like(parameter)
    used = torch.ones(len(parameters), device=parameters[0].device)
    if unused:
        missing = set(map(id, unused))
        used = torch.tensor([float(id(parameter) not in missing) for parameter in parameters], device=used.device)
    processes.average([*(parameter.grad for parameter in parameters if parameter.grad is not None), used])
    if unused:  # to look at the answer is to wait for the device
        for parameter, share in zip(parameters, used.tolist(), strict=True):
            parameter.grad = parameter.grad if share else None
