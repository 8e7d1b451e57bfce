"""Stable Diffusion's autoencoder as a first stage: parity with diffusers, all commands, and files that are refused."""

import json
import resource
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from synthmed.data.pixels import to_float, to_unit
from synthmed.data.prepare.prepare import PrepareConfig, prepare_release
from synthmed.data.sets.image_set import open_images
from synthmed.data.shards.read import open_folder
from synthmed.errors import CheckpointError, DataError, RecipeError
from synthmed.formats.diffusers_files import AutoencoderKLConfig, find_weights, read_config_beside
from synthmed.formats.model_files import (
    count_parameters,
    hash_model,
    load_tensors,
    save_model,
)
from synthmed.generators import registry
from synthmed.generators.diffusion.config import VaeConfig
from synthmed.generators.diffusion.family import DIFFUSION
from synthmed.generators.diffusion.header import DiffusionHeader, read_diffusion_header
from synthmed.generators.diffusion.medfusion import export_state_dict
from synthmed.generators.diffusion.pipeline import load_pipeline
from synthmed.generators.diffusion.reconstruction import evaluate_autoencoders
from synthmed.generators.families import load_recipe
from synthmed.generators.family import StageRequest
from synthmed.generators.stages import run_stage
from synthmed.generators.starts import find_start
from synthmed.phantoms.release import phantom_release

WEIGHTS = "diffusion_pytorch_model.safetensors"
ARGUMENTS: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D", "DownEncoderBlock2D"),
    "up_block_types": ("UpDecoderBlock2D", "UpDecoderBlock2D"),
    "block_out_channels": (8, 16),
    "norm_num_groups": 4,
    "latent_channels": 4,
}
# The config.json of the weights that the paper used: it names neither `use_quant_conv` nor other later arguments.
PUBLISHED = {
    "_class_name": "AutoencoderKL",
    "_diffusers_version": "0.4.2",
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 256,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}
SaveAutoencoder = Callable[..., Any]
RunProgram = Callable[..., tuple[int, str, str]]
DENOISER = DIFFUSION.stage("diffusion")


@pytest.fixture
def save_autoencoder() -> SaveAutoencoder:
    """A function that has diffusers save a small random network in a folder, and returns it."""
    diffusers = pytest.importorskip("diffusers")

    def save(folder: Path, **changes: Any) -> Any:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = diffusers.AutoencoderKL(**{**ARGUMENTS, **changes}).eval()
        network.save_pretrained(folder)
        return network

    return save


@pytest.fixture
def folder(tmp_path: Path, save_autoencoder: SaveAutoencoder) -> Path:
    """Diffusers' folder of a small autoencoder; a test may break it."""
    save_autoencoder(tmp_path / "sd")
    return tmp_path / "sd"


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shards"
    prepare_release(phantom_release(40), folder, PrepareConfig(size=32))
    return folder


def write_config(folder: Path, **table: Any) -> Path:
    """Write a config.json beside weights that nobody looks at, and return the weights."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"_class_name": "AutoencoderKL", **table}))
    save_file({"x": torch.zeros(1)}, folder / WEIGHTS)
    return folder / WEIGHTS


def change_tensors(weights: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(weights)
    change(tensors)
    save_file(tensors, weights)


def images(channels: int = 3, size: int = 32) -> torch.Tensor:
    return torch.rand(2, channels, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"scaling_factor": 0.5, "shift_factor": 0.25, "latents_mean": [1.0] * 4, "force_upcast": False},
        {"in_channels": 1, "out_channels": 1},
        {"use_quant_conv": False, "use_post_quant_conv": False, "latent_channels": 8},
        {"mid_block_add_attention": False, "layers_per_block": 2, "act_fn": "gelu"},
        {
            "down_block_types": ("AttnDownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D"),
            "up_block_types": ("UpDecoderBlock2D", "UpDecoderBlock2D", "AttnUpDecoderBlock2D"),
            "block_out_channels": (4, 8, 8),
        },
    ],
)
def test_moments_and_images_are_those_of_diffusers(
    tmp_path: Path, save_autoencoder: SaveAutoencoder, changes: dict[str, Any]
) -> None:
    """No scaling factor counts: the latents' scale is measured."""
    network = save_autoencoder(tmp_path / "sd", **changes)
    model = load_pipeline(registry.resolve_path(tmp_path / "sd"))
    batch = images(model.header.build.vae.image_channels)
    with torch.no_grad():
        posterior = network.encode(batch).latent_dist
        decoded = network.decode(posterior.mean).sample
    mean, log_variance = model.moments(batch)
    assert mean.shape[2] == 32 // model.autoencoder.downsampling
    torch.testing.assert_close(mean, posterior.mean)
    torch.testing.assert_close(log_variance, posterior.logvar)
    torch.testing.assert_close(model.decode(mean), decoded)
    assert not model.autoencoder.training
    assert not any(parameter.requires_grad for parameter in model.autoencoder.parameters())


def test_attention_under_its_old_names_is_read(folder: Path) -> None:
    """As in the weights that the paper used: query, key, value and proj_attn."""
    expected = load_pipeline(folder / WEIGHTS).moments(images())
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def rename(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if ".attentions." in name]:
            renamed = name
            for new_part, old_part in old.items():
                renamed = renamed.replace(f".{new_part}.", f".{old_part}.")
            tensors[renamed] = tensors.pop(name)

    change_tensors(folder / WEIGHTS, rename)
    assert "encoder.mid_block.attentions.0.proj_attn.bias" in load_file(folder / WEIGHTS)
    assert all(map(torch.equal, load_pipeline(folder / WEIGHTS).moments(images()), expected))


def test_published_configuration_builds_the_published_network(tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    from synthmed.generators.diffusion.networks.stable_diffusion import StableDiffusionAutoencoder

    config = read_config_beside(write_config(tmp_path / "sd", **PUBLISHED))
    assert config is not None
    with torch.device("meta"):
        network = StableDiffusionAutoencoder(config)
    assert network.downsampling == 8
    assert sum(parameter.numel() for parameter in network.parameters()) == 83_653_863


def test_folder_pipeline_folder_and_file_are_the_same_model(tmp_path: Path, folder: Path) -> None:
    shutil.copytree(folder, tmp_path / "pipeline" / "vae")
    (tmp_path / "pipeline" / "unet").mkdir()
    found = [registry.resolve_path(path) for path in (folder, tmp_path / "pipeline", folder / WEIGHTS)]
    assert found == [folder / WEIGHTS, tmp_path / "pipeline" / "vae" / WEIGHTS, folder / WEIGHTS]
    assert [find_start(DENOISER, tmp_path / "run", path) for path in (folder, tmp_path / "pipeline")] == found[:2]
    assert len({hash_model(path) for path in found}) == 1
    header = read_diffusion_header(found[0])
    assert (header.kind, header.size, header.build.vae.downsampling) == ("autoencoder", 0, 2)
    (folder / WEIGHTS).rename(folder / "diffusion_pytorch_model.fp16.safetensors")
    assert find_weights(folder) == folder / "diffusion_pytorch_model.fp16.safetensors"


def test_hash_covers_the_configuration(tmp_path: Path) -> None:
    """The same weights compute something else with another activation."""
    weights = write_config(tmp_path / "sd", **PUBLISHED)
    before = hash_model(weights)
    write_config(tmp_path / "sd", **{**PUBLISHED, "act_fn": "relu"})
    assert hash_model(weights) != before
    write_config(tmp_path / "sd", **{**PUBLISHED, "_diffusers_version": "0.42.1", "scaling_factor": 1.0})
    assert hash_model(weights) == before


def test_run_folder_of_ours_is_not_taken_for_one_of_diffusers(tmp_path: Path, save_tiny_model: Any) -> None:
    """It has a config.json beside the model file, too."""
    path = save_tiny_model(tmp_path / "model.safetensors", kind="autoencoder")
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "AutoencoderKL", **PUBLISHED}))
    assert isinstance(read_diffusion_header(path).build.vae, VaeConfig)
    (tmp_path / "config.json").write_text(json.dumps({"recipe": "tiny", "vae": {}}))
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="not a model file of synthmed"):
        read_diffusion_header(path)


def test_models_of_both_kinds_are_compared_at_one_size(
    tmp_path: Path, folder: Path, shards: Path, tiny_model_file: Path
) -> None:
    checkpoints = [tiny_model_file, folder / WEIGHTS]
    report = evaluate_autoencoders(checkpoints, shards, tmp_path / "out", splits=["test"], device="cpu")
    assert report.size == 16
    assert [(row.checkpoint, row.label, row.images) for row in report.rows] == [
        (str(path), label, count)
        for path in checkpoints
        for label, count in (("all", 12), ("no-glaucoma", 6), ("glaucoma", 6))
    ]
    model = load_pipeline(folder / WEIGHTS)
    original = to_float(open_images(open_folder(shards, "test"), size=16).load(range(12)))
    errors = (to_unit(model.decode(model.moments(original)[0])) - to_unit(original)).pow(2).mean(dim=(1, 2, 3))
    assert report.rows[3].mse[0] == pytest.approx(errors.mean().item(), rel=1e-4)


def test_autoencoder_of_any_size_is_measured_at_the_size_of_the_data(
    tmp_path: Path, folder: Path, shards: Path, run_program: RunProgram
) -> None:
    def size(*words: object) -> int:
        command = ("evaluate-autoencoder", "--checkpoint", folder, "-d", shards, "-o", tmp_path / "out")
        _, stdout, _ = run_program(*command, "--split", "test", "--device", "cpu", "--json", *words)
        return json.loads(stdout)["size"]

    assert size() == 32
    assert size("--size", 24) == 24


def test_sizes_and_channels_that_do_not_fit_are_refused(
    tmp_path: Path, folder: Path, shards: Path, tiny_model_file: Path, save_autoencoder: SaveAutoencoder
) -> None:
    def refused(*checkpoints: Path, match: str, **words: Any) -> None:
        with pytest.raises(DataError, match=match):
            evaluate_autoencoders(checkpoints, shards, tmp_path / "out", device="cpu", **words)

    refused(folder / WEIGHTS, size=33, match=r"down-samples by 2, the images have 33 pixels \(choose a multiple")
    refused(folder / WEIGHTS, tiny_model_file, size=32, match=r"different sizes: \[\(16, 16\), \(32, 32\)\] pixels")
    save_autoencoder(tmp_path / "grey", in_channels=1, out_channels=1)
    refused(folder / WEIGHTS, tmp_path / "grey" / WEIGHTS, match="some of the models are for grey images")


CHANGES = ["diffusion.steps=4", "diffusion.preview_every=4", "diffusion.validate_every=4", "diffusion.batch_size=4"]


def test_pipeline_trained_on_it_is_one_file_that_generates(
    tmp_path: Path, folder: Path, shards: Path, run_program: RunProgram
) -> None:
    run, changes = tmp_path / "run", [word for change in CHANGES for word in ("--set", change)]
    command = ("train-diffusion", "-r", "tiny", "-d", shards, "-o", run, "--autoencoder", folder, *changes)
    path = Path(json.loads(run_program(*command, "--device", "cpu", "--json")[1])["model"])
    first_stage = load_pipeline(folder / WEIGHTS)
    trained = open_images(open_folder(shards, "train"), size=32)
    means, _ = first_stage.moments(to_float(trained.load(range(len(trained)))))
    header = read_diffusion_header(path)
    assert header.build.latent_scale == pytest.approx(1 / means.double().std().item(), rel=1e-4)
    assert header.build.vae == first_stage.header.build.vae
    assert (header.kind, header.size) == ("generator", 32)
    assert (run / "diffusion" / "previews" / "step-0000004.png").is_file()
    assert count_parameters(path)["latent_embedder"] == count_parameters(folder / WEIGHTS)["latent_embedder"] > 0
    stored = load_tensors(path)
    assert all(torch.equal(stored[name], tensor) for name, tensor in load_tensors(folder / WEIGHTS).items())

    shutil.rmtree(folder)
    shutil.rmtree(run / "latents")
    words = ("--dataset", "phantom-fundus", "--balanced", "-n", 4, "--device", "cpu", "--json")
    found = json.loads(run_program("generate", "-o", tmp_path / "out", *words)[1])
    assert found["checkpoint"] == str(path)
    assert found["images"] == {"no-glaucoma": 2, "glaucoma": 2}
    made = open_images(open_folder(tmp_path / "out", "train"))
    assert (len(made), made.size) == (4, (32, 32))

    shown = json.loads(run_program("checkpoints", "info", path, "--json")[1])
    assert shown["build"]["vae"]["build"] == "AutoencoderKL"


def test_latents_are_encoded_again_for_other_weights(tmp_path: Path, folder: Path, shards: Path) -> None:
    def caches(run: Path) -> set[str]:
        recipe = load_recipe("tiny", ["diffusion.steps=1", "diffusion.preview_every=0", "diffusion.latents=sample"])
        run_stage(StageRequest(recipe, shards, run, device="cpu"), DENOISER, folder / WEIGHTS)
        return {path.name for path in (run / "latents").iterdir()}

    first, again = caches(tmp_path / "first"), caches(tmp_path / "again")
    assert first == again
    change_tensors(folder / WEIGHTS, lambda tensors: tensors["encoder.conv_in.bias"].add_(1))
    assert not first & caches(tmp_path / "other")


def test_size_that_the_autoencoder_would_change_is_refused(tmp_path: Path, folder: Path, shards: Path) -> None:
    request = StageRequest(load_recipe("tiny", ["data.size=31"]), shards, tmp_path / "run", device="cpu")
    with pytest.raises(RecipeError, match=r"data.size 31 is not a multiple of the down-sampling 2"):
        run_stage(request, DENOISER, folder / WEIGHTS)
    assert not (tmp_path / "run").exists()


def test_adversarial_stage_trains_medfusions_autoencoder_alone(
    tmp_path: Path, folder: Path, shards: Path, run_program: RunProgram
) -> None:
    """Said before the folder of the stage is claimed, so that the next command finds no half-begun one."""
    run = tmp_path / "run"
    with pytest.raises(CheckpointError, match="is not Medfusion's autoencoder"):
        run_stage(
            StageRequest(load_recipe("tiny"), shards, run, device="cpu"),
            DIFFUSION.stage("adversarial"),
            folder / WEIGHTS,
        )
    words = ["train-autoencoder", "--adversarial", "--recipe", "tiny", "--data", shards, "-o", run, "--device", "cpu"]
    code, stdout, stderr = run_program(*words, "--autoencoder", folder)
    assert (code, stdout) == (3, "")
    assert stderr.splitlines()[-1].startswith(f"error: {folder / WEIGHTS} is not Medfusion's autoencoder")
    assert not (run / "adversarial").exists()


def test_folder_can_be_shown_and_halved_but_not_registered(
    tmp_path: Path, folder: Path, synthmed_home: Path, run_program: RunProgram
) -> None:
    facts = json.loads(run_program("checkpoints", "info", folder, "--json")[1])
    assert (facts["kind"], facts["build"]["vae"]["build"]) == ("autoencoder", "AutoencoderKL")
    assert facts["image"] == {"height": 0, "width": 0} and facts["parameters"]["autoencoder"] > 0
    assert run_program("checkpoints", "halve", folder, "-o", tmp_path / "half.safetensors")[0] == 0
    assert read_diffusion_header(tmp_path / "half.safetensors").size == 0
    latents = torch.ones(1, 4, 4, 4)
    whole, halved = (load_pipeline(path).decode(latents) for path in (folder / WEIGHTS, tmp_path / "half.safetensors"))
    assert (halved - whole).abs().max() < 0.01
    with pytest.raises(CheckpointError, match="of no data set"):
        registry.register(synthmed_home, folder / WEIGHTS)


def test_missing_package_is_named_with_the_way_to_get_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(CheckpointError, match=r"needs the package diffusers.*pip install 'synthmed\[diffusers\]'"):
        load_pipeline(folder / WEIGHTS)


def split_weights(folder: Path, ending: str = "safetensors", variant: str = "") -> Path:
    """Replace the weights by two files and their index, as diffusers saves large ones; return the index."""
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    weight_map: dict[str, str] = {}
    for number in (0, 1):
        name = f"diffusion_pytorch_model{variant}-{number + 1:05d}-of-00002.{ending}"
        part = {key: tensors[key] for key in list(tensors)[number::2]}
        if ending == "bin":
            torch.save(part, folder / name)
        else:
            save_file(part, folder / name)
        weight_map |= dict.fromkeys(part, name)
    index = folder / f"diffusion_pytorch_model.{ending}.index{variant}.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    return index


def as_variant(name: str, dtype: torch.dtype) -> Callable[[Path], object]:
    def save(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        (folder / WEIGHTS).unlink()
        save_file({key: value.to(dtype) for key, value in tensors.items()}, folder / name)

    return save


def as_pickle(folder: Path, *, legacy: bool = False, prefix: str = "") -> None:
    tensors = {prefix + key: value for key, value in load_file(folder / WEIGHTS).items()}
    (folder / WEIGHTS).unlink()
    torch.save(tensors, folder / "diffusion_pytorch_model.bin", _use_new_zipfile_serialization=not legacy)


@pytest.mark.parametrize("place", ["sd", "pipeline/vae"])
@pytest.mark.parametrize(
    ("change", "tolerance"),
    [
        (as_variant("diffusion_pytorch_model.fp16.safetensors", torch.float16), 0.01),
        (as_variant("diffusion_pytorch_model.bf16.safetensors", torch.bfloat16), 0.1),
        (split_weights, 0),
        (lambda folder: split_weights(folder, variant=".fp16"), 0),
        (lambda folder: split_weights(folder, "bin"), 0),
        (as_pickle, 0),
        (lambda folder: as_pickle(folder, legacy=True), 0),
        (lambda folder: as_pickle(folder, prefix="module._orig_mod."), 0),
    ],
)
def test_weights_are_read_however_diffusers_saved_them(
    tmp_path: Path, folder: Path, place: str, change: Callable[[Path], object], tolerance: float
) -> None:
    expected = load_pipeline(folder / WEIGHTS).moments(images())[0]
    parameters = count_parameters(folder / WEIGHTS)
    shutil.copytree(folder, tmp_path / "x" / place)
    change(tmp_path / "x" / place)
    given = tmp_path / "x" / place.removesuffix("/vae")
    path = registry.resolve_path(given)
    assert find_start(DENOISER, tmp_path / "run", given) == path
    assert count_parameters(path) == parameters
    assert (load_pipeline(path).moments(images())[0] - expected).abs().max() <= tolerance
    assert len(hash_model(path)) == 64


def test_whole_weights_come_before_parts_and_variants(folder: Path) -> None:
    (folder / "diffusion_pytorch_model.bf16.safetensors").touch()
    (folder / "diffusion_pytorch_model-00001-of-00002.safetensors").touch()
    assert find_weights(folder) == folder / WEIGHTS
    (folder / WEIGHTS).unlink()
    assert find_weights(folder) == folder / "diffusion_pytorch_model.bf16.safetensors"


def test_hash_covers_every_part(folder: Path) -> None:
    index = split_weights(folder)
    before = hash_model(index)
    part = folder / "diffusion_pytorch_model-00002-of-00002.safetensors"
    change_tensors(part, lambda tensors: tensors[min(tensors)].add_(1))
    assert hash_model(index) != before


PART = "diffusion_pytorch_model-{:05d}-of-00002.safetensors".format


@pytest.mark.parametrize(
    ("weight_map", "said"),
    [
        ([], "is no index of weights"),
        ({"a": 5}, "is no index of weights"),
        ({}, "names 0 files"),
        ({str(number): PART(number) for number in range(2000)}, "names 2000 files"),
        ({"a": "../x-00001-of-00002.safetensors"}, "none of its parts: '../x"),
        ({"a": "/etc/passwd"}, "none of its parts: '/etc/passwd'"),
        ({"a": "diffusion_pytorch_model/../../x-00001-of-00002.safetensors"}, "none of its parts"),
        ({"a": "diffusion_pytorch_model\\..\\x-00001-of-00002.safetensors"}, "none of its parts"),
        ({"a": "config.json"}, "none of its parts"),
        ({"a": PART(3)}, "00003-of-00002.safetensors, which is missing"),
        ({"a": PART(1)}, "lacks the tensor latent_embedder"),
    ],
)
def test_index_that_is_broken_or_leads_out_of_its_folder_is_refused(folder: Path, weight_map: Any, said: str) -> None:
    split_weights(folder).write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(CheckpointError, match=said) as caught:
        load_pipeline(registry.resolve_path(folder))
    assert len(str(caught.value)) < 600


def test_missing_part_and_missing_index_are_named(folder: Path) -> None:
    index = split_weights(folder)
    (folder / "diffusion_pytorch_model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-00002-of-00002\.safetensors, which is missing"):
        load_pipeline(index)
    index.unlink()
    with pytest.raises(CheckpointError, match=r"is one of several files, and their \.index\.json is missing"):
        registry.resolve_path(folder)


def test_tensor_that_two_parts_hold_is_refused(folder: Path) -> None:
    index = split_weights(folder)
    part = folder / "diffusion_pytorch_model-00002-of-00002.safetensors"
    first = load_file(folder / "diffusion_pytorch_model-00001-of-00002.safetensors")
    change_tensors(part, lambda tensors: tensors.update(first))
    with pytest.raises(CheckpointError, match="holds a tensor that another file"):
        load_pipeline(index)


def test_attack_in_a_pickle_is_refused_and_never_run(folder: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return exec, ("raise SystemExit('a pickle was run')",)

    (folder / WEIGHTS).unlink()
    torch.save({"encoder.conv_in.weight": Evil()}, folder / "diffusion_pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"exec called, which no checkpoint needs"):
        load_pipeline(registry.resolve_path(folder))


def test_weights_without_their_configuration_are_refused(folder: Path) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"needs its config\.json beside it"):
        load_pipeline(folder / WEIGHTS)


def test_weights_that_do_not_fit_are_refused(folder: Path) -> None:
    def refused(change: Callable[[dict[str, torch.Tensor]], object], message: str) -> None:
        whole = (folder / WEIGHTS).read_bytes()
        change_tensors(folder / WEIGHTS, change)
        with pytest.raises(CheckpointError, match=message):
            load_pipeline(folder / WEIGHTS)
        (folder / WEIGHTS).write_bytes(whole)

    name = "decoder.conv_in.bias"
    refused(lambda tensors: tensors.update({name: torch.zeros(3)}), rf"{name} has shape \[3\].*wants \[16\]")
    refused(
        lambda tensors: tensors.update({name: torch.full((16,), torch.nan)}), rf"not finite: latent_embedder\.{name}"
    )
    refused(lambda tensors: tensors.pop(name), f"lacks the tensor latent_embedder.{name}")
    refused(lambda tensors: tensors.update({"more": torch.zeros(1)}), "has no place for: latent_embedder.more")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"_class_name": "VQModel"}, "is of 'VQModel'"),
        ({"_class_name": ["AutoencoderKL"]}, "only AutoencoderKL is supported"),
        ({"colour": 1}, "unknown key in config.json: colour"),
        ({"build": "medfusion"}, "build is 'medfusion'"),
        ({"act_fn": "tanh"}, "act_fn is 'tanh'"),
        ({"in_channels": 4}, "in_channels is 4 and out_channels 3"),
        ({"in_channels": 1}, "both must be 1, or both 3"),
        ({"block_out_channels": [64, 128]}, "there must be as many of each"),
        ({"block_out_channels": [65]}, "multiples of norm_num_groups = 32"),
        ({"block_out_channels": [1 << 40]}, "it must be in 1 .. 16384"),
        ({"norm_num_groups": 0}, "norm_num_groups is 0"),
        ({"latent_channels": -1}, "latent_channels is -1"),
        ({"layers_per_block": 10**9}, "layers_per_block is 1000000000"),
        ({"layers_per_block": "2"}, "layers_per_block is '2'"),
        ({"down_block_types": ["os.system"]}, "down_block_types is 'os.system'"),
        (
            {
                "block_out_channels": [32] * 9,
                "down_block_types": ["DownEncoderBlock2D"] * 9,
                "up_block_types": ["UpDecoderBlock2D"] * 9,
            },
            "the number of block_out_channels is 9",
        ),
    ],
)
def test_configuration_that_is_not_valid_is_named(tmp_path: Path, table: dict[str, Any], message: str) -> None:
    weights = write_config(tmp_path / "sd", **table)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_pipeline(weights)
    assert str(weights.with_name("config.json")) in str(caught.value)


@pytest.mark.parametrize("content", [b"{", b"[" * 200_000, b"\xff", b" " * (1 << 20) + b"{}"])
def test_broken_configuration_is_named(tmp_path: Path, content: bytes) -> None:
    weights = write_config(tmp_path / "sd")
    weights.with_name("config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"cannot read .*config\.json"):
        read_diffusion_header(weights)


def test_header_of_a_model_file_is_checked_like_a_configuration(tmp_path: Path, tiny_header: DiffusionHeader) -> None:
    def refused(vae: dict[str, Any], message: str) -> None:
        table = tiny_header.as_table()
        header = {"format_version": 2, "header": {**table, "build": {**table["build"], "vae": vae}}}
        path = tmp_path / "model.safetensors"
        save_file({"x": torch.zeros(1)}, path, metadata={"synthmed": json.dumps(header)})
        with pytest.raises(CheckpointError, match=f"the configuration in {path} is not valid: .*{message}"):
            load_pipeline(path)

    refused({"build": "AutoencoderTiny"}, "build is 'AutoencoderTiny'")
    refused({"build": ["AutoencoderKL"]}, "build is ")
    refused({"build": "AutoencoderKL", "widths": [8]}, "unknown key in model.safetensors: build: vae: widths")
    refused({"build": "AutoencoderKL", "layers_per_block": 10**9}, "layers_per_block is 1000000000")


def test_small_file_that_declares_a_huge_network_takes_no_memory(
    tmp_path: Path, tiny_header: DiffusionHeader, change_header: Callable[..., DiffusionHeader]
) -> None:
    pytest.importorskip("diffusers")
    vae = AutoencoderKLConfig(block_out_channels=(16_384,))
    path = tmp_path / "greedy.safetensors"
    save_model(path, change_header(tiny_header, vae=vae), {"x": torch.zeros(1)})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match="lacks the tensor latent_embedder"):
        load_pipeline(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10  # KiB


def test_embedded_model_has_medfusions_autoencoder() -> None:
    model = load_pipeline(registry.embedded_model("phantom-fundus"))
    assert isinstance(model.header.build.vae, VaeConfig)
    assert model.autoencoder.downsampling == model.header.build.vae.downsampling


def test_nothing_is_exported_under_medfusions_names(
    tiny_header: DiffusionHeader, change_header: Callable[..., DiffusionHeader]
) -> None:
    header = change_header(tiny_header, vae=AutoencoderKLConfig())
    with pytest.raises(CheckpointError, match="for which Medfusion has no names"):
        export_state_dict(header, {})
