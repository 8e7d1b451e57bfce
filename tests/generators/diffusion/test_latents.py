"""Encoded splits: which latents, from which process, and what a killed run leaves."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from synthmed.data.pixels import to_float
from synthmed.errors import DataError, TrainingError
from synthmed.generators.diffusion.config import VaeConfig
from synthmed.generators.diffusion.networks.autoencoder import Autoencoder
from synthmed.generators.diffusion.training import latents as module
from synthmed.generators.diffusion.training.latents import LatentSet, encode_split, measure_latent_scale
from synthmed.runtime.processes import Processes

IMAGES = torch.randint(0, 256, (11, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


class Images:
    """Eleven images in memory, which know which of them were loaded."""

    labels = np.arange(11) % 2

    def __init__(self, break_at: int | None = None) -> None:
        self.break_at = break_at
        self.loaded: list[int] = []

    def __len__(self) -> int:
        return len(IMAGES)

    def load(self, indices: range) -> torch.Tensor:
        if self.break_at in indices:
            raise KeyError("as if killed")
        self.loaded += indices
        return IMAGES[list(indices)]


@dataclass(frozen=True)
class Threads(Processes):
    """Processes that are threads of this one."""

    barrier: threading.Barrier = field(default_factory=lambda: threading.Barrier(1))

    def wait(self) -> None:
        self.barrier.wait(timeout=30)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(module, "BATCH", 2)
    monkeypatch.setattr(module, "BLOCK", 4)


@pytest.fixture
def autoencoder():
    torch.manual_seed(0)
    return Autoencoder(VaeConfig(widths=(8, 8), strides=(1, 2), norm_groups=4, deep_supervision=0)).eval()


@pytest.fixture
def encode(autoencoder, tmp_path):
    def run(images=None, processes=None, name="cache", flips="horizontal", keep="mean"):
        images = images or Images()
        where = {"cache": tmp_path / name, "device": torch.device("cpu"), "processes": processes or Processes()}
        return encode_split(autoencoder, images, flips=flips, keep=keep, **where)

    return run


@pytest.mark.parametrize(("flips", "axes"), [("none", [()]), ("both", [(), (3,), (2,), (2, 3)])])
@pytest.mark.parametrize("keep", ["mean", "sample"])
def test_latents_are_those_of_the_images_then_of_their_mirror_images(encode, autoencoder, flips, axes, keep):
    found = encode(flips=flips, keep=keep)
    with torch.no_grad():
        moments = torch.cat([autoencoder.moments(to_float(IMAGES.flip(axis))) for axis in axes])
    torch.testing.assert_close(found.latents, moments if keep == "sample" else moments[:, :4], rtol=1e-4, atol=1e-5)
    assert found.labels.tolist() == list(Images.labels) * len(axes)
    assert found.labels.dtype == torch.int64
    latent, label = found[12 % len(found)]
    assert torch.equal(latent, found.latents[12 % len(found)]) and label == Images.labels[12 % len(found) % 11]
    assert measure_latent_scale(found, 4) == pytest.approx(1 / moments[:, :4].double().std().item(), rel=1e-3)


@pytest.mark.parametrize("world", [2, 4])
def test_every_process_encodes_its_share_and_all_end_with_the_same(encode, world):
    alone = encode(name="alone")
    sets = [Images() for _ in range(world)]
    barrier = threading.Barrier(world)
    with ThreadPoolExecutor(world) as pool:
        tasks = [
            pool.submit(encode, images, Threads(rank, world, barrier), "shared") for rank, images in enumerate(sets)
        ]
        found = [task.result() for task in tasks]
    assert all(torch.equal(one.latents, alone.latents) for one in found)
    # Six blocks: no image is encoded twice, and nobody waits for one process to do it all.
    assert sorted(index for images in sets for index in images.loaded) == sorted([*range(11), *range(11)])
    assert all(3 <= len(images.loaded) <= -(-6 // world) * 4 for images in sets)


def test_killed_run_goes_on_from_the_whole_blocks(encode, tmp_path):
    alone = encode(name="alone")
    with pytest.raises(KeyError):
        encode(Images(break_at=10))
    left = sorted(path.name for path in (tmp_path / "cache").iterdir())
    assert left == ["0-00000000-00000004.safetensors", "0-00000004-00000008.safetensors"]
    again = Images()
    assert torch.equal(encode(again).latents, alone.latents)
    assert again.loaded == [8, 9, 10, *range(11)]
    third = Images(break_at=0)
    assert torch.equal(encode(third).latents, alone.latents)
    assert not third.loaded


def test_other_number_of_processes_takes_up_the_same_cache(encode):
    alone = encode(name="alone")
    with pytest.raises(KeyError):
        encode(Images(break_at=10))
    barrier = threading.Barrier(2)
    with ThreadPoolExecutor(2) as pool:
        tasks = [pool.submit(encode, Images(), Threads(rank, 2, barrier)) for rank in range(2)]
        assert all(torch.equal(task.result().latents, alone.latents) for task in tasks)


def test_broken_block_is_named(encode, tmp_path):
    encode()
    path = tmp_path / "cache" / "1-00000004-00000008.safetensors"
    assert load_file(path)["latents"].shape == (4, 4, 8, 8)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match=r"cannot read .*1-00000004-00000008\.safetensors"):
        encode()


def test_process_that_comes_late_leaves_no_block_out(encode, tmp_path):
    """What is missing differs from process to process: the first may have written all of its blocks by then."""
    barrier = threading.Barrier(2)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(encode, Images(), Threads(0, 2, barrier))
        while len(list((tmp_path / "cache").glob("*.safetensors"))) < 3 and not first.done():
            time.sleep(0.01)
        second = encode(Images(), Threads(1, 2, barrier))
        assert torch.equal(first.result().latents, second.latents)


def test_latents_that_are_not_finite_or_all_the_same_end_the_training(encode, autoencoder, tmp_path):
    with torch.no_grad():
        autoencoder.out_enc[1].conv.bias.fill_(torch.nan)
    with pytest.raises(TrainingError, match="not finite for images 0 to 1"):
        encode()
    assert not list(tmp_path.rglob("*.safetensors"))
    with pytest.raises(TrainingError, match="the same latents for all images"):
        measure_latent_scale(LatentSet(torch.ones(4, 2, 3, 3), np.zeros(4, dtype=np.int64)), 2)
