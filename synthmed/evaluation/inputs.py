"""What an evaluation is given, opened and checked before torch is imported and before an image is decoded.

The first fault is told, in this order: the output folder, earlier results, the places of images, whether their classes
fit, and files of weights. Faults of words are found before, when the request is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from synthmed.data.sets.sources import Listing, list_images, split_place
from synthmed.data.shards.read import find_splits
from synthmed.errors import DataError
from synthmed.evaluation.config import RESULTS_FILE, EvaluateRequest
from synthmed.features.names import check_weights_file
from synthmed.files.content import read_json
from synthmed.files.outputs import check_output
from synthmed.files.storage import is_remote

GIVE_GENERATED = "give the generated ones"
Place = tuple[Path, str | None]
"""Folder or archive, and split of shards."""


@dataclass(frozen=True)
class Inputs:
    """What is evaluated, under the real images' classes; nothing is decoded yet."""

    real: Listing
    """What generated images are scored against."""
    generated: tuple[Listing, ...]
    training: Listing | None
    """What the model was trained on; `None` where it is not known."""
    held_out: Listing | None
    """Real images of other patients than those."""
    baselines: Mapping[Path, Any]
    """Earlier results, as they were read."""


def open_inputs(request: EvaluateRequest) -> Inputs:
    """Open all that an evaluation reads, and check that it fits together.

    Raises:
        ResumeError, DeviceError: The output folder cannot be written to.
        DataError: A place or earlier result cannot be read, is not of the kind it is given as, or has other classes.
        CheckpointError: A file of weights is missing.
    """
    check_output(request.output)
    baselines = {path: _read_results(path) for path in request.baselines}
    inputs = _open_places(request, baselines)
    if request.config.balanced:
        _check_balance(inputs)
    for name in request.needed_extractors:
        check_weights_file(name, request.weights.get(name), download=request.download)
    return inputs


def _read_results(path: Path) -> Any:
    found = read_json(path / RESULTS_FILE if path.is_dir() else path)
    kinds = {"conditions": dict, "generated": list, "scores": list, "kid_subsets": list}
    if isinstance(found, dict):
        # Earlier versions did not measure these.
        kinds |= {part: list for part in ("bands", "brightness") if part in found}
    if not isinstance(found, dict) or not all(isinstance(found.get(part), kind) for part, kind in kinds.items()):
        raise DataError(f"{path} holds no results of synthmed evaluate")
    return found


def _open_places(request: EvaluateRequest, baselines: Mapping[Path, Any]) -> Inputs:
    real = _list(request.real, request)
    if real.kind == "synthetic":
        raise DataError(f"--real {request.real} says that its images are synthetic", "give the real ones")
    place, _ = split_place(request.real)
    opened = {request.real: real, f"{place}:{real.split}": real}

    def open_real(where: str | None) -> Listing | None:
        # The reference is often the training split itself, which is then opened once.
        if where is not None and where not in opened:
            opened[where] = match_classes(real=real, generated=_list(where, request))
        return None if where is None else opened[where]

    splits = find_splits(place) if place.is_dir() else []
    own = {split: f"{place}:{split}" for split in splits}
    training_place = request.training or own.get("train")
    held_out_place = request.held_out or own.get("test") or own.get("validation")
    training, held_out = open_real(training_place), open_real(held_out_place)
    # Of shards with one split, that is the reference, and nothing is held out.
    trained_on = _place(training_place or request.real, training or real)
    if held_out_place and held_out and _place(held_out_place, held_out) == trained_on:
        if request.held_out:
            raise DataError(f"--held-out {request.held_out} holds the training images", "name images of other patients")
        held_out = None
    given = {"--held-out": held_out_place, "--training": training_place, "--real": request.real}
    real_places = {_place(where, opened[where]): option for option, where in given.items() if where}
    return Inputs(real, _open_generated(request, real, real_places), training, held_out, baselines)


def _open_generated(request: EvaluateRequest, real: Listing, taken: dict[Place, str]) -> tuple[Listing, ...]:
    """Return the generated sets by different names; `taken` are the places of real images, by option."""
    listings, places = [], set()
    for where in request.generated:
        listing = _list(where, request)
        if listing.kind == "real":
            raise DataError(f"--synthetic {where} says that its images are real", GIVE_GENERATED)
        # Real images that were copied to somewhere else are a finding, their own place is a slip.
        if (place := _place(where, listing)) in taken:
            raise DataError(f"--synthetic {where} holds the images of {taken[place]}", GIVE_GENERATED)
        if place in places:
            raise DataError(f"--synthetic {where} is given twice", "name each set once")
        places.add(place)
        listings.append(match_classes(real=real, generated=listing))
    names = [listing.name for listing in listings]
    # Folders of the same name, such as a/shards and b/shards, are called by their whole paths.
    return tuple(
        listing if names.count(listing.name) == 1 else replace(listing, name=where)
        for listing, where in zip(listings, request.generated, strict=True)
    )


def _list(where: str, request: EvaluateRequest) -> Listing:
    return list_images(where, split="train", exclude=request.exclude)


def _place(where: str, listing: Listing) -> Place:
    path, _ = split_place(where)
    return path if is_remote(path) else path.resolve(), listing.split


def match_classes(*, real: Listing, generated: Listing) -> Listing:
    """Return the generated images under the real ones' class names and labels.

    Names are matched as labels on the command line are: by name or alias of either side, in any case. A class of the
    real set that was not generated is left without images.

    Raises:
        DataError: A generated class is none of the real ones, or two of them are the same.
    """
    found = real.classes.match(generated.classes, set(generated.labels), here=real.name, there=generated.name)
    new = {old: label for old, label in enumerate(found) if label is not None}
    return replace(generated, classes=real.classes, labels=[new[label] for label in generated.labels])


def _check_balance(inputs: Inputs) -> None:
    """Raise where a set cannot have as many images of a class as another one: it has none."""
    sets = (inputs.real, *inputs.generated)
    generated = {label for listing in inputs.generated for label in listing.labels}
    for listing in sets:
        if missing := sorted(generated - set(listing.labels)):
            raise DataError(
                f"{listing.name} has no images of class {inputs.real.classes[missing[0]]}, which others have",
                "leave the class out everywhere, or use --no-balanced",
            )
