"""`synthmed train-classifier`: what synthetic images are worth to a classifier that is tested on real ones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from synthmed.classifier.config import ClassifierConfig
from synthmed.cli.common import (
    DeviceOption,
    JsonOption,
    OverwriteOption,
    SeedOption,
    given_file,
    local_output,
    print_json,
    print_table,
)
from synthmed.config.fields import meaning
from synthmed.config.limits import MAX_BATCH_SIZE, MAX_STEPS
from synthmed.errors import UsageError
from synthmed.files.storage import location
from synthmed.study.arms import ARMS, parse_arms

if TYPE_CHECKING:
    from torch import Tensor

    from synthmed.classifier.training import Placement

DEFAULTS = ClassifierConfig()
ALL_ARMS = ",".join(ARMS)

RealOption = Annotated[
    Path,
    typer.Option(
        "--real", parser=location, metavar="DIR", help="Shards of real images with the splits train and test."
    ),
]
OutputOption = Annotated[
    Path,
    local_output("Folder for the results. The same command resumes."),
]
SyntheticOption = Annotated[
    Path | None,
    typer.Option(
        "--synthetic", parser=location, metavar="DIR", help="Shards of synthetic images with the split train."
    ),
]
ArmsOption = Annotated[
    str, typer.Option("--arms", help="What to train on, of real, synthetic and both; separated by commas.")
]
ModelOption = Annotated[str, typer.Option("--model", help=meaning(ClassifierConfig, "model"))]
SeedsOption = Annotated[
    int, typer.Option("--seeds", min=1, max=1000, help="Trainings per arm, each with a seed of its own.")
]
StepsOption = Annotated[int, typer.Option("--steps", min=1, max=MAX_STEPS, help=meaning(ClassifierConfig, "steps"))]
BatchSizeOption = Annotated[
    int, typer.Option("--batch-size", min=1, max=MAX_BATCH_SIZE, help=meaning(ClassifierConfig, "batch_size"))
]
LearningRateOption = Annotated[float, typer.Option("--lr", min=0, max=100, help=meaning(ClassifierConfig, "lr"))]
WeightDecayOption = Annotated[
    float, typer.Option("--weight-decay", min=0, max=100, help=meaning(ClassifierConfig, "weight_decay"))
]
SizeOption = Annotated[
    int | None,
    typer.Option(
        "--size", min=16, max=2048, help="Side of the images in pixels.", show_default="that of the real images"
    ),
]
RealShareOption = Annotated[
    float, typer.Option("--real-share", min=0, max=1, help=meaning(ClassifierConfig, "real_share"))
]
BalancedOption = Annotated[bool, typer.Option("--balanced/--no-balanced", help=meaning(ClassifierConfig, "balanced"))]
AugmentOption = Annotated[bool, typer.Option("--augment/--no-augment", help=meaning(ClassifierConfig, "augment"))]
FlipsOption = Annotated[
    Literal["none", "horizontal", "both"], typer.Option("--flips", help=meaning(ClassifierConfig, "flips"))
]
PretrainedOption = Annotated[
    bool, typer.Option("--pretrained", help="Start from timm's ImageNet weights, downloaded if necessary.")
]
WeightsOption = Annotated[
    Path | None,
    typer.Option(
        "--weights",
        parser=given_file,
        metavar="FILE",
        help="Start from the weights in this file, safetensors or PyTorch's; nothing is downloaded.",
    ),
]
PrecisionOption = Annotated[
    Literal["auto", "fp32", "bf16"],
    typer.Option("--precision", help="Number type of the training; auto takes bf16 where the device computes it fast."),
]


def train_classifier(
    real: RealOption,
    output: OutputOption,
    synthetic: SyntheticOption = None,
    arms: ArmsOption = ALL_ARMS,
    model: ModelOption = DEFAULTS.model,
    seeds: SeedsOption = 3,
    steps: StepsOption = DEFAULTS.steps,
    batch_size: BatchSizeOption = DEFAULTS.batch_size,
    lr: LearningRateOption = DEFAULTS.lr,
    weight_decay: WeightDecayOption = DEFAULTS.weight_decay,
    size: SizeOption = None,
    real_share: RealShareOption = DEFAULTS.real_share,
    balanced: BalancedOption = DEFAULTS.balanced,
    augment: AugmentOption = DEFAULTS.augment,
    flips: FlipsOption = DEFAULTS.flips,
    pretrained: PretrainedOption = False,
    weights: WeightsOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    seed: SeedOption = DEFAULTS.seed,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train classifiers on real, on synthetic and on both kinds of images, and test them on real ones.

    Example: synthmed train-classifier --real shards/airogs --synthetic out/airogs --model resnet18 -o runs/worth

    Every arm is trained for the same number of steps and tested on the split
    test of the real images. No training sees that split or the split
    validation. The output folder gets results.json, predictions.csv and
    roc.png.
    """
    config = ClassifierConfig(
        model=model,
        steps=steps,
        batch_size=batch_size,
        lr=lr,
        weight_decay=weight_decay,
        real_share=real_share,
        balanced=balanced,
        augment=augment,
        flips=flips,
        seed=seed,
    )
    chosen = parse_arms(arms)
    _check_sources(chosen, synthetic, pretrained, weights)
    from synthmed.files.outputs import check_output
    from synthmed.runtime.progress import log
    from synthmed.study.folders import CONFIG_FILE, open_comparison

    # Before torch is imported: folders that do not fit are reported at once.
    check_output(output, CONFIG_FILE)
    folders = open_comparison(real, synthetic)
    for note in folders.notes:
        log(note)
    from synthmed.classifier.networks import check_model
    from synthmed.study.comparison import Comparison, run_comparison
    from synthmed.study.results import comparison_results, write_comparison

    check_model(model, size)
    initial, initial_name = _initial_weights(model, len(folders.classes), pretrained, weights)
    comparison = Comparison(
        folders=folders,
        config=config,
        arms=chosen,
        repetitions=seeds,
        size=size,
        placement=_placement(device, precision),
        initial=initial,
        initial_name=initial_name,
    )
    trainings = run_comparison(comparison, output, overwrite=overwrite)
    results = comparison_results(comparison, trainings)
    write_comparison(output, comparison, trainings, results)
    _print_results(results, as_json)


def _check_sources(arms: tuple[str, ...], synthetic: Path | None, pretrained: bool, weights: Path | None) -> None:
    if synthetic is None and arms != ("real",):
        raise UsageError(f"--synthetic is needed for --arms {','.join(arms)}", "or choose --arms real")
    if pretrained and weights is not None:
        raise UsageError("--pretrained and --weights are both given", "choose one")


def _placement(device: str, precision: Literal["auto", "fp32", "bf16"]) -> Placement:
    from synthmed.classifier.training import Placement
    from synthmed.runtime import device as devices

    target = devices.select_device(device)
    devices.configure(target)
    return Placement(target, devices.select_dtype(precision, target))


def _initial_weights(
    model: str, num_classes: int, pretrained: bool, weights: Path | None
) -> tuple[dict[str, Tensor] | None, str | None]:
    """Return the weights to start from, and a name that differs between different weights."""
    from synthmed.classifier.networks import load_pretrained_weights, load_weights_file
    from synthmed.formats.weight_files import hash_weights

    if weights is not None:
        initial = load_weights_file(weights, model, num_classes)
        return initial, f"sha256:{hash_weights(initial)}"
    return (load_pretrained_weights(model), "timm") if pretrained else (None, None)


def _print_results(results: dict[str, Any], as_json: bool) -> None:
    from synthmed.study.results import ARM_COLUMNS, DIFFERENCE_COLUMNS, arm_rows, difference_rows

    if as_json:
        print_json(results)
        return
    images = sum(results["data"]["test"]["num_images"].values())
    bootstrap = results["bootstrap"]
    tested = f"{images} test images" + (f" of {bootstrap['num_units']} groups" if bootstrap["unit"] == "group" else "")
    print_table(f"AUROC of {results['positive']} on {tested}", ARM_COLUMNS, arm_rows(results))
    if results["differences"]:
        print_table("paired differences of the means", DIFFERENCE_COLUMNS, difference_rows(results))
