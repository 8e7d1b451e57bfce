"""The data sets that synthmed knows: classes in label order, other words for them, published sizes and counts.

What a data set may be called is decided here too: folders get its name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from synthmed.data.labels import Classes, check_name, normalise
from synthmed.errors import DataError, UsageError, nearest

MAX_DATASET_BYTES = 200
# On any system: what separates folders, drives and patterns, what Windows keeps for devices, and hidden folders.
NO_FOLDER = re.compile(r'.*[<>:"/\\|?*]|\.|.*\.$|(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]) *(\.|$)', re.IGNORECASE)

CHEXPERT_FINDINGS = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)


@dataclass(frozen=True)
class DataSetInfo:
    """What is fixed about a data set before any of its files is seen."""

    name: str
    title: str
    """How a data card calls it."""
    classes: Classes
    size: int = 256
    """Width and height in pixels of the published preparation."""
    resize: Literal["crop", "stretch"] = "crop"
    intensity: Literal["keep", "grey-stretch"] = "keep"
    """"grey-stretch": grey, and every image's own minimum and maximum moved to 0 and 255."""
    kind: Literal["real", "phantom"] = "real"
    """Phantoms are drawn: no patient was imaged."""
    published: Mapping[str, int] = field(default_factory=dict)
    """Counts that the publication states, by the name under which the release's reader counts them."""


AIROGS = DataSetInfo(
    name="airogs",
    title="AIROGS: colour fundus photographs, referable glaucoma",
    classes=Classes(
        ("no-glaucoma", "glaucoma"),
        {
            "NRG": "no-glaucoma",
            "RG": "glaucoma",
            "no referable glaucoma": "no-glaucoma",
            "referable glaucoma": "glaucoma",
        },
        positive="glaucoma",
    ),
    published={"images": 101_442, "no-glaucoma": 98_172, "glaucoma": 3_270},
)
CRCDX = DataSetInfo(
    name="crcdx",
    title="CRCDX: H&E tiles of colorectal cancer, microsatellite instability",
    classes=Classes(
        ("MSIH", "nonMSIH"),
        {
            "MSI": "MSIH",
            "MSI-H": "MSIH",
            "MSIMUT": "MSIH",
            "non-MSIH": "nonMSIH",
            "non-MSI-H": "nonMSIH",
            "nonMSI": "nonMSIH",
            "MSS": "nonMSIH",
        },
        positive="MSIH",
    ),
    size=512,
    published={"train MSIH": 9_979, "train nonMSIH": 9_979},
)
PHANTOM_FUNDUS = DataSetInfo(
    name="phantom-fundus",
    title="Drawn eye fundus images with known cup-to-disc ratio",
    classes=Classes(("no-glaucoma", "glaucoma"), {"NRG": "no-glaucoma", "RG": "glaucoma"}, positive="glaucoma"),
    size=64,
    kind="phantom",
)


def chexpert_info(finding: str = "Cardiomegaly") -> DataSetInfo:
    """Return CheXpert with one of its findings as the positive class.

    Raises:
        UsageError: CheXpert has no such finding.
    """
    known = {normalise(name): name for name in CHEXPERT_FINDINGS}
    if normalise(finding) not in known:
        raise UsageError(f"unknown finding: {finding!r}", nearest(finding, CHEXPERT_FINDINGS))
    column = known[normalise(finding)]
    word = column.lower().replace(" ", "-")
    published = {"images": 223_414, "frontal": 191_027, "frontal patients": 64_534}
    if column == "Cardiomegaly":
        published |= {"positive": 23_385, "uncertain": 6_707, "negative": 7_869, "blank": 153_066}
    return DataSetInfo(
        name="chexpert",
        title=f"CheXpert: frontal chest X-rays, {column}",
        classes=Classes(("finding", "no-finding") if column == "No Finding" else (f"no-{word}", word), positive=word),
        resize="stretch",
        intensity="grey-stretch",
        published=published,
    )


def find_dataset(name: str) -> DataSetInfo:
    """Return a data set of the paper by its name.

    Raises:
        UsageError: There is no such data set.
    """
    known = {info.name: info for info in (AIROGS, CRCDX, chexpert_info(), PHANTOM_FUNDUS)}
    if name not in known:
        raise UsageError(f"unknown data set: {name!r}", nearest(name, known))
    return known[name]


def finding_column(info: DataSetInfo) -> str:
    """Return the column of CheXpert's CSV that `info` was made from."""
    return next(name for name in CHEXPERT_FINDINGS if name.lower().replace(" ", "-") == info.classes.positive)


def check_dataset_name(word: object) -> str:
    """Return the name of a data set as it is kept: one that can be a folder's on any system.

    Raises:
        DataError: It is none.
    """
    name = check_name(word, "the name of a data set")
    if len(name.encode()) > MAX_DATASET_BYTES or NO_FOLDER.match(name):
        raise DataError(
            f"{name[:100]!r} cannot be the name of a data set",
            "a folder is called so: letters, digits, '-', '_' and spaces can be in it",
        )
    return name


def dataset_name(text: str) -> str:
    """Return a text, such as a folder's name, as the name of a data set: the letters A to Z, digits, '-' and '_'."""
    word = re.sub(r"[^A-Za-z0-9_-]+", "-", text).strip("-_")[:MAX_DATASET_BYTES] or "images"
    return f"{word}-images" if NO_FOLDER.match(word) else word


def folder_info(name: str, classes: Sequence[str], positive: str | None = None) -> DataSetInfo:
    """Return an image folder's data set: of two classes the second is positive unless another one is named.

    Raises:
        UsageError: `positive` is none of the classes, or several.
        DataError: The name of a class is none.
    """
    plain = Classes(tuple(classes))
    if positive is not None:
        positive = plain[plain.resolve(positive)]
    elif len(plain) == 2:
        positive = plain[1]
    word = dataset_name(name)
    title = name if name.isprintable() else word
    return DataSetInfo(name=word, title=f"{title}: an image folder", classes=replace(plain, positive=positive))
