"""Errors of the system become one line; what may be a bug keeps its trace."""

import errno
import os

import pytest
import torch

from synthmed.cli.system_errors import system_error


def os_error(number: int, *places: str) -> OSError:
    return OSError(number, os.strerror(number), *places)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (os_error(errno.ELOOP, "/a/loop"), "the system refused: /a/loop: Too many levels of symbolic links"),
        (os_error(errno.ENOENT, "/proc/1/x"), "/proc/1/x: No such file or directory"),
        (os_error(errno.ENAMETOOLONG, "x" * 300), "File name too long"),
        (os_error(errno.EMFILE), "Too many open files"),
        (os_error(errno.EAGAIN), "Resource temporarily unavailable"),
        (os_error(errno.EIO, "/mnt/x"), "Input/output error"),
        (OSError("libtorch.so: cannot map"), "libtorch.so: cannot map"),
        (ImportError("libtorch_cpu.so: failed to map segment"), "a library cannot be loaded: libtorch_cpu.so"),
        (ModuleNotFoundError("No module named 'torch'", name="torch"), "a library cannot be loaded"),
        (MemoryError(), "out of memory (choose smaller"),
        (torch.cuda.OutOfMemoryError("CUDA out of memory"), "out of memory: CUDA out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 99 bytes"), "out of memory"),
        (RuntimeError("can't start new thread"), "the system allows no more threads"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), "--workers 0"),
    ],
)
def test_lack_of_the_system_is_code_4_in_one_line(error: BaseException, words: str) -> None:
    found = system_error(error)
    assert found is not None and found.exit_code == 4
    assert words in str(found) and "\n" not in str(found)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("x"),
        RuntimeError("shapes differ"),
        RecursionError("deep"),
        KeyError("x"),
        ImportError("cannot import name", name="synthmed.files"),
        SystemExit(1),
        None,
    ],
)
def test_what_may_be_a_bug_keeps_its_trace(error: BaseException | None) -> None:
    assert system_error(error) is None
