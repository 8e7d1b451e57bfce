"""stdout and stderr that are full, closed, or lack letters: what is made and the exit code do not depend on the log."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from synthmed.data.prepare.prepare import PrepareConfig, prepare_release
from synthmed.files.content import hash_file
from synthmed.phantoms.release import phantom_release

PROGRAM = f"exec {sys.executable} -m synthmed"


def shell(command: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the shell in a folder."""
    return subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("command", "code", "stderr"),
    [
        ("recipes list >/dev/full", 4, "error: cannot write the result to stdout: No space left on device\n"),
        ("recipes list --json >&-", 4, "error: cannot write the result to stdout: Bad file descriptor\n"),
        ("--version >/dev/full", 4, "error: cannot write the result to stdout: No space left on device\n"),
        ("generate --help >/dev/full", 4, "error: cannot write the result to stdout: No space left on device\n"),
        ("recipes list 2>&-", 0, ""),
        ("nonsense 2>/dev/full", 2, ""),
    ],
)
def test_result_that_cannot_be_written_is_code_4_and_a_lost_log_is_none(
    tmp_path: Path, command: str, code: int, stderr: str
) -> None:
    done = shell(f"{PROGRAM} {command}", tmp_path)
    assert (done.returncode, done.stderr) == (code, stderr)
    assert bool(done.stdout) == (code == 0)


def test_work_is_the_same_where_no_stream_is_open(tmp_path: Path) -> None:
    prepare_release(phantom_release(24), tmp_path / "whole", PrepareConfig(size=32))
    done = shell(f"{PROGRAM} prepare phantom -n 24 --size 32 -o made <&- >&- 2>&-", tmp_path)
    assert done.returncode == 4
    found, wanted = (
        {path.relative_to(tmp_path / name): hash_file(path) for path in (tmp_path / name).rglob("*") if path.is_file()}
        for name in ("made", "whole")
    )
    assert found == wanted


@pytest.mark.parametrize(
    ("encoding", "shown"), [("ascii", "\\xe7a \\u0142 \\udcff\n"), ("latin-1", "ça \\u0142 \\udcff\n")]
)
def test_letters_that_a_terminal_lacks_are_escaped(tmp_path: Path, encoding: str, shown: str) -> None:
    code = "from synthmed.cli.streams import open_streams; import sys; open_streams(); word = 'ça \\u0142 \\udcff'; "
    done = subprocess.run(
        [sys.executable, "-c", code + "print(word); print(word, file=sys.stderr)"],
        env={**os.environ, "PYTHONIOENCODING": encoding},
        capture_output=True,
        check=True,
    )
    assert done.stdout.decode("latin-1") == done.stderr.decode("latin-1") == shown


def test_signal_while_a_result_is_written_does_not_write_it_twice(tmp_path: Path) -> None:
    code = """
import io, os, sys
from synthmed.cli import streams
class Interrupting(io.FileIO):
    def write(self, data):
        os.write(1, data)
        raise KeyboardInterrupt
streams._Results.__bases__ = (Interrupting,)
streams.open_streams()
print('once')
try:
    sys.stdout.flush()
except KeyboardInterrupt:
    sys.stdout.flush()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("once\n", "")
