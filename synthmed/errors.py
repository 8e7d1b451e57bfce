"""Failures a user can cause, one class and one exit code a branch.

Anything else that is raised is a bug and keeps its trace.

| exit code | meaning                                                        |
|-----------|----------------------------------------------------------------|
| 0         | done, or whoever read the result wanted no more of it          |
| 1         | a bug in synthmed                                              |
| 2         | wrong usage: unknown option, value out of range                |
| 3         | bad input: data, recipe, checkpoint, a resume that does not fit |
| 4         | device, memory, disk, or another lack of the system            |
| 5         | incomplete: run the same command again                         |
| 130, 143  | interrupted by Ctrl-C, by SIGTERM                              |
"""

from __future__ import annotations

import signal
from collections.abc import Iterable
from difflib import get_close_matches


class SynthmedError(Exception):
    """A failure with a cause outside synthmed.

    Args:
        problem: What is wrong, with the value.
        remedy: What to do about it; printed in brackets behind the problem.
    """

    exit_code = 1

    def __init__(self, problem: str, remedy: str | None = None) -> None:
        super().__init__(problem if remedy is None else f"{problem} ({remedy})")


class UsageError(SynthmedError):
    """The command's own words are wrong."""

    exit_code = 2


class InputError(SynthmedError):
    """Something that was given to read cannot be used."""

    exit_code = 3


class DataError(InputError):
    """A data set release, an image or a shard is not what it should be."""


class RecipeError(InputError):
    """A recipe, or a value set over it, is not valid."""


class CheckpointError(InputError):
    """A model file is missing, broken or of the wrong kind."""


class ResumeError(InputError):
    """An output folder holds the work of another command."""


class TrainingError(InputError):
    """A training cannot go on: its loss or gradient is not finite."""


class DeviceError(SynthmedError):
    """The device is missing or out of memory, or the disk is full."""

    exit_code = 4


class IncompleteError(SynthmedError):
    """Part of the work is done; the same command does the rest."""

    exit_code = 5


class Interrupted(BaseException):
    """A signal asked for the end; what was finished is on disk.

    As KeyboardInterrupt, it is no `Exception`: whoever goes on after an error must not go on after this.
    """

    def __init__(self, signal_number: int, kept: str) -> None:
        super().__init__(f"interrupted by {signal.Signals(signal_number).name}: {kept}")
        self.exit_code = 128 + signal_number


class ReaderGone(Exception):
    """Whoever read stdout has closed its end, as `| head` does: the end of a table, but too early for a stream."""


def nearest(word: str, choices: Iterable[str]) -> str:
    """Return the valid choices as a phrase, the one nearest to `word` first."""
    known = list(choices)
    close = get_close_matches(word, known, n=1, cutoff=0.6)
    listed = ", ".join(known)
    return f"did you mean {close[0]}? valid: {listed}" if close else f"valid: {listed}"
