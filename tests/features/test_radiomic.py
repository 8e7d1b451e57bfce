"""Radiomic features against definitions written out, closed forms, symmetries, and real images made worse."""

import math
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from synthmed.data.images import decode_image, resize_image
from synthmed.errors import DataError, UsageError
from synthmed.features import radiomic
from synthmed.features.detail import haar_step
from synthmed.features.extractor import open_extractor
from synthmed.features.intensity import FLOOR, LEVELS, split_planes
from synthmed.features.radiomic import RadiomicExtractor, measure, unit_of
from synthmed.features.texture import TOLERANCE, binary_patterns, co_occurrence
from synthmed.runtime.seeds import numpy_generator, torch_generator

CPU = torch.device("cpu")
HISTOLOGY = Path(__file__).resolve().parents[3] / "shared" / "data" / "histology-mini"


def textures(count=4, height=40, width=48, low=30, high=220, seed=0):
    """Return smooth noise in colour, [count, 3, height, width] uint8 in [low, high]."""
    values = torch.randn(count, 3, height + 8, width + 8, generator=torch_generator(seed, "textures"))
    smooth = torch.nn.functional.avg_pool2d(values, 9, stride=1) * 9 + 0.3 * values[:, :, 4:-4, 4:-4]
    return ((smooth * 0.15 + 0.5).clamp(0, 1) * (high - low) + low).round().to(torch.uint8)


def grey(values):
    """Return one image [1, 3, H, W] of a plane of grey values."""
    return torch.as_tensor(values).to(torch.uint8).expand(1, 3, *np.shape(values))


def assert_equal(found, expected, but=()):
    for name in expected.keys() - set(but):
        torch.testing.assert_close(found[name], expected[name], rtol=1e-9, atol=1e-9, msg=name)


def test_constant_image_has_level_and_nothing_else():
    found = {name: value.item() for name, value in measure(grey(np.full((32, 40), 51))).items()}
    assert all(math.isfinite(value) for value in found.values())
    for name, value in found.items():
        last = name.rpartition(".")[2]
        if name.startswith("luma.q") or name == "luma.mean" or name.startswith("layout."):
            expected = 0.2
        elif name.startswith(("cb.q", "cr.q", "cb.mean", "cr.mean")):
            expected = 128 / 255
        elif last in ("homogeneity", "energy", "correlation", "p0"):
            expected = 1.0
        elif last == "log_energy":
            expected = math.log(FLOOR)
        else:
            expected = 0.0
        assert value == pytest.approx(expected, abs=1e-12), name


def test_checkerboard_in_closed_form():
    board = np.indices((33, 33)).sum(axis=0) % 2 * 255
    found = {name: value.item() for name, value in measure(grey(board)).items()}
    # Beside each other the levels are 0 and 15, on diagonals equal, and so are all at two steps.
    assert found["cooccurrence.d1.contrast"] == pytest.approx(math.log(226) / 2)
    assert found["cooccurrence.d1.homogeneity"] == pytest.approx((1 / 226 + 1) / 2)
    assert found["cooccurrence.d1.entropy"] == pytest.approx(1, abs=1e-5)
    assert found["cooccurrence.d2.contrast"] == 0
    assert found["cooccurrence.d2.correlation"] == pytest.approx(1)
    assert found["luma.sd"] == pytest.approx(0.5, abs=1e-3)
    # A dark pixel has four bright neighbours, apart from each other; a bright one has no brighter.
    assert found["patterns.r1.p9"] ** 2 == pytest.approx(0.5, abs=1e-3)
    assert found["patterns.r1.p0"] ** 2 == pytest.approx(0.5, abs=1e-3)
    assert found["patterns.r2.p0"] == 1
    assert found["haar.s1.diagonal.log_energy"] == pytest.approx(0, abs=1e-4)
    assert found["haar.s1.horizontal.log_energy"] == found["haar.s2.diagonal.log_energy"] == math.log(FLOOR)
    assert found["gradient.mean"] == 0
    assert found["laplacian.log_energy"] == pytest.approx(math.log(16))


def test_first_order_equals_scipy():
    images = textures()
    found = measure(images)
    for number, plane in enumerate(split_planes(images)[0].flatten(1).numpy() / 255):
        assert found["luma.mean"][number].item() == pytest.approx(plane.mean())
        assert found["luma.sd"][number].item() == pytest.approx(plane.std())
        # The floor under the variance takes a thousandth off.
        assert math.sinh(found["luma.skewness"][number]) == pytest.approx(stats.skew(plane), rel=0.01, abs=1e-3)
        kurtosis = 3 * math.exp(found["luma.log_kurtosis"][number])
        assert kurtosis == pytest.approx(stats.kurtosis(plane, fisher=False), rel=0.01)
        for share in (0.05, 0.25, 0.5, 0.75, 0.95):
            expected = np.quantile(plane, share, method="inverted_cdf")
            assert found[f"luma.q{round(100 * share):02d}"][number].item() == pytest.approx(expected)
        shares = np.histogram(np.round(plane * 255), bins=np.arange(0, LEVELS + 1, 8))[0] / plane.size
        assert found["luma.entropy"][number].item() == pytest.approx(stats.entropy(shares, base=2))


def test_luma_and_colours_are_those_of_jpeg():
    images = textures(1)
    luma, cb, cr = split_planes(images)
    red, green, blue = images[0].double()
    expected = 0.299 * red + 0.587 * green + 0.114 * blue
    for plane, values in (
        (luma, expected),
        (cb, 128 + (blue - expected) / 1.772),
        (cr, 128 + (red - expected) / 1.402),
    ):
        assert (plane[0] - values).abs().max() < 0.65  # half for rounding, the rest for thousandths


def test_correlation_of_colours_equals_numpys():
    images = textures(1)
    found = measure(images)
    expected = np.corrcoef(images[0].flatten(1).numpy())
    for pair, (a, b) in {"rg": (0, 1), "rb": (0, 2), "gb": (1, 2)}.items():
        assert found[f"colour.{pair}.correlation"].item() == pytest.approx(expected[a, b], abs=5e-3)
    assert measure(grey(textures(1)[0, 0].numpy()))["colour.rb.correlation"].item() == 1


@pytest.mark.parametrize(("rows", "columns"), [(0, 1), (2, 0), (4, 4), (8, -8), (1, -1)])
def test_co_occurrence_equals_double_loop(rows, columns):
    luma = split_planes(textures(2, 32, 36))[0]
    found = co_occurrence(luma, rows, columns)
    for image, counts in zip(luma.numpy(), found.numpy(), strict=True):
        expected = np.zeros((16, 16))
        for row in range(32):
            for column in range(36):
                if 0 <= row + rows < 32 and 0 <= column + columns < 36:
                    a, b = image[row, column] // 16, image[row + rows, column + columns] // 16
                    expected[a, b] += 1
                    expected[b, a] += 1
        np.testing.assert_allclose(counts, expected / expected.sum(), atol=1e-12)


def test_statistics_of_co_occurrence_equal_their_definitions():
    luma = split_planes(textures(1))[0]
    found = measure(textures(1))
    sums = dict.fromkeys(("contrast", "homogeneity", "energy", "correlation", "entropy"), 0.0)
    for rows, columns in ((0, 2), (2, 0), (2, 2), (2, -2)):
        p = co_occurrence(luma, rows, columns)[0].numpy()
        i, j = np.indices(p.shape)
        mean = (i * p).sum()
        variance = ((i - mean) ** 2 * p).sum()
        sums["contrast"] += np.log1p(((i - j) ** 2 * p).sum()) / 4
        sums["homogeneity"] += (p / (1 + (i - j) ** 2)).sum() / 4
        sums["energy"] += np.sqrt((p**2).sum()) / 4
        sums["correlation"] += (((i - mean) * (j - mean) * p).sum() + 1 / 12) / (variance + 1 / 12) / 4
        sums["entropy"] += stats.entropy(p.ravel(), base=2) / 4
    for name, expected in sums.items():
        assert found[f"cooccurrence.d2.{name}"].item() == pytest.approx(expected), name


@pytest.mark.parametrize("radius", [1, 2])
def test_binary_patterns_equal_double_loop(radius):
    luma = split_planes(textures(1, 32, 34))[0]
    image, found = luma[0].numpy(), binary_patterns(luma, radius)[0].numpy()
    assert found.shape == (32 - 2 * radius, 34 - 2 * radius) and len(np.unique(found)) == 10
    walk = [(-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1)]
    for row in range(radius, 32 - radius):
        for column in range(radius, 34 - radius):
            bits = [
                image[row + radius * down, column + radius * right] - image[row, column] >= TOLERANCE
                for down, right in walk
            ]
            changes = sum(bits[number] != bits[number - 1] for number in range(8))
            assert found[row - radius, column - radius] == (sum(bits) if changes <= 2 else 9)


def test_haar_step_keeps_the_energy_and_names_the_direction():
    plane = torch.rand(2, 32, 48, dtype=torch.float64, generator=torch_generator(0, "plane"))
    coarse, bands = haar_step(plane)
    torch.testing.assert_close(sum(part.square().sum() for part in (coarse, *bands)), plane.square().sum())
    stripes = (torch.arange(48) % 2).double().expand(1, 32, 48)  # values change from left to right
    _, (horizontal, vertical, diagonal) = haar_step(stripes)
    assert horizontal.abs().min() == 1 and not vertical.any() and not diagonal.any()


def test_quarter_turn_swaps_directions_and_changes_nothing_else():
    images = textures(4, 40, 40)
    found, turned = measure(images), measure(images.rot90(1, dims=(2, 3)))
    expected = dict(found)
    for name in found:
        if ".horizontal." in name:
            other = name.replace("horizontal", "vertical")
            expected[name], expected[other] = found[other], found[name]
        elif name in ("gradient.across", "gradient.diagonal"):
            expected[name] = -found[name]
        elif name.startswith("layout."):
            # What stands at (r, c) after a turn to the left stood at (c, 3 - r).
            row, column = int(name[8]), int(name[10])
            expected[name] = found[f"layout.r{column}c{3 - row}"]
    assert_equal(turned, expected)
    assert (found["gradient.across"].abs() > 0.01).any()


def test_brighter_image_differs_in_level_alone():
    """By 16 grey levels, one level of the co-occurrence, without clipping."""
    images = textures(low=30, high=220)
    found, brighter = measure(images), measure(images + 16)
    expected = dict(found)
    for name in found:
        if name == "luma.mean" or name.startswith(("luma.q", "layout.")):
            expected[name] = found[name] + 16 / 255
    assert_equal(brighter, expected)


def test_stripes_have_a_direction():
    stripes = np.tile(np.arange(40) // 2 % 2 * 200, (40, 1))
    across, along = (measure(grey(plane))["gradient.across"].item() for plane in (stripes, stripes.T))
    assert across == pytest.approx(1, abs=1e-3) and along == pytest.approx(-1, abs=1e-3)


def test_ramp_has_its_slope_as_gradient_and_no_curvature():
    ramp = np.add.outer(3 * np.arange(32), 4 * np.arange(32))
    found = {name: value.item() for name, value in measure(grey(ramp)).items()}
    for name in ("mean", "q50", "q99"):
        assert found[f"gradient.{name}"] == pytest.approx(5 / 255), name
    assert found["gradient.across"] == pytest.approx((16 - 9) / 25, abs=0.02)  # the floor under the energy
    assert found["gradient.diagonal"] == pytest.approx(2 * 12 / 25, abs=0.05)
    assert found["laplacian.log_energy"] == pytest.approx(math.log(FLOOR))


def test_names_units_and_number_of_features():
    extractor = open_extractor("radiomic", device=CPU)
    assert isinstance(extractor, RadiomicExtractor)
    names = extractor.feature_names
    assert 100 <= len(names) == len(set(names)) == extractor.num_features <= 200
    units = {name: unit_of(name) for name in names}
    assert units["luma.mean"] == 0.1 and units["cb.mean"] == 0.03 and units["haar.s2.cb.log_energy"] == 0.6
    # No pattern is there for nothing.
    used = {next(pattern for pattern, _ in radiomic.UNITS if fnmatchcase(name, pattern)) for name in names}
    assert used == {pattern for pattern, _ in radiomic.UNITS}
    found = extractor(textures())
    assert found.shape == (4, len(names)) and found.dtype == torch.float32
    place = names.index("luma.sd")
    torch.testing.assert_close(found[:, place].double() * 0.05, measure(textures())["luma.sd"], rtol=1e-6, atol=0)


def test_row_depends_on_its_image_alone(monkeypatch):
    monkeypatch.setattr(radiomic, "CHUNK_PIXELS", 3 * 40 * 48)
    extractor = RadiomicExtractor()
    images = textures(8)
    torch.testing.assert_close(extractor(images), torch.cat([extractor(image[None]) for image in images]))
    assert torch.equal(extractor(images), extractor(images))


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (75, 130)])
def test_any_size_from_32_pixels_gives_finite_features_within_bounds(size):
    noise = numpy_generator(0, "noise").integers(0, 256, (2, 3, *size), dtype=np.uint8)
    spot = np.zeros((1, 3, *size), dtype=np.uint8)
    spot[:, 0, 5, 5] = 255
    extractor = RadiomicExtractor()
    black, white = extractor(torch.zeros(1, 3, *size).byte()), extractor(torch.full((1, 3, *size), 255).byte())
    for found in (extractor(torch.from_numpy(noise)), extractor(torch.from_numpy(spot)), black, white):
        assert found.isfinite().all() and found.abs().max() < 60


def test_small_images_and_weights_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"images of 31 x 64 pixels .*32 pixels a side"):
        RadiomicExtractor()(textures(1, 31, 64))
    with pytest.raises(UsageError, match="radiomic features have no weights"):
        open_extractor("radiomic", weights=tmp_path / "w.pth", device=CPU)


def test_numbers_are_those_of_this_version():
    """Whoever changes what an image gives raises VERSION and these: caches and results are told apart by it."""
    images = torch.arange(3 * 32 * 32).view(1, 3, 32, 32).square() // 7 % 251
    extractor = RadiomicExtractor()
    weights = torch.arange(1, extractor.num_features + 1) / extractor.num_features
    total = (extractor(images.byte())[0] * weights).sum().item()
    assert radiomic.VERSION == 1
    assert total == pytest.approx(225.3953, abs=1e-3)


def frechet_distance(real, generated):
    """Return the distance of Gaussians fitted to features, with the root of the covariances' product by its trace."""
    a, b = (features.double().numpy() for features in (real, generated))
    shift = a.mean(axis=0) - b.mean(axis=0)
    a, b = ((x - x.mean(axis=0)) / math.sqrt(len(x) - 1) for x in (a, b))
    overlap = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    return (shift**2).sum() + (a**2).sum() + (b**2).sum() - 2 * overlap


@pytest.mark.skipif(not HISTOLOGY.is_dir(), reason="the real images are not on this machine")
def test_distances_of_real_images_are_in_a_sensible_order():
    from torchvision.transforms.functional import gaussian_blur

    paths = [sorted((HISTOLOGY / label).iterdir())[:200] for label in ("benign", "malignant")]
    images = [
        torch.stack(
            [torch.from_numpy(resize_image(decode_image(p.read_bytes(), p.name), 64, "crop").copy()) for p in some]
        )
        for some in paths
    ]
    extractor = RadiomicExtractor()
    order = numpy_generator(0, "halves").permutation(400)
    both = torch.cat(images).permute(0, 3, 1, 2)
    features, other = extractor(both), both[order[200:]]
    noise = 10 * torch.randn(other.shape, generator=torch_generator(0, "noise"))
    worse = {
        "blurred": gaussian_blur(other, [7, 7], [1.0, 1.0]),
        "noisy": (other + noise).round().clamp(0, 255).byte(),
        "brighter": (other.int() + 40).clamp(0, 255).byte(),
    }
    half = features[order[:200]]
    floor = frechet_distance(half, features[order[200:]])
    classes = frechet_distance(features[:200], features[200:])
    found = {name: frechet_distance(half, extractor(changed)) for name, changed in worse.items()}
    assert 3 * floor < classes < min(found.values()), (floor, classes, found)
    assert max(found.values()) < 1000
