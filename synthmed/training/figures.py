"""Losses and gradient norms of the steps, kept on the device until somebody asks, so that no step waits for it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from synthmed.runtime.processes import Processes


class Figures:
    """What the steps since the last report gave.

    Args:
        processes: All processes of this run; each asks the same at the same steps.
    """

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._rows: dict[int, dict[str, Tensor]] = {}
        self._unchecked: list[tuple[int, Tensor]] = []

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, step: int, loss: Tensor, norm: Tensor, parts: Mapping[str, Tensor]) -> None:
        """Take in what one update gave; figures of the same name, such as the loss, add up over a step's updates.

        Args:
            step: Index of the step.
            loss: Loss of this process's samples (scalar).
            norm: Norm of the gradient, the same in all processes (scalar).
            parts: What to log beside the loss (scalars).
        """
        row = self._rows.setdefault(step, {})
        for name, value in {"loss": loss, **parts}.items():
            value = value.detach().float()
            row[name] = row[name] + value if name in row else value
        self._unchecked.append((step, torch.stack([loss.detach().float(), norm.float()])))

    def find_broken(self) -> tuple[int, float, float] | None:
        """Return step, loss and norm of the first update not looked at before in which one is not finite, if any."""
        if not self._unchecked:
            return None
        steps, values = zip(*self._unchecked, strict=True)
        self._unchecked.clear()
        # A mean over processes is not finite if one of the values is not.
        for step, (loss, norm) in zip(steps, self._processes.mean(torch.stack(values)).cpu(), strict=True):
            if not (loss.isfinite() and norm.isfinite()):
                return step, loss.item(), norm.item()
        return None

    def take_means(self) -> dict[str, float]:
        """Return the mean of each figure over processes and over the steps that had it, and begin anew."""
        columns: dict[str, list[Tensor]] = {}
        for row in self._rows.values():
            for name, value in row.items():
                columns.setdefault(name, []).append(value)
        self._rows = {}
        means = self._processes.mean(torch.stack([torch.stack(column).mean() for column in columns.values()]))
        return dict(zip(columns, means.tolist(), strict=True))
