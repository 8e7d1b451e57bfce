"""The known data sets and the words for their classes."""

from collections.abc import Callable
from typing import Any

import pytest

from synthmed.data.datasets import (
    AIROGS,
    CHEXPERT_FINDINGS,
    CRCDX,
    check_dataset_name,
    chexpert_info,
    dataset_name,
    finding_column,
    folder_info,
)
from synthmed.data.labels import Classes
from synthmed.errors import DataError, UsageError


@pytest.mark.parametrize("word", ["glaucoma", "GLAUCOMA", "RG", "rg", "referable_glaucoma", "Referable-Glaucoma"])
def test_label_is_found_by_class_or_alias_whatever_its_writing(word: str) -> None:
    assert AIROGS.classes.resolve(word) == 1


@pytest.mark.parametrize(
    ("word", "label"), [("MSIH", 0), ("msi", 0), ("MSI-H", 0), ("nonMSIH", 1), ("non_msih", 1), ("MSS", 1)]
)
def test_crcdx_counts_msih_as_0_though_it_is_positive(word: str, label: int) -> None:
    assert CRCDX.classes.resolve(word) == label
    assert CRCDX.classes.positive == "MSIH"


@pytest.mark.parametrize("word", ["glaucma", "1", "", "gl aucoma"])
def test_unknown_label_lists_the_valid_ones_and_their_aliases(word: str) -> None:
    with pytest.raises(UsageError) as error:
        AIROGS.classes.resolve(word)
    assert error.value.exit_code == 2
    assert f"unknown label: {word!r}" in str(error.value)
    assert "glaucoma (or RG, referable glaucoma)" in str(error.value)


def test_unknown_label_is_told_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"did you mean glaucoma\?"):
        AIROGS.classes.resolve("glaucma")


@pytest.mark.parametrize(
    ("word", "label"), [("Normal", 0), ("Tumor", 1), ("normal", 2), ("tumor", 1), ("TUMOR", 1), ("B", 2), ("b", 1)]
)
def test_word_that_is_written_just_so_comes_first(word: str, label: int) -> None:
    assert Classes(("Normal", "Tumor", "normal"), {"b": "Tumor", "B": "normal"}).resolve(word) == label


@pytest.mark.parametrize(
    ("classes", "word", "meant"),
    [
        (Classes(("Normal", "Tumor", "normal")), "NORMAL", "Normal or normal"),
        (Classes(("a-b", "a_b")), "a b", "a-b or a_b"),
        (Classes(("x", "y"), {"RG": "x", "rg": "y"}), "Rg", "x or y"),
        (Classes(("rg", "y"), {"RG": "y"}), "Rg", "rg or y"),
    ],
)
def test_word_that_means_several_by_its_writing_is_refused_naming_them(classes: Classes, word: str, meant: str) -> None:
    with pytest.raises(UsageError, match=f"'{word}' may mean {meant}") as caught:
        classes.resolve(word)
    assert caught.value.exit_code == 2
    with pytest.raises(DataError, match=meant):
        classes.find(word)


def test_composed_and_decomposed_letters_are_the_same() -> None:
    assert Classes(("caf\u00e9", "b")).resolve("cafe\u0301") == 0
    assert Classes(("cafe\u0301", "b")).resolve("CAF\u00c9") == 0
    with pytest.raises(DataError, match="no name may stand twice"):
        Classes(("caf\u00e9", "cafe\u0301"))


NO_NAMES = [
    "",
    " ",
    "a\n",
    "a\0b",
    "a\u202eb",
    "\u2066a\u2069",
    "a\u200bb",
    "\ufeffa",
    "a\u2028",
    "\udcff",
    "x" * 201,
    5,
    None,
]


@pytest.mark.parametrize("name", NO_NAMES)
def test_what_is_not_seen_is_no_name_wherever_it_stands(name: Any) -> None:
    tries: list[Callable[[], object]] = [
        lambda: Classes((name, "b")),
        lambda: Classes(("a", "b"), {name: "a"}),
        lambda: folder_info("x", ("a", name)),
        lambda: check_dataset_name(name),
    ]
    for attempt in tries:
        with pytest.raises(DataError, match="cannot be the name of a"):
            attempt()


@pytest.mark.parametrize(
    "name",
    [".", "..", "/a", "a/b", "a\\b", "s3://b", "C:x", "a*", "con", "NUL.txt", "COM\u00b9", "lpt1 .x", ".a", "a."],
)
def test_name_of_a_data_set_can_be_a_folders_on_any_system(name: str) -> None:
    with pytest.raises(DataError, match="cannot be the name of a data set"):
        check_dataset_name(name)
    assert check_dataset_name(dataset_name(name)) == dataset_name(name)


@pytest.mark.parametrize("name", ["airogs", "\u00e4 \u00f6", "My tiles (1)", "console", "nul-eyes", "CT_2024"])
def test_ordinary_names_of_data_sets_are_kept(name: str) -> None:
    assert check_dataset_name(name) == name


def test_a_class_called_by_a_number_is_found_by_it() -> None:
    assert Classes(("1", "0")).resolve("1") == 0


@pytest.mark.parametrize("finding", CHEXPERT_FINDINGS)
def test_every_finding_has_two_classes_and_knows_its_column(finding: str) -> None:
    info = chexpert_info(finding)
    assert len(set(info.classes)) == 2
    assert info.classes[1] == info.classes.positive
    assert finding_column(info) == finding
    assert not any(" " in name or name != name.lower() for name in info.classes)


def test_finding_is_found_whatever_its_writing() -> None:
    assert chexpert_info("pleural_effusion").classes.names == ("no-pleural-effusion", "pleural-effusion")


def test_unknown_finding_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"unknown finding: 'Cardiomegali' \(did you mean Cardiomegaly\?"):
        chexpert_info("Cardiomegali")


def test_second_of_two_folders_is_positive_unless_named() -> None:
    assert folder_info("x", ("benign", "malignant")).classes.positive == "malignant"
    assert folder_info("x", ("benign", "malignant"), "Benign").classes.positive == "benign"
    assert folder_info("x", ("a", "b", "c")).classes.positive is None
    assert folder_info("My tiles (1)", ("a", "b")).name == "My-tiles-1"
