"""The stages of a training: what each starts from, what it needs, and what its run folder keeps of that."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from synthmed.data.images import encode_image
from synthmed.data.pixels import to_float
from synthmed.data.prepare.prepare import PrepareConfig, prepare_release
from synthmed.data.sets.image_set import open_images
from synthmed.data.shards.read import open_folder
from synthmed.data.shards.write import Sample, write_shard
from synthmed.errors import CheckpointError, DataError, RecipeError, ResumeError
from synthmed.files.content import hash_file
from synthmed.formats.model_files import load_tensors
from synthmed.generators.diffusion.family import DIFFUSION
from synthmed.generators.diffusion.pipeline import load_pipeline
from synthmed.generators.diffusion.recipe import DiffusionRecipe
from synthmed.generators.diffusion.training.adversarial import AdversarialStep
from synthmed.generators.diffusion.training.detail import DetailStep
from synthmed.generators.families import load_recipe, read_header
from synthmed.generators.family import StageRequest
from synthmed.generators.stages import run_recipe, run_stage
from synthmed.generators.starts import find_start
from synthmed.phantoms.release import phantom_release

STAGES = ("autoencoder", "adversarial", "detail")
SHORT = [f"{stage}.{name}" for stage in STAGES for name in ("steps=4", "checkpoint_every=2")]


def train_autoencoder(request):
    return run_stage(request, DIFFUSION.stage("autoencoder"))


def train_adversarial(request, start):
    return train_next("adversarial", request, start)


def train_next(stage, request, start):
    return run_stage(request, DIFFUSION.stage(stage), start)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "shards"
    prepare_release(phantom_release(24), folder, PrepareConfig(size=32))
    return folder


@pytest.fixture(scope="module")
def trained(shards, tmp_path_factory):
    """The run folder of a first stage."""
    run = tmp_path_factory.mktemp("trained")
    train_autoencoder(request(shards, run))
    return run


def request(shards, run, *changes, **fields):
    return StageRequest(load_recipe("tiny", [*SHORT, *changes]), shards, run, device="cpu", **fields)


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_lpips_without_weights_says_what_to_bring_and_how_to_do_without(shards, tmp_path):
    with pytest.raises(CheckpointError) as caught:
        train_autoencoder(request(shards, tmp_path / "run", "autoencoder.lpips_weight=1"))
    assert caught.value.exit_code == 3
    for words in ("vgg16-397923af.pth", "--vgg-weights FILE", "--set autoencoder.lpips_weight=0"):
        assert words in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_lpips_is_logged_and_its_weights_are_part_of_the_run(shards, vgg_file, vgg_state, tmp_path):
    changes = ["autoencoder.lpips_weight=0.5", "autoencoder.steps=1"]
    train_autoencoder(request(shards, tmp_path / "run", *changes, vgg_weights=vgg_file))
    folder = tmp_path / "run" / "autoencoder"
    assert json.loads((folder / "config.json").read_text())["vgg_sha256"] == hash_file(vgg_file)
    (row,) = rows(folder)
    whole = load_recipe("tiny", changes)
    assert isinstance(whole, DiffusionRecipe)
    recipe = whole.autoencoder
    parts = row["pixel"] + 1 - row["ssim"] + 0.5 * row["lpips"] + recipe.deep_weight * row["deep"]
    assert row["loss"] == pytest.approx(parts + recipe.kl_weight * row["kl_nats"] / (3 * 32 * 32), rel=1e-5)
    assert row["lpips"] > 0.01
    # The network of the loss is neither trained nor kept.
    state = load_file(folder / "state.safetensors")
    assert {name.split(".")[0] for name in state} == {"network", "averaged", "optimizer"}
    assert not any("features" in name for name in state)
    other = tmp_path / "other.safetensors"
    save_file({name: tensor + 1e-3 for name, tensor in vgg_state.items()}, other)
    with pytest.raises(ResumeError, match="vgg_sha256"):
        train_autoencoder(request(shards, tmp_path / "run", *changes, vgg_weights=other))


def test_adversarial_stage_goes_on_from_the_trained_weights(shards, trained, tmp_path):
    start = trained / "autoencoder" / "model.safetensors"
    # Without averaging, and so slow that four steps change next to nothing.
    changes = ["adversarial.lr=1e-9", "adversarial.ema_decay=0"]
    train_adversarial(request(shards, tmp_path, *changes), start)
    before, after = load_tensors(start), load_tensors(tmp_path / "adversarial" / "model.safetensors")
    assert before.keys() == after.keys()
    assert max((before[name] - after[name]).abs().max().item() for name in before) < 1e-7
    assert any(not torch.equal(before[name], after[name]) for name in before)
    config = json.loads((tmp_path / "adversarial" / "config.json").read_text())
    assert config["autoencoder_sha256"] == hash_file(start)
    assert {"adversarial", "adaptive_weight", "discriminator", "pixel", "deep"} <= rows(tmp_path / "adversarial")[
        -1
    ].keys()


@pytest.mark.parametrize(("stage", "step"), [("adversarial", AdversarialStep), ("detail", DetailStep)])
def test_stage_after_the_autoencoder_resumes_to_the_bit(shards, trained, tmp_path, monkeypatch, stage, step):
    start = trained / "autoencoder" / "model.safetensors"
    train_next(stage, request(shards, tmp_path / "whole"), start)
    forward, calls = step.forward, []

    def crash(self, batch, draw):
        calls.append(draw.step)
        if draw.step == 3:
            raise KeyError("as if killed")
        return forward(self, batch, draw)

    with monkeypatch.context() as patch:
        patch.setattr(step, "forward", crash)
        with pytest.raises(KeyError):
            train_next(stage, request(shards, tmp_path / "cut"), start)
    assert calls == [0, 1, 2, 3]
    train_next(stage, request(shards, tmp_path / "cut"), start)
    for name in ("state", "model"):
        whole, cut = (load_file(tmp_path / run / stage / f"{name}.safetensors") for run in ("whole", "cut"))
        assert whole.keys() == cut.keys()
        assert all(torch.equal(whole[key], cut[key]) for key in whole)
        judged = any(key.startswith("discriminators.") for key in whole)
        assert judged == (stage == "adversarial" and name == "state")


def test_detail_stage_learns_the_same_from_images_that_do_not_fit_into_memory(shards, trained, tmp_path, monkeypatch):
    """Their reconstructions are then made anew in each step: the same up to the half precision of those in memory."""
    start, changes = trained / "autoencoder" / "model.safetensors", ["detail.flips=none", "detail.ema_decay=0"]
    train_next("detail", request(shards, tmp_path / "kept", *changes), start)
    monkeypatch.setattr("synthmed.generators.diffusion.training.detail.CACHE_BYTES", 0)
    train_next("detail", request(shards, tmp_path / "anew", *changes), start)
    kept, anew = (load_tensors(tmp_path / run / "detail" / "model.safetensors") for run in ("kept", "anew"))
    assert kept.keys() == anew.keys()
    assert max((kept[name] - anew[name]).abs().max().item() for name in kept) < 1e-2
    assert any(not torch.equal(kept[name], anew[name]) for name in kept)


def test_detail_stage_is_part_of_the_first_stage_and_of_the_whole_model(shards, trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    short = ["diffusion.steps=2", 'stages=["autoencoder", "detail", "diffusion"]']
    finished = dict(run_recipe(request(shards, tmp_path / "run", *short)))
    first, part, whole = (load_tensors(Path(figures["model"])) for figures in finished.values())
    assert all(torch.equal(first[name], part[name]) for name in first)
    assert all(torch.equal(part[name], whole[name]) for name in part)
    assert {name.split(".")[0] for name in whole} == {"latent_embedder", "noise_estimator", "detail"}
    headers = [read_header(Path(figures["model"])) for figures in finished.values()]
    assert [header.build.detail is not None for header in headers] == [False, True, True]
    assert headers[-1].preset.detail_steps == 4
    # Residual and reconstruction come to unit mean square by the scales that were measured.
    pipeline = load_pipeline(Path(finished["detail"]["model"]))
    train = open_images(open_folder(shards, "train"), size=32)
    images = to_float(train.load(range(len(train))))
    structure = pipeline.decode(pipeline.moments(images)[0])
    assert pipeline.detail is not None
    for bands in (pipeline.detail.residual(images, structure), pipeline.detail.guide(structure)):
        assert bands.square().mean(dim=(0, 2, 3)).tolist() == pytest.approx([1] * 12, rel=1e-3)


def test_without_a_detail_stage_its_steps_are_none(shards, trained, tmp_path):
    start = trained / "autoencoder" / "model.safetensors"
    figures = run_stage(request(shards, tmp_path, "diffusion.steps=1"), DIFFUSION.stage("diffusion"), start)
    assert read_header(Path(figures["model"])).preset.detail_steps == 0


def test_adversarial_stage_of_another_autoencoder_is_refused(shards, trained, tmp_path):
    start = trained / "autoencoder" / "model.safetensors"
    train_adversarial(request(shards, tmp_path, "adversarial.steps=1"), start)
    state = load_file(start)
    with safe_open(start, "pt") as file:
        header = file.metadata()
    other = tmp_path / "other.safetensors"
    save_file({name: tensor + 1e-3 for name, tensor in state.items()}, other, metadata=header)
    with pytest.raises(ResumeError, match="autoencoder_sha256"):
        train_adversarial(request(shards, tmp_path, "adversarial.steps=1"), other)


def test_a_stage_starts_from_the_preferred_one_before_it(tmp_path):
    denoiser, adversarial = DIFFUSION.stage("diffusion"), DIFFUSION.stage("adversarial")
    assert find_start(denoiser, tmp_path) is None
    paths = {}
    for stage in ("autoencoder", "adversarial", "detail"):
        paths[stage] = tmp_path / stage / "model.safetensors"
        paths[stage].parent.mkdir()
        paths[stage].touch()
        assert find_start(denoiser, tmp_path) == find_start(denoiser, tmp_path / "new", tmp_path) == paths[stage]
    assert find_start(denoiser, tmp_path, paths["autoencoder"]) == paths["autoencoder"]
    assert find_start(adversarial, tmp_path) == paths["autoencoder"]
    assert find_start(DIFFUSION.stage("detail"), tmp_path) == paths["adversarial"]
    with pytest.raises(CheckpointError, match="no such autoencoder"):
        find_start(denoiser, tmp_path, tmp_path / "none")


def test_wrong_autoencoder_is_refused_before_the_folder_is_claimed(shards, trained, tmp_path, monkeypatch):
    start = trained / "autoencoder" / "model.safetensors"
    monkeypatch.setattr("synthmed.generators.diffusion.training.stages.Autoencoder", type("Another", (), {}))
    with pytest.raises(CheckpointError, match="is not Medfusion's autoencoder"):
        train_adversarial(request(shards, tmp_path / "run"), start)
    assert not (tmp_path / "run").exists()


def test_run_at_a_constant_rate_is_trained_longer(shards, trained, tmp_path):
    train_autoencoder(request(shards, tmp_path / "run", "autoencoder.steps=2"))
    train_autoencoder(request(shards, tmp_path / "run"))
    whole, longer = (load_tensors(run / "autoencoder" / "model.safetensors") for run in (trained, tmp_path / "run"))
    assert all(torch.equal(whole[name], longer[name]) for name in whole)
    config = json.loads((tmp_path / "run" / "autoencoder" / "config.json").read_text())
    assert config == json.loads((trained / "autoencoder" / "config.json").read_text())
    with pytest.raises(ResumeError, match=r"autoencoder\.steps: 4 there, 3 asked for"):
        train_autoencoder(request(shards, tmp_path / "run", "autoencoder.steps=3"))
    with pytest.raises(ResumeError, match=r"autoencoder\.lr"):
        train_autoencoder(request(shards, tmp_path / "run", "autoencoder.steps=6", "autoencoder.lr=1e-4"))


@pytest.mark.parametrize("steps", [2, 4])
def test_run_of_an_earlier_version_that_knew_no_keep_goes_on(shards, trained, tmp_path, steps):
    train_autoencoder(request(shards, tmp_path, "autoencoder.steps=2", "autoencoder.keep=last"))
    path = tmp_path / "autoencoder" / "config.json"
    config = json.loads(path.read_text())
    del config["autoencoder"]["keep"]
    path.write_text(json.dumps(config))
    with pytest.raises(ResumeError, match=r"autoencoder\.lr: 0.003 there, 0.001 asked for"):
        train_autoencoder(request(shards, tmp_path, "autoencoder.lr=1e-3"))
    assert train_autoencoder(request(shards, tmp_path, f"autoencoder.steps={steps}"))["step"] == steps
    assert json.loads(path.read_text())["autoencoder"]["keep"] == "best"
    with pytest.raises(ResumeError, match=r"autoencoder\.keep: .best. there, .last. asked for"):
        train_autoencoder(request(shards, tmp_path, f"autoencoder.steps={steps}", "autoencoder.keep=last"))


def test_denoiser_of_an_earlier_version_that_knew_no_choice_of_timesteps_goes_on(shards, trained, tmp_path):
    start, diffusion = trained / "autoencoder" / "model.safetensors", DIFFUSION.stage("diffusion")
    run_stage(request(shards, tmp_path, "diffusion.steps=1", "sampler.detail_steps=0"), diffusion, start)
    path = tmp_path / "diffusion" / "config.json"
    config = json.loads(path.read_text())
    assert "detail_steps" not in config["sampler"]
    for name in ("keep", "timesteps", "log_snr_mean", "log_snr_deviation"):
        del config["diffusion"][name]
    path.write_text(json.dumps(config))
    longer = ("diffusion.steps=2", "sampler.detail_steps=0")
    with pytest.raises(ResumeError, match=r"diffusion\.timesteps"):
        run_stage(request(shards, tmp_path, *longer, "diffusion.timesteps=normal"), diffusion, start)
    assert run_stage(request(shards, tmp_path, *longer), diffusion, start)["step"] == 2


def swap(shard):
    """Change the pixels of a shard, but neither its size, nor its time, nor what its stats file states."""
    before, data = shard.stat(), shard.read_bytes()
    at = data.index(b"IDAT") + 40
    shard.write_bytes(data[:at] + bytes(255 - byte for byte in data[at : at + 4]) + data[at + 4 :])
    os.utime(shard, ns=(before.st_atime_ns, before.st_mtime_ns))


def make_anew(shard):
    shard.unlink()  # a finished one would be left
    write_shard(shard, [Sample("a", encode_image(np.zeros((32, 32, 3), np.uint8), "png"), "png", 0, {})])


@pytest.mark.parametrize(("split", "change"), [("train", swap), ("validation", make_anew)])
def test_shards_that_have_changed_are_refused(shards, tmp_path, split, change):
    folder, short = shutil.copytree(shards, tmp_path / "shards"), "diffusion.steps=2"
    half = request(folder, tmp_path / "run", "autoencoder.steps=2", short)
    dict(run_recipe(half))
    models = {name: hash_file(tmp_path / "run" / name / "model.safetensors") for name in ("autoencoder", "diffusion")}
    shard = folder / f"{split}-000000.tar"
    shard.touch()
    dict(run_recipe(half))
    change(shard)
    diffusion, start = DIFFUSION.stage("diffusion"), tmp_path / "run/autoencoder/model.safetensors"
    longer = request(folder, tmp_path / "run", "autoencoder.steps=4", "diffusion.steps=4")
    for train in (lambda which: train_autoencoder(which), lambda which: run_stage(which, diffusion, start)):
        for wanted in (half, longer):
            with pytest.raises(ResumeError, match=f"has changed since it was checked: {shard}, 1 file "):
                train(wanted)
    assert models == {name: hash_file(tmp_path / "run" / name / "model.safetensors") for name in models}


def test_autoencoder_that_has_changed_is_refused(shards, trained, tmp_path):
    start = shutil.copy(trained / "autoencoder" / "model.safetensors", tmp_path / "a.safetensors")
    train_adversarial(request(shards, tmp_path / "run"), Path(start))
    train_autoencoder(request(shards, tmp_path / "other", "autoencoder.steps=1"))
    shutil.copy(tmp_path / "other" / "autoencoder" / "model.safetensors", start)
    with pytest.raises(ResumeError, match=r"since it was checked: .*a\.safetensors \(autoencoder_sha256: "):
        train_adversarial(request(shards, tmp_path / "run"), Path(start))


def test_run_whose_rate_depends_on_the_steps_is_not(shards, tmp_path):
    cosine = "autoencoder.lr_schedule=cosine"
    train_autoencoder(request(shards, tmp_path / "run", "autoencoder.steps=2", cosine))
    with pytest.raises(ResumeError, match=r"autoencoder\.steps"):
        train_autoencoder(request(shards, tmp_path / "run", cosine))


def test_recipe_names_its_stages_and_finished_ones_are_passed_over(shards, tmp_path):
    short = ["diffusion.steps=2", 'stages=["autoencoder", "adversarial", "diffusion"]']
    first = dict(run_recipe(request(shards, tmp_path / "run", *short)))
    assert list(first) == ["autoencoder", "adversarial", "diffusion"]
    sharp = tmp_path / "run" / "adversarial" / "model.safetensors"
    config = json.loads((tmp_path / "run" / "diffusion" / "config.json").read_text())
    assert config["autoencoder_sha256"] == hash_file(sharp)
    before = {name: hash_file(tmp_path / "run" / name / "model.safetensors") for name in first}
    assert dict(run_recipe(request(shards, tmp_path / "run", *short))) == first
    assert before == {name: hash_file(tmp_path / "run" / name / "model.safetensors") for name in first}
    assert [stage.name for stage in DIFFUSION.stages_of(load_recipe("tiny"))] == ["autoencoder", "diffusion"]
    with pytest.raises(RecipeError, match="stages has 'gan'"):
        load_recipe("tiny", ['stages=["gan"]'])


def test_what_does_not_fit_is_said(shards, tmp_path, capsys):
    train_autoencoder(request(shards, tmp_path / "run", "data.size=16", "autoencoder.steps=1", "device=gpu"))
    notes = capsys.readouterr().err
    count = len(open_folder(shards, "train").entries)
    assert f"train: {count} of {count} images of other sizes are resized to 16 x 16 pixels" in notes
    assert "note: recipe tiny is for a GPU" in notes
    train_autoencoder(request(shards, tmp_path / "same", "autoencoder.steps=1"))
    assert "note: " not in capsys.readouterr().err


def test_class_without_training_images_is_refused(tmp_path):
    for split in ("train", "validation"):
        image = encode_image(np.zeros((32, 32, 3), dtype=np.uint8), "png")
        write_shard(tmp_path / "data" / f"{split}-000000.tar", [Sample("a", image, "png", 1, {"label_name": "x"})])
    with pytest.raises(DataError, match="has no training images of 0"):
        train_autoencoder(request(tmp_path / "data", tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_splits_of_different_classes_are_refused(tmp_path):
    image = encode_image(np.zeros((32, 32, 3), dtype=np.uint8), "png")
    for split, name in (("train", "cat"), ("validation", "dog")):
        write_shard(tmp_path / "data" / f"{split}-000000.tar", [Sample("a", image, "png", 0, {"label_name": name})])
    with pytest.raises(DataError, match=r"train has the classes cat, validation dog$"):
        train_autoencoder(request(tmp_path / "data", tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_size_that_the_downsampling_does_not_divide_is_refused(shards, tmp_path):
    with pytest.raises(RecipeError, match=r"data\.size 30 is not a multiple of the down-sampling 4"):
        train_autoencoder(request(shards, tmp_path / "run", "data.size=30"))
    assert not (tmp_path / "run").exists()
