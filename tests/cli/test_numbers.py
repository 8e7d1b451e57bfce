"""Numbers on the command line: each has bounds, and whatever stands there is a number within them or wrong usage."""

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import typer.main
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.exceptions import TyperException

from synthmed.cli import app
from synthmed.cli.checkpoints import parse_size
from synthmed.cli.generate_options import resolve_counts
from synthmed.config.limits import MAX_IMAGES
from synthmed.data.labels import Classes
from synthmed.errors import UsageError

WORDS = st.one_of(
    st.integers().map(str),
    st.integers(-(10**40), 10**40).map(str),
    st.floats().map(str),
    st.text(max_size=6),
    st.sampled_from(["9" * 5000, "1e400", "0x10", "1_000", "٣", "nan", "-inf", "١e٩", "1.0", " 7 ", "+7", ""]),
)


def number_options() -> Iterator[tuple[str, Any, Any]]:
    """Yield every option of every command that takes a number: its name, the command and the option."""

    def commands(command: Any, path: str) -> Iterator[tuple[str, Any]]:
        yield path, command
        for name, child in getattr(command, "commands", {}).items():
            yield from commands(child, f"{path} {name}")

    for path, command in commands(typer.main.get_command(app.app), "synthmed"):
        for option in command.params:
            if option.type_descriptor.annotation in (int, float):
                yield f"{path} {option.opts[0]}", command, option


OPTIONS = list(number_options())
MODEL: Any = SimpleNamespace(classes=Classes(("a", "b")))


@pytest.mark.parametrize(("name", "option"), [(name, option) for name, _, option in OPTIONS])
def test_every_number_has_both_bounds(name: str, option: Any) -> None:
    bounds = option.type_descriptor.parameter_info
    assert bounds.min is not None and bounds.max is not None, name


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(OPTIONS), WORDS)
def test_any_word_is_a_number_in_range_or_wrong_usage(choice: tuple[str, Any, Any], word: str) -> None:
    _, command, option = choice
    bounds = option.type_descriptor.parameter_info
    try:
        value = option.process_value(typer.Context(command), word)
    except TyperException as error:
        assert error.exit_code == 2
        return
    assert bounds.min <= value <= bounds.max


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["generate", "-n", 10**30], "less than or equal to 100000000"),
        (["generate", "--seed", "9" * 5000], "from 0 to 9223372036854775807"),
        (["generate", "-n", "0x10"], "from 1 to 100000000"),
        (["generate", "--guidance", "nan"], "less than or equal to 100"),
        (["prepare", "phantom", "-o", "x", "-n", 10**12], "less than or equal to 1000000"),
        (["inspect", "x", "--batch-size", 10**9], "less than or equal to 16384"),
        (["train-classifier", "--real", "x", "-o", "x", "--lr", "inf"], "less than or equal to 100"),
    ],
)
def test_bound_is_named(run_program: Any, words: list[object], message: str) -> None:
    code, stdout, stderr = run_program(*words)
    assert (code, stdout, stderr.count("\n")) == (2, "", 1)
    assert message in stderr


@settings(max_examples=300, deadline=None)
@given(WORDS)
def test_counts_and_sizes_in_words_are_bounded(word: str) -> None:
    with contextlib.suppress(UsageError):
        assert 1 <= resolve_counts(MODEL, [f"a={word}"], None, False)[0] <= MAX_IMAGES
    with contextlib.suppress(UsageError):
        size = parse_size(word)
        assert all(16 <= side <= 4096 for side in (size if isinstance(size, tuple) else (size,)))
