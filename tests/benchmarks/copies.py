"""How many planted copies are found, at which rate of false alarms: `python tests/benchmarks/copies.py SHARDS`.

SHARDS has a train split and validation or test. Held-out patients are divided in two halves again and again: one sets
the bar, the other is the honest images among which copies of training images are planted. With WEIGHTS, a file of
tf_efficientnet_lite0, features are searched as well as pixels. Nothing of the images is written. The column "blurred"
is the honest images again as a weak model would make them: no copies, though nearer to everything.
"""

from __future__ import annotations

import argparse
import io
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from synthmed.data.pixels import to_rgb_arrays
from synthmed.data.sets.image_set import open_images
from synthmed.data.shards.read import find_splits, open_folder
from synthmed.evaluation.copy_spaces import CopyFeatures, Neighbours, compare, find_in_features, find_in_pixels
from synthmed.evaluation.lookalikes import Lookalikes
from synthmed.features.extractor import open_extractor
from synthmed.metrics.memorisation import conformal_ranks
from synthmed.runtime.seeds import numpy_generator

Images = NDArray[np.uint8]
RATES = (0.01, 0.05)
NUM_DIVISIONS = 50
CPU = torch.device("cpu")
Plant = Callable[[Images, np.random.Generator], Images]


class Pictures:
    """Images in memory, as the search wants them of a set."""

    def __init__(self, images: Images) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def blocks(self, size: int) -> Iterator[torch.Tensor]:
        for start in range(0, len(self), size):
            yield torch.from_numpy(self.images[start : start + size].transpose(0, 3, 1, 2).copy())


def exact(image: Images, _: np.random.Generator) -> Images:
    """Return the image."""
    return image


def mirror(image: Images, _: np.random.Generator) -> Images:
    """Return it from left to right."""
    return image[:, ::-1]


def brighten(image: Images, _: np.random.Generator) -> Images:
    """Return it a tenth brighter."""
    return np.clip(image * 1.1, 0, 255).astype(np.uint8)


def compress(image: Images, _: np.random.Generator) -> Images:
    """Return it after JPEG of quality 50, with the colours at half the size."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=50)
    return np.asarray(Image.open(buffer))


def crop(image: Images, _: np.random.Generator, share: float = 0.05) -> Images:
    """Return it without a border of 5 % on each side, at the old size."""
    side = len(image)
    border = share * side
    box = (border, border, side - border, side - border)
    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR, box=box))


def crop_more(image: Images, rng: np.random.Generator) -> Images:
    """Return it without a border of 10 % on each side."""
    return crop(image, rng, 0.1)


def move(image: Images, rng: np.random.Generator) -> Images:
    """Return it shifted by up to 4 % each way and turned by up to 5 degrees, the edge repeated."""
    side, pad = len(image), len(image) // 4
    wide = Image.fromarray(np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode="edge"))
    shift = rng.uniform(-0.04, 0.04, size=2) * side
    turned = wide.rotate(rng.uniform(-5, 5), Image.Resampling.BILINEAR, translate=(shift[0], shift[1]))
    return np.asarray(turned.crop((pad, pad, pad + side, pad + side)))


def add_noise(image: Images, rng: np.random.Generator) -> Images:
    """Return it with noise of 8 grey levels."""
    return np.clip(image + rng.normal(size=image.shape) * 8, 0, 255).astype(np.uint8)


def everything(image: Images, rng: np.random.Generator) -> Images:
    """Return it mirrored, brightened, cropped, moved and compressed."""
    for plant in (mirror, brighten, crop, move, compress):
        image = plant(image, rng)
    return image


def blur(image: Images) -> Images:
    """Return an image that has been at 3/8 of its size."""
    side = len(image)
    small = Image.fromarray(image).resize((side * 3 // 8, side * 3 // 8), Image.Resampling.BILINEAR)
    return np.asarray(small.resize((side, side), Image.Resampling.BICUBIC))


PLANTS: Mapping[str, Plant] = {
    "exact": exact,
    "mirrored": mirror,
    "+10 %": brighten,
    "JPEG 50": compress,
    "crop 5 %": crop,
    "crop 10 %": crop_more,
    "moved": move,
    "noise": add_noise,
    "all": everything,
}


def load(folder: Path, *splits: str) -> tuple[Images, NDArray[np.str_], list[str]]:
    """Return images, patients and keys of splits."""
    parts = [open_images(open_folder(folder, split)) for split in splits]
    images = np.concatenate([to_rgb_arrays(part.load(range(len(part)))) for part in parts])
    groups = np.array([group or key for part in parts for group, key in zip(part.groups, part.keys, strict=True)])
    return images, groups, [key for part in parts for key in part.keys]


def in_features(weights: Path, training: Images, sets: Mapping[str, Images]) -> dict[str, Neighbours]:
    """Return the neighbours of all sets in features."""
    extractor = open_extractor("timm:tf_efficientnet_lite0", weights=weights, device=CPU)

    def extract(images: Images) -> NDArray[np.float32]:
        pictures = Pictures(images)
        with torch.inference_mode():
            return np.concatenate([extractor(block).numpy() for block in pictures.blocks(32)])

    plain, mirrored = extract(training), extract(training[:, :, ::-1])
    space = CopyFeatures(extractor.name, plain, mirrored, plain[:0], plain[:0])
    return {name: find_in_features(space, extract(images)) for name, images in sets.items()}


def found_shares(
    spaces: list[dict[str, Neighbours]], units: NDArray[np.str_], patients: NDArray[np.str_], rate: float
) -> dict[str, float]:
    """Return the share of each set that is suspected, over all divisions of the held-out patients."""
    rng, unique = numpy_generator(0, "divisions"), np.unique(patients)
    shares: dict[str, list[float]] = {name: [] for name in spaces[0]}
    for _ in range(NUM_DIVISIONS):
        bar = np.isin(patients, rng.choice(unique, len(unique) // 2, replace=False))
        rank = max(1, int(rate * (bar.sum() + 1) + 1e-9))
        for name in shares:
            tested = [space[name].subset(~bar) if name in ("honest", "blurred") else space[name] for space in spaces]
            pairs = [
                compare(space["honest"].subset(bar), found, units).scores()
                for space, found in zip(spaces, tested, strict=True)
            ]
            held_out, scores = (np.min(both, axis=0) for both in zip(*pairs, strict=True))
            shares[name].append(float((conformal_ranks(scores, held_out) <= rank).mean()))
    return {name: float(np.mean(values)) for name, values in shares.items()}


def main() -> None:
    """Print the table, and the honest images that come closest."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shards", type=Path)
    parser.add_argument("weights", type=Path, nargs="?")
    parser.add_argument("--plants", type=int, default=60, help="training images that are copied in each way")
    words = parser.parse_args()
    training, units, keys = load(words.shards, "train")
    held_out, patients, held_keys = load(
        words.shards, *(split for split in find_splits(words.shards) if split in ("validation", "test"))
    )
    assert not set(units) & set(patients), "patients in both"
    rng = numpy_generator(0, "plants")
    chosen = training[rng.choice(len(training), min(words.plants, len(training)), replace=False)]
    sets = {"honest": held_out, "blurred": np.stack([blur(image) for image in held_out])}
    sets |= {name: np.stack([plant(image, rng) for image in chosen]) for name, plant in PLANTS.items()}

    begin = time.perf_counter()
    search = Lookalikes(Pictures(training), CPU)  # type: ignore[arg-type]  # all of a set that it uses
    pixels = {name: find_in_pixels(search, Pictures(images)) for name, images in sets.items()}  # type: ignore[arg-type]
    num_images = sum(map(len, sets.values()))
    took = (time.perf_counter() - begin) * 1000 / num_images
    spaces = {"pixels": [pixels]}
    if words.weights:
        features = in_features(words.weights, training, sets)
        spaces |= {"features": [features], "both": [pixels, features]}

    print(f"{words.shards.name}: {len(training)} training images, {len(held_out)} held-out ones of", end=" ")
    print(f"{len(np.unique(patients))} patients, {len(chosen)} copied in each way; pixels {took:.1f} ms an image")
    print(f"{'rate':>6} {'space':9}", *(f"{name:>9}" for name in sets))
    for rate in RATES:
        for name, parts in spaces.items():
            shares = found_shares(parts, units, patients, rate)
            print(f"{rate:6.0%} {name:9}", *(f"{share:9.1%}" for share in shares.values()))
            sys.stdout.flush()
    honest = pixels["honest"]
    print("honest images closest to training in pixels:")
    for number in np.argsort(honest.distances[:, 0])[:5]:
        pair = f"{held_keys[number]} and {keys[honest.indices[number, 0]]}"
        print(f"  {honest.distances[number, 0]:.3f}  {pair}")
    print(f"  median {np.median(honest.distances[:, 0]):.3f}")


if __name__ == "__main__":
    main()
