"""The stages of a training: what each starts from, what it needs, and what its run folder keeps of that."""

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from synthmed.data.images import encode_image
from synthmed.data.labels import Classes
from synthmed.data.prepare.prepare import PrepareConfig, prepare_release
from synthmed.data.shards.card import FolderInfo
from synthmed.data.shards.plan import RUN_FILE, shard_name
from synthmed.data.shards.side_files import write_side_files
from synthmed.data.shards.write import Sample, write_shard
from synthmed.errors import CheckpointError, DataError, RecipeError, ResumeError
from synthmed.files.atomic import write_json
from synthmed.files.content import hash_file
from synthmed.formats.model_files import load_tensors
from synthmed.generators.diffusion.family import DIFFUSION
from synthmed.generators.diffusion.recipe import DiffusionRecipe
from synthmed.generators.diffusion.training.adversarial import AdversarialStep
from synthmed.generators.families import load_recipe
from synthmed.generators.family import StageRequest
from synthmed.generators.stages import find_start, run_recipe, run_stage
from synthmed.phantoms.release import phantom_release

AUTOENCODER, ADVERSARIAL, DENOISER = DIFFUSION.stages
SHORT = [
    f"{stage.name}.{change}"
    for stage in DIFFUSION.stages
    for change in ("steps=4", "checkpoint_every=2", "preview_every=0")
]


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


def train_autoencoder(asked):
    return run_stage(asked, AUTOENCODER)


def train_adversarial(asked, start):
    return run_stage(asked, ADVERSARIAL, start)


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
    loaded = load_recipe("tiny", changes)
    assert isinstance(loaded, DiffusionRecipe)
    recipe = loaded.autoencoder
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
    assert find_start(DENOISER, tmp_path) is None
    paths = {}
    for stage in ("autoencoder", "adversarial"):
        paths[stage] = tmp_path / stage / "model.safetensors"
        paths[stage].parent.mkdir()
        paths[stage].touch()
        assert find_start(DENOISER, tmp_path) == find_start(DENOISER, tmp_path / "new", tmp_path) == paths[stage]
    assert find_start(DENOISER, tmp_path, paths["autoencoder"]) == paths["autoencoder"]
    assert find_start(ADVERSARIAL, tmp_path) == paths["autoencoder"]
    with pytest.raises(CheckpointError, match="no such autoencoder"):
        find_start(DENOISER, tmp_path, tmp_path / "none")


def test_size_that_the_downsampling_does_not_divide_is_refused(shards, tmp_path):
    with pytest.raises(RecipeError, match=r"data\.size 30 is not a multiple of the down-sampling 4"):
        train_autoencoder(request(shards, tmp_path / "run", "data.size=30"))
    assert not (tmp_path / "run").exists()


def test_stages_are_trained_one_after_the_other_and_only_once(shards, tmp_path):
    asked = request(shards, tmp_path)
    first = dict(run_recipe(asked))
    assert list(first) == ["autoencoder", "diffusion"]
    assert not (tmp_path / "adversarial").exists()
    start = tmp_path / "autoencoder" / "model.safetensors"
    config = json.loads((tmp_path / "diffusion" / "config.json").read_text())
    assert config["autoencoder_sha256"] == hash_file(start)
    models = [tmp_path / name / "model.safetensors" for name in first]
    before = [(hash_file(path), rows(path.parent)) for path in models]
    again = dict(run_recipe(asked))
    assert {name: figures["model"] for name, figures in again.items()} == dict(
        zip(first, map(str, models), strict=True)
    )
    assert [(hash_file(path), rows(path.parent)) for path in models] == before


def test_recipe_that_names_the_adversarial_stage_trains_it_too(shards, tmp_path):
    asked = request(shards, tmp_path, 'stages=["autoencoder", "adversarial", "diffusion"]')
    assert [name for name, _ in run_recipe(asked)] == ["autoencoder", "adversarial", "diffusion"]
    config = json.loads((tmp_path / "diffusion" / "config.json").read_text())
    assert config["autoencoder_sha256"] == hash_file(tmp_path / "adversarial" / "model.safetensors")
    assert config["autoencoder_sha256"] != hash_file(tmp_path / "autoencoder" / "model.safetensors")


def test_more_steps_at_a_constant_rate_go_on_from_the_trained_weights(shards, tmp_path):
    train_autoencoder(request(shards, tmp_path / "longer"))
    train_autoencoder(request(shards, tmp_path / "longer", "autoencoder.steps=7"))
    train_autoencoder(request(shards, tmp_path / "whole", "autoencoder.steps=7"))
    folders = [tmp_path / run / "autoencoder" for run in ("longer", "whole")]
    configs = [json.loads((folder / "config.json").read_text()) for folder in folders]
    assert configs[0] == configs[1] and configs[0]["autoencoder"]["steps"] == 7
    longer, whole = (load_tensors(folder / "model.safetensors") for folder in folders)
    assert longer.keys() == whole.keys()
    assert all(torch.equal(longer[name], whole[name]) for name in whole)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([], ["autoencoder.steps=3"]),
        ([], ["autoencoder.steps=7", "autoencoder.lr=1e-5"]),
        (["autoencoder.lr_schedule=cosine"], ["autoencoder.lr_schedule=cosine", "autoencoder.steps=7"]),
    ],
)
def test_other_changes_of_a_run_are_refused(shards, tmp_path, before, after):
    train_autoencoder(request(shards, tmp_path, *before))
    config = (tmp_path / "autoencoder" / "config.json").read_bytes()
    with pytest.raises(ResumeError, match=r"autoencoder\.steps: 4 there") as caught:
        train_autoencoder(request(shards, tmp_path, *after))
    assert caught.value.exit_code == 3
    assert (tmp_path / "autoencoder" / "config.json").read_bytes() == config


@pytest.mark.parametrize("size", [16, 32])
def test_images_of_another_size_than_the_recipes_are_mentioned(shards, tmp_path, capsys, size):
    train_autoencoder(request(shards, tmp_path, f"data.size={size}", "autoencoder.steps=1"))
    notes = [line for line in capsys.readouterr().err.splitlines() if "resized" in line]
    assert notes == ["note: images of 32 x 32 pixels are resized to the recipe's 16 x 16"] * (size != 32)


def write_data(folder, labels):
    """Write a shard of noise for each split, with these labels."""
    for split, ours in labels.items():
        images = np.random.default_rng(0).integers(0, 256, (len(ours), 32, 32, 3), dtype=np.uint8)
        samples = [
            Sample(f"{split}-{index}", encode_image(image, "png"), "png", label, {"label": label})
            for index, (image, label) in enumerate(zip(images, ours, strict=True))
        ]
        write_shard(folder / shard_name(split, 0), samples)


def test_class_without_training_images_is_refused(tmp_path):
    data = tmp_path / "data"
    write_data(data, {"train": (0, 0), "validation": (0, 1)})
    info = FolderInfo(kind="real", dataset="pets", classes=Classes(("cat", "dog")), size=32)
    write_json(data / RUN_FILE, {"folder": info.as_config()})
    write_side_files(data, info)
    with pytest.raises(DataError, match="has no training images of dog") as caught:
        train_autoencoder(request(data, tmp_path / "run"))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_splits_of_different_classes_are_refused(tmp_path):
    write_data(tmp_path / "data", {"train": (0, 0), "validation": (0, 1)})
    with pytest.raises(DataError, match=r"train has the classes 0, validation 0, 1$"):
        train_autoencoder(request(tmp_path / "data", tmp_path / "run"))
    assert not (tmp_path / "run").exists()
