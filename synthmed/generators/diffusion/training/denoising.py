"""What every training that removes noise has in common: draws of timesteps, and the distance from what is true."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from synthmed.generators.diffusion.config import Objective
from synthmed.generators.diffusion.schedule import NoiseSchedule
from synthmed.generators.diffusion.training.config import DenoisingConfig
from synthmed.runtime.seeds import torch_generator

Predict = Callable[[Tensor, Tensor], Tensor]
"""What a network makes of x_t [N, Z, h, w] at timesteps t [N] int64."""


class Denoising:
    """The loss of a network that predicts the noise, the clean data or v.

    Args:
        config: Distance, and how timesteps are drawn.
        schedule: Constants of the forward process.
        objective: What is predicted.
    """

    def __init__(self, config: DenoisingConfig, schedule: NoiseSchedule, objective: Objective) -> None:
        self.config, self.schedule, self.objective = config, schedule, objective
        self._shares = _cumulative_shares(config, schedule)

    def timesteps(self, shares: Tensor) -> Tensor:
        """Return the timesteps below which given shares of all draws lie; from uniform numbers, draws.

        Args:
            shares: In [0, 1), [N] float32.
        """
        if self.config.timesteps == "uniform":
            return (shares * self.schedule.num_timesteps).long()
        self._move(shares.device)
        return torch.searchsorted(self._shares, shares.double(), right=True)

    def loss(self, predict: Predict, x_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """Return the mean distance of what is predicted from what is true (scalar).

        Args:
            predict: The network.
            x_0: Clean data [N, Z, h, w] float32.
            eps: Noise, likewise.
            t: Timesteps [N] int64.
        """
        self._move(x_0.device)
        predicted = predict(self.schedule.add_noise(x_0, eps, t), t).float()
        target = (
            self.schedule.velocity(x_0, eps, t) if self.objective == "v" else {"eps": eps, "x_0": x_0}[self.objective]
        )
        return (functional.l1_loss if self.config.loss == "l1" else functional.mse_loss)(predicted, target)

    def _move(self, device: torch.device) -> None:
        if self._shares.device == device:  # copies of every step would wait for the device
            return
        fields = dataclasses.fields(self.schedule)
        self.schedule = NoiseSchedule(*(getattr(self.schedule, field.name).to(device) for field in fields))
        self._shares = self._shares.to(device)


def validation_noise(denoising: Denoising, shape: tuple[int, ...], seed: int) -> tuple[Tensor, Tensor]:
    """Return noise [N, Z, h, w] and evenly spread timesteps [N] int64, the same at every call with a seed."""
    generator = torch_generator(seed, "validation")
    eps = torch.randn(shape, generator=generator)
    return eps, denoising.timesteps((torch.randperm(shape[0], generator=generator) + 0.5) / shape[0])


def _cumulative_shares(config: DenoisingConfig, schedule: NoiseSchedule) -> Tensor:
    """Return the share of draws up to each timestep, for normal draws of log-SNR: [T] float64, the last one 1.

    A draw between two timesteps goes to the nearer one, and one beyond the schedule to its end.
    """
    log_snr = schedule.log_snr
    between = torch.cat([(log_snr[1:] + log_snr[:-1]) / 2, torch.tensor([-torch.inf], dtype=torch.float64)])
    below: Tensor = torch.special.ndtr((between - config.log_snr_mean) / config.log_snr_deviation)
    return 1 - below
