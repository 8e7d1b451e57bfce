"""Exit codes and the words of errors."""

import re
import signal
from collections.abc import Iterator

import pytest

from synthmed import errors
from synthmed.errors import DeviceError, IncompleteError, InputError, Interrupted, SynthmedError, UsageError, nearest


def documented_codes() -> dict[int, str]:
    """Return meaning by exit code from the table in the module's docstring."""
    rows = re.findall(r"^\| ([0-9, ]+?) +\| (.+?) +\|$", errors.__doc__ or "", re.MULTILINE)
    return {int(code): meaning for codes, meaning in rows for code in codes.split(",")}


def subclasses(parent: type[SynthmedError]) -> Iterator[type[SynthmedError]]:
    for child in parent.__subclasses__():
        yield child
        yield from subclasses(child)


def test_exit_codes_are_the_documented_ones() -> None:
    wanted = {0: "done", 1: "bug", 2: "usage", 3: "input", 4: "device", 5: "incomplete", 130: "Ctrl-C", 143: "SIGTERM"}
    documented = documented_codes()
    assert documented.keys() == wanted.keys()
    for code, word in wanted.items():
        assert word in documented[code]
    assert (UsageError.exit_code, InputError.exit_code, DeviceError.exit_code, IncompleteError.exit_code) == (
        2,
        3,
        4,
        5,
    )
    assert Interrupted(signal.SIGINT, "").exit_code == 130
    assert Interrupted(signal.SIGTERM, "").exit_code == 143


def test_every_error_has_a_documented_code_that_is_not_a_bugs() -> None:
    for error in subclasses(SynthmedError):
        assert error.exit_code in documented_codes().keys() - {0, 1}, error


def test_interrupted_is_not_caught_by_who_goes_on_after_errors() -> None:
    assert not issubclass(Interrupted, Exception)


def test_remedy_stands_in_brackets_behind_the_problem() -> None:
    assert str(UsageError("no such label: x", "use y")) == "no such label: x (use y)"
    assert str(UsageError("no such label: x")) == "no such label: x"


def test_interrupted_names_the_signal_and_what_is_kept() -> None:
    assert str(Interrupted(signal.SIGTERM, "step 5 is on disk")) == "interrupted by SIGTERM: step 5 is on disk"


@pytest.mark.parametrize(
    ("word", "phrase"),
    [
        ("glaucom", "did you mean glaucoma? valid: no, glaucoma"),
        ("zebra", "valid: no, glaucoma"),
        ("", "valid: no, glaucoma"),
    ],
)
def test_nearest_lists_all_and_guesses_only_what_is_close(word: str, phrase: str) -> None:
    assert nearest(word, iter(["no", "glaucoma"])) == phrase
