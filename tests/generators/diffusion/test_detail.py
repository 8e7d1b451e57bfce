"""The detail stage: the transform, what it learns, and sampling against an analytic denoiser."""

import dataclasses
import math

import pytest
import torch

from synthmed.data.labels import Classes
from synthmed.errors import RecipeError, UsageError
from synthmed.generators.diffusion.config import DetailBuild, DetailUnetConfig, VaeConfig
from synthmed.generators.diffusion.header import DiffusionHeader
from synthmed.generators.diffusion.networks.autoencoder import Autoencoder
from synthmed.generators.diffusion.networks.detail import BANDS, DetailNetwork, from_bands, to_bands
from synthmed.generators.diffusion.networks.unet import build_denoiser
from synthmed.generators.diffusion.pipeline import Pipeline
from synthmed.generators.diffusion.schedule import build_schedule
from synthmed.generators.diffusion.settings import DiffusionSettings

UNET = DetailUnetConfig(widths=(8, 8, 16), norm_groups=8, emb_channels=16)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def pipeline(change_header, tiny_header: DiffusionHeader) -> Pipeline:
    """An autoencoder with a detail stage, both untrained."""
    return build_pipeline(change_header(tiny_header, detail=DetailBuild(UNET), kind="autoencoder"))


def build_pipeline(header: DiffusionHeader) -> Pipeline:
    torch.manual_seed(0)
    build = header.build
    assert isinstance(build.vae, VaeConfig) and build.detail is not None
    detail = DetailNetwork(build.detail.unet, build.vae.image_channels, len(header.classes))
    return Pipeline(header, Autoencoder(build.vae), detail=detail)


def test_transform_is_orthonormal_and_its_own_inverse():
    images = noise(2, 3, 8, 10)
    bands = to_bands(images)
    assert bands.shape == (2, 3 * BANDS, 4, 5)
    assert torch.allclose(bands.square().sum(), images.square().sum(), rtol=1e-5)
    assert torch.allclose(from_bands(bands), images, atol=1e-6)


@pytest.mark.parametrize(
    ("pixels", "band"),
    [([[1, 1], [1, 1]], 0), ([[1, -1], [1, -1]], 1), ([[1, 1], [-1, -1]], 2), ([[1, -1], [-1, 1]], 3)],
)
def test_each_pattern_is_in_one_band_of_its_own_channel(pixels, band):
    images = torch.zeros(1, 2, 2, 2)
    images[0, 1] = torch.tensor(pixels)
    wanted = torch.zeros(1, 2 * BANDS, 1, 1)
    wanted[0, BANDS + band] = 2
    assert torch.equal(to_bands(images), wanted)


def test_what_is_learnt_is_what_gives_the_image_back():
    network = DetailNetwork(UNET, 3, 2)
    network.residual_scale.copy_(noise(12, seed=3).abs() + 0.1)
    images, structure = noise(2, 3, 8, 8), noise(2, 3, 8, 8, seed=1)
    assert torch.allclose(network.add(structure, network.residual(images, structure)), images, atol=1e-5)


def test_sampled_residuals_have_the_mean_and_the_spread_that_they_have_given_the_structure(pipeline):
    """Residuals are drawn from N(0.5 guide, 0.3^2), for which the best prediction of v is known."""
    schedule, std = build_schedule(pipeline.header.build.detail.schedule), 0.3

    def best(x, t, _labels, guide):
        acp = schedule.alphas_cumprod[t].view(-1, 1, 1, 1)
        alpha, sigma, mean = acp.sqrt(), (1 - acp).sqrt(), 0.5 * guide
        share = (x - alpha * mean) / (alpha**2 * std**2 + sigma**2)
        return alpha * sigma * share - sigma * (mean + alpha * std**2 * share)

    pipeline.detail.forward = best
    structure = noise(1, 3, 16, 16, seed=2).expand(400, -1, -1, -1)
    found = to_bands(pipeline.refine(structure, list(range(400)), 12) - structure)
    wanted = 0.5 * to_bands(structure[:1])[0]
    assert (found.mean(dim=0) - wanted).abs().mean() < 3 * std / math.sqrt(400)
    assert found.std(dim=0).mean().item() == pytest.approx(std, rel=0.02)


def test_detail_depends_on_the_images_own_seed_alone(pipeline):
    structure = noise(3, 3, 16, 16)
    together = pipeline.refine(structure, [1, 2, 3], 3)
    alone = pipeline.refine(structure[1:2], [2], 3)
    assert torch.allclose(together[1:2], alone, atol=1e-5)
    assert not torch.allclose(together[1:2], pipeline.refine(structure[1:2], [3], 3), atol=1e-2)
    assert pipeline.refine(structure, [1, 2, 3], 0) is structure


def test_structure_is_the_same_with_and_without_detail(change_header, tiny_header):
    header = change_header(tiny_header, detail=DetailBuild(UNET))
    pipeline = build_pipeline(header)
    pipeline.denoiser = build_denoiser(header.build.unet, 4, 2).eval()
    plain = pipeline.sample([0, 1], seeds=[1, 2], steps=3)
    detailed = pipeline.sample([0, 1], seeds=[1, 2], steps=3, detail_steps=2)
    assert torch.equal(pipeline.refine(plain, [1, 2], 2), detailed)
    assert not torch.equal(plain, detailed)


def test_a_stage_that_knows_the_class_is_told_it(change_header, tiny_header):
    unet = dataclasses.replace(UNET, conditional=True)
    pipeline = build_pipeline(change_header(tiny_header, detail=DetailBuild(unet), kind="autoencoder"))
    assert pipeline.detail is not None
    with torch.no_grad():  # the last layers of blocks start at zero: let the embedding through
        for parameter in pipeline.detail.parameters():
            parameter.copy_(noise(*parameter.shape, seed=7) * 0.3)
    structure = noise(1, 3, 16, 16)
    healthy, ill = (pipeline.refine(structure, [1], 2, [label]) for label in (0, 1))
    assert not torch.allclose(healthy, ill, atol=1e-3)


def test_models_without_a_detail_stage_refuse_its_steps(tiny_header, change_header):
    header = change_header(tiny_header, kind="autoencoder")
    pipeline = Pipeline(header, Autoencoder(header.build.vae))
    with pytest.raises(UsageError, match="no detail stage"):
        pipeline.refine(noise(1, 3, 16, 16), [1], 2)
    with pytest.raises(RecipeError, match="no detail stage"):
        dataclasses.replace(tiny_header, sampling=DiffusionSettings(detail_steps=2))


def test_odd_sides_are_refused(change_header, tiny_header):
    with pytest.raises(RecipeError, match="even sides"):
        change_header(
            tiny_header,
            size=15,
            detail=DetailBuild(UNET),
            vae=VaeConfig(widths=(8, 8), strides=(1, 1), norm_groups=8),
            classes=Classes(("a", "b")),
        )
