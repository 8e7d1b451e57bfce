"""`synthmed evaluate`: how good generated images are, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from synthmed.cli.common import (
    DeviceOption,
    ExcludeOption,
    JsonOption,
    SeedOption,
    local_output,
    models_home,
    print_json,
    print_table,
)
from synthmed.config.fields import MAX_SIDE
from synthmed.config.limits import MAX_BATCH_SIZE
from synthmed.errors import UsageError
from synthmed.evaluation.config import CHECKS, DISCS, EvaluateConfig, EvaluateRequest
from synthmed.runtime.launch import read_launch

DEFAULTS = EvaluateConfig()
PLACE = "PLACE[:SPLIT]"
ALL_CHECKS = ",".join(CHECKS)

RealOption = Annotated[
    str,
    typer.Option(
        "--real",
        metavar=PLACE,
        help="Real images to score against: a folder of shards (its split train, unless you name one), or a folder, "
        "zip or tar with one folder of images per class.",
    ),
]
SyntheticOption = Annotated[
    list[str],
    typer.Option("--synthetic", metavar=PLACE, help="Generated images; repeat the option to compare generators."),
]
OutputOption = Annotated[Path, local_output("Folder for results and pictures.")]
FeaturesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--features",
        metavar="NAME",
        help="Feature extractor: inception, timm:MODEL, or radiomic, which needs no weights; repeat the option for "
        "several.",
        show_default="inception",
    ),
]
WeightsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--feature-weights",
        metavar="[NAME=]FILE",
        help="File with the weights of an extractor; its NAME is needed where several extractors have weights.",
        show_default="torch's or Hugging Face's cache",
    ),
]
DownloadOption = Annotated[
    bool,
    typer.Option("--download", help="Download weights that are not on this machine. Without it nothing is downloaded."),
]
TrainingOption = Annotated[
    str | None,
    typer.Option(
        "--training",
        metavar=PLACE,
        help="Images that the model was trained on.",
        show_default="the split train of --real",
    ),
]
HeldOutOption = Annotated[
    str | None,
    typer.Option(
        "--held-out",
        metavar=PLACE,
        help="Real images of patients that the model was not trained on.",
        show_default="the split test, else validation, of --real",
    ),
]
ChecksOption = Annotated[
    str,
    typer.Option(
        "--checks",
        metavar="LIST",
        help=f"Checks to make, of {', '.join(CHECKS)}; separated by commas. {DISCS} counts optic discs, also where it "
        "is not known that the images are eyes.",
    ),
]
BalancedOption = Annotated[
    bool,
    typer.Option(
        "--balanced/--no-balanced", help="Compare equally many images of every class and of every generated set."
    ),
]
SizeOption = Annotated[
    int | None,
    typer.Option(
        "--size",
        min=32,
        max=MAX_SIDE,
        help="Side that all images are resized to, in pixels.",
        show_default="that of the real images",
    ),
]
FalseAlarmsOption = Annotated[
    float,
    typer.Option(
        "--false-alarms", min=0, max=1, help="Share of images that may be suspected as copies although they are none."
    ),
]
BaselineOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--baseline",
        metavar="DIR",
        help="Folder with the results of an earlier evaluation, to be shown beside these; refused if it was made under "
        "other conditions. Repeat the option for several.",
        show_default="none",
    ),
]
SheetsOption = Annotated[
    bool, typer.Option("--sheets/--no-sheets", help="Write pictures that show real images, which are of patients.")
]
CacheOption = Annotated[
    Path | None,
    typer.Option(
        "--cache",
        metavar="DIR",
        help="Folder in which computed features are kept.",
        show_default="features in SYNTHMED_HOME",
    ),
]
BatchSizeOption = Annotated[
    int,
    typer.Option("--batch-size", min=1, max=MAX_BATCH_SIZE, help="Images per batch in which features are computed."),
]


def evaluate(
    real: RealOption,
    synthetic: SyntheticOption,
    output: OutputOption,
    features: FeaturesOption = None,
    feature_weights: WeightsOption = None,
    download: DownloadOption = False,
    training: TrainingOption = None,
    held_out: HeldOutOption = None,
    checks: ChecksOption = ALL_CHECKS,
    balanced: BalancedOption = DEFAULTS.balanced,
    size: SizeOption = None,
    false_alarms: FalseAlarmsOption = DEFAULTS.false_alarms,
    baseline: BaselineOption = None,
    exclude: ExcludeOption = None,
    sheets: SheetsOption = True,
    cache: CacheOption = None,
    device: DeviceOption = "auto",
    batch_size: BatchSizeOption = 64,
    seed: SeedOption = DEFAULTS.seed,
    as_json: JsonOption = False,
) -> None:
    """Score generated images against real ones, and look for copies, wrong labels and artefacts.

    Example: synthmed evaluate --real shards/airogs --synthetic out/airogs --features radiomic -o runs/scores

    Scores are FID, KID, precision and recall as in the paper, density and
    coverage, over all images and per class: with confidence intervals, with the
    score of real images against real ones, and with p-values between
    generators. Detail is power by band of frequencies against real images,
    and brightness and its spread over images stand beside theirs.

    The output folder gets results.json and pictures. Computed features are
    kept, so that the next run is quick.
    """
    read_launch(together=True)
    names = tuple(dict.fromkeys(features or DEFAULTS.features))
    chosen = tuple(word.strip() for word in checks.split(",") if word.strip())
    config = EvaluateConfig(
        features=names, checks=chosen, balanced=balanced, size=size, false_alarms=false_alarms, seed=seed
    )
    request = EvaluateRequest(
        real=real,
        generated=tuple(synthetic),
        output=output,
        config=config,
        training=training,
        held_out=held_out,
        weights=_weights(feature_weights or [], names),
        download=download,
        cache=cache or models_home(to_write=True) / "features",
        baselines=tuple(baseline or ()),
        exclude=tuple(exclude or ()),
        sheets=sheets,
        device=device,
        batch_size=batch_size,
    )
    from synthmed.evaluation.inputs import open_inputs

    # Before torch is imported: what does not fit is reported at once.
    inputs = open_inputs(request)
    from synthmed.evaluation.run import evaluate as run_evaluation

    results = run_evaluation(request, inputs)
    if results is None:  # under torchrun only the first process prints
        return
    if as_json:
        print_json(results)
    else:
        _print_results(results)


def _weights(given: list[str], names: tuple[str, ...]) -> dict[str, Path]:
    """Return the file of weights for each extractor that --feature-weights gives one for."""
    needing = [name for name in names if name != "radiomic"]
    found: dict[str, Path] = {}
    for word in given:
        name, equals, file = word.partition("=")
        if not (equals and name in names):
            if len(needing) != 1:
                raise UsageError(
                    f"--feature-weights {word} does not say whose weights they are",
                    f"give NAME=FILE, where NAME is one of {', '.join(needing or names)}",
                )
            name, file = needing[0], word
        found[name] = Path(file)
    return found


def _print_results(results: dict[str, Any]) -> None:
    from synthmed.evaluation import detail_tables
    from synthmed.evaluation import results as tables

    if results["findings"]:
        print_table("findings", ["what was found"], [[words] for words in results["findings"]])
    for name, extractor in results["features"].items():
        if results["scores"]:
            title = f"scores on {name} features ({extractor['resize']}), with 95 % intervals"
            print_table(title, tables.score_columns(name), tables.score_table(results, name))
    titles = {
        "differences": "differences, p by permutation",
        "diversity": "diversity: the lower, the more of it",
        "copies": "images suspiciously near to training images",
        "labels": "labels, as a classifier of real images sees them",
        "artefacts": "artefacts",
        "bands": "power of generated images / power of real ones, by frequency in cycles per pixel",
        "brightness": "brightness and contrast in grey levels, with 95 % intervals",
    }
    makers = {**tables.TABLES, **detail_tables.TABLES}
    for part, title in titles.items():
        if results[part]:
            print_table(title, *makers[part](results))
    if results["not_looked_into"]:
        print_table("not computed", ["what", "because"], list(results["not_looked_into"].items()))
