"""Copies of training images: planted ones are found, honest images are suspected as often as stated."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from synthmed.data.labels import Classes
from synthmed.data.sets.image_set import ImageSet
from synthmed.data.sets.reader import Reader
from synthmed.errors import DataError
from synthmed.evaluation.copies import CopyReport, find_copies
from synthmed.evaluation.copy_spaces import CopyFeatures, find_in_features
from synthmed.evaluation.lookalikes import FINE, Lookalikes, fit
from synthmed.evaluation.sheets import draw_pairs
from synthmed.runtime.seeds import numpy_generator

SIZE = 48
Images = NDArray[np.uint8]
CPU = torch.device("cpu")


@dataclasses.dataclass
class Pictures:
    """Images in memory, as a set reads them."""

    images: Images

    def __len__(self) -> int:
        return len(self.images)

    def pixels(self, index: int) -> Images:
        return self.images[index]

    def title(self, index: int) -> str:
        return str(index)


def image_set(images: Images, name: str, groups: Sequence[str] | None = None) -> ImageSet:
    count, size = len(images), (images.shape[1], images.shape[2])
    return ImageSet(
        name=name,
        kind=None,
        dataset=None,
        split=None,
        classes=Classes(("one",)),
        labels=np.zeros(count, dtype=np.int64),
        keys=tuple(f"{name}-{number}" for number in range(count)),
        groups=tuple(groups or ("",) * count),
        native_size=size,
        _reader=Reader(Pictures(images), size),
        _positions=np.arange(count),
    )


def draw(name: str, count: int) -> Images:
    """Return images of one kind: a bright disc that all share, and spots of their own. [count, SIZE, SIZE, 3]."""
    rng = numpy_generator(0, "draw", name)
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE - 0.5
    disc = 60 + 110 * (x**2 + y**2 < 0.2)
    spots = rng.normal(size=(count, 7, 7, 3)) * 40 + rng.normal(size=(count, 7, 7, 1)) * 40
    smooth = [
        np.asarray(
            Image.fromarray(np.clip(128 + part, 0, 255).astype(np.uint8)).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
        )
        for part in spots
    ]
    return np.clip(disc[:, :, None] + np.stack(smooth).astype(float) - 128, 0, 255).astype(np.uint8)


def jpeg(image: Images) -> Images:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=50)
    return np.asarray(Image.open(buffer))


def crop(image: Images, border: float = 0.05 * SIZE) -> Images:
    box = (border, border, SIZE - border, SIZE - border)
    return np.asarray(Image.fromarray(image).resize((SIZE, SIZE), Image.Resampling.BILINEAR, box=box))


def move(image: Images) -> Images:
    wide = Image.fromarray(np.pad(image, ((8, 8), (8, 8), (0, 0)), mode="edge"))
    turned = wide.rotate(4, Image.Resampling.BILINEAR, translate=(1, -1))
    return np.asarray(turned.crop((8, 8, 8 + SIZE, 8 + SIZE)))


PLANTS: dict[str, Callable[[Images], Images]] = {
    "exact": lambda image: image,
    "mirrored": lambda image: image[:, ::-1],
    "brightened": lambda image: np.clip(image * 1.1, 0, 255).astype(np.uint8),
    "compressed": jpeg,
    "cropped": crop,
    "mirrored and cropped more": lambda image: crop(image[:, ::-1], 0.1 * SIZE),
    "moved": move,
}


def as_features(images: Images) -> NDArray[np.float32]:
    """Return features of images: 6 x 6 pixels."""
    return np.stack(
        [np.asarray(Image.fromarray(image).resize((6, 6), Image.Resampling.BOX)).ravel() for image in images]
    ).astype(np.float32)


@pytest.fixture(scope="module")
def training() -> Images:
    return draw("training", 150)


@pytest.fixture(scope="module")
def held_out() -> Images:
    return draw("held-out", 120)


def report(training: Images, held_out: Images, generated: Images, *, features: bool = False, **more: Any) -> CopyReport:
    space = CopyFeatures(
        name="tiny",
        training=as_features(training),
        mirrored=as_features(training[:, :, ::-1]),
        held_out=as_features(held_out),
        generated=as_features(generated),
    )
    return find_copies(
        training=image_set(training, "training"),
        held_out=image_set(held_out, "held-out"),
        generated=image_set(generated, "generated"),
        features=space if features else None,
        generator=numpy_generator(0, "cells"),
        device=CPU,
        **more,
    )


@pytest.mark.parametrize("features", [False, True])
def test_planted_copies_are_found_among_honest_images(training: Images, held_out: Images, features: bool) -> None:
    planted = {5 * number: plant for number, plant in enumerate(PLANTS.values())}
    generated = draw("honest", 40)
    for number, plant in planted.items():
        generated[number] = plant(training[100 + number])
    result = report(training, held_out, generated, features=features)
    assert {number for number, row in enumerate(result.rows) if row.suspect} == set(planted)
    assert result.count == len(planted)
    assert result.expected == pytest.approx(40 / 121)
    assert result.p_value is not None and result.p_value < 1e-4
    for number, kind in zip(planted, PLANTS, strict=True):
        row = result.rows[number]
        assert row.pixels.key == f"training-{100 + number}", kind
        assert row.pixels.mirrored == kind.startswith("mirrored"), kind
        assert row.p == result.false_alarm_rate == 1 / 121
    if features:
        assert result.features is not None
        assert result.rows[0].features is not None and result.rows[0].features.distance == 0
        assert result.features.authenticity < 1


@pytest.mark.parametrize("features", [False, True])
def test_false_alarms_come_at_the_stated_rate(training: Images, held_out: Images, features: bool) -> None:
    result = report(training, held_out, draw("honest", 300), features=features, false_alarm_rate=0.1)
    assert result.false_alarm_rate == 12 / 121
    # Mean 29.8; the deviation is 9.6 with the scatter of the held-out images.
    assert result.count is not None and 10 < result.count < 52
    assert result.p_value is not None and 0.01 < result.p_value < 0.99
    assert result.pixel_z is not None and abs(result.pixel_z) < 3
    if features:
        assert result.features is not None and result.features.c_t is not None
        assert abs(result.features.c_t) < 3


def test_copies_alone_give_scores_far_below_zero(training: Images, held_out: Images) -> None:
    rng = numpy_generator(0, "noise")
    generated = np.clip(training + rng.normal(size=training.shape) * 6, 0, 255).astype(np.uint8)
    result = report(training, held_out, generated, features=True)
    assert result.count == len(training)
    assert result.p_value is not None and result.p_value < 1e-30
    assert result.features is not None and result.features.c_t is not None
    assert result.pixel_z is not None and max(result.pixel_z, result.features.c_t) < -8
    assert result.features.authenticity < 0.05


def test_blurred_images_are_no_copies(training: Images, held_out: Images) -> None:
    small = [Image.fromarray(image).resize((5, 5), Image.Resampling.BOX) for image in draw("blurred", 100)]
    generated = np.stack([np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BICUBIC)) for image in small])
    result = report(training, held_out, generated)
    # They are nearer to all training images than real ones are.
    assert result.pixel_z is not None and result.pixel_z < -3
    assert result.count is not None and result.count <= 5


def test_copy_of_an_image_that_stands_often_in_training_is_found(training: Images, held_out: Images) -> None:
    repeated = np.concatenate([training, training[:1].repeat(20, axis=0)])
    result = report(repeated, held_out, np.stack([jpeg(training[0]), *draw("honest", 3)]), features=True)
    assert result.rows[0].suspect


def test_other_images_of_the_patient_do_not_hide_a_copy(training: Images, held_out: Images) -> None:
    rng = numpy_generator(0, "visits")
    visits = np.clip(training[:1] + rng.normal(size=(6, SIZE, SIZE, 3)) * 12, 0, 255).astype(np.uint8)
    several = np.concatenate([training, visits])
    generated = image_set(np.stack([jpeg(training[0])]), "generated")
    ratios = {}
    for name, group in (("known", "a"), ("unknown", "")):
        groups = [group, *(f"p{number}" for number in range(1, 150)), *[group] * 6]
        result = find_copies(
            training=image_set(several, "training", groups),
            held_out=image_set(held_out, "held-out"),
            generated=generated,
            generator=numpy_generator(0, "cells"),
            device=CPU,
        )
        ratios[name] = result.rows[0].pixels.ratio
    assert ratios["known"] < 0.8 * ratios["unknown"]


def test_held_out_images_that_are_training_images_do_not_blind(training: Images, held_out: Images) -> None:
    leaked = held_out.copy()
    leaked[:3] = training[:3]
    result = report(training, leaked, training[50:60])
    assert result.left_out == ("held-out-0", "held-out-1", "held-out-2")
    assert (result.num_held_out, result.count) == (117, 10)


def test_few_held_out_images_raise_the_rate_instead_of_finding_nothing(training: Images, held_out: Images) -> None:
    result = report(training, held_out[:30], training[:5])
    assert result.false_alarm_rate == 1 / 31
    assert result.count == 5


def test_closest_held_out_images_are_named_with_their_rank(training: Images, held_out: Images) -> None:
    result = report(training, held_out, training[:1])
    assert [row.p for row in result.closest_held_out] == [rank / 120 for rank in range(1, 9)]
    assert [row.suspect for row in result.closest_held_out] == [True] + [False] * 7


def test_rows_do_not_depend_on_the_other_generated_images(training: Images, held_out: Images) -> None:
    generated = np.concatenate([draw("honest", 5), training[:2]])
    together = report(training, held_out, generated, features=True).rows
    alone = report(training, held_out, generated[::-1].copy(), features=True).rows[::-1]
    for first, second in zip(together, alone, strict=True):
        assert (first.p, first.suspect, first.pixels.key) == (second.p, second.suspect, second.pixels.key)
        assert first.pixels.distance == pytest.approx(second.pixels.distance, abs=1e-3)


def test_pixel_distance_is_zero_for_copies_and_blind_to_light(training: Images) -> None:
    search = Lookalikes(image_set(training, "training"), CPU)
    darker = (training[:10] * 0.8 + 7).astype(np.uint8)
    for images, limit in ((training[:10], 1e-6), (darker, 0.03)):
        distances, indices, mirrored = search.find(image_set(np.asarray(images), "generated"))
        assert indices[:, 0].tolist() == list(range(10))
        assert not mirrored[:, 0].any()
        assert distances[:, 0].max() < limit
        assert distances[:, 1].min() > 0.2
        assert (distances.diff(dim=1) >= 0).all()


def test_fit_undoes_scale_angle_and_shift() -> None:
    wide = torch.from_numpy(draw("wide", 6)).permute(0, 3, 1, 2).float().mean(dim=1, keepdim=True)
    matrix = torch.tensor([[0.95, -0.06, 0.05], [0.06, 0.95, -0.04]]).expand(6, 2, 3)
    grid = torch.nn.functional.affine_grid(matrix, [6, 1, FINE, FINE], align_corners=False)
    moved = torch.nn.functional.grid_sample(wide, grid, align_corners=False, padding_mode="border")
    plain = torch.nn.functional.interpolate(wide, (FINE, FINE), mode="bilinear", antialias=True)
    assert fit(moved, plain).min() > 0.99
    rows = [(part - part.mean()).flatten() for part in (moved[0], plain[0])]
    assert torch.cosine_similarity(rows[0], rows[1], dim=0) < 0.95
    # Of different images it makes no copies.
    assert fit(moved, plain.roll(1, 0)).max() < 0.97


def test_flat_images_resemble_nothing(training: Images, held_out: Images) -> None:
    result = report(training, held_out, np.full((2, SIZE, SIZE, 3), 90, dtype=np.uint8))
    assert result.count == 0
    assert result.rows[0].pixels.distance == pytest.approx(2**0.5, abs=1e-3)


def test_feature_neighbours_are_those_of_a_double_loop() -> None:
    rng = numpy_generator(0, "features")
    training, mirrored, images = (rng.normal(size=(count, 3)).astype(np.float32) for count in (12, 12, 7))
    found = find_in_features(CopyFeatures("toy", training, mirrored, images, images), images)
    for row, image in enumerate(images):
        plain, other = (np.linalg.norm(part - image, axis=1) for part in (training, mirrored))
        order = np.argsort(np.minimum(plain, other))[:8]
        assert found.indices[row].tolist() == order.tolist()
        assert found.distances[row] == pytest.approx(np.minimum(plain, other)[order], rel=1e-5)
        assert found.mirrored[row].tolist() == (other < plain)[order].tolist()


def test_sheet_shows_the_pairs_and_their_difference(training: Images, held_out: Images) -> None:
    generated = np.stack([*draw("honest", 2), training[7][:, ::-1]])
    result = report(training, held_out, generated)
    sheet = draw_pairs(
        result, training=image_set(training, "training"), generated=image_set(generated, "generated"), pairs=2
    )
    # 48 pixels become 192; above them a warning, the names of the columns, and words above each row.
    side, top = 4 * SIZE, 2 * 18 + 4
    assert sheet.shape == (top + 2 * (side + 21) + 4, 3 * (side + 4) + 4, 3)
    tiles = [sheet[top + 21 : top + 21 + side, 4 + column * (side + 4) :][:, :side] for column in range(3)]
    assert (tiles[0][1::4, 1::4] == generated[2]).all()
    assert (tiles[1] == tiles[0]).all()
    assert (tiles[2] == 0).all()


@pytest.mark.parametrize("features", [False, True])
def test_without_held_out_images_what_is_nearest_is_still_found(
    training: Images, held_out: Images, features: bool
) -> None:
    generated = np.stack([*draw("honest", 3), training[7][:, ::-1]])
    for few, why in ((held_out[:19], "at least 20"), (training[:30], "30 of 30 held-out images are training images")):
        result = report(training, few, generated, features=features)
        assert result.unranked is not None and why in result.unranked
        assert (result.count, result.p_value, result.pixel_z) == (None, None, None)
        nearest = result.rows[3]
        assert (nearest.pixels.key, nearest.pixels.mirrored, nearest.p) == ("training-7", True, None)
        assert nearest.closest.ratio < 1e-3 < result.rows[0].closest.ratio
        assert (result.features is not None) == features
    sets: dict[str, Any] = {
        name: image_set(images, name) for name, images in (("training", training), ("generated", generated))
    }
    alone = find_copies(**sets, held_out=None, generator=numpy_generator(0), device=CPU)
    assert alone.unranked is not None and "no held-out images" in alone.unranked


def test_published_scores_stand_beside_those_of_held_out_images(training: Images, held_out: Images) -> None:
    copied = report(training, held_out, training[:60], features=True).features
    honest = report(training, held_out, draw("honest", 60), features=True).features
    assert copied is not None and honest is not None
    for found in (copied, honest):
        assert found.real_authenticity is not None and found.real_c_t is not None
        assert found.real_authenticity.num_generated == found.real_c_t.num_generated == 60
        assert 0.2 < found.real_authenticity.mean < 0.8 and abs(found.real_c_t.mean) < 1
    assert copied.authenticity == 0 and 0.2 < honest.authenticity < 0.8
    few = report(training, held_out, training[:3], features=True).features
    assert few is not None and few.missing.keys() == {"C_T", "C_T of held-out images"}


def test_what_does_not_fit_is_refused(training: Images, held_out: Images) -> None:
    patients = image_set(training, "training", [f"p{number}" for number in range(150)])
    same = image_set(held_out, "held-out", [f"p{number + 149}" for number in range(120)])
    sets: dict[str, Any] = {"training": patients, "held_out": same, "generated": image_set(training[:2], "generated")}
    unranked = find_copies(**sets, generator=numpy_generator(0), device=CPU).unranked
    assert unranked is not None and "1 held-out patients" in unranked and "p149" in unranked
    sets["held_out"] = image_set(held_out, "held-out")
    with pytest.raises(DataError, match="other sizes"):
        find_copies(
            **{**sets, "generated": image_set(training[:2, :32, :32], "generated")},
            generator=numpy_generator(0),
            device=CPU,
        )
    wrong = CopyFeatures(
        "tiny", np.ones((150, 2), np.float32), None, np.ones((9, 2), np.float32), np.ones((2, 2), np.float32)
    )
    with pytest.raises(DataError, match="9"):
        find_copies(**sets, features=wrong, generator=numpy_generator(0), device=CPU)
