"""The interpreter of pickles: names stay names, calls stay records, and nothing that a pickle says costs much."""

from __future__ import annotations

import codecs
import collections
import contextlib
import io
import os
import pickle
import subprocess
import sys

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from synthmed.errors import CheckpointError
from synthmed.formats import pickles as pickle_reading
from synthmed.formats.pickles import Call, Named, interpret

# Python loads these when it first needs them to read old strings and names; later tests count what is loaded.
for codec in ("raw_unicode_escape", "unicode_escape", "cp437"):
    codecs.lookup(codec)


def reduce_to(function, *arguments):
    """Return an object whose pickle has `function` called."""

    class Evil:
        def __reduce__(self):
            return function, arguments

    return Evil()


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_attacks_are_refused_by_name_and_never_run(tmp_path, protocol):
    marker = tmp_path / "touched"
    attacks = {
        "system": reduce_to(os.system, f"touch {marker}"),
        "eval": reduce_to(eval, f"open({str(marker)!r}, 'w')"),
        "exec": reduce_to(exec, f"open({str(marker)!r}, 'w')"),
        "__import__": reduce_to(getattr, reduce_to(__import__, "os"), "system"),
        "Popen": reduce_to(subprocess.Popen, ["touch", str(marker)]),
    }
    for name, evil in attacks.items():
        with pytest.raises(CheckpointError, match=rf"wants \w+\.{name} called"):
            interpret(pickle.dumps({"state_dict": evil}, protocol))
    assert not marker.exists()


def test_chain_of_calls_is_refused_at_its_first_link():
    """getattr(importlib.import_module("os"), "system")("touch ..."), written by hand."""
    chain = b"cbuiltins\ngetattr\n(cimportlib\nimport_module\n(S'os'\ntRS'system'\ntR(S'touch x'\ntR."
    with pytest.raises(CheckpointError, match=r"importlib\.import_module"):
        interpret(chain)
    records = interpret(b"cbuiltins\ngetattr\n(cmy.module\nThing\nS'method'\ntR(S'touch x'\ntR.")
    assert isinstance(records, Call)
    assert isinstance(records.target, Call)


def test_class_cannot_be_changed():
    """BUILD sets attributes; on a class that would be somebody else's class."""
    with pytest.raises(CheckpointError, match=r"torch\.nn\.Module itself changed"):
        interpret(b"ctorch.nn\nModule\n}S'forward'\nS'evil'\nsb.")


def test_calls_that_honest_checkpoints_have_are_kept_as_records():
    import argparse
    import functools
    import pathlib

    values = [argparse.Namespace(a=1), functools.partial(torch.add, 1), pathlib.PurePosixPath("/a/b")]
    for value in values:
        assert isinstance(interpret(pickle.dumps(value, 2)), Call)
    assert interpret(pickle.dumps(argparse.Namespace(a=1), 2)).state == {"a": 1}


def test_names_stay_names_and_are_not_imported():
    module = "synthmed_no_such_module"
    assert interpret(b"c" + module.encode() + b"\nThing\n.") == Named(module, "Thing")
    interpret(b"cantigravity\nfly\n(tR.")
    assert "antigravity" not in sys.modules


def test_state_of_a_class_that_sets_attributes_is_only_kept():
    value = interpret(b"\x80\x02cm\nS\n)\x81}X\x01\x00\x00\x00xK\x01sb.")
    assert value.target == Named("m", "S")
    assert value.state == {"x": 1}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no end|broken"),
        (b"\x80\x02}", "no end|broken"),
        (b"(.", "mark"),
        (b".", "broken"),
        (b"\x82\x01.", "EXT1"),
        (b"\x97.", "NEXT_BUFFER"),
        (b"r\xff\xff\xff\xff.", "broken"),
        (b"K\x01r\xff\xff\xff\xff" + b"h\x05.", "broken"),
        (b"K\x01Q.", "outside"),
        (b"K\x01K\x02\x93.", "no text"),
    ],
)
def test_broken_pickles_say_what_is_wrong(data, reason):
    with pytest.raises(CheckpointError, match=reason):
        interpret(data)


DOUBLED = b"K\x01" + b"2\x86" * 200  # a tuple of twice the tuple before, 200 deep: 2^200 leaves


@pytest.mark.parametrize(
    "data",
    [
        b"}" + DOUBLED + b"K\x01s.",  # as a key, it would be hashed
        DOUBLED + DOUBLED + b"\x93.",  # as a name, it would be printed
        b"cbuiltins\nset\n" + DOUBLED + b"\x85R" + b".",
        DOUBLED + b"Q.",  # as the identifier of an object outside
        b"\x8b" + (10**6).to_bytes(4, "little") + b"\x7f" * 10**6 + b".",  # an integer of a megabyte
        b"\x8e" + (1 << 60).to_bytes(8, "little") + b".",  # bytes that are not there
    ],
)
def test_short_pickles_cannot_cost_much(data):
    with contextlib.suppress(CheckpointError):
        assert repr(interpret(data)) in ("{}", "builtins.set(...)")


def test_instructions_are_counted(monkeypatch):
    monkeypatch.setattr(pickle_reading, "MAX_INSTRUCTIONS", 100)
    with pytest.raises(CheckpointError, match="more than 100 instructions"):
        interpret(b"N0" * 100 + b"N.")


def test_several_pickles_in_a_row_are_read_one_by_one():
    stream = io.BytesIO(pickle.dumps(1, 2) + pickle.dumps("two", 4) + b"rest")
    assert (interpret(stream), interpret(stream), stream.read()) == (1, "two", b"rest")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutated_pickles_neither_crash_nor_import(data):
    original = pickle.dumps({"a": [1, 2.5, "text", (None, True)], "b": collections.OrderedDict(x=torch.float32)}, 2)
    mutated = bytearray(original)
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, len(mutated) - 1))
        mutated[place] = data.draw(st.integers(0, 255))
    modules = set(sys.modules)
    with contextlib.suppress(CheckpointError):
        interpret(bytes(mutated))
    assert set(sys.modules) == modules
