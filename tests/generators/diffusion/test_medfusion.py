"""Importing checkpoints of the published code, every variant that it can write, and the way back."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from synthmed.data.datasets import AIROGS, find_dataset, folder_info
from synthmed.data.labels import Classes
from synthmed.errors import CheckpointError, UsageError
from synthmed.formats.model_files import AUTOENCODER_PREFIX, DENOISER_PREFIX, DETAIL_PREFIX, load_tensors, save_model
from synthmed.generators.diffusion.config import DetailBuild, ScheduleConfig, VaeConfig
from synthmed.generators.diffusion.header import read_diffusion_header
from synthmed.generators.diffusion.medfusion import export_state_dict, import_checkpoint
from synthmed.generators.diffusion.pipeline import load_pipeline
from synthmed.generators.diffusion.samplers import SAMPLERS
from synthmed.generators.diffusion.schedule import build_schedule
from synthmed.generators.diffusion.settings import DiffusionSettings

OUT = DENOISER_PREFIX + "outc.conv.conv."
FIRST = DENOISER_PREFIX + "in_conv.conv.weight"


def state(edit):
    """Return a change of a checkpoint that edits its state dict."""
    return lambda checkpoint: edit(checkpoint["state_dict"])


def imported(path: Path, target: Path, **options):
    """Import a checkpoint, save it and load what was saved."""
    header, tensors = import_checkpoint(path, AIROGS, **{"size": 16, **options})
    save_model(target, header, tensors)
    return load_pipeline(target)


# ------------------------------------------------------------------------------------------------------- what is read


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model.module."])
def test_state_dict_alone_is_read_from_any_format_and_wrapper(lightning_file, tiny_tensors, tmp_path, prefix, capsys):
    published = {"noise_estimator_kwargs": {"norm_name": ("GROUP", {"num_groups": 8})}}
    expected = imported(lightning_file(**published), tmp_path / "a.safetensors")
    whole = lightning_file(
        lambda checkpoint: checkpoint.update(
            state_dict={prefix + name: tensor for name, tensor in checkpoint["state_dict"].items()}
        ),
        **published,
    )
    found = imported(whole, tmp_path / "b.safetensors")
    assert torch.equal(*(pipeline.sample([0], seeds=[1], steps=2) for pipeline in (expected, found)))
    assert ("names are taken without" in capsys.readouterr().err) == bool(prefix)
    # Alone it says nothing of its groups, of which 32 are published.
    for name, write in (("w.safetensors", save_file), ("w.pth", torch.save)):
        write({prefix + key: tensor.clone() for key, tensor in tiny_tensors.items()}, tmp_path / name)
        with pytest.raises(CheckpointError, match="must be a multiple of norm_groups = 32"):
            import_checkpoint(tmp_path / name, AIROGS, size=16)
        assert "is taken for one with the published settings" in capsys.readouterr().err


def test_model_file_of_synthmed_is_not_imported_again(tiny_model_file):
    with pytest.raises(CheckpointError, match=r"is a model file of synthmed already \(synthmed checkpoints add\)"):
        import_checkpoint(tiny_model_file, AIROGS)


@pytest.mark.parametrize("legacy", [False, True])
def test_import_gives_the_same_tensors_and_the_whole_configuration(lightning_file, tiny_tensors, tmp_path, legacy):
    header, tensors = import_checkpoint(lightning_file(legacy=legacy), AIROGS, size=16)
    assert header.classes.names == ("no-glaucoma", "glaucoma")
    assert (header.classes.find("RG"), header.classes.positive) == (1, "glaucoma")
    assert (header.family, header.kind) == ("diffusion", "generator")
    assert header.sampling == DiffusionSettings(sampler="ddim", steps=150, eta=1.0, guidance_scale=1.0)
    assert header.build.unet is not None
    assert header.build.unet.widths == (8, 8, 16)
    assert isinstance(header.build.vae, VaeConfig)
    assert header.build.vae.widths == (8, 8, 16)
    assert header.build.latent_scale == 1
    assert header.build.schedule == ScheduleConfig()
    assert header.training["steps"] == 1234
    assert len(header.training["imported_sha256"]) == 64
    assert tensors.keys() == tiny_tensors.keys()
    assert all(torch.equal(tensors[name], tiny_tensors[name]) for name in tensors)
    save_model(tmp_path / "imported.safetensors", header, tensors)
    images = load_pipeline(tmp_path / "imported.safetensors").sample([0, 1], seeds=[1, 2], steps=2)
    assert images.shape == (2, 3, 16, 16)


def test_autoencoder_alone_and_inside_a_vaegan(lightning_file):
    def only_vae(prefix):
        def change(checkpoint):
            state = checkpoint["state_dict"]
            checkpoint["state_dict"] = {
                prefix + name.removeprefix(AUTOENCODER_PREFIX): tensor
                for name, tensor in state.items()
                if name.startswith(AUTOENCODER_PREFIX)
            } | {"discriminator.0.weight": torch.zeros(2), prefix + "logvar": torch.zeros(())}
            checkpoint["hyper_parameters"] = {"strides": [1, 2, 2]}

        return change

    for prefix in ("", "vqvae."):
        header, tensors = import_checkpoint(lightning_file(only_vae(prefix)), AIROGS, size=16)
        assert (header.kind, header.build.unet, header.sampling) == ("autoencoder", None, None)
        assert all(name.startswith(AUTOENCODER_PREFIX) for name in tensors)
        assert not any(word in name for name in tensors for word in ("perceiver", "discriminator", "logvar"))


def test_pipeline_without_autoencoder_takes_it_from_its_own_file(lightning_file):
    def without(checkpoint):
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name: value for name, value in state.items() if name.startswith(DENOISER_PREFIX)}

    bare = lightning_file(without, "bare.ckpt")
    with pytest.raises(CheckpointError, match="--vae"):
        import_checkpoint(bare, AIROGS)
    header, tensors = import_checkpoint(bare, AIROGS, vae=lightning_file())
    assert header.kind == "generator"
    assert any(name.startswith(AUTOENCODER_PREFIX) for name in tensors)


def test_averaged_weights_are_those_that_medfusion_samples_with(lightning_file):
    def average(tensors):
        for name in [name for name in tensors if name.startswith(DENOISER_PREFIX)]:
            tensors["ema_model.averaged_model." + name.removeprefix(DENOISER_PREFIX)] = tensors[name] + 1

    _, tensors = import_checkpoint(lightning_file(state(average)), AIROGS, size=16)
    _, plain = import_checkpoint(lightning_file(name="plain.ckpt"), AIROGS, size=16)
    assert tensors.keys() == plain.keys()
    assert torch.equal(tensors[FIRST], plain[FIRST] + 1)
    assert torch.equal(tensors[AUTOENCODER_PREFIX + "outc.conv.weight"], plain[AUTOENCODER_PREFIX + "outc.conv.weight"])


def test_heads_of_the_denoiser_that_only_training_needs_are_left_out(lightning_file, tiny_tensors):
    def add(tensors):
        tensors[DENOISER_PREFIX + "outc_ver.0.conv.conv.weight"] = torch.zeros(4, 24, 1, 1)

    _, tensors = import_checkpoint(lightning_file(state(add)), AIROGS, size=16)
    assert tensors.keys() == tiny_tensors.keys()


def test_options_may_be_written_for_both_axes(lightning_file):
    arguments = {"strides": [(1, 1), (2, 2), [2, 2]], "kernel_sizes": [(3, 3)] * 3, "act_name": ("swish", {})}
    norm = {"norm_name": ("GROUP", {"num_groups": 8})}
    header, _ = import_checkpoint(lightning_file(noise_estimator_kwargs=arguments | norm), AIROGS, size=16)
    assert header.build.unet is not None
    assert header.build.unet.strides == (1, 2, 2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_other_precision_become_single(lightning_file, tiny_tensors, dtype):
    tensors = {name: tensor.to(dtype) for name, tensor in tiny_tensors.items()}
    _, found = import_checkpoint(lightning_file(tensors=tensors), AIROGS, size=16)
    assert all(found[name].dtype == torch.float32 for name in found)
    assert all(torch.equal(found[name], tensors[name].float()) for name in found)


# ---------------------------------------------------------------------------------- variants of Medfusion's training


def test_objective_x_0_and_clipping_are_read(lightning_file, tmp_path):
    pipeline = imported(lightning_file(estimator_objective="x_0", clip_x0=True), tmp_path / "a.safetensors")
    assert (pipeline.header.build.unet.objective, pipeline.header.build.unet.clip_x_0) == ("x_0", True)
    plain = imported(lightning_file(clip_x0=False), tmp_path / "b.safetensors")
    assert (plain.header.build.unet.objective, plain.header.build.unet.clip_x_0) == ("eps", False)
    x_t, t = torch.randn(2, 4, 4, 4), torch.tensor([0, 600])
    network = plain.denoiser(x_t, t, torch.tensor([0, 1]))
    assert torch.equal(plain.denoise(x_t, t, torch.tensor([0, 1])), network)
    acp = plain.schedule.alphas_cumprod[t].view(-1, 1, 1, 1)
    eps = (x_t - acp.sqrt() * network.clamp(-1, 1)) / (1 - acp).sqrt()
    assert torch.allclose(pipeline.denoise(x_t, t, torch.tensor([0, 1])), eps, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("build", ["unet2", "unet1"])
@pytest.mark.parametrize("legacy", [False, True])
def test_every_variant_of_the_denoiser_comes_back(
    lightning_file, tiny_header, change_header, make_tensors, build, legacy
):
    for changes in (
        {"learned_variance": True},
        {"self_conditioning": True},
        {"conditional": False},
        {"objective": "x_0", "learned_variance": True, "self_conditioning": True, "clip_x_0": True},
    ):
        unet = dataclasses.replace(tiny_header.build.unet, build=build, **changes)
        classes = tiny_header.classes if unet.conditional else Classes(("image",))
        header = change_header(tiny_header, unet=unet, classes=classes)
        tensors = make_tensors(header)
        objective = {"eps": "x_T", "x_0": "x_0"}[unet.objective]
        # What the options say is left out: the tensors tell.
        path = lightning_file(tensors=tensors, legacy=legacy, estimator_objective=objective, clip_x0=unet.clip_x_0)
        found, weights = import_checkpoint(path, AIROGS, size=16)
        assert found.build.unet == unet
        assert found.classes == classes
        assert weights.keys() == tensors.keys()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_garbage_in_place_of_the_variance_changes_no_image(lightning_file, tmp_path, sampler):
    def add_variance(tensors):
        for name in (OUT + "weight", OUT + "bias"):
            tensors[name] = torch.cat([tensors[name], 1e3 * torch.randn(tensors[name].shape)])

    plain = imported(lightning_file(), tmp_path / "a.safetensors")
    learned = imported(lightning_file(state(add_variance)), tmp_path / "b.safetensors")
    assert learned.header.build.unet.learned_variance
    images = [
        pipeline.sample([0, 1], seeds=[1, 2], sampler=sampler, steps=4, guidance_scale=2.0)
        for pipeline in (plain, learned)
    ]
    assert torch.equal(*images)


def test_centring_of_inputs_is_noted_and_sampled_as_medfusion_does(lightning_file, tmp_path, capsys):
    centred = imported(lightning_file(do_input_centering=True), tmp_path / "a.safetensors")
    assert centred.header.training["input_centering"] is True
    assert "do_input_centering" in capsys.readouterr().err
    plain = imported(lightning_file(), tmp_path / "b.safetensors")
    assert capsys.readouterr().err == ""
    assert torch.equal(*(pipeline.sample([0], seeds=[1], steps=2) for pipeline in (plain, centred)))


def betas(strategy: str, start: float, end: float) -> torch.Tensor:
    """Medfusion's schedules, written out."""
    if strategy == "linear":
        return torch.linspace(start, end, 1000, dtype=torch.float64)
    acp = [math.cos((i / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(1001)]
    return torch.tensor([min(1 - acp[i + 1] / acp[i], 0.999) for i in range(1000)], dtype=torch.float64)


@pytest.mark.parametrize(
    ("given", "strategy"),
    [
        ({"schedule_strategy": "linear", "beta_start": 0.001}, "linear"),
        ({"schedule_strategy": "cosine"}, "cosine"),
        ({"timesteps": 1000}, "cosine"),  # the default of Medfusion's class
    ],
)
def test_other_noise_schedules_are_medfusions(lightning_file, given, strategy):
    header, _ = import_checkpoint(lightning_file(noise_scheduler_kwargs=given), AIROGS, size=16)
    assert header.build.schedule.strategy == strategy
    wanted = betas(strategy, header.build.schedule.beta_start, header.build.schedule.beta_end)
    assert torch.allclose(build_schedule(header.build.schedule).betas, wanted.float(), rtol=1e-4)


def test_unconditional_model_has_one_class_and_samples(lightning_file, tmp_path):
    without = state(lambda tensors: tensors.pop(DENOISER_PREFIX + "cond_embedder.embedding.weight"))
    pipeline = imported(lightning_file(without), tmp_path / "a.safetensors")
    assert pipeline.header.classes.names == ("image",)
    images = [pipeline.sample(labels, seeds=[1], steps=2) for labels in ([0], [-1])]
    assert torch.equal(*images)
    guided = pipeline.sample([0], seeds=[1], steps=2, guidance_scale=5.0)
    assert torch.equal(images[0], guided)


def test_more_classes_than_two_take_names_from_the_user(lightning_file, tmp_path):
    def five(tensors):
        tensors[DENOISER_PREFIX + "cond_embedder.embedding.weight"] = torch.randn(5, 16)

    path = lightning_file(state(five))
    with pytest.raises(CheckpointError, match=r"has 5 classes, airogs has 2.*--classes"):
        import_checkpoint(path, AIROGS)
    header, tensors = import_checkpoint(path, folder_info("skin", "abcde"), size=16)
    assert (header.dataset, header.classes.names) == ("skin", tuple("abcde"))
    save_model(tmp_path / "a.safetensors", header, tensors)
    images = load_pipeline(tmp_path / "a.safetensors").sample(range(5), seeds=[1] * 5, steps=2)
    assert len({image.numpy().tobytes() for image in images}) == 5


def test_size_may_be_any_multiple_of_the_down_sampling(lightning_file, tmp_path):
    pipeline = imported(lightning_file(), tmp_path / "a.safetensors", size=(12, 20))
    assert pipeline.header.size == (12, 20)
    assert pipeline.sample([0], seeds=[1], steps=2).shape == (1, 3, 12, 20)
    assert import_checkpoint(lightning_file(), AIROGS)[0].size == 256
    with pytest.raises(UsageError, match=r"--size 18: sides must be multiples of 4"):
        import_checkpoint(lightning_file(), AIROGS, size=18)


# ------------------------------------------------------------------------------------------------------- the way back


def test_export_hides_the_latent_scale_so_that_medfusion_computes_the_same(tiny_model_file, tmp_path, change_header):
    """The exported autoencoder's own latents are ours times the scale, and decode to the same image."""
    tensors = load_tensors(tiny_model_file)
    header = change_header(read_diffusion_header(tiny_model_file), latent_scale=0.25)
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    exported = export_state_dict(header, tensors)
    assert all(torch.equal(tensors[name], before[name]) for name in tensors)
    save_model(tmp_path / "back.safetensors", change_header(header, latent_scale=1.0), exported)
    ours, theirs = load_pipeline(tiny_model_file), load_pipeline(tmp_path / "back.safetensors")
    image = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    (mean, log_variance), (their_mean, their_log_variance) = ours.moments(image), theirs.moments(image)
    assert torch.allclose(their_mean, 0.25 * mean, atol=1e-6)
    assert torch.allclose(their_log_variance.exp(), 0.25**2 * log_variance.exp(), rtol=1e-4)
    assert torch.allclose(theirs.decode(their_mean), ours.decode(mean), atol=1e-5)


@pytest.mark.parametrize("legacy", [False, True])
def test_export_gives_back_what_was_imported(lightning_file, tiny_header, change_header, make_tensors, legacy):
    unet = dataclasses.replace(tiny_header.build.unet, objective="x_0", learned_variance=True, self_conditioning=True)
    tensors = make_tensors(change_header(tiny_header, unet=unet))
    path = lightning_file(tensors=tensors, legacy=legacy, estimator_objective="x_0")
    exported = export_state_dict(*import_checkpoint(path, AIROGS, size=16))
    assert exported.keys() == tensors.keys()
    assert all(torch.equal(exported[name], tensors[name]) for name in tensors)


def test_export_leaves_the_detail_stage_behind_and_refuses_v(tiny_header, change_header, tiny_tensors, capsys):
    detailed = change_header(tiny_header, detail=DetailBuild())
    exported = export_state_dict(detailed, {**tiny_tensors, f"{DETAIL_PREFIX}residual_scale": torch.ones(12)})
    assert exported.keys() == tiny_tensors.keys()
    assert "the detail stage is left out" in capsys.readouterr().err
    unet = dataclasses.replace(tiny_header.build.unet, objective="v")
    with pytest.raises(CheckpointError, match="predicts v"):
        export_state_dict(change_header(tiny_header, unet=unet), tiny_tensors)


def test_unknown_data_set_names_the_known_ones():
    with pytest.raises(UsageError, match="airogs"):
        find_dataset("airog")
