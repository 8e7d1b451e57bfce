"""Small files that ask for much memory, given to the commands that read them."""

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

LIMIT_MB = 1000


def run(folder: Path, *words: str) -> tuple[int, str, float]:
    """Return the exit code, stderr and peak memory in MB of a command."""
    with (folder / "stderr").open("w+") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "synthmed", *words], cwd=folder, stdout=subprocess.DEVNULL, stderr=stderr
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        stderr.seek(0)
        unit = 1 if sys.platform == "darwin" else 1024
        return process.returncode, stderr.read(), usage.ru_maxrss * unit / 1e6


def write_bombs(folder: Path) -> None:
    """Write four equal PNGs of 64 million pixels and some small images."""
    bomb = io.BytesIO()
    Image.new("L", (8000, 8000), 50).save(bomb, "PNG", compress_level=1)
    for number in range(16):
        path = folder / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        noise = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)
        if number < 4:
            path.with_stem("bomb" + path.stem).write_bytes(bomb.getvalue())


def write_directory(folder: Path) -> None:
    """Write a zip that claims a directory of three gigabytes."""
    size = 3 << 30
    with (folder / "x.zip").open("wb") as file:
        file.write(b"PK\3\4")
        file.truncate(size)
        file.seek(size)
        end = [(1, 2), (1, 2), (size - 100, 4), (100, 4), (0, 2)]
        file.write(b"PK\5\6" + bytes(4) + b"".join(number.to_bytes(width, "little") for number, width in end))


@pytest.mark.parametrize(
    ("write", "words", "code"),
    [
        (
            write_bombs,
            ["prepare", "images", "in", "-o", "out", "--size", "32", "--workers", "4", "--max-bad", "0.5"],
            0,
        ),
        (write_directory, ["pack", "in/x.zip", "-o", "out"], 3),
        (write_directory, ["checkpoints", "import", "in/x.zip", "--dataset", "airogs", "-o", "out.pt"], 3),
    ],
)
def test_memory_stays_in_proportion(tmp_path: Path, write: Callable[[Path], None], words: list[str], code: int) -> None:
    (tmp_path / "in").mkdir()
    write(tmp_path / "in")
    exit_code, stderr, peak_mb = run(tmp_path, *words)
    assert exit_code == code, stderr
    assert peak_mb < LIMIT_MB
    assert code == 0 or (stderr.count("\n") == 1 and "its directory has more than 64 MiB" in stderr)
