"""A diffusion model behind the door: what every generator does, against the pipeline itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from synthmed.data.labels import Classes
from synthmed.data.pixels import to_uint8
from synthmed.errors import CheckpointError, UsageError
from synthmed.formats.model_files import save_model
from synthmed.generators.diffusion.config import UnetConfig, VaeConfig
from synthmed.generators.diffusion.pipeline import load_pipeline
from synthmed.generators.diffusion.samplers import SAMPLERS
from synthmed.generators.diffusion.settings import DiffusionSettings
from synthmed.generators.families import FAMILIES, load_generator, read_header


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_images_are_those_of_the_pipeline_in_8_bits(tiny_model_file, sampler):
    settings = DiffusionSettings(guidance_scale=2.0).changed({"sampler": sampler, "steps": 4})
    generator, told = load_generator(tiny_model_file), []
    images = generator.sample([0, 1, 1], [5, 6, 7], settings, lambda *step: told.append(step))
    options = vars(settings)
    wanted = load_pipeline(tiny_model_file).sample([0, 1, 1], seeds=[5, 6, 7], **options)
    assert (images.dtype, images.shape) == (torch.uint8, (3, 3, 16, 16))
    assert torch.equal(images, to_uint8(wanted))
    assert told == [(step, 4) for step in (1, 2, 3, 4)]


def test_images_do_not_depend_on_the_batch(tiny_model_file):
    generator, settings = load_generator(tiny_model_file), DiffusionSettings(steps=4)
    whole = generator.sample([0, 1, 1], [5, 6, 7], settings)
    alone = generator.sample([1], [6], settings)
    assert (whole[1:2].int() - alone.int()).abs().max() <= 1
    assert not torch.equal(whole[1], whole[2])


def test_grey_images_have_three_equal_channels(tmp_path, tiny_header, change_header, make_tensors):
    grey = change_header(
        tiny_header, vae=VaeConfig(image_channels=1, widths=(8, 8, 16), strides=(1, 2, 2), latent_channels=4)
    )
    save_model(tmp_path / "grey.safetensors", grey, make_tensors(grey))
    images = load_generator(tmp_path / "grey.safetensors").sample([0], [1], DiffusionSettings(steps=2))
    assert images.shape == (1, 3, 16, 16)
    assert (images == images[:, :1]).all()


def test_model_without_labels_makes_its_one_class(tmp_path, tiny_header, change_header, make_tensors):
    unet = UnetConfig(widths=(8, 8, 16), strides=(1, 2, 2), norm_groups=8, emb_channels=16, conditional=False)
    free = change_header(tiny_header, unet=unet, classes=Classes(("image",)))
    save_model(tmp_path / "free.safetensors", free, make_tensors(free))
    generator = load_generator(tmp_path / "free.safetensors")
    assert generator.sample([0], [1], DiffusionSettings(steps=2)).shape == (1, 3, 16, 16)
    with pytest.raises(UsageError, match="the model has labels 0 to 0"):
        generator.sample([1], [1], DiffusionSettings(steps=2))


def test_cost_grows_with_the_passes(tiny_model_file, monkeypatch):
    from synthmed.generators.diffusion import generator as module

    class Clock:
        """A second for each thing that is timed."""

        def __init__(self, _device: torch.device) -> None:
            pass

        def elapsed_sec(self) -> float:
            return 1.0

    monkeypatch.setattr(module, "Timer", Clock)
    generator = load_generator(tiny_model_file)
    # One second for each pass of the denoiser, and one to decode.
    assert generator.cost(DiffusionSettings(steps=3), 8).images_per_sec == pytest.approx(8 / 4)
    assert generator.cost(DiffusionSettings(steps=3, guidance_scale=2.0), 8).images_per_sec == pytest.approx(8 / 7)
    assert generator.cost(DiffusionSettings(steps=3), 1).memory_gib > 0


def test_generator_knows_what_its_file_says(tiny_model_file: Path, tmp_path, save_tiny_model):
    generator = load_generator(str(tiny_model_file))
    assert generator.header == read_header(tiny_model_file)
    assert generator.device.type == "cpu"
    assert FAMILIES[generator.header.family].settings is type(generator.header.preset)
    part = save_tiny_model(tmp_path / "part.safetensors", kind="autoencoder")
    with pytest.raises(CheckpointError, match=r"part\.safetensors cannot make images: it holds an autoencoder only"):
        load_generator(part)
