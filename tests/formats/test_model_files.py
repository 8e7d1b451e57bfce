"""Model files: what is saved comes back, and whatever else is in a file ends as one named error."""

import dataclasses
import json
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from synthmed.data.labels import Classes
from synthmed.errors import CheckpointError
from synthmed.formats.diffusers_files import AutoencoderKLConfig
from synthmed.formats.headers import with_training
from synthmed.formats.model_files import (
    AUTOENCODER_PREFIX,
    DENOISER_PREFIX,
    count_parameters,
    load_tensors,
    save_model,
    write_tensors,
)
from synthmed.generators.diffusion.config import ScheduleConfig, VaeConfig
from synthmed.generators.diffusion.header import DiffusionHeader, read_diffusion_header
from synthmed.generators.diffusion.pipeline import load_pipeline
from synthmed.generators.diffusion.settings import DiffusionSettings
from synthmed.generators.families import load_generator, read_header
from synthmed.generators.registry import embedded_model

SaveTinyModel = Callable[..., Path]
ChangeHeader = Callable[..., DiffusionHeader]
Tensors = dict[str, Any]

# The header of `tiny_header` as files had it before there were families.
VERSION_1: dict[str, Any] = {
    "kind": "pipeline",
    "dataset": "tiny",
    "classes": ["no-glaucoma", "glaucoma"],
    "aliases": {"NRG": "no-glaucoma", "RG": "glaucoma"},
    "positive": "glaucoma",
    "size": 16,
    "vae": {
        "image_channels": 3,
        "latent_channels": 4,
        "widths": [8, 8, 16],
        "strides": [1, 2, 2],
        "norm_groups": 8,
        "deep_supervision": 1,
    },
    "unet": {
        "build": "unet2",
        "widths": [8, 8, 16],
        "strides": [1, 2, 2],
        "norm_groups": 8,
        "emb_channels": 16,
        "objective": "eps",
        "conditional": True,
        "learned_variance": False,
        "self_conditioning": False,
        "clip_x_0": False,
    },
    "schedule": {"strategy": "scaled_linear", "num_timesteps": 1000, "beta_start": 0.002, "beta_end": 0.02},
    "sampler": {"sampler": "ddim", "steps": 3, "eta": 1.0, "guidance_scale": 1.0},
    "latent_scale": 1.0,
    "training": {},
}


def write_header(path: Path, header: object, data: bytes = b"") -> Path:
    """Write a safetensors file by hand, with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def metadata(table: object, **changes: object) -> dict[str, Any]:
    """Return the metadata part of a safetensors header, for a model's header as a table."""
    return {"__metadata__": {"synthmed": json.dumps({"format_version": 2, "header": table, **changes})}}


def version_1(config: object) -> dict[str, Any]:
    """Return the metadata part of a file from before there were families."""
    return {"__metadata__": {"synthmed": json.dumps({"format_version": 1, "config": config})}}


def merged(table: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return a table with `changes` laid over it, table by table; `...` takes a key away."""
    result = {key: value for key, value in table.items() if changes.get(key) is not ...}
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(table.get(key), dict):
            result[key] = merged(table[key], value)
        elif value is not ...:
            result[key] = value
    return result


def refused(path: Path, *words: str) -> None:
    """Check that loading fails with one line that names the file, whoever loads."""
    for load in (load_pipeline, load_generator):
        with pytest.raises(CheckpointError) as caught:
            load(path)
        assert caught.value.exit_code == 3
        assert path.name in str(caught.value)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000
        for word in words:
            assert word in str(caught.value)


def test_model_comes_back_as_it_was_saved(
    tiny_model_file: Path, tiny_header: DiffusionHeader, tiny_tensors: Tensors
) -> None:
    assert read_diffusion_header(tiny_model_file) == tiny_header
    loaded = load_tensors(tiny_model_file)
    assert loaded.keys() == tiny_tensors.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tiny_tensors.items())
    assert [entry.name for entry in tiny_model_file.parent.iterdir()] == ["tiny.safetensors"]


def test_every_field_comes_back(
    tmp_path: Path, save_tiny_model: SaveTinyModel, tiny_header: DiffusionHeader, change_header: ChangeHeader
) -> None:
    assert tiny_header.build.unet is not None
    unet = dataclasses.replace(
        tiny_header.build.unet, objective="x_0", learned_variance=True, self_conditioning=True, clip_x_0=True
    )
    variants: list[dict[str, Any]] = [
        {"size": (16, 24), "unet": unet},
        {"size": (32, 16), "schedule": ScheduleConfig(strategy="linear"), "latent_scale": 0.5},
        {"classes": Classes(("a", "b"), {"c": "a"}, positive="a"), "training": {"steps": 3, "nested": {"x": [1]}}},
        {"classes": Classes(("b", "a")), "dataset": "ä ö"},
        {"kind": "autoencoder", "size": 0},
    ]
    for changes in variants:
        path = save_tiny_model(tmp_path / "a.safetensors", **changes)
        found, wanted = read_diffusion_header(path), change_header(tiny_header, **changes)
        assert found == wanted == read_header(path)
        # Two are equal where their names are.
        assert found.classes.as_table() == wanted.classes.as_table()


def test_model_that_synthmed_brings_is_read_with_the_defaults_of_its_time() -> None:
    """Its header knows nothing of later fields; squares stay one number."""
    path = embedded_model("phantom-fundus")
    with safe_open(path, "pt") as file:
        assert "objective" not in file.metadata()["synthmed"]
    header = read_diffusion_header(path)
    build = header.build
    assert build.unet is not None
    assert (header.family, header.kind, header.size) == ("diffusion", "generator", 64)
    assert (build.unet.objective, build.unet.conditional) == ("eps", True)
    assert (header.classes.names, header.classes.find("RG"), header.classes.positive_label) == (
        ("no-glaucoma", "glaucoma"),
        1,
        1,
    )
    assert header.preset == DiffusionSettings(sampler="ddim", steps=50, eta=1.0, guidance_scale=3.0)
    assert load_pipeline(path).latent_shape[1:] == (64 // build.vae.downsampling,) * 2


def test_tensors_are_written_as_the_formats_own_library_reads_them(tmp_path: Path) -> None:
    tensors = {
        "b": torch.randn(3, 4),
        "a": torch.arange(6.0).view(2, 3).t(),
        "none": torch.zeros(0, 2),
        "one": torch.tensor(5.0),
    }
    for half in (False, True):
        write_tensors(tmp_path / "a.safetensors", tensors, {"key": "valüe"}, half=half)
        found = load_file(tmp_path / "a.safetensors")
        assert found.keys() == tensors.keys()
        assert all(torch.equal(found[name], tensor.half() if half else tensor) for name, tensor in tensors.items())
        with safe_open(tmp_path / "a.safetensors", "pt") as file:
            assert file.metadata() == {"key": "valüe"}
    write_tensors(tmp_path / "bare.safetensors", tensors)
    assert load_file(tmp_path / "bare.safetensors").keys() == tensors.keys()


def test_weights_begin_at_the_same_alignment_whatever_the_header(
    tmp_path: Path, save_tiny_model: SaveTinyModel
) -> None:
    for length in range(1, 70, 7):
        path = save_tiny_model(tmp_path / "a.safetensors", dataset="x" * length)
        assert (8 + int.from_bytes(path.read_bytes()[:8], "little")) % 64 == 0


def test_same_model_gives_the_same_bytes(tmp_path: Path, save_tiny_model: SaveTinyModel) -> None:
    first, second = (save_tiny_model(tmp_path / name) for name in ("a.safetensors", "b.safetensors"))
    assert first.read_bytes() == second.read_bytes()


def test_pipeline_holds_the_saved_weights_and_samples(tiny_model_file: Path, tiny_tensors: Tensors) -> None:
    pipeline = load_pipeline(tiny_model_file)
    assert pipeline.denoiser is not None
    assert not any(parameter.requires_grad for parameter in pipeline.denoiser.parameters())
    assert not any(module.training for module in (pipeline.autoencoder, pipeline.denoiser))
    for prefix, module in ((AUTOENCODER_PREFIX, pipeline.autoencoder), (DENOISER_PREFIX, pipeline.denoiser)):
        assert all(torch.equal(tensor, tiny_tensors[prefix + name]) for name, tensor in module.state_dict().items())
        assert {tensor.device.type for tensor in [*module.parameters(), *module.buffers()]} == {"cpu"}
    assert pipeline.latent_shape == (4, 4, 4)
    images = pipeline.sample([0, 1], seeds=[5, 6], steps=2)
    assert images.shape == (2, 3, 16, 16)
    assert torch.isfinite(images).all()


def test_autoencoder_alone_is_a_model_without_denoiser(tmp_path: Path, save_tiny_model: SaveTinyModel) -> None:
    pipeline = load_pipeline(save_tiny_model(tmp_path / "a.safetensors", kind="autoencoder"))
    assert pipeline.denoiser is None
    with pytest.raises(CheckpointError, match="holds an autoencoder only"):
        pipeline.sample([0], seeds=[1], steps=1)


def test_half_precision_halves_the_file_and_computes_in_single(
    tmp_path: Path, tiny_model_file: Path, save_tiny_model: SaveTinyModel, tiny_tensors: Tensors
) -> None:
    path = save_tiny_model(tmp_path / "half.safetensors", half=True)
    num_values = sum(tensor.numel() for tensor in tiny_tensors.values())
    assert tiny_model_file.stat().st_size - path.stat().st_size == pytest.approx(2 * num_values, abs=4096)
    for name, tensor in load_tensors(path).items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, tiny_tensors[name].half().float())
    assert {parameter.dtype for parameter in load_pipeline(path).autoencoder.parameters()} == {torch.float32}


def test_facts_of_training_are_kept(
    tmp_path: Path, save_tiny_model: SaveTinyModel, tiny_header: DiffusionHeader
) -> None:
    header = with_training(with_training(tiny_header, steps=5, images=9), steps=6)
    path = save_tiny_model(tmp_path / "a.safetensors", training=header.training)
    assert read_diffusion_header(path).training == {"steps": 6, "images": 9}


def test_parameters_are_counted_from_the_header(tiny_model_file: Path, tiny_tensors: Tensors) -> None:
    counts = {"latent_embedder": 0, "noise_estimator": 0}
    for name, tensor in tiny_tensors.items():
        counts["latent_embedder" if name.startswith(AUTOENCODER_PREFIX) else "noise_estimator"] += tensor.numel()
    assert count_parameters(tiny_model_file) == counts


def test_header_is_read_without_torch(tiny_model_file: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from synthmed.formats.model_files import count_parameters\n"
        "from synthmed.generators.families import read_header\n"
        "path = Path(sys.argv[1]); print(read_header(path).dataset, min(count_parameters(path).values()) > 0);"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, tiny_model_file], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "tiny True\n", "")


def test_missing_file_is_named(tmp_path: Path) -> None:
    refused(tmp_path / "none.safetensors", "no such model file")


def test_folder_is_not_a_model(tmp_path: Path) -> None:
    refused(tmp_path, "cannot read")


@pytest.mark.parametrize("content", [b"", b"\x80\x04K\x01.", b"PK\x03\x04" + bytes(100), bytes(8), b"\xff" * 64])
def test_other_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.ckpt"
    path.write_bytes(content)
    refused(path, "is not a safetensors file")


@pytest.mark.parametrize("kept", [4, 8, 100, 2000, -1])
def test_truncated_file_is_refused(tiny_model_file: Path, kept: int) -> None:
    tiny_model_file.write_bytes(tiny_model_file.read_bytes()[:kept])
    refused(tiny_model_file)


def test_file_with_bytes_behind_its_end_is_refused(tiny_model_file: Path) -> None:
    tiny_model_file.write_bytes(tiny_model_file.read_bytes() + b"more")
    refused(tiny_model_file, "its tensors end at")


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 10 * 2**30, 2**20 + 1])
def test_header_that_claims_to_be_huge_is_not_read(tmp_path: Path, length: int) -> None:
    path = tmp_path / "huge.safetensors"
    path.write_bytes(struct.pack("<Q", length) + b"{}")
    refused(path, "is not a safetensors file")


@pytest.mark.parametrize(
    "header",
    [
        {},
        [],
        5,
        {"__metadata__": {}},
        {"__metadata__": []},
        {"__metadata__": {"synthmed": "{"}},
        {"__metadata__": {"synthmed": "[]"}},
        {"__metadata__": {"synthmed": 5}},
        {"__metadata__": {"synthmed": "{}"}},
        b"[" * 200_000,
        b"\xff\xfe",
    ],
)
def test_safetensors_of_others_are_refused(tmp_path: Path, header: object) -> None:
    refused(write_header(tmp_path / "other.safetensors", header), "is not a")


@pytest.mark.parametrize("version", [0, 3, "1", "2", None])
def test_other_format_version_is_refused(tmp_path: Path, tiny_header: DiffusionHeader, version: object) -> None:
    header = metadata(tiny_header.as_table(), format_version=version)
    said = f"has format version {version!r}, this synthmed reads 1 and 2"
    refused(write_header(tmp_path / "new.safetensors", header), said)


def test_file_of_version_1_is_the_same_model_as_one_of_version_2(tmp_path: Path, tiny_header: DiffusionHeader) -> None:
    path = write_header(tmp_path / "old.safetensors", version_1(VERSION_1))
    found = read_header(path)
    assert found == tiny_header
    assert found.classes.as_table() == tiny_header.classes.as_table()
    assert found.as_table() == tiny_header.as_table()


@pytest.mark.parametrize(
    ("changes", "size", "vae"),
    [
        ({}, 16, VaeConfig),
        ({"size": [16, 32]}, (16, 32), VaeConfig),
        # Stable Diffusion's: what stood there in place of a size meant nothing.
        ({"vae": {"build": "AutoencoderKL"}, "size": 64, "dataset": "", "classes": []}, 0, AutoencoderKLConfig),
    ],
)
def test_autoencoders_file_of_version_1_is_read(
    tmp_path: Path, changes: dict[str, Any], size: object, vae: type[object]
) -> None:
    """It has the parts of a whole model, which mean nothing in it."""
    config = {**VERSION_1, "aliases": {}, "positive": "", **changes, "kind": "autoencoder"}
    header = read_diffusion_header(write_header(tmp_path / "old.safetensors", version_1(config)))
    assert (header.kind, header.size, header.build.unet, header.sampling) == ("autoencoder", size, None, None)
    assert isinstance(header.build.vae, vae)
    with pytest.raises(CheckpointError, match="holds an autoencoder only"):
        assert header.preset
    with pytest.raises(CheckpointError, match="holds an autoencoder only"):
        load_generator(tmp_path / "old.safetensors")


NO_NAMES = [
    *("", "  ", "a\nb", "a\0b", "a\tb", "a\u202eb", "\u2066a", "a\u200bb", "\ufeffa", "a\u2028b", "\ud800", "x" * 201),
]
NO_DATASETS = [
    *("", ".", "..", "/abs", "../../x", "a/b", "a\\b", "s3://bucket/x", "C:", ".hidden", "a.", "a*", "x" * 5000),
    *("con", "NUL", "aux.txt", "COM1", "lpt9.tar", "CON .x", "a\0b", "a\u202eb", "\ud800", "\u00e4" * 101),
]
NESTED: Any = 1
for _ in range(50):
    NESTED = [NESTED]
HOSTILE: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    # What version 1 and version 2 say, and what both are answered.
    ({"colour": "red"}, {"colour": "red"}, "unknown key in new.safetensors: colour"),
    ({"unet": {"width": [1]}}, {"build": {"unet": {"width": [1]}}}, "unet: width (did you mean widths?"),
    ({"kind": "gan"}, {"kind": "gan", "sampling": None, "build": {"unet": None}}, "kind is 'gan'"),
    ({"kind": ["pipeline"]}, {"kind": ["generator"]}, "kind is ["),
    ({"size": "64"}, {"image": {"height": "64"}}, "is '64'"),
    ({"size": 0}, {"image": {"height": 0, "width": 0}}, "size is 0"),
    ({"size": [0, 16]}, {"image": {"height": 0}}, "size is (0, 16)"),
    ({"size": -16}, {"image": {"height": -16, "width": -16}}, "size is -16"),
    (
        {"size": 18},
        {"image": {"height": 18, "width": 18}},
        "size is 18 (sides must be multiples of the down-sampling, 4)",
    ),
    ({"size": [16, 18]}, {"image": {"width": 18}}, "size is (16, 18)"),
    ({"size": [16]}, {"image": {"height": [16]}}, "is [16]"),
    ({"size": [16, 16, 16]}, {"image": [16, 16]}, "is [16, 16"),
    ({"size": [16, "16"]}, {"image": {"width": "16"}}, "width is '16'"),
    ({"size": True}, {"image": {"height": True}}, "is True"),
    ({"unet": {"conditional": False}}, {"build": {"unet": {"conditional": False}}}, "unet.conditional false has one"),
    ({"unet": {"objective": "x_T"}}, {"build": {"unet": {"objective": "x_T"}}}, "objective is 'x_T'"),
    ({"unet": []}, {"build": {"unet": []}}, "unet is []"),
    ({"schedule": {"num_timesteps": 10**12}}, {"build": {"schedule": {"num_timesteps": 10**12}}}, "is 1000000000000"),
    ({"schedule": {"num_timesteps": -1}}, {"build": {"schedule": {"num_timesteps": -1}}}, "num_timesteps is -1"),
    ({"latent_scale": 0.0}, {"build": {"latent_scale": 0.0}}, "latent_scale is 0.0"),
    ({"latent_scale": float("nan")}, {"build": {"latent_scale": float("nan")}}, "latent_scale is nan"),
    ({"classes": "ab"}, {"labels": {"names": "ab"}}, "names is 'ab'"),
    ({"classes": ["a", "a"], "aliases": {}}, {"labels": {"names": ["a", "a"]}}, "no name may stand twice"),
    ({"classes": [1, 2]}, {"labels": {"names": [1, 2]}}, "names is 1"),
    ({"aliases": ["RG"]}, {"labels": {"aliases": ["RG"]}}, "aliases is ['RG']"),
    ({"aliases": {"RG": 1}}, {"labels": {"aliases": {"RG": 1}}}, "aliases is 1"),
    ({"aliases": {"RG": "cat"}}, {"labels": {"aliases": {"RG": "cat"}}}, "alias RG stands for cat"),
    ({"positive": "cat"}, {"labels": {"positive": "cat"}}, "the positive class is cat"),
    ({"vae": []}, {"build": {"vae": []}}, "vae is []"),
    ({"vae": {"strides": [2, 2, 2]}}, {"build": {"vae": {"strides": [2, 2, 2]}}}, "strides"),
    (
        {"unet": {"widths": [2**40, 2**40], "strides": [1, 2]}},
        {"build": {"unet": {"widths": [2**40, 2**40], "strides": [1, 2]}}},
        "widths",
    ),
    ({"sampler": {"sampler": "euler"}}, {"sampling": {"sampler": "euler"}}, "'euler' (valid: ddim"),
    ({"sampler": {"steps": 2000}}, {"sampling": {"steps": 2000}}, "steps is 2000 (the model has 1000 timesteps)"),
    ({"sampler": {"eta": 1e9}}, {"sampling": {"eta": 1e9}}, "eta is 1000000000.0"),
    ({"sampler": []}, {"sampling": []}, "sampling is []"),
    ({"training": []}, {"training": []}, "training is []"),
    ({"dataset": 5}, {"dataset": 5}, "dataset is 5"),
    *(({"dataset": name}, {"dataset": name}, "cannot be the name of a data set") for name in NO_DATASETS),
    *(
        ({"classes": ["a", name], "aliases": {}}, {"labels": {"names": ["a", name]}}, "cannot be the name of a class")
        for name in NO_NAMES
    ),
    *(({"aliases": {name: "glaucoma"}}, {"labels": {"aliases": {name: "glaucoma"}}}, "cannot be") for name in NO_NAMES),
    ({"positive": "a\u202eb"}, {"labels": {"positive": "a\u202eb"}}, "cannot be the name of a class"),
    ({"positive": "Glaucoma"}, {"labels": {"positive": "Glaucoma"}}, "the positive class is Glaucoma"),
    (
        {"classes": ["caf\u00e9", "cafe\u0301"], "aliases": {}},
        {"labels": {"names": ["caf\u00e9", "cafe\u0301"]}},
        "no name may stand twice",
    ),
    ({"classes": list(map(str, range(10_001)))}, {"labels": {"names": list(map(str, range(10_001)))}}, "10001 classes"),
    (
        {"aliases": dict.fromkeys(map(str, range(10_001)), "glaucoma")},
        {"labels": {"aliases": dict.fromkeys(map(str, range(10_001)), "glaucoma")}},
        "aliases (at most 10000)",
    ),
    ({"size": 2**20}, {"image": {"height": 2**20, "width": 2**20}}, "size is 1048576 (sides must be in 1 .. 4096)"),
    ({"size": [16, 2**20]}, {"image": {"width": 2**20}}, "size is (16, 1048576)"),
    ({"size": 10**4000}, {"image": {"height": 10**4000}}, "sides must be in 1 .. 4096"),
    *(
        ({"latent_scale": scale}, {"build": {"latent_scale": scale}}, "it must be in 1e-06 .. 1e+06")
        for scale in (1e-300, 1e300, -1.0, float("inf"), 1e-7)
    ),
    ({"latent_scale": 10**400}, {"build": {"latent_scale": 10**400}}, "latent_scale is 1000"),
    *(
        ({"sampler": {"guidance_scale": scale}}, {"sampling": {"guidance_scale": scale}}, "it must be in 0 .. 100")
        for scale in (1e30, float("inf"), float("nan"), -1.0)
    ),
    ({"sampler": {"steps": 10**9}}, {"sampling": {"steps": 10**9}}, "steps is 1000000000"),
    ({"schedule": {"beta_start": 1e-300}}, {"build": {"schedule": {"beta_start": 1e-300}}}, "beta_start is 1e-300"),
    ({"vae": {"widths": [8] * 10**5}}, {"build": {"vae": {"widths": [8] * 10**5}}}, "has 100000 widths"),
    (
        {"vae": {"widths": [8] * 10**5, "strides": [1] * 10**5}},
        {"build": {"vae": {"widths": [8] * 10**5, "strides": [1] * 10**5}}},
        "has 100000 levels (at most 16)",
    ),
    (
        {"unet": {"widths": [8, 8], "strides": [1, 10**9], "norm_groups": 8}},
        {"build": {"unet": {"widths": [8, 8], "strides": [1, 10**9]}}},
        "unet.strides has 1000000000 (at most 16)",
    ),
    ({"unet": {"norm_groups": 0}}, {"build": {"unet": {"norm_groups": 0}}}, "group count below 1"),
    ({"unet": {"norm_groups": 3}}, {"build": {"unet": {"norm_groups": 3}}}, "a multiple of norm_groups = 3"),
    ({"unet": {"emb_channels": 10**6}}, {"build": {"unet": {"emb_channels": 10**6}}}, "a multiple of 8 in 16 .. 16384"),
    ({"vae": {"latent_channels": 10**6}}, {"build": {"vae": {"latent_channels": 10**6}}}, "it must be in 1 .. 16384"),
    *(
        ({"training": {"steps": fact}}, {"training": {"steps": fact}}, "training says")
        for fact in ("a\nb", "\u202e", "x" * 1001, float("nan"), 1e999, 10**100, NESTED, list(range(1001)))
    ),
    ({"training": {"a\0": 1}}, {"training": {"a\0": 1}}, "training says 'a\\x00'"),
]


@pytest.mark.parametrize(("old", "new", "word"), HOSTILE)
def test_header_that_is_not_valid_is_named(
    tmp_path: Path, tiny_header: DiffusionHeader, old: dict[str, Any], new: dict[str, Any], word: str
) -> None:
    path = tmp_path / "new.safetensors"
    refused(write_header(path, version_1({**VERSION_1, **old})), "the configuration in", word)
    refused(write_header(path, metadata(merged(tiny_header.as_table(), new))), "the configuration in", word)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        *(({key: ...}, f"'{key}'") for key in ("kind", "dataset", "labels", "image", "build", "sampling", "training")),
        ({"labels": {"names": ...}}, "'names'"),
        ({"image": {"width": ...}}, "'width'"),
        ({"family": ...}, "names no family"),
        ({"family": None}, "names no family"),
        ({"family": 5}, "names no family"),
        ({"family": ["diffusion"]}, "names no family"),
        ({"build": {"unet": None}}, "a model of kind generator has unet None"),
        ({"build": {"generator": {}}}, "build: generator (valid: vae, unet, schedule, detail, latent_scale)"),
        ({"build": []}, "build is []"),
        ({"sampling": None}, "a model of kind generator has sampling settings None"),
        ({"sampling": {"truncation": 0.7}}, "sampling: truncation"),
        ({"kind": "autoencoder"}, "a model of kind autoencoder has sampling settings"),
        ({"kind": "autoencoder", "sampling": None}, "a model of kind autoencoder has unet"),
    ],
)
def test_header_that_lacks_a_part_or_mixes_two_is_named(
    tmp_path: Path, tiny_header: DiffusionHeader, changes: dict[str, Any], word: str
) -> None:
    header = metadata(merged(tiny_header.as_table(), changes))
    refused(write_header(tmp_path / "new.safetensors", header), "the configuration in", word)


def test_unknown_family_is_named_with_those_that_there_are(tmp_path: Path, tiny_header: DiffusionHeader) -> None:
    for family, said in (("difusion", "did you mean diffusion?"), ("gan", "valid: diffusion"), ("x" * 9999, "valid:")):
        header = metadata(merged(tiny_header.as_table(), {"family": family}))
        path = write_header(tmp_path / "new.safetensors", header)
        for read in (read_header, load_generator):
            with pytest.raises(CheckpointError, match=r"new\.safetensors holds a model of the family") as caught:
                read(path)
            assert f"{family[:60]!r}" in str(caught.value) and said in str(caught.value)
            assert "\n" not in str(caught.value) and len(str(caught.value)) < 300
        with pytest.raises(CheckpointError, match="is no diffusion model"):
            load_pipeline(path)


@pytest.mark.parametrize("table", [[], "text", 5, None, [[1]]])
def test_header_that_is_no_table_is_named(tmp_path: Path, table: object) -> None:
    path = tmp_path / "new.safetensors"
    refused(write_header(path, version_1(table)), "the configuration in", "a section is wanted")
    refused(write_header(path, metadata(table)), "the configuration in")


def test_small_file_that_declares_a_huge_tensor_takes_no_memory(
    tmp_path: Path, tiny_header: DiffusionHeader, change_header: ChangeHeader
) -> None:
    huge = {"dtype": "F32", "shape": [50_000, 50_000], "data_offsets": [0, 10**10]}
    header = {**metadata(tiny_header.as_table()), "latent_embedder.outc.conv.weight": huge}
    path = write_header(tmp_path / "huge.safetensors", header, bytes(16))
    code = (
        "import resource, sys; from pathlib import Path; import torch, safetensors.torch\n"
        "from synthmed.errors import CheckpointError\n"
        "from synthmed.generators.diffusion.pipeline import load_pipeline\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for path in sys.argv[1:]:\n"
        "    try: load_pipeline(Path(path))\n"
        "    except CheckpointError as error: print(error)\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)"
    )
    # The other way to be huge: a whole file, whose configuration asks for networks of 100 GB.
    vae = VaeConfig(widths=(16_384, 16_384), strides=(1, 1), norm_groups=8)
    greedy = tmp_path / "greedy.safetensors"
    save_model(greedy, change_header(tiny_header, vae=vae), {"latent_embedder.x": torch.zeros(1)})
    done = subprocess.run(
        [sys.executable, "-c", code, path, greedy], capture_output=True, text=True, check=True, timeout=120
    )
    broken, lacking, grown_mib = done.stdout.splitlines()
    assert "huge.safetensors" in broken
    assert "greedy.safetensors lacks the tensor" in lacking
    assert int(grown_mib) < 200


def test_missing_tensor_is_named(tmp_path: Path, tiny_header: DiffusionHeader, tiny_tensors: Tensors) -> None:
    name = DENOISER_PREFIX + "in_conv.conv.bias"
    tensors = {key: tensor for key, tensor in tiny_tensors.items() if key != name}
    save_model(tmp_path / "a.safetensors", tiny_header, tensors)
    refused(tmp_path / "a.safetensors", f"lacks the tensor {name}")


def test_unexpected_tensor_is_named(tmp_path: Path, tiny_header: DiffusionHeader, tiny_tensors: Tensors) -> None:
    save_model(tmp_path / "a.safetensors", tiny_header, {**tiny_tensors, "extra.weight": torch.zeros(1)})
    refused(tmp_path / "a.safetensors", "no place for: extra.weight")


def test_tensor_of_the_wrong_shape_is_named(
    tmp_path: Path, tiny_header: DiffusionHeader, tiny_tensors: Tensors
) -> None:
    name = DENOISER_PREFIX + "cond_embedder.embedding.weight"
    save_model(tmp_path / "a.safetensors", tiny_header, {**tiny_tensors, name: torch.zeros(3, 16)})
    refused(tmp_path / "a.safetensors", f"{name} has shape [3, 16], its header wants [2, 16]")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_named(
    tmp_path: Path, tiny_header: DiffusionHeader, tiny_tensors: Tensors, value: float
) -> None:
    name = AUTOENCODER_PREFIX + "outc.conv.bias"
    save_model(tmp_path / "a.safetensors", tiny_header, {**tiny_tensors, name: torch.tensor([0.0, value, 0.0])})
    refused(tmp_path / "a.safetensors", f"weights that are not finite: {name}")


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_weights_that_are_no_floats_are_named(
    tmp_path: Path, tiny_header: DiffusionHeader, tiny_tensors: Tensors, dtype: torch.dtype
) -> None:
    name = AUTOENCODER_PREFIX + "outc.conv.bias"
    text = metadata(tiny_header.as_table())["__metadata__"]
    save_file({**tiny_tensors, name: torch.zeros(3, dtype=dtype)}, tmp_path / "a.safetensors", metadata=text)
    refused(tmp_path / "a.safetensors", f"weights that are not floats: {name}")


@pytest.mark.parametrize("entry", [5, {}, {"shape": 5}, {"shape": ["a"]}, None])
def test_broken_tensor_list_is_refused(tmp_path: Path, tiny_header: DiffusionHeader, entry: object) -> None:
    header = {**metadata(tiny_header.as_table()), AUTOENCODER_PREFIX + "x": entry}
    path = write_header(tmp_path / "broken.safetensors", header)
    refused(path, "has no place for its tensor 'latent_embedder.x'")
    with pytest.raises(CheckpointError, match=r"broken\.safetensors"):
        count_parameters(path)


@pytest.mark.parametrize("entry", [[1e999], [-1], [1.5], [True], [2**63], "3", None])
def test_shape_that_is_none_is_refused_wherever_it_is_read(
    tmp_path: Path, tiny_header: DiffusionHeader, entry: object
) -> None:
    place = {"dtype": "F32", "shape": entry, "data_offsets": [0, 4]}
    header = {**metadata(tiny_header.as_table()), "latent_embedder.x": place}
    path = write_header(tmp_path / "shape.safetensors", header, bytes(4))
    for read in (count_parameters, read_header, load_tensors):
        with pytest.raises(CheckpointError, match=r"shape\.safetensors has no place for its tensor"):
            read(path)


def test_names_are_kept_composed_and_with_plain_spaces(tmp_path: Path, tiny_header: DiffusionHeader) -> None:
    labels = {
        "names": ["cafe\u0301", " two\u00a0\u00a0 words "],
        "aliases": {"x": "two words"},
        "positive": "caf\u00e9",
    }
    table = merged(tiny_header.as_table(), {"labels": {**labels, "aliases": ...}, "dataset": " my  data "})
    table["labels"]["aliases"] = labels["aliases"]
    header = read_header(write_header(tmp_path / "a.safetensors", metadata(table)))
    assert (header.classes.names, header.classes.positive) == (("caf\u00e9", "two words"), "caf\u00e9")
    assert header.dataset == "my data"


ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from([[], {}, "", "x" * 300, 10**400, [[[[1]]]], {"a": {"a": {}}}, "diffusion", "autoencoder", "unet1"]),
    st.lists(st.integers(-3, 20_000), max_size=5),
)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_mutated_headers_are_read_or_refused_in_one_line(
    tmp_path: Path, tiny_header: DiffusionHeader, data: st.DataObject
) -> None:
    """Up to three values are others, or gone. What is still valid has bounded names and numbers."""
    old = data.draw(st.booleans())
    table: dict[str, Any] = json.loads(json.dumps(VERSION_1 if old else tiny_header.as_table()))
    for _ in range(data.draw(st.integers(1, 3))):
        place: Any = table
        while isinstance(place, dict) and place:
            key = data.draw(st.sampled_from(sorted(place)))
            if not isinstance(place[key], dict) or data.draw(st.integers(0, 3)) == 0:
                if data.draw(st.booleans()):
                    place[key] = data.draw(ODD)
                else:
                    del place[key]
                break
            place = place[key]
    path = write_header(tmp_path / "mutant.safetensors", version_1(table) if old else metadata(table))
    try:
        header = read_header(path)
    except CheckpointError as error:
        assert "mutant.safetensors" in str(error) and "\n" not in str(error) and len(str(error)) < 1500
        return
    texts = [header.dataset, *header.classes, *header.classes.aliases]
    assert all(text.isprintable() and len(text) <= 200 for text in texts)
    assert max(header.height_width) <= 4096 and 1e-6 <= header.build.latent_scale <= 1e6
    json.dumps(header.as_table(), allow_nan=False)
