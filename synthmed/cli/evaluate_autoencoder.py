"""`synthmed evaluate-autoencoder`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from synthmed.cli.common import DeviceOption, JsonOption, VggOption, print_json, print_table
from synthmed.files.storage import location


def evaluate_autoencoder(
    checkpoints: Annotated[
        list[Path],
        typer.Option(
            "--checkpoint",
            help="Model file, run folder, or diffusers' folder of Stable Diffusion's autoencoder; give it more than "
            "once to compare.",
        ),
    ],
    data: Annotated[Path, typer.Option("--data", "-d", parser=location, metavar="DIR", help="Folder of shards.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for figures and pictures.")] = Path(
        "reconstruction"
    ),
    splits: Annotated[
        list[str] | None, typer.Option("--split", help="Split to use; give it more than once.", show_default="all")
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            "--size",
            min=16,
            help="Side of the images in pixels, for autoencoders of any size.",
            show_default="the other models', else the data's",
        ),
    ] = None,
    vgg_weights: VggOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Measure how much of an image survives its latents: MS-SSIM, MSE and PSNR by split and class.

    With --vgg-weights also LPIPS without linear calibration, the smaller the closer.

    Example: synthmed evaluate-autoencoder --checkpoint runs/airogs --data shards/airogs --split test
    """
    from synthmed.generators import registry

    paths = [registry.resolve_path(path) for path in checkpoints]
    from synthmed.generators.diffusion.reconstruction import evaluate_autoencoders

    report = evaluate_autoencoders(
        paths, data, output, splits=splits or (), size=size, device=device, vgg_weights=vgg_weights
    )
    if as_json:
        print_json(dataclasses.asdict(report))
        return

    rows = [
        (row.checkpoint, row.split, row.label, row.images, *_cells(row.ms_ssim, row.mse, row.psnr_db, row.lpips))
        for row in report.rows
    ]
    rows += [
        (
            f"published: {name}",
            "reference set",
            "all",
            "",
            *_cells(found["ms_ssim"], found["mse"], found["psnr_db"], None),
        )
        for name, found in report.published.items()
    ]
    scales = "" if report.ms_ssim_scales == 5 else f", MS-SSIM on {report.ms_ssim_scales} of 5 scales"
    title = f"reconstruction at {report.size} px on [0, 1]{scales}; pictures in {report.sheet}"
    columns = ["checkpoint", "split", "label", "images", "MS-SSIM", "MSE (x 1e-5)", "PSNR (dB)", "LPIPS (VGG-16)"]
    # Without the weights there is nothing in the last column.
    shown = len(columns) - (vgg_weights is None)
    print_table(title, columns[:shown], [row[:shown] for row in rows])


def _cells(*figures: tuple[float, float] | None) -> list[str]:
    """Return MS-SSIM, MSE in units of 1e-5, PSNR and LPIPS, each as mean and standard deviation."""
    scales, digits = (1, 1e5, 1, 1), (3, 0, 1, 3)
    return [
        "-" if figure is None else f"{figure[0] * scale:.{places}f} ± {figure[1] * scale:.{places}f}"
        for figure, scale, places in zip(figures, scales, digits, strict=True)
    ]
