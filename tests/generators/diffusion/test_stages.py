"""The stages of a training: what each starts from, what it needs, and what its run folder keeps of that."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from synthmed.config.recipes import load_recipe
from synthmed.data.prepare.prepare import PrepareConfig, prepare_release
from synthmed.errors import CheckpointError, RecipeError, ResumeError
from synthmed.files.content import hash_file
from synthmed.formats.model_files import load_tensors
from synthmed.generators.diffusion.training.adversarial import AdversarialStep
from synthmed.generators.diffusion.training.stages import (
    StageRequest,
    find_autoencoder,
    train_adversarial,
    train_autoencoder,
)
from synthmed.phantoms.release import phantom_release

SHORT = [f"{stage}.{name}" for stage in ("autoencoder", "adversarial") for name in ("steps=4", "checkpoint_every=2")]


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
    recipe = load_recipe("tiny", changes).autoencoder
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


def test_adversarial_stage_resumes_to_the_bit(shards, trained, tmp_path, monkeypatch):
    start = trained / "autoencoder" / "model.safetensors"
    train_adversarial(request(shards, tmp_path / "whole"), start)
    forward, calls = AdversarialStep.forward, []

    def crash(step, batch, draw):
        calls.append(draw.step)
        if draw.step == 3:
            raise KeyError("as if killed")
        return forward(step, batch, draw)

    with monkeypatch.context() as patch:
        patch.setattr(AdversarialStep, "forward", crash)
        with pytest.raises(KeyError):
            train_adversarial(request(shards, tmp_path / "cut"), start)
    assert calls == [0, 1, 2, 3]
    train_adversarial(request(shards, tmp_path / "cut"), start)
    for name in ("state", "model"):
        whole, cut = (load_file(tmp_path / run / "adversarial" / f"{name}.safetensors") for run in ("whole", "cut"))
        assert whole.keys() == cut.keys()
        assert all(torch.equal(whole[key], cut[key]) for key in whole)
        assert any(key.startswith("discriminators.") for key in whole) == (name == "state")


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


def test_autoencoder_of_a_run_is_that_of_its_adversarial_stage(tmp_path):
    assert find_autoencoder(tmp_path, None) is None
    paths = {}
    for stage in ("autoencoder", "adversarial"):
        paths[stage] = tmp_path / stage / "model.safetensors"
        paths[stage].parent.mkdir()
        paths[stage].touch()
        assert find_autoencoder(tmp_path, None) == find_autoencoder(tmp_path / "new", tmp_path) == paths[stage]
    assert find_autoencoder(tmp_path, paths["autoencoder"]) == paths["autoencoder"]
    assert find_autoencoder(tmp_path, None, stages=("autoencoder",)) == paths["autoencoder"]
    with pytest.raises(CheckpointError, match="no such autoencoder"):
        find_autoencoder(tmp_path, tmp_path / "none")


def test_size_that_the_downsampling_does_not_divide_is_refused(shards, tmp_path):
    with pytest.raises(RecipeError, match=r"data\.size 30 is not a multiple of the down-sampling 4"):
        train_autoencoder(request(shards, tmp_path / "run", "data.size=30"))
    assert not (tmp_path / "run").exists()
