"""The random numbers of a step: those of a sample, whoever draws them."""

import pytest
import torch

from synthmed.data.sets.batches import own_positions
from synthmed.runtime.processes import Processes
from synthmed.training.draw import Draw


@pytest.mark.parametrize("world", [2, 4])
def test_draws_of_several_processes_are_parts_of_the_draw_of_one(world):
    for step in range(4):
        whole = Draw(5, step, 8, Processes())
        normal, uniform, coin = whole.normal(3), whole.uniform(), whole.coin()
        for rank in range(world):
            part, own = Draw(5, step, 8, Processes(rank, world)), list(own_positions(5, step, 8, rank, world))
            assert len(own) == 8 // world
            assert torch.equal(part.normal(3), normal[own])
            assert torch.equal(part.uniform(), uniform[own])
            assert torch.equal(part.coin(), coin)


def test_process_draws_nothing_for_the_samples_of_others(monkeypatch):
    drawn = []
    randn = torch.randn

    def count(*shape, generator):
        noise = randn(*shape, generator=generator)
        drawn.append(noise.numel())
        return noise

    monkeypatch.setattr(torch, "randn", count)
    Draw(5, 0, 8, Processes(1, 4)).normal(2, 3)
    assert sum(drawn) == 2 * 2 * 3


def test_every_sample_and_step_has_noise_of_its_own():
    values = torch.stack([Draw(5, step, 4, Processes()).normal(2, 2, 2) for step in range(2)]).flatten(0, 1)
    assert values.shape == (8, 2, 2, 2)
    assert len(values.unique(dim=0)) == 8
    assert torch.equal(values[:4], Draw(5, 0, 4, Processes()).normal(2, 2, 2))


def test_noise_is_standard_normal_and_draws_are_even():
    draw = Draw(1, 0, 2000, Processes())
    normal, uniform = draw.normal(10), draw.uniform()
    assert abs(normal.mean().item()) < 0.03 and abs(normal.std().item() - 1) < 0.03
    assert uniform.shape == (2000,) and abs(uniform.mean().item() - 0.5) < 0.03
    assert 0 <= uniform.min() < uniform.max() < 1
