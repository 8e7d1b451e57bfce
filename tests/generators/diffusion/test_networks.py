"""The networks at full size: parameter counts, cost and shapes, on a device that computes nothing."""

import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from synthmed.data.labels import Classes
from synthmed.formats.model_files import DENOISER_PREFIX
from synthmed.generators.diffusion.config import DiffusionBuild, UnetConfig, VaeConfig
from synthmed.generators.diffusion.header import DiffusionHeader
from synthmed.generators.diffusion.networks.autoencoder import Autoencoder
from synthmed.generators.diffusion.networks.blocks import BasicUp
from synthmed.generators.diffusion.networks.build import build_networks
from synthmed.generators.diffusion.networks.unet import build_denoiser
from synthmed.generators.diffusion.settings import DiffusionSettings


def count(module: torch.nn.Module) -> float:
    return sum(parameter.numel() for parameter in module.parameters()) / 1e6


@pytest.mark.parametrize(("channels", "millions"), [(4, 13.3), (8, 13.4)])
def test_autoencoder_has_the_published_size(channels: int, millions: float) -> None:
    with torch.device("meta"):
        network = Autoencoder(VaeConfig(latent_channels=channels))
        images = torch.zeros(1, 3, 256, 256)
    assert count(network) == pytest.approx(millions, abs=0.06)
    with FlopCounterMode(display=False) as encode:
        moments = network.moments(images)
    assert moments.shape == (1, 2 * channels, 32, 32)
    with FlopCounterMode(display=False) as decode:
        decoded = network.decode_deep(moments[:, :channels])
    assert [output.shape[2] for output in decoded] == [256, 128]
    if channels == 4:
        assert encode.get_total_flops() / 1e9 == pytest.approx(41.5, rel=0.02)
        assert decode.get_total_flops() / 1e9 == pytest.approx(62.9, rel=0.02)


@pytest.mark.parametrize(("build", "millions", "gflop"), [("unet2", 194.4, 51.2), ("unet1", 49.9, 9.7)])
def test_denoiser_has_the_published_size_and_cost(build: str, millions: float, gflop: float) -> None:
    with torch.device("meta"):
        network = build_denoiser(UnetConfig(build=build), 8, 2)  # type: ignore[arg-type]
        x_t, t, labels = torch.zeros(1, 8, 32, 32), torch.zeros(1).long(), torch.zeros(1).long()
    assert count(network) == pytest.approx(millions, abs=0.06)
    with FlopCounterMode(display=False) as flops:
        assert network(x_t, t, labels).shape == x_t.shape
    assert flops.get_total_flops() / 1e9 == pytest.approx(gflop, rel=0.02)


def test_published_keys_are_our_keys() -> None:
    with torch.device("meta"):
        network = build_denoiser(UnetConfig(), 4, 2)
    keys = set(network.state_dict())
    assert {key.split(".")[0] for key in keys} == {
        *("time_embedder", "cond_embedder", "in_conv", "in_blocks", "middle_block", "out_blocks", "outc")
    }
    # Nine blocks on the way up; upsampling where the second and third level end.
    assert {key.split(".")[1] for key in keys if key.startswith("out_blocks.")} == set(map(str, range(9)))
    assert {key for key in keys if "up_op" in key} == {
        f"out_blocks.{number}.2.up_op.{kind}" for number in (3, 6) for kind in ("weight", "bias")
    }
    assert {key for key in keys if "down_op" in key} == {
        f"in_blocks.{number}.down_op.{kind}" for number in (2, 5) for kind in ("weight", "bias")
    }


@pytest.mark.parametrize("build", ["unet2", "unet1"])
@pytest.mark.parametrize(("side", "classes"), [(8, 0), (16, 3), (24, 2), (64, 7)])
def test_other_sizes_and_class_counts_fit(build: str, side: int, classes: int) -> None:
    config = UnetConfig(build=build, widths=(8, 8, 16, 16), norm_groups=8, emb_channels=16)  # type: ignore[arg-type]
    with torch.device("meta"):
        network = build_denoiser(config, 4, classes)
        x_t, t = torch.zeros(2, 4, side, side), torch.zeros(2).long()
        labels = torch.zeros(2).long() if classes else None
    assert network(x_t, t, labels).shape == x_t.shape


def test_one_channel_images_fit() -> None:
    with torch.device("meta"):
        network = Autoencoder(VaeConfig(image_channels=1))
        images = torch.zeros(1, 1, 96, 96)
    assert network.decode(network.moments(images)[:, :4]).shape == images.shape


@pytest.mark.parametrize("build", ["unet2", "unet1"])
@pytest.mark.parametrize("size", [(25, 25), (12, 8), (5, 7), (1, 1), (33, 16)])
def test_latents_that_the_strides_do_not_divide_come_back_in_their_size(build: str, size: tuple[int, int]) -> None:
    config = UnetConfig(build=build, widths=(8, 8, 16, 16), norm_groups=8, emb_channels=16)  # type: ignore[arg-type]
    with torch.device("meta"):
        network = build_denoiser(config, 4, 2)
        x_t, t, labels = torch.zeros(2, 4, *size), torch.zeros(2).long(), torch.zeros(2).long()
    assert network(x_t, t, labels).shape == x_t.shape


def test_upsampling_to_an_odd_size_keeps_the_order_of_rows() -> None:
    """Row i comes from row i // 2, as where sizes are even, and the border is the image's."""
    up = BasicUp(1, 1, 2)
    torch.nn.init.dirac_(up.up_op.weight)
    torch.nn.init.zeros_(up.up_op.bias)  # type: ignore[arg-type]
    x = torch.randn(1, 1, 13, 4, generator=torch.Generator().manual_seed(0))
    found = up(x, (25, 8))
    assert torch.equal(found, x[:, :, [i // 2 for i in range(25)]][..., [i // 2 for i in range(8)]])
    assert torch.equal(up(x), up(x, (26, 8)))


@pytest.mark.parametrize("build", ["unet2", "unet1"])
def test_channels_of_self_conditioning_and_variance(build: str) -> None:
    config = UnetConfig(build=build, self_conditioning=True, learned_variance=True)  # type: ignore[arg-type]
    with torch.device("meta"):
        network = build_denoiser(config, 8, 2)
        x_t, t = torch.zeros(1, 8, 8, 8), torch.zeros(1).long()
        seen = network.run(torch.zeros(1, 16, 8, 8), torch.zeros(1, 1024))
    assert seen.shape[1] == 16
    assert network(x_t, t, self_conditioned=True).shape == x_t.shape


def test_networks_to_load_into_take_no_memory_but_know_their_frequencies() -> None:
    build = DiffusionBuild(unet=UnetConfig())
    built = build_networks(
        DiffusionHeader(build, dataset="x", classes=Classes(("a", "b")), sampling=DiffusionSettings())
    )
    parameters = [value for network in built.values() for value in network.parameters()]
    assert {value.device.type for value in parameters} == {"meta"}
    buffers = dict(built[DENOISER_PREFIX].named_buffers())
    assert [name for name, value in buffers.items() if value.device.type == "cpu"] == list(buffers)
    half, (frequencies,) = 128, buffers.values()
    exact = [math.exp(-math.log(10_000) * i / (half - 1)) for i in range(half)]
    assert torch.allclose(frequencies.double(), torch.tensor(exact, dtype=torch.float64), rtol=1e-6)
