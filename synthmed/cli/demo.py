"""`synthmed demo`: the whole chain on drawn eyes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

from synthmed.cli.common import (
    DeviceOption,
    JsonOption,
    OverwriteOption,
    SeedOption,
    local_output,
    print_json,
    print_table,
)

OutputOption = Annotated[
    Path,
    local_output("Folder for everything that the demo makes."),
]


def demo(
    output: OutputOption = Path("demo"),
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Run the whole chain in a few minutes on drawn eyes, with the model that comes with synthmed.

    Draws eyes with a known cup-to-disc ratio, generates 256 synthetic ones,
    trains a small ResNet on the drawn eyes, on the synthetic ones and on both,
    and measures the ratio in the images. Needs neither data nor a network
    connection.
    """
    from synthmed.demo import measurement_note, run_demo
    from synthmed.runtime.progress import log
    from synthmed.study.results import ARM_COLUMNS, arm_rows

    found = run_demo(output, device=device, seed=seed, overwrite=overwrite)
    if as_json:
        print_json({**dataclasses.asdict(found), "sheet": str(found.sheet)})
        return
    best = f"best possible with the true cup-to-disc ratio: {found.best_auroc:.3f}"
    print_table(f"AUROC of glaucoma on drawn test eyes ({best})", ARM_COLUMNS, arm_rows(found.comparison))
    rows = [
        [
            row.kind,
            row.label,
            "-" if row.mean is None or row.std is None else f"{row.mean:.3f} ± {row.std:.3f}",
            f"{row.measured} of {row.images}",
        ]
        for row in found.ratios
    ]
    print_table("measured vertical cup-to-disc ratio", ["images", "label", "mean ± std", "measured"], rows)
    scores = [[kind, score] for kind, score in found.ratio_auroc.items()]
    print_table("AUROC of the measured ratio itself", ["images", "AUROC"], scores)
    log(f"{measurement_note()}; look at {found.sheet} and {output / 'classifier' / 'roc.png'}")
