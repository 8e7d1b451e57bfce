"""Evaluation of autoencoders: how much of an image survives its latents, as in the paper's Tables 1 and 2."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from synthmed.data.images import encode_image
from synthmed.data.pixels import to_float, to_rgb_arrays, to_uint8, to_unit
from synthmed.data.sets.image_set import ImageSet, open_images
from synthmed.data.shards.read import find_splits, open_folder
from synthmed.data.sheets import contact_sheet
from synthmed.errors import DataError
from synthmed.files.atomic import write_bytes, write_json
from synthmed.files.outputs import check_output
from synthmed.generators.diffusion.pipeline import Pipeline, load_pipeline
from synthmed.metrics.bands import EDGES, BandFigures, reconstruction_powers, summarise_reconstruction
from synthmed.metrics.perceptual import MIN_SIZE, Lpips
from synthmed.metrics.reconstruction import ms_ssim, mse, num_scales, psnr
from synthmed.runtime import device as devices
from synthmed.runtime.progress import progress

BATCH = 16
SHEET_IMAGES = 8
AMPLIFIED = 4
DETAIL_STEPS = 12
"""Passes of the detail stage, where the file does not say how many."""
Measured = dict[str, NDArray[np.float64]]
Figures = Mapping[str, Callable[[Tensor, Tensor], Tensor]]
FIGURES: Figures = {"ms_ssim": ms_ssim, "mse": mse, "psnr_db": psnr, "bands": reconstruction_powers}
# Mean and standard deviation on the reference sets of the paper, Tables 1 (Medfusion) and 2 (Stable Diffusion).
PUBLISHED = {
    "airogs": {
        "Medfusion": {"ms_ssim": (0.981, 0.007), "mse": (11e-5, 7e-5), "psnr_db": (40, 2)},
        "Stable Diffusion": {"ms_ssim": (0.973, 0.010), "mse": (22e-5, 10e-5), "psnr_db": (37, 2)},
    },
    "crcdx": {
        "Medfusion": {"ms_ssim": (0.901, 0.040), "mse": (541e-5, 305e-5), "psnr_db": (24, 3)},
        "Stable Diffusion": {"ms_ssim": (0.870, 0.049), "mse": (640e-5, 383e-5), "psnr_db": (23, 3)},
    },
    "chexpert": {
        "Medfusion": {"ms_ssim": (0.994, 0.001), "mse": (25e-5, 9e-5), "psnr_db": (36, 2)},
        "Stable Diffusion": {"ms_ssim": (0.973, 0.006), "mse": (90e-5, 30e-5), "psnr_db": (30, 2)},
    },
}


@dataclass(frozen=True)
class ReconstructionRow:
    """Figures of one autoencoder on one class of one split, each but the bands as (mean, standard deviation)."""

    checkpoint: str
    split: str
    label: str
    images: int
    ms_ssim: tuple[float, float]
    mse: tuple[float, float]
    psnr_db: tuple[float, float]
    bands: BandFigures
    lpips: tuple[float, float] | None = None


@dataclass(frozen=True)
class ReconstructionReport:
    """What `evaluate_autoencoders` found."""

    rows: tuple[ReconstructionRow, ...]
    dataset: str
    size: int
    ms_ssim_scales: int
    """5 as published; fewer where images are too small for that."""
    published: dict[str, dict[str, tuple[float, float]]]
    sheet: str
    band_edges: tuple[float, ...] = EDGES
    """Where the bands begin, in cycles per pixel; see `metrics.bands`."""


def evaluate_autoencoders(
    checkpoints: Sequence[Path],
    data: Path,
    output: Path,
    *,
    splits: Sequence[str] = (),
    size: int | None = None,
    device: str = "auto",
    vgg_weights: Path | None = None,
) -> ReconstructionReport:
    """Encode and decode all images of some splits, and write figures and a sheet to look at.

    Args:
        checkpoints: Model files, of autoencoders or whole pipelines, for the same size of images or for any; one with a
            detail stage is measured without it and with it.
        data: Folder of shards.
        output: Gets `reconstruction.json` and `reconstruction.png`.
        splits: Which ones; all that there are by default.
        size: Side of the images for models of any size; by default that of the others, else of the first image.
        device: As on the command line.
        vgg_weights: File of VGG-16, to measure LPIPS too.

    Raises:
        DataError: A split is missing, or the models are for different sizes.
        CheckpointError: A model file or the file of VGG-16 cannot be used.
    """
    # What is missing or does not fit is told before a model is loaded.
    folders = [open_folder(data, split) for split in splits or find_splits(data)]
    if not folders:
        raise DataError(f"{data} holds no shards")
    check_output(output)
    target = devices.select_device(device)
    devices.configure(target)
    wanted = FIGURES if vgg_weights is None else {**FIGURES, "lpips": _lpips(vgg_weights, target)}
    models = {str(path): load_pipeline(path, target) for path in checkpoints}
    size, channels = _common_size(models.values(), size)
    reconstructors = _reconstructors(models)
    rows: list[ReconstructionRow] = []
    dataset, sheet = "", None
    for folder in folders:
        split = folder.split
        images = open_images(folder, size=size, channels=channels)
        images.log_resized()
        size = images.size[0]
        _check_size(models, size)
        if vgg_weights is not None and size < MIN_SIZE:
            raise DataError(f"LPIPS cannot be measured on images of {size} pixels", f"it needs {MIN_SIZE}")
        dataset = folder.dataset or ""
        for name, reconstruct in reconstructors.items():
            figures = _measure(reconstruct, images, wanted, f"{split}: {Path(name).parent.parent.name or name}")
            rows += _rows(name, split, folder.classes, images.labels, figures)
        # By name the first split is test, which no training has seen.
        sheet = sheet if sheet is not None else _sheet(list(reconstructors.values()), images)
    path = output / "reconstruction.png"
    assert sheet is not None and size is not None
    write_bytes(path, encode_image(sheet, "png"))
    report = ReconstructionReport(
        tuple(rows), dataset, size, num_scales(size), dict(PUBLISHED.get(dataset, {})), str(path)
    )
    write_json(output / "reconstruction.json", asdict(report))
    return report


def _common_size(models: Collection[Pipeline], asked: int | None) -> tuple[int | None, int]:
    """Return size, `None` where the models take any, and channels of the images that all models are for."""
    shapes = {model.header.height_width for model in models if model.header.size}
    shapes |= set() if asked is None else {(asked, asked)}
    channels = {model.header.build.vae.image_channels for model in models}
    if len(shapes) > 1:
        raise DataError(f"the models are for different sizes: {sorted(shapes)} pixels", "evaluate them one by one")
    for height, width in shapes:
        if height != width:
            raise DataError(
                f"the model is for images of {height} x {width} pixels", "only square ones can be evaluated"
            )
    if len(channels) > 1:
        raise DataError("some of the models are for grey images, some for colour", "evaluate them one by one")
    return next((height for height, _ in shapes), None), channels.pop()


def _check_size(models: Mapping[str, Pipeline], size: int) -> None:
    """Raise unless every model gives back images of the size that it gets."""
    for name, model in models.items():
        if size % model.header.build.vae.downsampling:
            raise DataError(
                f"{name} down-samples by {model.header.build.vae.downsampling}, the images have {size} pixels",
                "choose a multiple with --size",
            )


@dataclass(frozen=True)
class Reconstructor:
    """Encodes and decodes images.

    Args:
        model: Autoencoder, with or without a detail stage.
        detail_steps: Passes of the detail stage, which makes anew what the autoencoder loses; 0 for none.
    """

    model: Pipeline
    detail_steps: int = 0

    def __call__(self, images: Tensor, labels: NDArray[np.int64], first: int = 0) -> Tensor:
        """Return the images again, decoded from the posterior's mean.

        Args:
            images: Float images [N, C, H, W] in [-1, 1].
            labels: Their classes [N], for a detail stage that is told them.
            first: Number of the first one: the noise of the detail stage depends on it.

        Returns:
            Float images, likewise but for overshoot.
        """
        seeds = range(first, first + len(images))
        return self.model.refine(self.model.reconstruct(images), seeds, self.detail_steps, labels.tolist())


def _reconstructors(models: Mapping[str, Pipeline]) -> dict[str, Reconstructor]:
    """Return each model's autoencoder by name, and where it has a detail stage, that on top of it."""
    found = {}
    for name, model in models.items():
        found[name] = Reconstructor(model)
        if model.detail is not None:
            preset = model.header.sampling
            steps = preset.detail_steps if preset and preset.detail_steps else DETAIL_STEPS
            found[f"{name} + detail"] = Reconstructor(model, steps)
    return found


def _lpips(weights: Path, device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    """Return LPIPS as the other figures are: of images in [0, 1]."""
    lpips = Lpips(weights, device)
    return lambda images, targets: lpips(images * 2 - 1, targets * 2 - 1)


@torch.no_grad()
def _measure(reconstruct: Reconstructor, images: ImageSet, wanted: Figures, what: str) -> Measured:
    """Return each figure of each image: [N], but of bands [N, 3, B]."""
    found: dict[str, list[Tensor]] = {name: [] for name in wanted}
    with progress(f"reconstructing {what}", len(images), "images") as advance:
        for first in range(0, len(images), BATCH):
            rows = slice(first, first + BATCH)
            batch = to_float(images.load(range(len(images))[rows]).to(reconstruct.model.device))
            decoded, original = to_unit(reconstruct(batch, images.labels[rows], first)), to_unit(batch)
            for name, figure in wanted.items():
                found[name].append(figure(decoded, original).double().cpu())
            advance(len(batch))
    return {name: torch.cat(parts).numpy() for name, parts in found.items()}


def _rows(
    name: str, split: str, classes: Sequence[str], labels: NDArray[np.int64], figures: Measured
) -> list[ReconstructionRow]:
    chosen = {"all": np.ones(len(labels), dtype=bool)} | {
        label_name: labels == label for label, label_name in enumerate(classes)
    }
    rows = []
    for label, mask in chosen.items():
        chosen_figures = {what: values[mask] for what, values in figures.items()}
        bands = summarise_reconstruction(chosen_figures.pop("bands"))
        spread = {what: (float(values.mean()), float(values.std())) for what, values in chosen_figures.items()}
        rows.append(ReconstructionRow(name, split, label, int(mask.sum()), bands=bands, **spread))
    return rows


def _sheet(reconstructors: Sequence[Reconstructor], images: ImageSet) -> NDArray[np.uint8]:
    """Return a row of originals, and for each way to reconstruct them a row of that and one of differences."""
    count = min(SHEET_IMAGES, len(images))
    original, labels = images.load(range(count)), images.labels[:count]
    rows, titles = [original], ["original"]
    for number, reconstruct in enumerate(reconstructors):
        decoded = to_uint8(reconstruct(to_float(original.to(reconstruct.model.device)), labels)).cpu()
        difference = 128 + AMPLIFIED * (decoded.int() - original.int())
        rows += [decoded, difference.clamp(0, 255).to(torch.uint8)]
        titles += [f"reconstruction {number + 1}", f"difference x {AMPLIFIED}"]
    return contact_sheet(to_rgb_arrays(torch.cat(rows)), count, row_titles=titles)
