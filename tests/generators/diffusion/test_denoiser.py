"""Trainings that remove noise: what a prediction is compared with, and which timesteps are drawn."""

import dataclasses

import pytest
import torch

from synthmed.generators.diffusion.config import ScheduleConfig
from synthmed.generators.diffusion.header import DiffusionHeader
from synthmed.generators.diffusion.networks.unet import build_denoiser
from synthmed.generators.diffusion.schedule import build_schedule
from synthmed.generators.diffusion.training.config import DiffusionConfig
from synthmed.generators.diffusion.training.denoiser import DiffusionStep
from synthmed.generators.diffusion.training.denoising import Denoising

SCHEDULE = build_schedule(ScheduleConfig())


@pytest.mark.parametrize("loss", ["l1", "mse"])
@pytest.mark.parametrize("objective", ["eps", "x_0", "v"])
def test_loss_is_the_distance_from_what_the_objective_names(tiny_header: DiffusionHeader, objective, loss):
    generator = torch.Generator().manual_seed(0)
    x_0, eps = torch.randn(2, 2, 4, 4, 4, generator=generator)
    t, labels = torch.tensor([3, 900]), torch.tensor([0, -1])
    assert tiny_header.build.unet is not None
    network = build_denoiser(dataclasses.replace(tiny_header.build.unet, objective=objective), 4, 2)
    step = DiffusionStep(network, DiffusionConfig(loss=loss), SCHEDULE, 1.0)
    acp = SCHEDULE.alphas_cumprod[t].view(2, 1, 1, 1)
    target = {"eps": eps, "x_0": x_0, "v": acp.sqrt() * eps - (1 - acp).sqrt() * x_0}[objective]
    difference = network(SCHEDULE.add_noise(x_0, eps, t), t, labels) - target
    wanted = difference.abs().mean() if loss == "l1" else difference.pow(2).mean()
    assert torch.allclose(step.loss(x_0, eps, t, labels), wanted)


def drawn_log_snr(**config) -> torch.Tensor:
    """Return the log-SNR at the timesteps of evenly spread draws, computed from the definition."""
    denoising = Denoising(DiffusionConfig(**config), SCHEDULE, "v")
    t = denoising.timesteps((torch.arange(20_000) + 0.5) / 20_000)
    acp = SCHEDULE.alphas_cumprod.double()
    return (acp / (1 - acp)).log()[t]


@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 2.0), (-1.0, 1.5)])
def test_normal_draws_have_a_normal_log_snr(mean, deviation):
    found = drawn_log_snr(timesteps="normal", log_snr_mean=mean, log_snr_deviation=deviation)
    for z in (-2.0, -1.0, 0.0, 1.0, 2.0):
        share = (found < mean + z * deviation).double().mean().item()
        # Timesteps are as far apart as 0.04 where they are densest, 0.5 at the end with little noise.
        assert share == pytest.approx(torch.special.ndtr(torch.tensor(z)).item(), abs=0.01)


def test_draws_beyond_the_schedule_go_to_its_ends():
    for mean, t in ((19.0, 0), (-19.0, 999)):
        found = drawn_log_snr(timesteps="normal", log_snr_mean=mean, log_snr_deviation=0.5)
        acp = SCHEDULE.alphas_cumprod[t].double()
        assert torch.equal(found, torch.full_like(found, (acp / (1 - acp)).log().item()))


def test_uniform_draws_take_each_timestep_equally_often():
    t = Denoising(DiffusionConfig(), SCHEDULE, "eps").timesteps((torch.arange(4000) + 0.5) / 4000)
    assert torch.equal(torch.bincount(t), torch.full((1000,), 4))
