"""Options that several commands share: a group of them becomes one argument of the command."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

Command = Callable[..., Any]


def grouped(**groups: Callable[..., Any]) -> Callable[[Command], Command]:
    """Return a decorator that gives a command's arguments the options of whole functions.

    Args:
        groups: Argument of the command -> function whose own arguments are the options, and which makes of them what
            the command gets. The command's arguments must be keyword-only; a group may hold groups.
    """
    options = {name: inspect.signature(build, eval_str=True).parameters for name, build in groups.items()}

    def decorate(command: Command) -> Command:
        signature = inspect.signature(command, eval_str=True)
        parameters: list[inspect.Parameter] = []
        for name, parameter in signature.parameters.items():
            inside = options[name].values() if name in options else [parameter]
            parameters += [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in inside]

        @functools.wraps(command)
        def wrapped(**values: Any) -> Any:
            for name, build in groups.items():
                values[name] = build(**{option: values.pop(option) for option in options[name]})
            return command(**values)

        # What Typer reads.
        wrapped.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        wrapped.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return wrapped

    return decorate
