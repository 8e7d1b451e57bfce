"""The averaged weights of the lowest validation loss so far, which become the model where a training keeps the best."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn


class Kept:
    """A copy on the CPU of the best averaged network, with its step and its loss; empty before the first report.

    Args:
        network: The averaged network, whose shape the copy has.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = copy.deepcopy(network).cpu()
        self.step: int | None = None
        self.loss = math.inf
        self.restored = False

    def offer(self, network: nn.Module, step: int, loss: float) -> None:
        """Take the averaged network of a step if its validation loss is lower than all before; no number never is."""
        if loss < self.loss:
            self.network.load_state_dict(network.state_dict())
            self.step, self.loss = step, loss

    @property
    def facts(self) -> dict[str, Any]:
        """What model file and state say of the kept weights; nothing while there are none."""
        return {} if self.step is None else {"kept_step": self.step, "validation_loss": self.loss}

    def restore(self, facts: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
        """Take back what `facts` gave, with the weights.

        Raises:
            KeyError, RuntimeError: The facts are not whole, or the weights those of another network.
        """
        self.restored = True
        if facts:
            self.network.load_state_dict(weights)
            self.step, self.loss = int(facts["kept_step"]), float(facts["validation_loss"])
