"""What `synthmed evaluate` is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from synthmed.errors import UsageError, nearest
from synthmed.features.names import check_extractor

CHECKS = ("scores", "copies", "labels", "artefacts")
DISCS = "discs"
"""Another check, which is part of `artefacts` where the data set is of eyes, and is made of others by name alone."""
RESULTS_FILE = "results.json"


@dataclass(frozen=True)
class EvaluateConfig:
    """Everything that a result depends on besides the images and the weights. The default is the paper's protocol."""

    features: tuple[str, ...] = ("inception",)
    """Extractors: inception, radiomic, or timm:MODEL."""
    checks: tuple[str, ...] = CHECKS
    """What is looked into: scores, copies, labels, artefacts; discs counts optic discs where it is not known that the
    images are of eyes."""
    balanced: bool = True
    """Compare equally many images of every class, and of every generated set."""
    size: int | None = None
    """Side of all images in pixels; None takes that of the real ones."""
    false_alarms: float = 0.01
    """Share of honest images that may be suspected as copies."""
    seed: int = 0
    """Seed of everything random."""

    def __post_init__(self) -> None:
        for name in self.checks:
            if name not in (*CHECKS, DISCS):
                raise UsageError(f"unknown check: {name}", nearest(name, (*CHECKS, DISCS)))
        if not self.checks:
            raise UsageError("no checks are asked for", f"choose of {', '.join((*CHECKS, DISCS))}")
        for name in self.features:
            check_extractor(name)
        if not 0 < self.false_alarms < 1:
            raise UsageError(f"--false-alarms is {self.false_alarms}", "it is a share between 0 and 1")


@dataclass(frozen=True)
class EvaluateRequest:
    """Where the images lie and where results go."""

    real: str
    """Reference images: PLACE or PLACE:SPLIT; of several splits `train`, on which models are trained."""
    generated: tuple[str, ...]
    """Generated sets, in the order of tables."""
    output: Path
    config: EvaluateConfig
    training: str | None = None
    """Images that the model was trained on, for copies and labels; None takes the split train of the real ones."""
    held_out: str | None = None
    """Real images of other patients; None takes the split test, or validation, of the real ones."""
    weights: Mapping[str, Path] = field(default_factory=dict)
    """File of weights by extractor; what is missing is looked for in the libraries' caches."""
    download: bool = False
    """Download weights that are not on this machine."""
    cache: Path | None = None
    """Folder in which features are kept; None keeps none."""
    baselines: tuple[Path, ...] = ()
    """Results of earlier evaluations, whose generated sets stand beside these."""
    exclude: tuple[str, ...] = ()
    """Shell patterns of files and folders that are passed over in folders, zips and tars of images."""
    sheets: bool = True
    """Whether pictures that show real images are written."""
    device: str = "auto"
    batch_size: int = 64

    def __post_init__(self) -> None:
        for name, file in self.weights.items():
            if name not in self.config.features:
                raise UsageError(f"--feature-weights for {name}, which --features does not name")
            check_extractor(name, file)

    @property
    def needed_extractors(self) -> tuple[str, ...]:
        """Those that the requested checks need; labels and artefacts need none."""
        names, checks = self.config.features, self.config.checks
        # Copies are sought in the features of the first one alone.
        return names if "scores" in checks else names[:1] if "copies" in checks else ()
