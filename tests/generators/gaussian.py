"""A second family of generators, as small as one can be: a Gaussian per class and pixel.

Run as a program it is synthmed with this family in it: `python gaussian.py generate ...`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from synthmed.config.fields import described
from synthmed.config.tables import to_dict
from synthmed.errors import RecipeError
from synthmed.formats.headers import Header
from synthmed.generators.families import FAMILIES
from synthmed.generators.family import Cost, Family, Generator, OnStep, Prepared, Recipe, Stage, StageContext
from synthmed.training.config import StageConfig


@dataclass(frozen=True)
class GaussianBuild:
    """Means and deviations are kept for cells of this many pixels."""

    cell: int = described(4, "side in pixels of the cells that share a mean and a deviation")

    def check(self, header: Header[Any, Any]) -> None:
        if any(side % self.cell for side in header.height_width):
            raise RecipeError(f"size is {header.size}", f"sides must be multiples of build.cell, {self.cell}")


@dataclass(frozen=True)
class GaussianSettings:
    """How images are drawn."""

    truncation: float = described(1.0, "factor of every deviation: 0 gives the mean image", minimum=0)

    def check(self, header: Header[Any, Any]) -> None:
        if not 0 <= self.truncation < 10:
            raise RecipeError(f"sampling.truncation is {self.truncation}", "it must be in [0, 10)")

    def changed(self, given: Mapping[str, Any]) -> GaussianSettings:
        return replace(self, **given)

    def describe(self) -> str:
        return f"truncation {self.truncation:g}"


@dataclass(frozen=True)
class GaussianRecipe(Recipe):
    """Its tables are [build], [fit] and [sampling]."""

    build: GaussianBuild = field(default_factory=GaussianBuild)
    fit: StageConfig = field(default_factory=StageConfig)
    sampling: GaussianSettings = field(default_factory=GaussianSettings)


def prepare_fit(context: StageContext) -> Prepared:
    # Beside this file, which is run as a program.
    from gaussian_training import GaussianTask  # type: ignore[import-not-found]

    recipe: GaussianRecipe = context.recipe
    header = Header(build=recipe.build, sampling=recipe.sampling, **context.header_fields)
    tables = {name: to_dict(getattr(recipe, name)) for name in ("data", "build", "fit", "sampling")}
    return Prepared(tables, lambda: GaussianTask(header, context.train, context.validation))


def load(path: Path, header: Header[Any, Any], device: Any) -> Generator:
    from synthmed.formats.model_files import load_tensors

    return GaussianGenerator(header, load_tensors(path), device)


class GaussianGenerator:
    """Draws each cell from its class's Gaussian."""

    def __init__(self, header: Header[Any, Any], tensors: Mapping[str, Any], device: Any) -> None:
        import torch

        self.header, self.device = header, torch.device(device)
        self.tensors = {name: tensor.to(self.device) for name, tensor in tensors.items()}

    def sample(
        self, labels: Sequence[int], seeds: Sequence[int], settings: GaussianSettings, on_step: OnStep | None = None
    ) -> Any:
        import torch

        mean, deviation = (self.tensors[f"gaussian.{name}"][list(labels)] for name in ("mean", "log_deviation"))
        draws = [torch.randn(mean.shape[1:], generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        noise = torch.stack(draws).to(self.device)
        cells = mean + settings.truncation * deviation.exp() * noise
        images = torch.kron(cells, torch.ones(1, 1, self.header.build.cell, self.header.build.cell))
        if on_step is not None:
            on_step(1, 1)
        return ((images.clamp(-1, 1) + 1) * 127.5).to(torch.uint8)

    def cost(self, settings: GaussianSettings, batch_size: int) -> Cost:
        return Cost(images_per_sec=1000.0, memory_gib=0.1)


GAUSSIAN = Family(
    name="gaussian",
    title="a Gaussian per class and cell, for tests",
    build=GaussianBuild,
    settings=GaussianSettings,
    recipe=GaussianRecipe,
    stages=(Stage("fit", StageConfig, prepare_fit),),
    load=load,
    parts={"gaussian": "gaussian"},
)

if __name__ == "__main__":
    FAMILIES[GAUSSIAN.name] = GAUSSIAN
    from synthmed.cli.app import main

    sys.argv[0] = "synthmed"
    main()
