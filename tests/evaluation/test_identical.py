"""Images that are equal to the last pixel: counted, and said in plain words."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from synthmed.evaluation.identical import Identical, count_identical, findings, set_findings
from synthmed.evaluation.sets import EvaluationSets

NOISE = np.random.default_rng(0).integers(0, 256, (40, 3, 16, 16))
NONE = asdict(Identical(images=10, different=10, training=0, held_out=0, real=None))


def near(count: int, p_value: float) -> dict[str, Any]:
    return {"count": count, "p_value": p_value, "expected": 0.51}


SAID: dict[str, tuple[dict[str, Any], dict[str, Any] | None, list[str]]] = {
    "nothing": ({}, near(1, 0.4), []),
    "not sought": ({}, None, []),
    "not ranked": ({}, {"count": None, "p_value": None, "expected": None}, []),
    "all": ({"training": 10}, near(10, 1e-9), ["all 10 images are copies of training images"]),
    "some": ({"training": 3}, None, ["3 of 10 images are copies of training images"]),
    "one": ({"training": 1}, None, ["1 of 10 images is a copy of one training image"]),
    "the only one": ({"images": 1, "different": 1, "training": 1}, None, ["1 images is a copy of one training image"]),
    "held out": ({"held_out": 10}, None, ["all 10 images are copies of held-out real images"]),
    "reference": ({"training": None, "real": 10}, None, ["all 10 images are copies of real images"]),
    "near": (
        {"training": 3},
        near(9, 1e-9),
        [
            "3 of 10 images are copies of training images",
            "9 of 10 images are suspiciously near to training images, where 0.5 are expected of unseen real images",
        ],
    ),
    "by chance": ({}, near(2, 0.02), []),
    "the same": ({"different": 1}, None, ["all 10 images are the same picture"]),
    "repeated": ({"different": 7}, None, ["10 images are only 7 different pictures"]),
}


@pytest.mark.parametrize("name", SAID)
def test_findings_are_plain_words(name: str) -> None:
    counts, copies, words = SAID[name]
    assert set_findings({**NONE, **counts}, copies) == words


def test_findings_name_the_sets() -> None:
    held_out = {"name": "eyes:test", "num_images": {"a": 2, "b": 2}, "num_in_training": 4}
    results = {"identical": {"gan": {**NONE, "different": 1}}, "copies": {}, "held_out": held_out}
    assert findings(results) == [
        "gan: all 10 images are the same picture",
        "eyes:test: all 4 images are training images, not held out",
    ]


def test_images_are_counted_by_their_pixels(make_image_set: Any) -> None:
    def images(*parts: slice) -> Any:
        chosen = np.concatenate([NOISE[part] for part in parts])
        return make_image_set(chosen, np.zeros(len(chosen), int))

    training, held_out = images(slice(0, 10)), images(slice(10, 20))
    made = images(slice(0, 3), slice(0, 3), slice(15, 25))
    sets = EvaluationSets(training, (made,), training, held_out)
    assert count_identical(made, sets) == Identical(images=16, different=13, training=6, held_out=5, real=None)
    alone = EvaluationSets(images(slice(20, 30)), (made,), None, None)
    assert count_identical(made, alone) == Identical(images=16, different=13, training=None, held_out=None, real=5)
