"""The moving average of weights and buffers."""

import copy

import pytest
import torch
from torch import nn

from synthmed.training.averaging import average_weights, averaging_decay


def test_average_covers_parameters_and_floating_buffers_and_copies_counts():
    torch.manual_seed(0)
    network = nn.BatchNorm1d(2)
    averaged = copy.deepcopy(network)
    network(torch.randn(8, 2) + 3)
    with torch.no_grad():
        network.weight.add_(1)
    before = {name: tensor.clone() for name, tensor in averaged.state_dict().items()}
    average_weights(averaged, network, 0.75)
    wanted = network.state_dict()
    for name in ("weight", "bias", "running_mean", "running_var"):
        torch.testing.assert_close(averaged.state_dict()[name], 0.75 * before[name] + 0.25 * wanted[name])
    assert not torch.equal(before["running_mean"], averaged.state_dict()["running_mean"])
    assert averaged.num_batches_tracked == 1


def test_without_decay_the_average_is_the_network():
    network, averaged = nn.Linear(3, 2), nn.Linear(3, 2)
    average_weights(averaged, network, 0.0)
    assert torch.equal(network.weight, averaged.weight)


def test_decay_is_reached_gradually():
    decays = [averaging_decay(step, 0.99) for step in range(2000)]
    assert decays[0] == pytest.approx(0.1)
    assert decays == sorted(decays)
    assert decays[-1] == 0.99
    assert averaging_decay(5, 0) == 0
