"""Fixtures that several test modules share: a home of its own for every test, and models small enough to build."""

from __future__ import annotations

import dataclasses
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from synthmed.data.labels import Classes
from synthmed.formats.model_files import AUTOENCODER_PREFIX, DENOISER_PREFIX, save_model
from synthmed.generators.diffusion.config import DiffusionBuild, UnetConfig, VaeConfig
from synthmed.generators.diffusion.header import DiffusionHeader
from synthmed.generators.diffusion.settings import DiffusionSettings

SaveTinyModel = Callable[..., Path]
RunProgram = Callable[..., tuple[int, str, str]]
MakeTensors = Callable[[DiffusionHeader], dict[str, Any]]
ChangeHeader = Callable[..., DiffusionHeader]
MakeImageSet = Callable[..., Any]


@pytest.fixture(autouse=True)
def synthmed_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Point SYNTHMED_HOME to an empty folder, so that no test sees or changes the user's models."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("SYNTHMED_HOME", str(home))
    monkeypatch.delenv("SYNTHMED_DEBUG", raising=False)
    return home


@pytest.fixture
def run_program(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[RunProgram]:
    """A function that runs the program in this process and gives exit code, stdout and stderr."""
    from synthmed.cli.app import main

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["synthmed", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        assert isinstance(end.value.code, int)
        return end.value.code, *capsys.readouterr()

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def tiny_header() -> DiffusionHeader:
    """The header of a model of 16 px images in two classes, latents [4, 4, 4]."""
    return DiffusionHeader(
        dataset="tiny",
        classes=Classes(("no-glaucoma", "glaucoma"), {"NRG": "no-glaucoma", "RG": "glaucoma"}, positive="glaucoma"),
        size=16,
        build=DiffusionBuild(
            vae=VaeConfig(widths=(8, 8, 16), strides=(1, 2, 2), norm_groups=8, latent_channels=4),
            unet=UnetConfig(widths=(8, 8, 16), strides=(1, 2, 2), norm_groups=8, emb_channels=16),
        ),
        sampling=DiffusionSettings(steps=3),
    )


def changed_header(header: DiffusionHeader, **changes: Any) -> DiffusionHeader:
    """Return a header with some fields changed: its own, or those of its build; a part of a generator cannot sample."""
    build_names = {entry.name for entry in dataclasses.fields(header.build)}
    build = dataclasses.replace(header.build, **{k: v for k, v in changes.items() if k in build_names})
    rest = {k: v for k, v in changes.items() if k not in build_names}
    if rest.get("kind", header.kind) != "generator":
        build, rest["sampling"] = dataclasses.replace(build, unet=None), None
    return dataclasses.replace(header, build=build, **rest)


@pytest.fixture(scope="session")
def change_header() -> ChangeHeader:
    """The function `changed_header`."""
    return changed_header


@pytest.fixture(scope="session")
def make_tensors() -> MakeTensors:
    """A function that gives random weights for a header under a model file's names, always the same."""
    import torch

    from synthmed.formats.model_files import DETAIL_PREFIX
    from synthmed.generators.diffusion.networks.autoencoder import Autoencoder
    from synthmed.generators.diffusion.networks.detail import DetailNetwork
    from synthmed.generators.diffusion.networks.unet import build_denoiser

    def make(header: DiffusionHeader) -> dict[str, Any]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            build = header.build
            assert isinstance(build.vae, VaeConfig) and build.unet is not None
            autoencoder = Autoencoder(build.vae)
            denoiser = build_denoiser(build.unet, build.vae.latent_channels, len(header.classes))
            modules: dict[str, Any] = {AUTOENCODER_PREFIX: autoencoder, DENOISER_PREFIX: denoiser}
            if build.detail is not None:
                classes = len(header.classes)
                modules[DETAIL_PREFIX] = DetailNetwork(build.detail.unet, build.vae.image_channels, classes)
        return {prefix + name: value for prefix, net in modules.items() for name, value in net.state_dict().items()}

    return make


@pytest.fixture(scope="session")
def tiny_tensors(tiny_header: DiffusionHeader, make_tensors: MakeTensors) -> dict[str, Any]:
    """Random weights for `tiny_header`."""
    return make_tensors(tiny_header)


@pytest.fixture(scope="session")
def save_tiny_model(tiny_header: DiffusionHeader, tiny_tensors: dict[str, Any]) -> SaveTinyModel:
    """A function that writes a tiny model file: `save_tiny_model(path, dataset="x", half=True)`."""

    def save(path: Path, *, half: bool = False, **changes: Any) -> Path:
        header = changed_header(tiny_header, **changes)
        prefixes = (AUTOENCODER_PREFIX,) if header.kind == "autoencoder" else (AUTOENCODER_PREFIX, DENOISER_PREFIX)
        tensors = {name: tensor for name, tensor in tiny_tensors.items() if name.startswith(prefixes)}
        save_model(path, header, tensors, half=half)
        return path

    return save


@pytest.fixture
def tiny_model_file(tmp_path: Path, save_tiny_model: SaveTinyModel) -> Path:
    """A whole tiny model on disk; a test may break it."""
    return save_tiny_model(tmp_path / "tiny.safetensors")


@pytest.fixture
def lightning_file(tmp_path: Path, tiny_tensors: dict[str, Any]) -> Callable[..., Path]:
    """A function that writes a checkpoint of Medfusion as Lightning does.

    `change` edits its contents first, `hyper` its hyper-parameters; `legacy` is PyTorch's format before 1.6.
    """
    import collections

    import torch

    def write(
        change: Callable[[dict[str, Any]], object] | None = None,
        name: str = "model.ckpt",
        *,
        tensors: dict[str, Any] | None = None,
        legacy: bool = False,
        **hyper: Any,
    ) -> Path:
        # Copies: a test may spoil them.
        state = collections.OrderedDict((name, tensor.clone()) for name, tensor in (tensors or tiny_tensors).items())
        state["latent_embedder.perceiver.net.weight"] = torch.zeros(3)
        state["noise_scheduler.betas"] = torch.zeros(1000)
        checkpoint: dict[str, Any] = {
            "epoch": 3,
            "global_step": 1234,
            "state_dict": state,
            "hyper_parameters": {
                "optimizer": torch.optim.AdamW,
                "noise_scheduler_kwargs": {
                    "timesteps": 1000,
                    "beta_start": 0.002,
                    "beta_end": 0.02,
                    "schedule_strategy": "scaled_linear",
                },
                "noise_estimator_kwargs": {
                    "strides": [1, 2, 2],
                    "norm_name": ("GROUP", {"num_groups": 8, "affine": True}),
                },
                "estimator_objective": "x_T",
                **hyper,
            },
        }
        if change:
            change(checkpoint)
        torch.save(checkpoint, tmp_path / name, _use_new_zipfile_serialization=not legacy)
        return tmp_path / name

    return write


@pytest.fixture(scope="session")
def vgg_state() -> dict[str, Any]:
    """Random weights of VGG-16's convolutions, scaled so that its features keep their size, under torchvision's names.

    No test knows the real ones, which are half a gigabyte.
    """
    import torch
    from torchvision.models.vgg import cfgs

    generator = torch.Generator().manual_seed(0)
    state, number, channels = {}, 0, 3
    for width in cfgs["D"]:
        if width == "M":
            number += 1
            continue
        deviation = (2 / (9 * channels)) ** 0.5
        state[f"features.{number}.weight"] = torch.randn(width, channels, 3, 3, generator=generator) * deviation
        state[f"features.{number}.bias"] = torch.randn(width, generator=generator) * 0.1
        number, channels = number + 2, width
    return state


@pytest.fixture(scope="session")
def vgg_file(tmp_path_factory: pytest.TempPathFactory, vgg_state: dict[str, Any]) -> Path:
    """A file of `vgg_state`; not to be changed."""
    from safetensors.torch import save_file

    path = tmp_path_factory.mktemp("vgg") / "vgg16.safetensors"
    save_file(vgg_state, path)
    return path


@pytest.fixture(scope="session")
def make_image_set() -> MakeImageSet:
    """A function that gives an ImageSet of images in memory: `make_image_set(images, labels, name="eyes", groups=...)`.

    Images are uint8 [N, 3, H, W], as array or tensor.
    """
    import numpy as np

    from synthmed.data.images import encode_image
    from synthmed.data.labels import Classes
    from synthmed.data.sets.image_set import CACHE_BYTES, ImageSet, make_set
    from synthmed.data.sets.reader import Reader
    from synthmed.data.sets.sources import Listing

    def make(
        images: Any,
        labels: Any,
        *,
        name: str = "set",
        classes: Any = ("no", "yes"),
        kind: str = "real",
        groups: Any = (),
    ) -> ImageSet:
        arrays = np.ascontiguousarray(np.asarray(images, dtype=np.uint8).transpose(0, 2, 3, 1))
        keys = [f"{name}-{index}" for index in range(len(arrays))]
        listing = Listing(
            name=name,
            kind=kind,
            dataset=None,
            split=None,
            classes=classes if isinstance(classes, Classes) else Classes(tuple(classes)),
            labels=labels,
            keys=keys,
            groups=groups or [""] * len(arrays),
            read=lambda index: encode_image(arrays[index], "png"),
            title=keys.__getitem__,
        )
        size = arrays.shape[1:3]
        return make_set(listing, Reader(listing, size, cache_bytes=CACHE_BYTES, keep="whole"), size)

    return make
