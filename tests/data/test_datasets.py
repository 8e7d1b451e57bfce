"""The known data sets and the words for their classes."""

import pytest

from synthmed.data.datasets import (
    AIROGS,
    CHEXPERT_FINDINGS,
    CRCDX,
    chexpert_info,
    finding_column,
    folder_info,
)
from synthmed.data.labels import Classes
from synthmed.errors import UsageError


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
