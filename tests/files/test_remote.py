"""Folders of shards in a store: an S3 server on this machine, fsspec's memory, and what becomes of their failures."""

from __future__ import annotations

import errno
import os
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import synthmed
from synthmed.cli import app
from synthmed.data.images import encode_image
from synthmed.data.prepare.prepare import PrepareConfig, prepare_release
from synthmed.data.sets.image_set import open_images
from synthmed.data.shards.read import find_splits, open_folder
from synthmed.data.shards.write import Sample, read_stats, write_shard
from synthmed.errors import DataError, DeviceError, ResumeError, UsageError
from synthmed.files.atomic import atomic_file, atomic_path
from synthmed.files.content import hash_file
from synthmed.files.storage import is_remote, location
from synthmed.generators.diffusion.settings import DiffusionSettings
from synthmed.generators.families import read_header
from synthmed.phantoms.release import phantom_release
from synthmed.production.plan import GenerateConfig
from synthmed.production.run import generate
from synthmed.study.folders import open_comparison

fsspec = pytest.importorskip("fsspec")
pytest.importorskip("upath")
s3fs = pytest.importorskip("s3fs")
boto3 = pytest.importorskip("boto3")
moto_server = pytest.importorskip("moto.server")

# botocore's own calls of what Python deprecates.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:(aio)?botocore")

BUCKET = "shards"
SETTINGS = PrepareConfig(size=32, validation=0.2, test=0.2)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """An S3 server with one bucket, and the environment in which every driver finds it."""
    running = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    address = f"http://{host}:{port}"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": address,
            "AWS_ACCESS_KEY_ID": "nobody",
            "AWS_SECRET_ACCESS_KEY": "nothing",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_MAX_ATTEMPTS": "1",
        }.items():
            patch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        boto3.client("s3").create_bucket(Bucket=BUCKET)
        yield address
        s3fs.S3FileSystem.clear_instance_cache()
    running.stop()


@pytest.fixture(params=["s3", "memory"])
def place(request: pytest.FixtureRequest) -> Path:
    """A folder in a store, not yet made."""
    name = uuid.uuid4().hex
    if request.param == "memory":
        return location(f"memory://{name}/out")
    request.getfixturevalue("server")
    return location(f"s3://{BUCKET}/{name}/out")


@pytest.fixture
def s3_place(server: str) -> Path:
    return location(f"s3://{BUCKET}/{uuid.uuid4().hex}/out")


@pytest.fixture
def config(tiny_model_file: Path) -> GenerateConfig:
    return GenerateConfig(
        checkpoint=tiny_model_file,
        checkpoint_sha256=hash_file(tiny_model_file),
        header=read_header(tiny_model_file),
        counts=(2, 2),
        seed=4,
        settings=DiffusionSettings(sampler="dpmpp-2m", steps=2, eta=0.0),
    )


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real shards on disk: 12 drawn eyes for training, 4 to validate, 4 to test."""
    path = tmp_path_factory.mktemp("prepared") / "out"
    prepare_release(phantom_release(20), path, SETTINGS)
    return path


@pytest.fixture(scope="module")
def s3_prepared(server: str, prepared: Path) -> Path:
    """The same shards on the S3 server; tests leave them as they are."""
    place = location(f"s3://{BUCKET}/prepared")
    put(prepared, place)
    return place


def contents(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every file of a folder, read past all that synthmed reads with."""
    if not is_remote(folder):
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    protocol, _, rest = str(folder).partition("://")
    if protocol == "s3":
        client, prefix = boto3.client("s3"), rest.partition("/")[2] + "/"
        listed = client.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])
        keys = [found["Key"] for found in listed]
        return {key[len(prefix) :]: client.get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in keys}
    store, prefix = fsspec.filesystem("memory").store, f"/{rest.strip('/')}/"
    return {name[len(prefix) :]: file.getvalue() for name, file in store.items() if name.startswith(prefix)}


def delete(folder: Path, name: str) -> None:
    """Delete a file as another program would."""
    protocol, _, rest = str(folder / name).partition("://")
    if protocol == "s3":
        boto3.client("s3").delete_object(Bucket=BUCKET, Key=rest.partition("/")[2])
    else:
        del fsspec.filesystem("memory").store[f"/{rest}"]


def put(source: Path, folder: Path) -> None:
    """Copy a local folder into the S3 server."""
    prefix = str(folder).partition("://")[2].partition("/")[2]
    for name, data in contents(source).items():
        boto3.client("s3").put_object(Bucket=BUCKET, Key=f"{prefix}/{name}", Body=data)


# ------------------------------------------------------------------------------------------------------- writing


def test_run_to_a_store_gives_the_bytes_of_a_local_one(config, tmp_path, place):
    generate(config, tmp_path / "out", device="cpu")
    assert generate(config, place, device="cpu")["made_now"] == 4
    assert contents(place) == contents(tmp_path / "out")
    assert len(contents(place)) == 4 * 2 + 5
    assert generate(config, place, device="cpu")["made_now"] == 0


@pytest.mark.parametrize("lost", ["train-000003.tar", ".synthmed/train-000003.json"])
def test_resume_makes_again_what_somebody_deleted(config, place, lost):
    generate(config, place, device="cpu")
    whole = contents(place)
    assert find_splits(place) == ["train"]  # has listed the folder
    delete(place, lost)
    assert generate(config, place, device="cpu")["made_now"] == 1
    assert contents(place) == whole


def test_other_settings_are_refused_and_overwrite_starts_anew(config, place):
    generate(config, place, device="cpu")
    whole = contents(place)
    with pytest.raises(ResumeError, match="seed: 4 there, 5 asked for") as caught:
        generate(replace(config, seed=5), place, device="cpu")
    assert caught.value.exit_code == 3
    assert contents(place) == whole
    other = replace(config, seed=5, counts=(1, 1))
    assert generate(other, place, device="cpu", overwrite=True)["made_now"] == 2
    assert all("-s5-" in entry.key for entry in open_folder(place, "train").entries)


def test_folder_of_others_is_not_touched(config, s3_place):
    boto3.client("s3").put_object(Bucket=BUCKET, Key=f"{s3_place.parts[1]}/out/thesis.tex", Body=b"years of work")
    for overwrite in (False, True):
        with pytest.raises(ResumeError, match="was not made by this command"):
            generate(config, s3_place, device="cpu", overwrite=overwrite)
    with pytest.raises(ResumeError, match="is not a folder"):
        generate(config, s3_place / "thesis.tex", device="cpu")
    assert contents(s3_place) == {"thesis.tex": b"years of work"}


def test_run_in_a_store_is_extended(config, tmp_path, place):
    for folder in (place, tmp_path / "out"):
        generate(config, folder, device="cpu")
        assert generate(replace(config, counts=(4, 4)), folder, device="cpu")["made_now"] == 4
    assert contents(place) == contents(tmp_path / "out")


def test_prepared_shards_in_a_store_are_those_on_disk(place, prepared, capsys):
    report = prepare_release(phantom_release(20), place, SETTINGS)
    assert contents(place) == contents(prepared)
    assert prepare_release(phantom_release(20), place, SETTINGS) == report
    assert "is already complete" in capsys.readouterr().err


def test_rejected_release_is_looked_through_again_in_a_store(place, tmp_path):
    from synthmed.data.prepare.releases import read_image_folders

    for number in range(4):
        for name in ("no", "yes"):
            file = tmp_path / name / f"{number}.png"
            file.parent.mkdir(exist_ok=True)
            pixels = np.full((32, 32, 3), 10 * number + (name == "yes"), dtype=np.uint8)
            file.write_bytes(encode_image(pixels, "png"))
    broken = tmp_path / "yes" / "0.png"
    whole = broken.read_bytes()
    broken.write_bytes(b"")
    with pytest.raises(DataError, match="cannot be used: 1 unreadable"):
        prepare_release(read_image_folders(tmp_path, "two"), place, SETTINGS)
    broken.write_bytes(whole)
    report = prepare_release(read_image_folders(tmp_path, "two"), place, SETTINGS)
    assert sum(sum(counts.values()) for counts in report.splits.values()) == 8
    broken.write_bytes((tmp_path / "no" / "0.png").read_bytes())
    with pytest.raises(ResumeError, match=r"source has changed since it was checked: yes/0\.png, 1 file"):
        prepare_release(read_image_folders(tmp_path, "two"), place, SETTINGS)
    broken.write_bytes(whole)
    assert prepare_release(read_image_folders(tmp_path, "two"), place, SETTINGS) == report


# ------------------------------------------------------------------------------------------------------- reading


def test_folder_in_a_store_is_read_as_on_disk(s3_prepared, prepared):
    here, there = open_folder(prepared, "train"), open_folder(s3_prepared, "train")
    assert there.content_hash == here.content_hash
    assert (there.dataset, there.classes, there.kind) == (here.dataset, here.classes, here.kind)
    assert [replace(entry, shard=Path(entry.shard.name)) for entry in there.entries] == [
        replace(entry, shard=Path(entry.shard.name)) for entry in here.entries
    ]
    assert torch.equal(open_images(there).load(range(12)), open_images(here).load(range(12)))
    with pytest.raises(DataError, match="has no split 'holdout' \\(there are: train, validation, test\\)"):
        open_folder(s3_prepared, "holdout")


def test_comparison_takes_real_and_synthetic_shards_from_addresses(s3_prepared, s3_place, config):
    generate(config, s3_place, device="cpu")
    folders = open_comparison(s3_prepared, s3_place)
    assert {name: len(folder.entries) for name, folder in folders.train.items()} == {"real": 12, "synthetic": 4}
    with pytest.raises(DataError, match="are the same"):
        open_comparison(s3_prepared, location(str(s3_prepared)))


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_workers_read_from_a_store(s3_prepared, prepared, workers):
    """Workers are forked after the store was used: they need connections of their own."""
    images = open_images(open_folder(s3_prepared, "train"), cache_bytes=0)
    loaded = torch.cat([batch for batch, _ in torch.utils.data.DataLoader(images, batch_size=3, num_workers=workers)])
    assert torch.equal(loaded, open_images(open_folder(prepared, "train")).load(range(12)))
    shards = synthmed.open_shards(str(s3_prepared))
    seen = [metadata["source"] for _, _, metadata in torch.utils.data.DataLoader(shards, None, num_workers=workers)]
    assert sorted(seen) == sorted(metadata["source"] for _, _, metadata in synthmed.open_shards(prepared))
    assert len(set(seen)) == 12


def test_open_shards_takes_an_address_of_memory(prepared):
    name = uuid.uuid4().hex
    fsspec.filesystem("memory").put(str(prepared), f"/{name}", recursive=True)
    assert len(list(synthmed.open_shards(f"memory://{name}", "test"))) == 4


def test_shard_that_is_cut_in_the_store_is_named(s3_place, prepared):
    data = (prepared / "train-000002.tar").read_bytes()
    key = f"{str(s3_place).removeprefix(f's3://{BUCKET}/')}/train-000002.tar"
    boto3.client("s3").put_object(Bucket=BUCKET, Key=key, Body=data[:2000])
    for read in (lambda: open_folder(s3_place, "train"), lambda: list(synthmed.open_shards(str(s3_place)))):
        with pytest.raises(DataError, match=r"s3://.*train-000002\.tar is not a whole tar file"):
            read()


# ------------------------------------------------------------------------------------------------------ failures


def no_bucket(_patch: pytest.MonkeyPatch) -> str:
    return "s3://no-such-bucket/out"


def no_credentials(patch: pytest.MonkeyPatch) -> str:
    patch.delenv("AWS_ACCESS_KEY_ID")
    patch.delenv("AWS_SECRET_ACCESS_KEY")
    patch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    patch.setenv("AWS_CONFIG_FILE", os.devnull)
    return f"s3://{BUCKET}/out"


def no_server(patch: pytest.MonkeyPatch) -> str:
    # Port 1 needs rights that no test server has; nobody listens there.
    patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    return f"s3://{BUCKET}/out"


@pytest.fixture
def reconnect(server: str) -> Iterator[Callable[[], None]]:
    """A function that makes the next use of the store a new connection; called once more at the end."""
    yield s3fs.S3FileSystem.clear_instance_cache
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.parametrize(
    ("breaks", "said"),
    [
        (no_bucket, "bucket does not exist"),
        (no_credentials, "Unable to locate credentials"),
        (no_server, "Could not connect"),
    ],
)
def test_failing_store_is_one_line_with_the_right_code(breaks, said, reconnect, config, monkeypatch, capsys, tmp_path):
    address = breaks(monkeypatch)
    reconnect()
    said_reading = f"no such folder of shards: {address}" if "bucket" in said else said
    with pytest.raises(DataError, match=said_reading):
        synthmed.open_shards(address)
    writing = ["--balanced", "-n", "8", "--steps", "2", "--device", "cpu", "-o", address]
    reading = ["--match", address, "-o", str(tmp_path / "out")]
    for words, code, line in ((reading, 3, said_reading), (writing, 4, said)):
        monkeypatch.setattr(sys, "argv", ["synthmed", "generate", "--checkpoint", str(config.checkpoint), *words])
        with pytest.raises(SystemExit) as end:
            app.main()
        printed = capsys.readouterr()
        assert (end.value.code, printed.out) == (code, "")
        assert printed.err.startswith("error: ") and printed.err.count("\n") == 1
        assert line in printed.err and address in printed.err


def test_store_that_fails_keeps_what_is_finished_and_the_same_command_goes_on(config, s3_place, tmp_path, monkeypatch):
    from botocore.exceptions import EndpointConnectionError

    generate(config, tmp_path / "out", device="cpu")
    upload = s3fs.S3FileSystem.put_file
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))

    def failing(store: Any, source: str, target: str, **options: Any) -> None:
        if target.endswith("train-000003.tar"):
            raise EndpointConnectionError(endpoint_url="http://gone")
        upload(store, source, target, **options)

    monkeypatch.setattr(s3fs.S3FileSystem, "put_file", failing)
    with pytest.raises(DeviceError, match=r"cannot write s3://.*/train-000003\.tar: Could not connect") as caught:
        generate(config, s3_place, device="cpu", batch_size=1)
    assert caught.value.exit_code == 4
    assert not list(temporary.iterdir())
    monkeypatch.setattr(s3fs.S3FileSystem, "put_file", upload)
    finished = [name for name in contents(s3_place) if name.endswith(".tar")]
    assert finished == [f"train-{number:06d}.tar" for number in range(3)]
    assert generate(config, s3_place, device="cpu")["made_now"] == 4 - 3
    assert contents(s3_place) == contents(tmp_path / "out")


def test_store_that_fails_while_a_shard_is_read_is_named(s3_prepared, reconnect, monkeypatch):
    from botocore.exceptions import ReadTimeoutError

    folder, shards = open_folder(s3_prepared, "train"), synthmed.open_shards(str(s3_prepared))

    def failing(*_: Any, **__: Any) -> None:
        raise ReadTimeoutError(endpoint_url="http://slow")

    async def failing_later(*_: Any, **__: Any) -> None:
        failing()

    monkeypatch.setattr(s3fs.core.S3File, "_fetch_range", failing)
    monkeypatch.setattr(s3fs.S3FileSystem, "_cat_file", failing_later)
    reconnect()
    for read in (lambda: open_folder(s3_prepared, "train"), lambda: next(iter(shards)), lambda: open_images(folder)):
        with pytest.raises(DataError, match=r"cannot read s3://shards/prepared/.*: Read timeout"):
            read()


def test_uncertain_answer_of_the_store_is_not_taken_for_a_missing_file(s3_prepared, reconnect, config, monkeypatch):
    """s3fs answers `isfile` with no when it cannot tell: then a resume would make everything again."""

    async def forbidden(*_: Any, **__: Any) -> None:
        raise PermissionError("Access Denied")

    monkeypatch.setattr(s3fs.S3FileSystem, "_info", forbidden)
    reconnect()
    place = location(str(s3_prepared))
    with pytest.raises(DeviceError, match="Access Denied"):
        generate(config, place, device="cpu")
    for read in (lambda: read_stats(place / "train-000000.tar"), lambda: open_folder(place, "train")):
        with pytest.raises(DataError, match="Access Denied"):
            read()


def test_full_local_disk_is_told_as_such(place):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    message = r"cannot write .*synthmed-.*a\.bin: the disk is full"
    with pytest.raises(DeviceError, match=message), atomic_path(place / "a.bin"):
        raise full
    assert contents(place) == {}


@pytest.mark.parametrize("error", [ValueError("a bug"), torch.OutOfMemoryError("CUDA out of memory")])
def test_what_fails_before_the_upload_keeps_its_own_name(place, error):
    def failing() -> Iterator[Sample]:
        yield Sample("a", encode_image(np.zeros((8, 8, 3), dtype=np.uint8), "png"), "png", 0, {"label": 0})
        raise error

    with pytest.raises(type(error), match=str(error)):
        write_shard(place / "train-000000.tar", failing())
    assert contents(place) == {}


def test_file_appears_when_all_of_it_is_there(place):
    with atomic_file(place / "a.bin") as file:
        file.write(b"half")
        file.flush()
        assert contents(place) == {}
        file.write(b" whole")
    assert contents(place) == {"a.bin": b"half whole"}


# ----------------------------------------------------------------------------------------------------- addresses


def test_what_is_no_address_is_a_path() -> None:
    assert location("shards/out") == location(Path("shards/out")) == Path("shards/out")
    assert location("-") == Path("-")
    assert not is_remote(location("shards/out"))
    assert is_remote(location("memory://out"))


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("nosuch://bucket/out", ("nosuch", "driver for nosuch://")),
        ("s3://bucket/out[1]", ("* ? [ ]",)),
        ("s3://bucket/*", ("* ? [ ]",)),
    ],
)
def test_address_that_cannot_be_used_is_a_usage_error(address, words):
    with pytest.raises(UsageError) as caught:
        location(address)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(("module", "address"), [("gcsfs", "gs://bucket/out"), ("upath", "s3://bucket/out")])
def test_missing_driver_is_named_with_what_to_install(monkeypatch, module, address):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UsageError, match=r"pip install 'synthmed\[remote\]' and the fsspec driver") as caught:
        location(address)
    assert caught.value.exit_code == 2
