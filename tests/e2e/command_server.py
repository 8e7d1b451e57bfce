"""Runs commands in processes of their own without starting Python each time; a script, not a test.

It imports once what all commands import. Then it reads a line of JSON with `words` and `folder`, forks a process that
runs the command in that folder with its streams in `stdout` and `stderr` of `out`, and answers with a line of exit code
and peak memory in KiB.
"""

import json
import os
import signal
import sys

import torch  # noqa: F401

from synthmed.cli.app import main
from synthmed.data import images  # noqa: F401


def run(words: list[str], folder: str, out: str) -> None:
    """Become the command."""
    os.chdir(folder)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(os.path.join(out, name), os.O_WRONLY | os.O_CREAT, 0o600), descriptor)
    sys.argv = ["synthmed", *words]
    signal.alarm(60)
    main()


for line in sys.stdin:
    child = os.fork()
    if not child:
        run(**json.loads(line))
    _, status, usage = os.wait4(child, 0)
    print(os.waitstatus_to_exitcode(status), usage.ru_maxrss, flush=True)
