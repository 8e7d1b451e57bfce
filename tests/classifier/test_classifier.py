"""Rules of classifier training: batches, augmentation, weights, reproducibility."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import huggingface_hub
import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from synthmed.classifier.augmentation import augment
from synthmed.classifier.config import ClassifierConfig
from synthmed.classifier.networks import build_network, check_model, load_pretrained_weights, load_weights_file
from synthmed.classifier.training import Placement, learning_rate, mixed_batches, predict, train_network
from synthmed.config.fields import meaning
from synthmed.data.sets.image_set import ImageSet
from synthmed.errors import CheckpointError, TrainingError, UsageError
from synthmed.features import timm_features
from synthmed.metrics.statistics import auroc
from synthmed.study.arms import batch_shares, parse_arms

TINY = "test_resnet"
MakeImageSet = Callable[..., ImageSet]
CPU = Placement(torch.device("cpu"), torch.float32)


SquareImages = Callable[..., ImageSet]


@pytest.fixture
def square_images(make_image_set: MakeImageSet) -> SquareImages:
    """A function that gives noise with a bright square, whose corner is that of its class."""

    def make(count: int, *, seed: int = 0, classes: int = 2) -> ImageSet:
        labels = np.arange(count) % classes
        noise = torch.Generator().manual_seed(seed)
        images = torch.randint(0, 120, (count, 3, 32, 32), generator=noise, dtype=torch.uint8)
        for image, label in zip(images, labels.tolist(), strict=True):
            image[:, 4 + 8 * label : 12 + 8 * label, 4 + 8 * label : 12 + 8 * label] += 120
        return make_image_set(images, labels)

    return make


@pytest.fixture
def numbered_images(make_image_set: MakeImageSet) -> Callable[..., ImageSet]:
    """A function that gives images which all hold their own index, from `first` on."""

    def make(first: int, labels: list[int]) -> ImageSet:
        values = np.arange(first, first + len(labels)).reshape(-1, 1, 1, 1)
        return make_image_set(np.broadcast_to(values, (len(labels), 3, 2, 2)), labels)

    return make


@pytest.fixture
def train(square_images: SquareImages) -> Callable[..., tuple[nn.Module, float]]:
    """A function that trains a tiny classifier."""

    def make(
        config: ClassifierConfig, repetition: int = 0, arm: str = "real", initial: dict[str, Tensor] | None = None
    ) -> tuple[nn.Module, float]:
        batches = mixed_batches(
            {"real": square_images(40)},
            {"real": config.batch_size},
            steps=config.steps,
            balanced=config.balanced,
            seed=repetition,
        )
        return train_network(
            batches, num_classes=2, config=config, arm=arm, repetition=repetition, placement=CPU, initial=initial
        )

    return make


def config(**changes) -> ClassifierConfig:
    return ClassifierConfig(**{"model": TINY, "steps": 3, "batch_size": 8, **changes})


def test_batches_hold_the_shares_of_their_sources_and_both_classes_equally(numbered_images):
    sources = {"real": numbered_images(0, [0] * 6 + [1] * 3), "synthetic": numbered_images(100, [0, 1, 0, 1])}
    for images, labels in mixed_batches(sources, {"real": 6, "synthetic": 2}, steps=5, balanced=True, seed=0):
        assert images.shape == (8, 3, 2, 2) and images.dtype == torch.uint8
        assert (images[:, 0, 0, 0] >= 100).tolist() == [False] * 6 + [True] * 2
        assert labels[:6].sum() == 3 and labels[6:].sum() == 1


def test_batches_show_each_image_once_before_any_again(numbered_images):
    sources = {"real": numbered_images(0, [0, 1] * 4)}
    batches = list(mixed_batches(sources, {"real": 4}, steps=4, balanced=True, seed=0))
    for epoch in (batches[:2], batches[2:]):
        assert sorted(int(image[0, 0, 0]) for images, _ in epoch for image in images) == list(range(8))


def test_labels_stay_with_their_images(numbered_images):
    source = numbered_images(0, [index % 3 for index in range(10)])
    for images, labels in mixed_batches({"real": source}, {"real": 4}, steps=6, balanced=False, seed=1):
        assert labels.tolist() == [int(image[0, 0, 0]) % 3 for image in images]


def test_each_arm_has_the_same_batch_size():
    settings = config(batch_size=32, real_share=0.8)
    assert batch_shares("real", settings) == {"real": 32}
    assert batch_shares("synthetic", settings) == {"synthetic": 32}
    assert batch_shares("both", settings) == {"real": 26, "synthetic": 6}
    assert batch_shares("both", config(batch_size=32, real_share=1)) == {"real": 32}


def test_arms_are_read_from_a_list_in_fixed_order():
    assert parse_arms("both, real") == ("real", "both")


@pytest.mark.parametrize(("text", "message"), [("reel", "did you mean real"), (",", "no arms")])
def test_unknown_or_no_arm_is_a_usage_error(text, message):
    with pytest.raises(UsageError, match=message):
        parse_arms(text)


@pytest.mark.parametrize(
    "change",
    [{"steps": 0}, {"batch_size": 0}, {"lr": 0.0}, {"lr": float("nan")}, {"weight_decay": -1}, {"real_share": 2}],
)
def test_setting_out_of_range_is_a_usage_error(change):
    with pytest.raises(UsageError, match=next(iter(change)).replace("_", "-")):
        config(**change)


def test_every_setting_has_a_meaning_for_the_help():
    assert meaning(ClassifierConfig, "lr").startswith("Peak learning rate")


def test_learning_rate_rises_to_its_peak_and_falls_to_zero():
    settings = config(steps=100, lr=1.0)
    rates = [learning_rate(step, settings) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == rates[9] == 1
    assert all(a >= b for a, b in pairwise(rates[9:])) and 0 < rates[-1] < 0.01


def test_no_augmentation_leaves_images_as_they_are():
    images = torch.rand(4, 3, 8, 8)
    assert augment(images, torch.Generator(), flips="none", light=False) is images


@pytest.mark.parametrize(("flips", "variants"), [("horizontal", 2), ("both", 4)])
def test_flips_mirror_along_their_axes_only(flips, variants):
    image = torch.rand(3, 6, 6) * 2 - 1
    mirrored = [image, image.flip(2), image.flip(1), image.flip(1, 2)][:variants]
    shown = augment(image.expand(64, -1, -1, -1), torch.Generator().manual_seed(0), flips=flips, light=False)
    found = [[torch.allclose(one, other, atol=1e-5) for other in mirrored] for one in shown]
    assert all(sum(row) == 1 for row in found)
    assert all(any(row[variant] for row in found) for variant in range(variants))


def test_light_augmentation_changes_images_a_little_and_keeps_their_range():
    image = torch.linspace(-1, 1, 32).expand(3, 32, 32)
    shown = augment(image.expand(50, -1, -1, -1), torch.Generator().manual_seed(0), flips="none", light=True)
    assert shown.min() >= -1 and shown.max() <= 1
    change = (shown - image).abs().mean(dim=(1, 2, 3))
    assert change.min() > 0.01 and change.max() < 0.4
    # Each image has draws of its own, and the generator decides them.
    assert not torch.equal(shown[0], shown[1])
    again = augment(image.expand(50, -1, -1, -1), torch.Generator().manual_seed(0), flips="none", light=True)
    assert torch.equal(shown, again)


def test_classifier_learns_what_can_be_learnt(train, square_images):
    network, final_loss = train(config(steps=25, batch_size=16, lr=3e-3, augment=False, flips="none"))
    test = square_images(30, seed=1)
    probabilities = predict(network, test, CPU.device)
    assert probabilities.shape == (30, 2) and np.allclose(probabilities.sum(axis=1), 1)
    assert auroc(probabilities, test.labels, positive=1) > 0.95
    assert final_loss < 0.4


def test_same_training_gives_the_same_weights_and_leaves_global_randomness_alone(train):
    before = torch.get_rng_state()
    first, second = train(config())[0], train(config())[0]
    assert torch.equal(torch.get_rng_state(), before)
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("other", [{"repetition": 1}, {"arm": "both"}, {"config": {"seed": 1}}])
def test_repetition_arm_and_seed_each_change_the_training(train, other):
    first = train(config())[0]
    second = train(config(**other.pop("config", {})), **other)[0]
    assert not torch.equal(first.state_dict()["conv1.0.weight"], second.state_dict()["conv1.0.weight"])


def test_loss_that_is_not_finite_ends_the_training_before_the_weights_change(train):
    broken = {
        "layer1.0.conv1.weight": torch.full_like(
            build_network(TINY, 2).state_dict()["layer1.0.conv1.weight"], torch.nan
        )
    }
    with pytest.raises(TrainingError, match="loss is nan at step 0"):
        train(config(), initial=broken)


def test_unknown_model_is_a_usage_error_with_near_names():
    with pytest.raises(UsageError, match="resnet50"):
        check_model("resnt50", None)
    # A name that would be fetched from a hub is not a model of timm's.
    with pytest.raises(UsageError):
        check_model("hf-hub:someone/model", None)


def test_model_of_one_image_size_asks_for_it():
    with pytest.raises(UsageError, match="use --size 224"):
        check_model("vit_tiny_patch16_224", None)
    check_model("vit_tiny_patch16_224", 224)
    check_model("resnet50", None)


def test_weights_file_is_taken_whole_where_its_head_fits(tmp_path):
    stored = build_network(TINY, 2).state_dict()
    save_file(stored, tmp_path / "w.safetensors")
    loaded = load_weights_file(tmp_path / "w.safetensors", TINY, 2)
    network = build_network(TINY, 2, loaded)
    assert all(torch.equal(network.state_dict()[key], value) for key, value in stored.items())


def test_head_for_other_classes_is_left_out_and_said(tmp_path, capsys):
    save_file(build_network(TINY, 10).state_dict(), tmp_path / "w.safetensors")
    loaded = load_weights_file(tmp_path / "w.safetensors", TINY, 2)
    assert not any(key.startswith("fc.") for key in loaded) and "conv1.0.weight" in loaded
    assert "head is for other classes" in capsys.readouterr().err


def test_counters_of_batch_norm_may_be_missing(tmp_path):
    weights = {k: v for k, v in build_network(TINY, 2).state_dict().items() if "num_batches_tracked" not in k}
    save_file(weights, tmp_path / "w.safetensors")
    loaded = load_weights_file(tmp_path / "w.safetensors", TINY, 2)
    assert loaded.keys() == build_network(TINY, 2).state_dict().keys()
    assert all(torch.equal(loaded[key], value) for key, value in weights.items())


def test_weights_of_another_model_are_refused(tmp_path):
    weights = build_network(TINY, 2).state_dict()
    weights["extra.weight"] = torch.zeros(1)
    weights["conv1.0.weight"] = torch.zeros(1)
    del weights["bn1.weight"]
    save_file(weights, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError) as caught:
        load_weights_file(tmp_path / "w.safetensors", TINY, 2)
    for part in ("bn1.weight is missing", "extra.weight is not part of it", "conv1.0.weight has shape [1]"):
        assert part in str(caught.value)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model.module._orig_mod."])
@pytest.mark.parametrize("classes", [2, 10])
def test_weights_of_any_program_are_read_and_never_run(tmp_path, capsys, prefix, classes):
    whole = build_network(TINY, classes).state_dict()
    torch.save({"state_dict": {prefix + key: value.bfloat16() for key, value in whole.items()}}, tmp_path / "w.ckpt")
    loaded = load_weights_file(tmp_path / "w.ckpt", TINY, 2)
    assert torch.equal(loaded["conv1.0.weight"], whole["conv1.0.weight"].bfloat16().float())
    assert ("fc.weight" in loaded) == (classes == 2)
    said = capsys.readouterr().err
    assert ("names are taken without" in said) == bool(prefix)
    assert ("head is for other classes" in said) == (classes == 10)
    with pytest.raises(CheckpointError, match="no such weights file"):
        load_weights_file(tmp_path / "missing.safetensors", TINY, 2)


def test_pretrained_without_internet_says_which_file_to_bring(monkeypatch, tmp_path):
    def offline(address):
        raise ConnectionError("no connection to huggingface.co")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(timm_features, "check_connection", offline)
    bring = r"model\.safetensors of huggingface\.co/timm/test_resnet.*--weights FILE"
    with pytest.raises(CheckpointError, match=f"no connection to huggingface.co .*{bring}"):
        load_pretrained_weights(TINY)


def test_pretrained_weights_come_from_the_cache_without_a_connection(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(timm_features, "check_connection", None)
    published = timm.get_pretrained_cfg(TINY)
    assert published is not None and published.hf_hub_id
    folder = tmp_path / f"models--{published.hf_hub_id.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    (folder / "snapshots" / "abc").mkdir(parents=True)
    weights = timm.create_model(TINY).state_dict()
    save_file(weights, folder / "snapshots" / "abc" / "model.safetensors")
    found = load_pretrained_weights(TINY)
    assert found and all(torch.equal(found[name], weights[name]) for name in found)
