"""Figures of reconstructions against their definitions."""

import pytest
import torch

from synthmed.metrics.reconstruction import ms_ssim, mse, num_scales, psnr


def noise(size: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(seed))


def test_mse_and_psnr_of_a_known_error() -> None:
    target = torch.full((1, 3, 8, 8), 0.5)
    assert mse(target + 0.1, target).item() == pytest.approx(0.01, rel=1e-5)
    assert psnr(target + 0.1, target).item() == pytest.approx(20, abs=1e-4)
    assert psnr(target, target).item() == pytest.approx(100)


def test_figures_are_one_an_image() -> None:
    x, y = noise(32), noise(32, 1)
    for figure in (mse, psnr, ms_ssim):
        both = figure(x, y)
        assert both.shape == (2,)
        assert torch.allclose(both[1:], figure(x[1:], y[1:]), rtol=1e-5)


@pytest.mark.parametrize(("size", "scales"), [(16, 2), (64, 3), (128, 4), (176, 5), (161, 4), (512, 5)])
def test_small_images_get_fewer_scales(size: int, scales: int) -> None:
    assert num_scales(size) == scales


def test_ms_ssim_is_one_for_equal_images_and_falls_with_noise() -> None:
    x = noise(64)
    assert ms_ssim(x, x).tolist() == pytest.approx([1, 1], abs=1e-5)
    little, much = (ms_ssim((x + share * noise(64, 1)).clamp(0, 1), x) for share in (0.1, 0.5))
    assert (little < 1).all() and (little > much).all()
