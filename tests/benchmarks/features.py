"""The feature extractors on real images, on one core: `python tests/benchmarks/features.py [NAME[=FILE] ...]`.

For each extractor, e.g. `radiomic` or `timm:tf_efficientnet_lite0=weights.safetensors`: seconds of processor time for
1000 images, and Frechet distances between halves of real sets, their classes, and a half that was made worse.
"""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from synthmed.data.images import decode_image, resize_image
from synthmed.data.prepare.chexpert import read_chexpert
from synthmed.data.prepare.releases import read_airogs, read_image_folders
from synthmed.features.extractor import open_extractor
from synthmed.runtime.seeds import numpy_generator, torch_generator

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
RELEASES = {
    "fundus": lambda: read_airogs(DATA / "airogs-mini"),
    "x-ray": lambda: read_chexpert(DATA / "chexpert-mini", "Pneumonia", blank="negative"),
    "histology": lambda: read_image_folders(DATA / "histology-mini"),
}
SIZE = 64


def load(name: str) -> tuple[Tensor, Tensor]:
    """Return a release as images [N, 3, 64, 64] uint8 and labels [N]."""
    items = [item for item in RELEASES[name]().items if item.path is not None]
    arrays = [resize_image(decode_image(item.path.read_bytes(), item.key), SIZE, "crop") for item in items if item.path]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2), torch.tensor([item.label for item in items])


def worse(images: Tensor) -> dict[str, Tensor]:
    """Return what is wrong with images, and the images with that."""
    noise = torch.randn(images.shape, generator=torch_generator(0, "noise"))

    def rounded(values: Tensor) -> Tensor:
        return values.round().clamp(0, 255).to(torch.uint8)

    return {
        "mirrored": images.flip(3),
        "blurred, sd 0.5 px": gaussian_blur(images, [5, 5], [0.5, 0.5]),
        "blurred, sd 1 px": gaussian_blur(images, [7, 7], [1.0, 1.0]),
        "noise, sd 3": rounded(images + 3 * noise),
        "noise, sd 10": rounded(images + 10 * noise),
        "brighter by 10": rounded(images + 10.0),
        "brighter by 25": rounded(images + 25.0),
        "brighter by 40": rounded(images + 40.0),
    }


def frechet_distance(real: Tensor, generated: Tensor) -> float:
    """Return the distance of Gaussians fitted to features [N, D]; the mixed term by singular values, D may exceed N."""
    a, b = (features.double() for features in (real, generated))
    shift = (a.mean(dim=0) - b.mean(dim=0)).square().sum()
    a, b = ((x - x.mean(dim=0)) / math.sqrt(len(x) - 1) for x in (a, b))
    return float(shift + a.square().sum() + b.square().sum() - 2 * torch.linalg.svdvals(a @ b.T).sum())


def main(words: list[str]) -> None:
    torch.set_num_threads(1)
    for word in words or ["radiomic"]:
        name, _, weights = word.partition("=")
        extractor = open_extractor(name, weights=Path(weights) if weights else None, device=torch.device("cpu"))
        for data in RELEASES:
            images, labels = load(data)
            half = len(images) // 2
            order = numpy_generator(0, "halves").permutation(len(images))[: 2 * half]
            extractor(images[:8])
            start = time.process_time()
            features = extractor(images)
            seconds = (time.process_time() - start) / len(images) * 1000
            real, other = features[order[:half]], images[order[half:]]
            print(f"{name}, {data}: {len(images)} images, {features.shape[1]} features, {seconds:.1f} s for 1000")
            print(f"    {frechet_distance(real, features[order[half:]]):8.3g}  other half")
            print(f"    {frechet_distance(features[labels == 0], features[labels == 1]):8.3g}  class against class")
            for what, changed in worse(other).items():
                print(f"    {frechet_distance(real, extractor(changed)):8.3g}  other half, {what}")


if __name__ == "__main__":
    main(sys.argv[1:])
