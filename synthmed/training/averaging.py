"""The moving average of a network's weights, which is what is validated and kept."""

from __future__ import annotations

import torch
from torch import Tensor, nn

MAX_WARMUP = 10


def averaging_decay(step: int, decay: float) -> float:
    """Return how much of the average stays in a step.

    The first steps move it faster, so that it forgets the weights of the beginning.

    Args:
        step: Index of the step.
        decay: Decay in the end; 0 for no averaging.
    """
    return min(decay, (1 + step) / (MAX_WARMUP + step))


@torch.no_grad()
def average_weights(averaged: nn.Module, network: nn.Module, decay: float) -> None:
    """Move an average towards a network: `decay` of the old, the rest of the new.

    Floating-point buffers, such as running means, are averaged like parameters; others, such as counts, are copied.

    Args:
        averaged: A copy of the network, changed in place.
        network: What is trained.
        decay: In [0, 1]; 0 copies the network.
    """
    old, new = ([*module.parameters(), *module.buffers()] for module in (averaged, network))
    pairs = list(zip(old, new, strict=True))
    floating: list[tuple[Tensor, Tensor]] = [(a, b) for a, b in pairs if a.is_floating_point()]
    torch._foreach_lerp_([a for a, _ in floating], [b for _, b in floating], 1 - decay)
    for a, b in pairs:
        if not a.is_floating_point():
            a.copy_(b)
