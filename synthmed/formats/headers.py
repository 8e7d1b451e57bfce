"""The header of a model file: everything that is needed to use a model, and where it comes from.

What a header says of architecture (`build`) and sampling is its family's own; the rest means the same for every family.
Headers of version 1, all of them of diffusion models, are read as before.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from synthmed.config.fields import MAX_SIDE
from synthmed.config.tables import from_dict, shown, to_dict, to_marks
from synthmed.data.datasets import check_dataset_name
from synthmed.data.labels import Classes
from synthmed.errors import CheckpointError, DataError, RecipeError, nearest
from synthmed.formats.diffusers_files import AutoencoderKLConfig
from synthmed.runtime.progress import printable

DEFAULT_FAMILY = "diffusion"
"""The family of files and shards that name none: for a while there was no other."""
GENERATOR = "generator"
# What may be said of a training, which commands show and data cards repeat.
MAX_FACTS = 1000
MAX_FACT_DEPTH = 8
MAX_FACT_LENGTH = 1000


class HeaderPart(Protocol):
    """What a family says of its models: architecture or sampling settings, a frozen dataclass of plain values."""

    def check(self, header: Header[Any, Any], /) -> None:
        """Raise RecipeError unless this can belong to a model with such a header."""


Build = TypeVar("Build", bound=HeaderPart)
Sampling = TypeVar("Sampling", bound=HeaderPart)


@dataclass(frozen=True)
class Header(Generic[Build, Sampling]):
    """Everything that is needed to use a model file, and where the model comes from.

    Raises:
        RecipeError: Parts that do not go together, or numbers beyond reason.
        DataError: The data set is called by what is no name.
    """

    build: Build
    """Architecture, as the family says it."""
    family: str = DEFAULT_FAMILY
    kind: str = GENERATOR
    """`generator`, or the name of a part that cannot sample alone, such as `autoencoder`."""
    dataset: str = ""
    classes: Classes = field(default_factory=Classes)
    size: int | tuple[int, int] = 64
    """Side of square images in pixels, or height and width of others; 0 for a part that takes images of any size."""
    sampling: Sampling | None = None
    """How images are sampled unless a command says otherwise; `None` in a part of a generator."""
    training: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        sides = self.height_width
        if (min(sides) < 1 and (self.size != 0 or self.kind == GENERATOR)) or max(sides) > MAX_SIDE:
            raise RecipeError(f"size is {shown(self.size)}", f"sides must be in 1 .. {MAX_SIDE}")
        if (self.kind == GENERATOR) != (self.sampling is not None):
            raise RecipeError(f"a model of kind {printable(self.kind[:100])} has sampling settings {self.sampling}")
        if self.dataset or self.kind == GENERATOR:
            object.__setattr__(self, "dataset", check_dataset_name(self.dataset))
        for number, fact in enumerate(_facts(self.training)):
            if number >= MAX_FACTS or not _is_plain(fact):
                raise RecipeError(f"training says {shown(fact)}", f"at most {MAX_FACTS} short texts and finite numbers")
        self.build.check(self)
        if self.sampling is not None:
            self.sampling.check(self)

    @property
    def preset(self) -> Sampling:
        """How images are sampled unless a command says otherwise.

        Raises:
            CheckpointError: This is a part of a generator, which cannot sample.
        """
        if self.sampling is None:
            raise CheckpointError(f"the model file holds an {self.kind} only", "give a whole model")
        return self.sampling

    @property
    def height_width(self) -> tuple[int, int]:
        """Height and width of the images in pixels."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    @property
    def family_mark(self) -> dict[str, str]:
        """What samples and runs say of the family: nothing where it is the one that they mean without."""
        return {} if self.family == DEFAULT_FAMILY else {"family": self.family}

    def as_table(self) -> dict[str, Any]:
        """Return the header as JSON has it."""
        names = {"names": list(self.classes.names), "aliases": dict(self.classes.aliases)}
        height, width = self.height_width
        return {
            "family": self.family,
            "kind": self.kind,
            "dataset": self.dataset,
            "labels": {**names, "positive": self.classes.positive},
            "image": {"height": height, "width": width},
            "build": to_dict(self.build),
            "sampling": None if self.sampling is None else to_marks(self.sampling),
            "training": self.training,
        }


@dataclass(frozen=True)
class _Table:
    """A header whose build and sampling no family has read yet."""

    family: str
    kind: str
    dataset: str
    labels: _Labels
    image: _Image
    build: dict[str, Any]
    sampling: dict[str, Any] | None
    training: dict[str, Any]


@dataclass(frozen=True)
class _Labels:
    names: tuple[str, ...]
    aliases: dict[str, str]
    positive: str | None = None


@dataclass(frozen=True)
class _Image:
    height: int
    width: int


def parse_header(
    table: Mapping[str, Any], build: type[Build], sampling: type[Sampling], path: Path
) -> Header[Build, Sampling]:
    """Return a header from its table, with what a family says of its models as that family's own types.

    Raises:
        CheckpointError: The table is not a header, or its parts do not go together.
    """
    try:
        plain = from_dict(_Table, table, path.name)
        sides = plain.image.height, plain.image.width
        return Header(
            build=from_dict(build, plain.build, f"{path.name}: build"),
            family=plain.family,
            kind=plain.kind,
            dataset=plain.dataset,
            classes=Classes(plain.labels.names, plain.labels.aliases, plain.labels.positive),
            size=sides[0] if sides[0] == sides[1] else sides,
            sampling=None if plain.sampling is None else from_dict(sampling, plain.sampling, f"{path.name}: sampling"),
            training=plain.training,
        )
    except (RecipeError, DataError, TypeError) as error:
        raise CheckpointError(f"the configuration in {path} is not valid: {error}") from error


def _facts(value: Any, depth: int = 0) -> Iterator[Any]:
    """Yield the plain values, keys too, that what is said of a training consists of; `...` for what lies too deep."""
    if depth > MAX_FACT_DEPTH:
        yield ...
    elif isinstance(value, Mapping | list | tuple):
        for entry in [*value, *value.values()] if isinstance(value, Mapping) else value:
            yield from _facts(entry, depth + 1)
    else:
        yield value


def _is_plain(fact: Any) -> bool:
    """Say whether a value can be repeated anywhere: JSON, short, and seen."""
    if isinstance(fact, str):
        return len(fact) <= MAX_FACT_LENGTH and fact.isprintable()
    return fact is None or (isinstance(fact, int | float) and abs(fact) < 1 << 63)


def with_training(header: Header[Build, Sampling], **facts: Any) -> Header[Build, Sampling]:
    """Return the header with facts of its training added."""
    return dataclasses.replace(header, training={**header.training, **facts})


def table_of_version_1(config: Any, path: Path) -> dict[str, Any]:
    """Return the table of a file from before there were families: it lists the parts of a diffusion model."""
    places = {"kind", "dataset", "classes", "aliases", "positive", "size", "sampler", "training"}
    known = places | {"vae", "unet", "schedule", "latent_scale"}
    wrong = f"the configuration in {path} is not valid"
    if not isinstance(config, dict):
        raise CheckpointError(f"{wrong}: it is {shown(config)}", "a section is wanted")
    if unknown := sorted(config.keys() - known):
        word = printable(unknown[0][:100])
        raise CheckpointError(f"{wrong}: unknown key in {path.name}: {word}", nearest(word, sorted(known)))
    whole = config.get("kind", "pipeline") == "pipeline"
    size = config.get("size", 64)
    height, width = size if isinstance(size, list) and len(size) == 2 else (size, size)
    build = {name: value for name, value in config.items() if name not in places}
    if not whole:
        build = {name: build[name] for name in ("vae", "latent_scale") if name in build}
        # Of Stable Diffusion's autoencoder, what stood there as the size meant nothing.
        if isinstance(vae := build.get("vae"), dict) and vae.get("build") == "AutoencoderKL":
            height = width = 0
    return {
        "family": DEFAULT_FAMILY,
        "kind": GENERATOR if whole else config["kind"],
        "dataset": config.get("dataset", ""),
        "labels": {
            "names": config.get("classes", []),
            "aliases": config.get("aliases", {}),
            "positive": config.get("positive") or None,
        },
        "image": {"height": height, "width": width},
        "build": {"unet": {}, **build} if whole else build,
        "sampling": config.get("sampler", {}) if whole else None,
        "training": config.get("training", {}),
    }


def table_of_diffusers(vae: AutoencoderKLConfig, path: Path) -> dict[str, Any]:
    """Return the table of an autoencoder that diffusers saved: of no data set, for images of any size."""
    return {
        "family": DEFAULT_FAMILY,
        "kind": "autoencoder",
        "dataset": "",
        "labels": {"names": [], "aliases": {}},
        "image": {"height": 0, "width": 0},
        "build": {"vae": to_dict(vae)},
        "sampling": None,
        "training": {"imported_from": printable(path.name), "finished": True},
    }
