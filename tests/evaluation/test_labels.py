"""Rules of the label check: separable toy images agree, swapped labels show, nothing is trained twice."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from synthmed.classifier.config import ClassifierConfig
from synthmed.classifier.training import Placement
from synthmed.data.labels import Classes
from synthmed.errors import CheckpointError, DataError
from synthmed.evaluation import label_classifier
from synthmed.evaluation.label_classifier import FOLDER, open_classifier
from synthmed.evaluation.labels import check_labels, score_labels, summarise_labels
from synthmed.metrics.statistics import share_interval

CPU = Placement(torch.device("cpu"), torch.float32)
TINY = ClassifierConfig(model="test_resnet", steps=60, batch_size=16, flips="none")


def square_images(count: int, seed: int, classes: int = 2) -> np.ndarray:
    """Noise with a bright square, whose corner is that of its class; the classes in turn."""
    images = np.random.default_rng(seed).integers(0, 120, (count, 3, 32, 32))
    for number, image in enumerate(images):
        corner = 4 + 8 * (number % classes)
        image[:, corner : corner + 8, corner : corner + 8] += 100
    return images


@pytest.fixture(scope="module")
def train(make_image_set):
    return make_image_set(square_images(60, 0), np.arange(60) % 2, name="train")


@pytest.fixture(scope="module")
def held_out(make_image_set):
    return make_image_set(square_images(80, 1), np.arange(80) % 2, name="held out")


@pytest.fixture(scope="module")
def made(make_image_set):
    return make_image_set(square_images(200, 2), np.arange(200) % 2, name="made", kind="synthetic")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("labels")


@pytest.fixture(scope="module")
def classifier(train, folder):
    return open_classifier(train, folder, placement=CPU, config=TINY)


def swap(labels: np.ndarray, count: int) -> np.ndarray:
    chosen = np.random.default_rng(0).permutation(len(labels))[:count]
    swapped = labels.copy()
    swapped[chosen] = 1 - swapped[chosen]
    return swapped


def test_labels_that_show_what_they_say_agree(classifier, held_out, made):
    for images in (held_out, made):
        found = score_labels(classifier, images)
        assert found.agreement.value > 0.97 and found.mean_probability > 0.9
        assert found.auroc is not None and found.auroc > 0.99
        assert sum(map(sum, found.confusion)) == found.agreement.images == len(images)
        assert [row.agreement.images for row in found.classes] == [len(images) // 2] * 2


def test_a_tenth_of_labels_swapped_is_seen_as_that(classifier, made, train, held_out, folder):
    swapped = dataclasses.replace(made, labels=swap(made.labels, 20))
    report = check_labels(
        train=train,
        held_out=held_out,
        generated={"right": made, "swapped": swapped},
        folder=folder,
        placement=CPU,
        config=TINY,
    )
    right, wrong = report.generated
    assert (right.name, wrong.name) == ("right", "swapped")
    expected = right.agreement.value - 0.1 * (2 * right.agreement.value - 1)
    assert wrong.agreement.low < expected < wrong.agreement.high
    assert wrong.agreement.value == pytest.approx(expected, abs=0.03)
    # The interval of the difference to real images tells that something is wrong, and of right labels that nothing is.
    assert report.differences[1][1] < 0 < report.differences[0][1]
    json.dumps(dataclasses.asdict(report))


def test_a_second_start_trains_nothing_and_finds_the_same(classifier, train, held_out, folder, monkeypatch):
    before = score_labels(classifier, held_out)
    monkeypatch.setattr(label_classifier, "train_network", None)
    renamed = dataclasses.replace(train, name="another name")
    again = open_classifier(renamed, folder, placement=CPU, config=TINY)
    assert score_labels(again, held_out) == before
    for other in (
        {"train": train.subset(range(59))},
        {"train": dataclasses.replace(train, labels=1 - train.labels)},
        {"config": dataclasses.replace(TINY, seed=1)},
    ):
        with pytest.raises(TypeError, match="NoneType"):
            open_classifier(**{"train": train, "folder": folder, "placement": CPU, "config": TINY, **other})


def test_a_broken_kept_classifier_is_named(train, classifier, folder, tmp_path):
    (kept,) = (folder / FOLDER).iterdir()
    (tmp_path / FOLDER).mkdir(parents=True)
    (tmp_path / FOLDER / kept.name).write_bytes(b"broken")
    with pytest.raises(CheckpointError, match="remove it"):
        open_classifier(train, tmp_path, placement=CPU, config=TINY)


def test_larger_images_are_made_smaller(train, tmp_path, monkeypatch):
    monkeypatch.setattr(label_classifier, "MAX_SIZE", 16)
    short = dataclasses.replace(TINY, steps=1)
    small = open_classifier(train, tmp_path, placement=CPU, config=short)
    assert small.size == 16 and small.image_size == (32, 32)
    assert score_labels(small, train).agreement.images == 60


def test_sets_that_do_not_fit_are_refused(classifier, train, held_out, made, make_image_set, folder):
    def check(**changes):
        words = {"train": train, "held_out": held_out, "generated": {"made": made}, **changes}
        return check_labels(folder=folder, placement=CPU, config=TINY, **words)

    with pytest.raises(DataError, match="classes differ: no, yes in real images, yes, no in made"):
        check(generated={"made": dataclasses.replace(made, classes=Classes(("yes", "no")))})
    with pytest.raises(DataError, match=r"\(16, 16\) pixels"):
        check(generated={"made": make_image_set(np.zeros((2, 3, 16, 16)), [0, 1])})
    with pytest.raises(DataError, match="has no images"):
        check(generated={"made": made.subset([])})
    with pytest.raises(DataError, match="shares 60"):
        check(held_out=train)
    with pytest.raises(DataError, match=r"shares 1 patient.*: p"):
        groups = ("p",) * 60
        check(
            train=dataclasses.replace(train, groups=groups), held_out=dataclasses.replace(held_out, groups=("p",) * 80)
        )
    with pytest.raises(DataError, match="no training images of yes"):
        check(train=train.subset(range(0, 60, 2)))


def test_figures_of_known_probabilities():
    probabilities = np.array([[0.9, 0.05, 0.05], [0.2, 0.7, 0.1], [0.1, 0.6, 0.3], [0.3, 0.3, 0.4]])
    generator = np.random.default_rng(0)
    found = summarise_labels(
        "x", ("a", "b", "c"), probabilities, np.array([0, 0, 1, 2]), ("p", "p", "q", ""), generator
    )
    assert found.confusion == ((1, 1, 0), (0, 1, 0), (0, 0, 1))
    assert found.agreement == share_interval(3, 4, units=3)
    assert found.mean_probability == pytest.approx((0.9 + 0.2 + 0.6 + 0.4) / 4)
    assert [row.agreement.value for row in found.classes] == [0.5, 1, 1]
    # Of class a: 0.9 and 0.2 against 0.1 and 0.3.
    assert [row.auroc for row in found.classes] == [0.75, pytest.approx(2 / 3), 1]
    assert found.auroc == pytest.approx((0.75 + 2 / 3 + 1) / 3)


def test_a_set_of_one_class_has_no_auroc(classifier, made):
    found = score_labels(classifier, made.subset(range(0, 40, 2)))
    assert found.auroc is None and found.auroc_interval is None
    assert [row.label for row in found.classes] == ["no"] and found.classes[0].auroc is None
    assert found.confusion[1] == (0, 0)
