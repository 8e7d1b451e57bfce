"""Pickles, read without running anything that they say.

A pickle is a program: it names functions and has them called. Here its instructions are carried out by an interpreter
of our own on plain values; a name stays a name (`Named`), a call stays a record of a call (`Call`), and whoever reads
the pickle may understand a few calls by what they are called. Nothing is ever imported, called or evaluated, and the
instructions of Python's own unpickler are never reached.

What a short pickle can cost is bounded too: no value is ever compared, hashed or printed deeply, for a hundred
instructions can describe a tree of 2^100 leaves.
"""

from __future__ import annotations

import io
import pickletools
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from synthmed.errors import CheckpointError

MAX_INSTRUCTIONS = 2_000_000
MAX_INTEGER_BITS = 1024  # states of random generators have 128
# What no honest checkpoint has called. Nothing here is ever called anyway: the list only lets the message say that
# the file is an attack, where the record of the call would lie unread.
ATTACKED_MODULES = {
    *("os", "posix", "nt", "subprocess", "commands", "sys", "shutil", "socket", "pty", "ctypes", "multiprocessing"),
    *("importlib", "runpy", "code", "codeop", "pickle", "_pickle", "marshal", "webbrowser", "urllib"),
}
HARMLESS_BUILTINS = {
    *("bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "getattr", "int", "list", "object"),
    *("range", "set", "slice", "str", "tuple"),
}
_MARK = object()


@dataclass(frozen=True)
class Named:
    """A class or function that the file names; nothing is known of it but its name."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"[:200]


@dataclass(eq=False, repr=False)
class Call:
    """An object that the file wants made by a call; kept as a record."""

    target: Any
    arguments: Any
    state: Any = None
    items: dict[Any, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"{self.target}(...)" if isinstance(self.target, Named) else "a call"


class Understanding:
    """What the reader of a pickle makes of its calls and of the objects that lie outside it: here, nothing."""

    def call(self, target: Any, arguments: Any) -> Any:
        """Return the value of a call, or a record of it."""
        return Call(target, arguments)

    def persistent(self, identifier: Any) -> Any:
        """Return the object outside the pickle that an identifier means."""
        raise TypeError("an object that lies outside")


def interpret(data: bytes | io.BytesIO, understanding: Understanding | None = None) -> Any:
    """Return what a pickle describes, with names and calls as records.

    Args:
        data: The pickle, or a stream that stands at its beginning and then stands behind it.
        understanding: Of calls, and of objects outside the pickle.

    Raises:
        CheckpointError: The pickle is broken, is an attack, or uses an instruction that no PyTorch checkpoint uses.
    """
    machine = _Machine(understanding or Understanding())
    stream = io.BytesIO(data) if isinstance(data, bytes) else data
    try:
        with warnings.catch_warnings(action="ignore"):  # of odd escapes in strings
            for number, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
                if number >= MAX_INSTRUCTIONS:
                    raise CheckpointError(f"its pickle has more than {MAX_INSTRUCTIONS} instructions")
                if opcode.name == "STOP":
                    return machine.pop()
                machine.run(opcode.name, argument)
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise CheckpointError(f"its pickle is broken: {type(error).__name__}: {str(error)[:200]}") from error
    raise CheckpointError("its pickle has no end")


class _Machine:
    """The pickle machine on plain values."""

    def __init__(self, understanding: Understanding) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.understanding = understanding

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise ValueError("a mark where a value should be")
        return value

    def pop_to_mark(self) -> list[Any]:
        """Return the values above the last mark, and take the mark away."""
        values: list[Any] = []
        while (value := self.stack.pop()) is not _MARK:
            values.append(value)
        return values[::-1]

    def run(self, name: str, argument: Any) -> None:
        if name in _LITERALS:
            if isinstance(argument, int) and argument.bit_length() > MAX_INTEGER_BITS:
                raise ValueError(f"an integer of {argument.bit_length()} bits")
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name]())
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[int(argument)] = self.stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = self.stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[int(argument)])
        elif name in _ACTIONS:
            _ACTIONS[name](self, argument)
        elif name not in ("PROTO", "FRAME"):
            raise CheckpointError(f"its pickle uses the instruction {name}, which no PyTorch checkpoint needs")

    def tuple_of(self, count: int) -> None:
        values = tuple(self.pop() for _ in range(count))[::-1]
        self.stack.append(values)

    def append(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(values)
        elif isinstance(target, Call):
            target.items.update(enumerate(values, len(target.items)))
        else:
            raise TypeError("appending to what is no list")

    def set_items(self, values: list[Any]) -> None:
        target = self.stack[-1]
        items = target.items if isinstance(target, Call) else target
        if not isinstance(items, dict) or len(values) % 2:
            raise TypeError("setting items of what is no dict")
        for key, value in zip(values[::2], values[1::2], strict=True):
            # A tuple may be of any depth, and hashing one goes through all of it.
            if isinstance(key, bool | int | float | str | bytes | Named | None):
                items[key] = value

    def call(self, target: Any, arguments: Any) -> None:
        if isinstance(target, Named):
            attacked = target.module in ("builtins", "__builtin__") and target.name not in HARMLESS_BUILTINS
            if attacked or target.module.partition(".")[0] in ATTACKED_MODULES:
                raise CheckpointError(f"its pickle wants {target} called, which no checkpoint needs")
        self.stack.append(self.understanding.call(target, arguments))

    def build(self) -> None:
        state = self.pop()
        target = self.stack[-1]
        if isinstance(target, Named):
            raise CheckpointError(f"its pickle wants {target} itself changed, which no checkpoint needs")
        if isinstance(target, Call):
            target.state = state
        # A dict's attributes, such as a state dict's `_metadata`, say nothing about its tensors.


def _stack_global(machine: _Machine, _argument: Any) -> None:
    name, module = machine.pop(), machine.pop()
    if not isinstance(name, str) or not isinstance(module, str):
        raise TypeError("a name that is no text")
    machine.stack.append(Named(module, name))


def _reduce(machine: _Machine, _argument: Any) -> None:
    arguments, target = machine.pop(), machine.pop()
    machine.call(target, arguments)


def _new_object_ex(machine: _Machine, _argument: Any) -> None:
    keywords, arguments, target = machine.pop(), machine.pop(), machine.pop()
    machine.call(target, (arguments, keywords))


def _object(machine: _Machine, _argument: Any) -> None:
    target, *arguments = machine.pop_to_mark()
    machine.call(target, tuple(arguments))


def _dict(machine: _Machine, _argument: Any) -> None:
    values = machine.pop_to_mark()
    machine.stack.append({})
    machine.set_items(values)


def _set_item(machine: _Machine, _argument: Any) -> None:
    value, key = machine.pop(), machine.pop()
    machine.set_items([key, value])


def _add_items(machine: _Machine, _argument: Any) -> None:
    values = machine.pop_to_mark()
    if not isinstance(machine.stack[-1], list):
        raise TypeError("adding items to what is no set")
    machine.stack[-1].extend(values)


_LITERALS = {
    *("INT", "LONG", "LONG1", "LONG4", "BININT", "BININT1", "BININT2", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
}
_CONSTANTS: Mapping[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_SET": list,  # sets of unhashable records are kept as lists
    "EMPTY_DICT": dict,
    "MARK": lambda: _MARK,
}
_ACTIONS: Mapping[str, Callable[[_Machine, Any], object]] = {
    "POP": lambda machine, _: machine.stack.pop(),
    "POP_MARK": lambda machine, _: machine.pop_to_mark(),
    "DUP": lambda machine, _: machine.stack.append(machine.stack[-1]),
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.pop_to_mark())),
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "LIST": lambda machine, _: machine.stack.append(machine.pop_to_mark()),
    "FROZENSET": lambda machine, _: machine.stack.append(machine.pop_to_mark()),
    "DICT": _dict,
    "APPEND": lambda machine, _: machine.append([machine.pop()]),
    "APPENDS": lambda machine, _: machine.append(machine.pop_to_mark()),
    "SETITEM": _set_item,
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_to_mark()),
    "ADDITEMS": _add_items,
    "GLOBAL": lambda machine, argument: machine.stack.append(Named(*str(argument).split(" ", 1))),
    "STACK_GLOBAL": _stack_global,
    "INST": lambda machine, argument: machine.call(Named(*str(argument).split(" ", 1)), tuple(machine.pop_to_mark())),
    "OBJ": _object,
    "NEWOBJ": _reduce,
    "NEWOBJ_EX": _new_object_ex,
    "REDUCE": _reduce,
    "BUILD": lambda machine, _: machine.build(),
    "BINPERSID": lambda machine, _: machine.stack.append(machine.understanding.persistent(machine.pop())),
}
