"""Atomic files, the claim on an output folder, and signals."""

import contextlib
import errno
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from synthmed.errors import DataError, DeviceError, Interrupted, ResumeError, UsageError
from synthmed.files import atomic
from synthmed.files.atomic import atomic_file, atomic_path, write_bytes, write_json
from synthmed.files.content import hash_json, read_json
from synthmed.files.locks import MAX_ENTERED, claim_file, enter_folder
from synthmed.files.outputs import open_output, remove_stale_parts
from synthmed.runtime.signals import StopSignal

CONFIG = {"seed": 1, "sampler": {"steps": 20, "eta": 0.0}, "classes": ["a", "b"]}


def fail_with(number: int) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


def claim(folder: Path, config: dict[str, Any] | None = None, overwrite: bool = False) -> bool:
    return open_output(folder, config or CONFIG, name=".synthmed/run.json", overwrite=overwrite)


def test_file_is_not_visible_before_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.bin"
    with atomic_file(path) as file:
        file.write(b"half")
        file.flush()
        assert not path.exists()
        (part,) = path.parent.iterdir()
        assert re.fullmatch(r"a\.bin\.[0-9a-f]{8}\.part", part.name)
    assert path.read_bytes() == b"half"
    assert [entry.name for entry in path.parent.iterdir()] == ["a.bin"]


def test_old_file_stays_whole_until_the_new_one_is(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    write_bytes(path, b"old")
    with atomic_file(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("error", [ValueError("bug"), KeyboardInterrupt(), Interrupted(signal.SIGINT, "")])
def test_failed_write_leaves_the_old_file_and_no_part(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "a.bin"
    write_bytes(path, b"old")
    with pytest.raises(type(error)), atomic_file(path) as file:
        file.write(b"half of the new")
        raise error
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.bin"]


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "the disk is full (free some space"),
        (errno.EDQUOT, "the disk quota is used up"),
        (errno.EROFS, "the file system is read-only"),
        (errno.EACCES, "no permission to write"),
        (errno.EIO, "the disk failed"),
    ],
)
@pytest.mark.parametrize("where", ["mkdir", "write", "fsync", "rename"])
def test_disk_errors_name_file_and_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, number: int, words: str
) -> None:
    path = tmp_path / "folder" / "a.bin"
    if where == "mkdir":
        monkeypatch.setattr(Path, "mkdir", fail_with(number))
    elif where != "write":
        monkeypatch.setattr(os, {"fsync": "fsync", "rename": "replace"}[where], fail_with(number))
    with pytest.raises(DeviceError) as caught, atomic_file(path) as file:
        file.write(b"data")
        if where == "write":
            fail_with(number)()
    monkeypatch.undo()
    assert f"cannot write {path}: {words}" in str(caught.value)
    assert caught.value.exit_code == 4
    assert not path.parent.exists() or list(path.parent.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_full_disk_is_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="the disk is full"), atomic_path(tmp_path / "a.bin") as part:
        part.unlink()
        part.symlink_to("/dev/full")
        part.write_bytes(b"data")
    assert list(tmp_path.iterdir()) == []


def test_file_in_the_way_of_a_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "a.json", tmp_path / "file" / "deep" / "a.json"):
        with pytest.raises(DeviceError, match="a part of the path is a file"):
            write_json(path, {})


def test_folder_in_the_way_of_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.json").mkdir()
    with pytest.raises(DeviceError, match="there is a folder of that name"):
        write_json(tmp_path / "a.json", {})
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


def test_other_system_errors_are_told_in_the_systems_words(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=os.strerror(errno.EINVAL)), atomic_file(tmp_path / "a"):
        fail_with(errno.EINVAL)()


def test_json_is_written_in_a_fixed_form(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": 1, "a": [1.5, "é"]})
    write_json(tmp_path / "b.json", {"a": [1.5, "é"], "b": 1})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert read_json(tmp_path / "a.json") == {"a": [1.5, "é"], "b": 1}


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "Expecting value"),
        (b"{", "Expecting property name"),
        (b'{"a": 1} 2', "Extra data"),
        (b"\xff\xfe{\x00}\x00", "byte 0 is not UTF-8"),
        ('{"a": 1}'.encode("utf-16-le"), "Expecting property name"),
        (b'\xef\xbb\xbf{"a": 1}', "UTF-8 BOM"),
        (b'{"a": "\xed\xa0\x80"}', "byte 7 is not UTF-8"),
        (rb'{"a": ["\ud800"]}', "half a surrogate pair"),
        (rb'{"\uDc00x": 1}', "half a surrogate pair"),
        (b'{"a": NaN}', "the number NaN is not finite"),
        (b"[-Infinity]", "the number -Infinity is not finite"),
        (b"[1e999]", "the number 1e999 is not finite"),
        (b"[" + b"9" * 5000 + b"]", "is not finite"),
        (b'[{"a": 1, "b": 2, "a": 1}]', "the key 'a' stands twice"),
        (b"[" * 200_000, "nested more than 100 deep"),
        (b"[" * 101 + b"]" * 101, "nested more than 100 deep"),
        (b'{"a":' * 101 + b"0" + b"}" * 101, "nested more than 100 deep"),
    ],
)
def test_json_that_strict_readers_refuse_is_named(tmp_path: Path, content: bytes, why: str) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.json is not JSON") as caught:
        read_json(tmp_path / "a.json")
    assert why in str(caught.value)
    assert len(str(caught.value).replace(str(tmp_path), "")) < 200 and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "value", [{"a": ["ä", "\U0001f441", "\x00\n", r"C:\udata"]}, [1.5, -0.0, 1e308, 10**300, None], [[[]]] * 200]
)
def test_json_that_is_written_here_is_read(tmp_path: Path, value: Any) -> None:
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    deepest = json.loads("[" * 100 + "]" * 100)
    write_json(tmp_path / "b.json", deepest)
    assert read_json(tmp_path / "b.json") == deepest


def test_missing_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such file: .*a\.json"):
        read_json(tmp_path / "a.json")


def test_hash_of_json_ignores_the_order_of_keys_alone() -> None:
    assert hash_json({"a": 1, "b": {"c": 2, "d": 3}}) == hash_json({"b": {"d": 3, "c": 2}, "a": 1})
    assert hash_json([1, 2]) != hash_json([2, 1])
    assert hash_json({"a": 1}) != hash_json({"a": 2})


def test_new_folder_is_claimed_and_the_same_settings_resume(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "out"
    assert claim(folder) is False
    assert json.loads((folder / ".synthmed" / "run.json").read_text()) == CONFIG
    (folder / "work").touch()
    assert claim(folder) is True
    assert claim(folder, {**CONFIG, "classes": ("a", "b")}) is True  # a tuple is stored as a list
    assert (folder / "work").exists()
    assert claim(folder, overwrite=True) is False
    assert not (folder / "work").exists()


def test_empty_folder_is_claimed(tmp_path: Path) -> None:
    assert claim(tmp_path) is False


def test_resume_names_each_differing_field_with_both_values(tmp_path: Path) -> None:
    claim(tmp_path)
    other = {"seed": 2, "sampler": {"steps": 20, "eta": 1.0}, "classes": ["a"], "size": 64}
    with pytest.raises(ResumeError) as caught:
        claim(tmp_path, other)
    message = str(caught.value)
    for part in (
        str(tmp_path),
        "seed: 1 there, 2 asked for",
        "sampler.eta: 0.0 there, 1.0 asked for",
        'classes: ["a", "b"] there, ["a"] asked for',
        "size: null there, 64 asked for",
        "--overwrite",
    ):
        assert part in message
    assert "steps" not in message
    assert read_json(tmp_path / ".synthmed" / "run.json") == CONFIG


def test_overwrite_clears_the_work_of_other_settings(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    folder = tmp_path / "out"
    claim(folder)
    (folder / "train-000000.tar").touch()
    (folder / "sub").mkdir()
    (folder / "sub" / "old").touch()
    (folder / "link").symlink_to(outside)
    assert claim(folder, {"seed": 2}, overwrite=True) is False
    assert [entry.relative_to(folder).as_posix() for entry in sorted(folder.rglob("*"))] == [
        ".synthmed",
        ".synthmed/run.json",
    ]
    assert read_json(folder / ".synthmed" / "run.json") == {"seed": 2}
    assert (outside / "kept").exists()


def test_overwrite_that_was_killed_can_be_said_again_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim(tmp_path)
    for name in (".synthmed/a.json", "a.tar", "b.tar"):
        (tmp_path / name).touch()
    with monkeypatch.context() as patch:

        def kill(path: Path) -> None:
            raise Interrupted(signal.SIGKILL, str(path))

        patch.setattr("synthmed.files.outputs.remove", kill)
        with pytest.raises(Interrupted):
            claim(tmp_path, overwrite=True)
    with pytest.raises(ResumeError, match="--overwrite"):
        claim(tmp_path)
    assert claim(tmp_path, overwrite=True) is False
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")] == [
        ".synthmed",
        ".synthmed/run.json",
    ]


@pytest.mark.parametrize("where", [".", "b/c.png", "../link/b"])
def test_overwrite_does_not_remove_what_is_to_be_read(tmp_path: Path, where: str) -> None:
    folder = tmp_path / "out"
    claim(folder)
    (folder / "b").mkdir()
    (folder / "b/c.png").touch()
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(UsageError, match="--overwrite would remove what is to be read"):
        open_output(folder, CONFIG, name=".synthmed/run.json", overwrite=True, reads=[tmp_path, folder / where])
    assert (folder / "b/c.png").exists() and claim(folder) is True
    open_output(folder, CONFIG, name=".synthmed/run.json", overwrite=True, reads=[tmp_path, tmp_path / "out2"])
    assert not (folder / "b").exists()


def test_other_input_is_told_from_other_settings(tmp_path: Path) -> None:
    def claim_with(**changes: str | None) -> bool:
        config = {"model": "1", "weights": None, "seed": 1, **changes}
        names = {"model": "model.safetensors", "weights": "weights.pth"}
        return open_output(tmp_path, config, name="run.json", source=names)

    claim_with()
    with pytest.raises(ResumeError, match=r"source has changed since it was checked: model\.safetensors \(model: \"1"):
        claim_with(model="2")
    with pytest.raises(ResumeError, match="was made with other settings: weights: null there"):
        claim_with(weights="2")


@pytest.mark.parametrize("overwrite", [False, True])
def test_foreign_folder_is_refused_whatever_is_said(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ResumeError, match="is not empty and was not made by this command"):
        claim(tmp_path, overwrite=overwrite)
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]


def test_part_that_another_process_is_writing_is_left_alone(tmp_path: Path) -> None:
    claim(tmp_path)
    with atomic_file(tmp_path / "shard.tar") as file:
        file.write(b"half")
        assert claim(tmp_path) is True
        file.write(b" whole")
    assert (tmp_path / "shard.tar").read_bytes() == b"half whole"


def test_part_that_was_taken_for_a_killed_runs_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process starts between the making of a temporary file and its lock, and tidies up."""

    def tidy_first(_: object) -> None:
        monkeypatch.undo()
        remove_stale_parts([tmp_path])
        assert not list(tmp_path.iterdir())

    monkeypatch.setattr(atomic, "wait_for_lock", tidy_first)
    write_bytes(tmp_path / "a.bin", b"whole")
    assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == [("a.bin", b"whole")]


@contextlib.contextmanager
def other_process(folder: Path) -> Iterator[None]:
    """Be at work in a folder as another process is."""
    descriptor = os.open(folder, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    yield
    os.close(descriptor)


def test_folder_in_which_another_process_works_is_shared_but_not_changed(tmp_path: Path) -> None:
    claim(tmp_path)
    (tmp_path / "work").touch()
    with other_process(tmp_path):
        for overwrite in (False, True):
            assert claim(tmp_path, overwrite=overwrite) is True
            with pytest.raises(ResumeError, match=r"another command is at work in .* settings: seed: 1 there, 2 asked"):
                claim(tmp_path, {**CONFIG, "seed": 2}, overwrite=overwrite)
        with pytest.raises(ResumeError, match="another command is at work"):
            open_output(tmp_path, {**CONFIG, "seed": 2}, name=".synthmed/run.json", may_differ=["seed"])
        with pytest.raises(ResumeError, match=r"another command is at work in [^:]* \(wait for its end"):
            open_output(tmp_path, CONFIG, name=".synthmed/run.json", shared=False)
        assert read_json(tmp_path / ".synthmed" / "run.json") == CONFIG and (tmp_path / "work").exists()
    assert claim(tmp_path, {**CONFIG, "seed": 2}, overwrite=True) is False
    assert not (tmp_path / "work").exists()


def test_other_processes_wait_while_one_decides_what_a_folder_is_for(tmp_path: Path) -> None:
    with enter_folder(tmp_path / "new") as alone:
        assert alone
        descriptor = os.open(tmp_path / "new", os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    with enter_folder(tmp_path / "new") as alone:
        assert not alone
    os.close(descriptor)


def test_worker_that_outlives_a_killed_process_is_not_at_work(tmp_path: Path) -> None:
    script = """
import os, signal, sys, pathlib
from synthmed.files.locks import enter_folder
with enter_folder(pathlib.Path(sys.argv[1])):
    pass
if os.fork() == 0:
    print("forked", flush=True)
    signal.pause()
os.kill(os.getpid(), signal.SIGKILL)
"""
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "forked\n"
        assert process.wait() == -signal.SIGKILL
        with enter_folder(tmp_path) as alone:
            assert alone
        os.killpg(process.pid, signal.SIGKILL)


def test_many_folders_are_not_held_for_ever(tmp_path: Path) -> None:
    for number in range(MAX_ENTERED + 3):
        claim(tmp_path / str(number))
    descriptor = os.open(tmp_path / "0", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(descriptor)


def test_claim_killed_half_way_does_not_block_the_same_command(tmp_path: Path) -> None:
    (tmp_path / ".synthmed").mkdir()
    (tmp_path / ".synthmed" / "run.json.part").write_bytes(b'{"see')
    assert claim(tmp_path) is False
    assert [entry.name for entry in (tmp_path / ".synthmed").iterdir()] == ["run.json"]


def test_file_is_not_taken_for_an_output_folder(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(ResumeError, match="is not a folder"):
        claim(tmp_path / "out", overwrite=True)
    assert (tmp_path / "out").read_text() == "a file"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_first_signal_waits_for_a_good_moment(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with StopSignal() as stop:
        stop.check("nothing")
        signal.raise_signal(number)
        assert stop.received == number
        with pytest.raises(Interrupted, match="step 7 is on disk") as caught:
            stop.check("step 7 is on disk")
    assert caught.value.exit_code == 128 + number
    assert signal.getsignal(number) is before


def test_second_signal_ends_the_work_at_once() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted, match="SIGTERM: stopped at once") as caught, StopSignal():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        pytest.fail("the second signal passed unnoticed")
    assert caught.value.exit_code == 143
    assert signal.getsignal(signal.SIGINT) is before


def test_claim_is_one_processs_until_it_ends(tmp_path: Path) -> None:
    lock = tmp_path / "new" / "a.lock"
    with claim_file(lock) as mine:
        with claim_file(lock) as theirs, claim_file(tmp_path / "b.lock") as other:
            assert (mine, theirs, other) == (True, False, True)
        with claim_file(lock) as theirs:
            assert not theirs
    with claim_file(lock) as mine:
        assert mine


def test_what_cannot_be_locked_is_everybodys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with claim_file(tmp_path / "a") as first, claim_file(tmp_path / "a") as second:
        assert first
        assert second
    with enter_folder(tmp_path) as alone:
        assert alone
    write_bytes(tmp_path / "b", b"whole")
    assert (tmp_path / "b").read_bytes() == b"whole"
