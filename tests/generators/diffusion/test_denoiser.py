"""Training of the denoiser: what its prediction is compared with."""

import dataclasses

import pytest
import torch

from synthmed.generators.diffusion.header import DiffusionHeader
from synthmed.generators.diffusion.networks.unet import build_denoiser
from synthmed.generators.diffusion.schedule import build_schedule
from synthmed.generators.diffusion.training.config import DiffusionConfig
from synthmed.generators.diffusion.training.denoiser import DiffusionStep


@pytest.mark.parametrize("loss", ["l1", "mse"])
@pytest.mark.parametrize("objective", ["eps", "x_0"])
def test_loss_is_the_distance_from_what_the_objective_names(tiny_header: DiffusionHeader, objective, loss):
    generator = torch.Generator().manual_seed(0)
    x_0, eps = torch.randn(2, 2, 4, 4, 4, generator=generator)
    t, labels = torch.tensor([3, 900]), torch.tensor([0, -1])
    assert tiny_header.build.unet is not None
    network = build_denoiser(dataclasses.replace(tiny_header.build.unet, objective=objective), 4, 2)
    schedule = build_schedule(tiny_header.build.schedule)
    step = DiffusionStep(network, DiffusionConfig(loss=loss), schedule, 1.0)
    difference = network(schedule.add_noise(x_0, eps, t), t, labels) - (x_0 if objective == "x_0" else eps)
    wanted = difference.abs().mean() if loss == "l1" else difference.pow(2).mean()
    assert torch.allclose(step.loss(x_0, eps, t, labels), wanted)
