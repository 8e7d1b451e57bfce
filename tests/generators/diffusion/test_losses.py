"""Losses against direct definitions."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from synthmed.generators.diffusion.training.config import AutoencoderConfig
from synthmed.generators.diffusion.training.losses import (
    adaptive_weight,
    autoencoder_loss,
    hinge_loss,
    kl_divergence,
    reconstruction_loss,
    ssim,
)


def images(count=2, size=20, seed=0):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def ssim_by_loops(x, y):
    """Return the SSIM of one channel, window by window, straight from the definition."""
    offsets = np.arange(11) - 5
    taps = np.exp(-(offsets**2) / (2 * 1.5**2))
    window = np.outer(taps, taps) / np.outer(taps, taps).sum()
    values = []
    for top in range(x.shape[0] - 10):
        for left in range(x.shape[1] - 10):
            a, b = x[top : top + 11, left : left + 11], y[top : top + 11, left : left + 11]
            mean_a, mean_b = (window * a).sum(), (window * b).sum()
            var_a, var_b = (window * (a - mean_a) ** 2).sum(), (window * (b - mean_b) ** 2).sum()
            cov = (window * (a - mean_a) * (b - mean_b)).sum()
            values.append(
                (2 * mean_a * mean_b + 1e-4)
                * (2 * cov + 9e-4)
                / ((mean_a**2 + mean_b**2 + 1e-4) * (var_a + var_b + 9e-4))
            )
    return np.mean(values)


def test_ssim_equals_the_definition_over_valid_windows():
    x, y = images(), (images() + 0.3 * images(seed=1)).clamp(0, 1)
    found = ssim(x, y)
    assert found.shape == (2, 3)
    for number in range(2):
        for channel in range(3):
            wanted = ssim_by_loops(x[number, channel].double().numpy(), y[number, channel].double().numpy())
            assert found[number, channel].item() == pytest.approx(wanted, abs=1e-5)


def test_kl_is_zero_for_the_standard_normal_and_right_for_another():
    zero = torch.zeros(2, 4, 3, 3)
    assert torch.equal(kl_divergence(zero, zero), torch.zeros(2))
    mean, log_variance = torch.full((1, 1, 1, 1), 0.5), torch.full((1, 1, 1, 1), -1.0)
    normal = torch.distributions.Normal
    wanted = torch.distributions.kl_divergence(normal(0.5, np.exp(-0.5)), normal(0.0, 1.0))
    assert kl_divergence(mean, log_variance).item() == pytest.approx(wanted.item(), rel=1e-6)


def test_reconstruction_loss_adds_ssim_with_its_weight():
    x, y = images() * 2 - 1, images(seed=1) * 2 - 1
    pixel, parts = reconstruction_loss(x, y, AutoencoderConfig(ssim_weight=0))
    assert torch.allclose(pixel, (x - y).pow(2).mean())
    assert parts.keys() == {"pixel"}
    both, parts = reconstruction_loss(x, y, AutoencoderConfig(ssim_weight=2.0))
    similarity = functional.relu(ssim((x + 1) / 2, (y + 1) / 2)).mean()
    assert torch.allclose(both, pixel + 2 * (1 - similarity))
    assert torch.allclose(parts["ssim"], similarity)


def distance_of_means(x, y):
    """Stands for LPIPS: one number an image."""
    return (x.mean(dim=(1, 2, 3)) - y.mean(dim=(1, 2, 3))).abs()


def test_reconstruction_loss_adds_lpips_with_its_weight():
    x, y = images() * 2 - 1, images(seed=1) * 2 - 1
    plain, _ = reconstruction_loss(x, y, AutoencoderConfig())
    found, parts = reconstruction_loss(x, y, AutoencoderConfig(lpips_weight=3.0), distance_of_means)
    assert torch.allclose(parts["lpips"], distance_of_means(x, y).mean())
    assert torch.allclose(found, plain + 3 * parts["lpips"])


def test_terms_that_do_not_fit_a_small_output_are_left_out():
    config = AutoencoderConfig(lpips_weight=1.0)
    for size, names in ((8, {"pixel"}), (11, {"pixel", "ssim"}), (16, {"pixel", "ssim", "lpips"})):
        x = images(size=size)
        assert reconstruction_loss(x, x, config, distance_of_means)[1].keys() == names


def test_l1_is_used_when_asked_for():
    x, y = images(), images(seed=1)
    loss, _ = reconstruction_loss(x, y, AutoencoderConfig(pixel_loss="l1", ssim_weight=0))
    assert torch.allclose(loss, (x - y).abs().mean())


def test_perfect_reconstruction_leaves_only_kl():
    x = images(size=32) * 2 - 1
    half = functional.interpolate(x, size=16, mode="nearest-exact")
    mean, log_variance = torch.ones(2, 4, 8, 8), torch.zeros(2, 4, 8, 8)
    config = AutoencoderConfig(kl_weight=0.5)
    loss, parts = autoencoder_loss([x, half], mean, log_variance, x, config)
    # 0.5 * mean^2 for each of 256 latents, over the 3072 values of an image.
    assert loss.item() == pytest.approx(0.5 * 128 / 3072, rel=1e-4)
    assert parts["pixel"].item() == 0
    assert parts["ssim"].item() == pytest.approx(1)
    assert parts["kl_nats"].item() == pytest.approx(128)


def test_logged_parts_make_up_the_loss():
    x = images(size=32) * 2 - 1
    outputs = [x + 0.2 * images(size=32, seed=1), images(size=16, seed=2) * 2 - 1]
    mean, log_variance = torch.ones(2, 4, 8, 8), torch.zeros(2, 4, 8, 8)
    config = AutoencoderConfig(lpips_weight=0.7, ssim_weight=0.3, deep_weight=0.4, kl_weight=1e-2)
    loss, parts = autoencoder_loss(outputs, mean, log_variance, x, config, distance_of_means)
    assert parts.keys() == {"pixel", "ssim", "lpips", "deep", "kl_nats"}
    top = parts["pixel"] + 0.3 * (1 - parts["ssim"]) + 0.7 * parts["lpips"]
    assert torch.allclose(loss, top + 0.4 * parts["deep"] + 1e-2 * parts["kl_nats"] / 3072)
    target = functional.interpolate(x, size=16, mode="nearest-exact")
    assert torch.allclose(parts["deep"], reconstruction_loss(outputs[1], target, config, distance_of_means)[0])


def test_hinge_loss_by_hand():
    real, generated = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-2.0, 0.0, 1.0])
    # Real logits below 1 cost 0, 0.5 and 2, generated ones above -1 cost 0, 1 and 2.
    assert hinge_loss(real, generated).item() == pytest.approx(0.5 * (2.5 / 3 + 3 / 3))


def test_adaptive_weight_by_hand():
    """Gradients on (w1, w2): of 3 w1 + 4 w2 its norm is 5, of 0.6 w1 + 0.8 w2 it is 1."""
    w = torch.tensor([1.0, 1.0], requires_grad=True)
    big, small = 3 * w[0] + 4 * w[1], 0.6 * w[0] + 0.8 * w[1]

    def same(x):
        return x

    weight = adaptive_weight(big, small, w, same)
    assert weight.item() == pytest.approx(5 / 1.0001)
    assert not weight.requires_grad
    assert w.grad is None
    assert adaptive_weight(small, big, w, same).item() == pytest.approx(1 / 5.0001)
    assert adaptive_weight(big, 0 * small, w, same).item() == pytest.approx(1e4)
    # Processes average gradients, not their norms: those of two that pull apart cancel.
    assert adaptive_weight(big, small, w, lambda x: x * torch.tensor([1.0, 0.0])).item() == pytest.approx(3 / 0.6001)
