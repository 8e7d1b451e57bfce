"""Production that is killed, shared and cut off: what is on disk is whole, and in the end always the same bytes.

A driver imports everything once and forks for every start of the command, so that many starts cost little.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

KILLS = 20

DRIVER = """
import json, os, random, signal, sys, time
import torch, synthmed.production.run, synthmed.generators.diffusion.pipeline, synthmed.cli.app
torch.set_num_threads(1)

def start(words, **environment):
    child = os.fork()
    if child == 0:
        os.environ.update(environment)
        sys.argv = ["synthmed", *words]
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, 1)
        code = 1
        try:
            synthmed.cli.app.main()
        except SystemExit as end:
            code = end.code or 0
        os._exit(code)
    return child

def wait(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
"""


def drive(tmp_path: Path, script: str, **given: Any) -> Any:
    """Run a script after the driver's own lines; return the JSON that it prints."""
    source = f"{DRIVER}\ngiven = json.loads(sys.argv[1])\n{script}"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", source, json.dumps(given)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def words(tiny_model_file: Path) -> list[str]:
    return [
        "generate",
        "--checkpoint",
        str(tiny_model_file),
        "--balanced",
        "-n",
        "72",
        "--steps",
        "12",
        "--workers",
        "3",
    ]


def hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file of a folder, the hidden ones too."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_many_kills_give_the_same_bytes(tmp_path: Path, words: list[str]) -> None:
    script = """
def finished():
    return len([name for name in os.listdir("killed") if name.endswith(".tar")]) if os.path.isdir("killed") else 0

random.seed(5)
begin = time.monotonic()
assert wait(start([*given["words"], "-o", "whole"])) == 0
duration = time.monotonic() - begin
seen = []
for _ in range(given["kills"]):
    # Some starts get no shard done, others one or two; then a random moment of the next one.
    target = finished() + random.choice((0, 1, 1, 2)) if random.random() < 0.7 else 0
    child = start([*given["words"], "-o", "killed"])
    # WNOWAIT leaves an ended child in place, so that the kill below always finds it.
    while finished() < target and not os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        time.sleep(0.001)
    time.sleep(random.random() * duration / 20)
    os.kill(child, signal.SIGKILL)
    wait(child)
    seen.append(finished())
print(json.dumps([seen, wait(start([*given["words"], "-o", "killed"]))]))
"""
    words = [*words, "--ranks", "10"]
    finished, code = drive(tmp_path, script, words=words, kills=KILLS)
    print(f"shards finished after each of {KILLS} kills: {finished}")
    assert code == 0
    assert finished == sorted(finished)  # no kill ever cost a finished shard
    assert finished[-1] > 0
    assert hashes(tmp_path / "killed") == hashes(tmp_path / "whole")


def test_two_and_three_processes_make_the_bytes_of_one(tmp_path: Path, words: list[str]) -> None:
    script = """
codes = []
for world in (1, 2, 3):
    def environment(rank):
        return {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank)}
    children = [start([*given["words"], "-o", str(world)], **environment(rank)) for rank in range(world)]
    codes += [wait(child) for child in children]
print(json.dumps(codes))
"""
    assert set(drive(tmp_path, script, words=words)) == {0}
    assert hashes(tmp_path / "1") == hashes(tmp_path / "2") == hashes(tmp_path / "3")


def test_shards_of_a_dead_process_are_done_by_the_next_start(tmp_path: Path, words: list[str]) -> None:
    script = """
assert wait(start([*given["words"], "-o", "whole"])) == 0
array = {"SLURM_ARRAY_TASK_COUNT": "2", "SLURM_ARRAY_TASK_MIN": "1"}
children = [start([*given["words"], "-o", "out"], **array, SLURM_ARRAY_TASK_ID=task) for task in ("1", "2")]
while not os.path.exists("out/train-000001.tar"):
    time.sleep(0.005)
os.kill(children[1], signal.SIGKILL)
codes = [wait(child) for child in children]
left = sorted(name for name in os.listdir("out") if name.endswith(".tar"))
again = wait(start([*given["words"], "-o", "out"]))
print(json.dumps([codes, left, again]))
"""
    codes, left, again = drive(tmp_path, script, words=words)
    assert codes == [0, -9] and again == 0
    assert {f"train-{number:06d}.tar" for number in (0, 2, 4, 6, 8)} <= set(left)
    assert "train-000007.tar" not in left
    assert hashes(tmp_path / "out") == hashes(tmp_path / "whole")


def test_reader_that_closes_early_leaves_the_stream_incomplete(tmp_path: Path, words: list[str]) -> None:
    command = [sys.executable, "-m", "synthmed", *words, "-o", "-"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path) as process:
        assert process.stdout is not None and process.stderr is not None
        assert len(process.stdout.read(1024)) == 1024
        process.stdout.close()
        errors = process.stderr.read().decode()
    assert process.returncode == 5
    assert "72 images in one tar on stdout" in errors and "on disk" not in errors
    assert errors.splitlines()[-1].startswith("error: the reader of stdout closed it before all images were written")
    assert "Traceback" not in errors


def test_webdataset_reads_the_stream_of_the_command(tmp_path: Path, words: list[str]) -> None:
    import webdataset

    command = " ".join([sys.executable, "-m", "synthmed", *words, "-o", "-", "2>/dev/null"])
    samples = list(webdataset.WebDataset(f"pipe:{command}", shardshuffle=False))
    assert len(samples) == 72
    assert sorted(int(sample["cls"]) for sample in samples) == [0] * 36 + [1] * 36
    assert all(sample["png"].startswith(b"\x89PNG") for sample in samples)


def test_torchrun_starts_a_dead_process_again(tmp_path: Path, words: list[str]) -> None:
    """A process of the first start kills itself after its first shard; torchrun's own restart does the rest."""
    (tmp_path / "job.py").write_text(
        """
import os, signal, sys, threading, time
if os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
    def die():
        while not os.path.exists("out/train-000001.tar"):
            time.sleep(0.005)
        open("died", "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    threading.Thread(target=die, daemon=True).start()
from synthmed.cli.app import main
sys.argv[0] = "synthmed"
main()
"""
    )
    port = 20_000 + (os.getpid() + 7) % 20_000
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "2"]
    done = subprocess.run(
        [*launch, "--master-port", str(port), "job.py", *words, "-o", "out"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "died").exists()
    assert len(list((tmp_path / "out").glob("*.tar"))) == 9
    assert (tmp_path / "out" / "_info.json").exists()
