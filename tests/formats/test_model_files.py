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
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from synthmed.config.tables import to_dict
from synthmed.errors import CheckpointError
from synthmed.formats.model_files import (
    AUTOENCODER_PREFIX,
    DENOISER_PREFIX,
    ModelConfig,
    count_parameters,
    load_tensors,
    read_config,
    save_model,
    with_training,
    write_tensors,
)
from synthmed.generators.diffusion.config import ScheduleConfig, VaeConfig
from synthmed.generators.diffusion.pipeline import load_pipeline
from synthmed.generators.registry import embedded_model

SaveTinyModel = Callable[..., Path]
Tensors = dict[str, Any]


def write_header(path: Path, header: object, data: bytes = b"") -> Path:
    """Write a safetensors file by hand, with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def metadata(config: object, **changes: object) -> dict[str, Any]:
    """Return a header's metadata part for a configuration."""
    return {"__metadata__": {"synthmed": json.dumps({"format_version": 1, "config": config, **changes})}}


def refused(path: Path, *words: str) -> None:
    """Check that loading fails with one line that names the file."""
    with pytest.raises(CheckpointError) as caught:
        load_pipeline(path)
    assert caught.value.exit_code == 3
    assert path.name in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_model_comes_back_as_it_was_saved(
    tiny_model_file: Path, tiny_config: ModelConfig, tiny_tensors: Tensors
) -> None:
    assert read_config(tiny_model_file) == tiny_config
    loaded = load_tensors(tiny_model_file)
    assert loaded.keys() == tiny_tensors.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tiny_tensors.items())
    assert [entry.name for entry in tiny_model_file.parent.iterdir()] == ["tiny.safetensors"]


def test_every_field_comes_back(tmp_path: Path, save_tiny_model: SaveTinyModel, tiny_config: ModelConfig) -> None:
    unet = dataclasses.replace(
        tiny_config.unet, objective="x_0", learned_variance=True, self_conditioning=True, clip_x_0=True
    )
    variants: list[dict[str, Any]] = [
        {"size": (16, 24), "unet": unet},
        {"size": (32, 16), "schedule": ScheduleConfig(strategy="linear")},
    ]
    for changes in variants:
        path = save_tiny_model(tmp_path / "a.safetensors", **changes)
        assert read_config(path) == dataclasses.replace(tiny_config, **changes)


def test_model_that_synthmed_brings_is_read_with_the_defaults_of_its_time() -> None:
    """Its header knows nothing of later fields; squares stay one number."""
    path = embedded_model("phantom-fundus")
    with safe_open(path, "pt") as file:
        assert "objective" not in file.metadata()["synthmed"]
    config = read_config(path)
    assert (config.size, config.unet.objective, config.unet.conditional) == (64, "eps", True)
    assert load_pipeline(path).latent_shape[1:] == (64 // config.vae.downsampling,) * 2


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


def test_facts_of_training_are_kept(tmp_path: Path, save_tiny_model: SaveTinyModel, tiny_config: ModelConfig) -> None:
    config = with_training(with_training(tiny_config, steps=5, images=9), steps=6)
    path = save_tiny_model(tmp_path / "a.safetensors", training=config.training)
    assert read_config(path).training == {"steps": 6, "images": 9}


def test_parameters_are_counted_from_the_header(tiny_model_file: Path, tiny_tensors: Tensors) -> None:
    counts = {"autoencoder": 0, "denoiser": 0}
    for name, tensor in tiny_tensors.items():
        counts["autoencoder" if name.startswith(AUTOENCODER_PREFIX) else "denoiser"] += tensor.numel()
    assert count_parameters(tiny_model_file) == counts


def test_header_is_read_without_torch(tiny_model_file: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from synthmed.formats.model_files import count_parameters, read_config;"
        "path = Path(sys.argv[1]); print(read_config(path).dataset, count_parameters(path)['denoiser'] > 0);"
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
    refused(tiny_model_file, "cannot read")


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


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_other_format_version_is_refused(tmp_path: Path, tiny_config: ModelConfig, version: object) -> None:
    header = metadata(to_dict(tiny_config), format_version=version)
    refused(write_header(tmp_path / "new.safetensors", header), f"has format version {version}, this synthmed reads 1")


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"colour": "red"}, "unknown key in new.safetensors: colour"),
        ({"unet": {"width": [1]}}, "unknown key in new.safetensors: unet: width (did you mean widths?"),
        ({"kind": "gan"}, "kind is 'gan'"),
        ({"size": "64"}, "size is '64'"),
        ({"size": 0}, "size is 0"),
        ({"size": 18}, "size is 18 (sides must be multiples of the down-sampling, 4)"),
        ({"size": [16, 18]}, "size is (16, 18)"),
        ({"size": [16]}, "size is [16]"),
        ({"size": [16, 16, 16]}, "size is [16, 16, 16]"),
        ({"size": [16, "16"]}, "size is [16, '16']"),
        ({"size": True}, "size is True"),
        ({"unet": {"conditional": False}}, "a model with unet.conditional false has one"),
        ({"unet": {"objective": "x_T"}}, "objective is 'x_T'"),
        ({"schedule": {"num_timesteps": 10**12}}, "num_timesteps is 1000000000000"),
        ({"latent_scale": 0.0}, "latent_scale is 0.0"),
        ({"latent_scale": float("nan")}, "latent_scale is nan"),
        ({"classes": "ab"}, "classes is 'ab'"),
        ({"classes": ["a", "a"]}, "no name may stand twice"),
        ({"aliases": ["RG"]}, "aliases is ['RG']"),
        ({"aliases": {"RG": 1}}, "aliases is 1"),
        ({"aliases": {"RG": "cat"}}, "alias RG stands for cat"),
        ({"vae": []}, "vae is []"),
        ({"vae": {"strides": [2, 2, 2]}}, "strides"),
        ({"unet": {"widths": [2**40, 2**40], "strides": [1, 2]}}, "widths"),
        ({"schedule": {"num_timesteps": -1}}, "num_timesteps is -1"),
    ],
)
def test_configuration_that_is_not_valid_is_named(
    tmp_path: Path, tiny_config: ModelConfig, changes: dict[str, Any], word: str
) -> None:
    header = metadata({**to_dict(tiny_config), **changes})
    refused(write_header(tmp_path / "new.safetensors", header), "the configuration in", word)


@pytest.mark.parametrize("config", [[], "text", 5, None])
def test_configuration_that_is_no_table_is_named(tmp_path: Path, config: object) -> None:
    refused(write_header(tmp_path / "new.safetensors", metadata(config)), "a section is wanted")


def test_small_file_that_declares_a_huge_tensor_takes_no_memory(tmp_path: Path, tiny_config: ModelConfig) -> None:
    huge = {"dtype": "F32", "shape": [50_000, 50_000], "data_offsets": [0, 10**10]}
    header = {**metadata(to_dict(tiny_config)), "latent_embedder.outc.conv.weight": huge}
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
    save_model(greedy, dataclasses.replace(tiny_config, vae=vae), {"latent_embedder.x": torch.zeros(1)})
    done = subprocess.run(
        [sys.executable, "-c", code, path, greedy], capture_output=True, text=True, check=True, timeout=120
    )
    broken, lacking, grown_mib = done.stdout.splitlines()
    assert "huge.safetensors" in broken
    assert "greedy.safetensors lacks the tensor" in lacking
    assert int(grown_mib) < 200


def test_missing_tensor_is_named(tmp_path: Path, tiny_config: ModelConfig, tiny_tensors: Tensors) -> None:
    name = DENOISER_PREFIX + "in_conv.conv.bias"
    tensors = {key: tensor for key, tensor in tiny_tensors.items() if key != name}
    save_model(tmp_path / "a.safetensors", tiny_config, tensors)
    refused(tmp_path / "a.safetensors", f"lacks the tensor {name}")


def test_unexpected_tensor_is_named(tmp_path: Path, tiny_config: ModelConfig, tiny_tensors: Tensors) -> None:
    save_model(tmp_path / "a.safetensors", tiny_config, {**tiny_tensors, "extra.weight": torch.zeros(1)})
    refused(tmp_path / "a.safetensors", "no place for: extra.weight")


def test_tensor_of_the_wrong_shape_is_named(tmp_path: Path, tiny_config: ModelConfig, tiny_tensors: Tensors) -> None:
    name = DENOISER_PREFIX + "cond_embedder.embedding.weight"
    save_model(tmp_path / "a.safetensors", tiny_config, {**tiny_tensors, name: torch.zeros(3, 16)})
    refused(tmp_path / "a.safetensors", f"{name} has shape [3, 16], its configuration wants [2, 16]")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_named(
    tmp_path: Path, tiny_config: ModelConfig, tiny_tensors: Tensors, value: float
) -> None:
    name = AUTOENCODER_PREFIX + "outc.conv.bias"
    save_model(tmp_path / "a.safetensors", tiny_config, {**tiny_tensors, name: torch.tensor([0.0, value, 0.0])})
    refused(tmp_path / "a.safetensors", f"weights that are not finite: {name}")


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_weights_that_are_no_floats_are_named(
    tmp_path: Path, tiny_config: ModelConfig, tiny_tensors: Tensors, dtype: torch.dtype
) -> None:
    name = AUTOENCODER_PREFIX + "outc.conv.bias"
    text = metadata(to_dict(tiny_config))["__metadata__"]
    save_file({**tiny_tensors, name: torch.zeros(3, dtype=dtype)}, tmp_path / "a.safetensors", metadata=text)
    refused(tmp_path / "a.safetensors", f"weights that are not floats: {name}")


@pytest.mark.parametrize("entry", [5, {}, {"shape": 5}, {"shape": ["a"]}, None])
def test_broken_tensor_list_is_refused(tmp_path: Path, tiny_config: ModelConfig, entry: object) -> None:
    header = {**metadata(to_dict(tiny_config)), AUTOENCODER_PREFIX + "x": entry}
    path = write_header(tmp_path / "broken.safetensors", header)
    refused(path, "cannot read")
    with pytest.raises(CheckpointError, match=r"broken\.safetensors"):
        count_parameters(path)
