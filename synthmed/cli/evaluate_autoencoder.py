"""`synthmed evaluate-autoencoder`: how much of an image survives its latents."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from synthmed.cli.common import DeviceOption, JsonOption, SplitsOption, VggOption, local_output, print_json, print_table
from synthmed.config.fields import MAX_SIDE
from synthmed.data.shards.read import find_shards, find_splits
from synthmed.files.storage import location

if TYPE_CHECKING:
    from synthmed.generators.diffusion.reconstruction import ReconstructionReport

CheckpointsOption = Annotated[
    list[Path],
    typer.Option(
        "--checkpoint",
        metavar="PATH",
        help="Model file, run folder, or diffusers' folder of Stable Diffusion's autoencoder; repeat the option to "
        "compare several.",
    ),
]
DataOption = Annotated[
    Path, typer.Option("--data", "-d", parser=location, metavar="DIR", help="Folder of shards, or its address.")
]
OutputOption = Annotated[Path, local_output("Folder for figures and pictures.")]
SizeOption = Annotated[
    int | None,
    typer.Option(
        "--size",
        min=16,
        max=MAX_SIDE,
        help="Side of the images in pixels, for autoencoders that take any size.",
        show_default="that of the other autoencoders, else that of the data",
    ),
]


def evaluate_autoencoder(
    checkpoints: CheckpointsOption,
    data: DataOption,
    output: OutputOption = Path("reconstruction"),
    splits: SplitsOption = None,
    size: SizeOption = None,
    vgg_weights: VggOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Measure how much of an image survives being encoded and decoded: MS-SSIM, MSE and PSNR per split and class.

    A second table says by frequency band how much of the originals' power the
    reconstructions keep, and how much the error has: PSNR hardly shows whether
    fine detail is there. With --vgg-weights also LPIPS, without its linear
    calibration; smaller is closer.

    Example: synthmed evaluate-autoencoder --checkpoint runs/airogs --data shards/airogs --split test
    """
    from synthmed.generators import registry

    for split in splits or find_splits(data) or ("test",):
        find_shards(data, split)
    paths = [registry.resolve_path(path) for path in checkpoints]
    from synthmed.generators.diffusion.reconstruction import evaluate_autoencoders

    report = evaluate_autoencoders(
        paths, data, output, splits=splits or (), size=size, device=device, vgg_weights=vgg_weights
    )
    if as_json:
        print_json(dataclasses.asdict(report))
    else:
        _print_report(report, with_lpips=vgg_weights is not None)


def _print_report(report: ReconstructionReport, *, with_lpips: bool) -> None:
    rows: list[tuple[object, ...]] = [
        (row.checkpoint, row.split, row.label, row.images, *_cells(row.ms_ssim, row.mse, row.psnr_db, row.lpips))
        for row in report.rows
    ]
    for name, found in report.published.items():
        cells = _cells(found["ms_ssim"], found["mse"], found["psnr_db"], None)
        rows.append((f"published: {name}", "reference set", "all", "", *cells))
    scales = "" if report.ms_ssim_scales == 5 else f", MS-SSIM on {report.ms_ssim_scales} of 5 scales"
    title = f"reconstruction at {report.size} px on [0, 1]{scales}; pictures in {report.sheet}"
    columns = ["checkpoint", "split", "label", "images", "MS-SSIM", "MSE (x 1e-5)", "PSNR (dB)", "LPIPS (VGG-16)"]
    shown = len(columns) if with_lpips else len(columns) - 1
    print_table(title, columns[:shown], [row[:shown] for row in rows])
    _print_bands(report)


def _print_bands(report: ReconstructionReport) -> None:
    """Print what all classes of a split together keep of each band; results by class are in the file."""
    from synthmed.metrics.bands import BAND_TITLES

    rows = [
        (row.checkpoint, row.split, what, *("-" if share is None else f"{share:.3f}" for share in shares))
        for row in report.rows
        if row.label == "all"
        for what, shares in (("kept", row.bands.kept), ("error", row.bands.error))
    ]
    title = "power against that of the originals, by frequency in cycles per pixel"
    print_table(title, ("checkpoint", "split", "power", *BAND_TITLES), rows)


def _cells(*figures: tuple[float, float] | None) -> list[str]:
    """Return MS-SSIM, MSE in units of 1e-5, PSNR and LPIPS, each as mean and standard deviation."""
    scales, digits = (1, 1e5, 1, 1), (3, 0, 1, 3)
    return [
        "-" if figure is None else f"{figure[0] * scale:.{places}f} ± {figure[1] * scale:.{places}f}"
        for figure, scale, places in zip(figures, scales, digits, strict=True)
    ]
