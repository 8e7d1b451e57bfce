"""PyTorch's two file formats, read as data: what `torch.save` wrote comes back; a broken file is one named error."""

from __future__ import annotations

import codecs
import collections
import contextlib
import dataclasses
import io
import pickle
import struct
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from synthmed.errors import CheckpointError
from synthmed.formats.pickles import Call, Named
from synthmed.formats.torch_files import LEGACY_MAGIC, CheckpointFile, StoredTensor

# Python loads these when it first needs them to read old strings and names; later tests count what is loaded.
for codec in ("raw_unicode_escape", "unicode_escape", "cp437"):
    codecs.lookup(codec)

FORMATS = ["zip", "legacy"]


def save(value, path: Path, kind: str) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=kind == "zip")
    return path


def tensors_of_all_kinds() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(6, 5, 4, generator=generator)
    floats = {str(kind): base.to(kind) for kind in (torch.float32, torch.float16, torch.bfloat16, torch.float64)}
    integers = {
        str(kind): (base * 20).to(kind) for kind in (torch.int64, torch.int32, torch.int16, torch.int8, torch.bool)
    }
    shared = torch.arange(100.0)
    views = {
        "whole": shared,
        "tail": shared[90:],
        "columns": shared.view(10, 10)[:, 3:5],
        "transposed": shared.view(10, 10).t(),
        "stepped": shared[1::7],
        "expanded": shared[5].expand(3, 4),
        "one": shared[7],
        "none": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(shared[:4].clone()),
    }
    # Odd lengths before others put those at addresses that their numbers do not divide.
    return {"odd": torch.arange(3, dtype=torch.int8)} | floats | integers | views


@pytest.mark.parametrize("kind", FORMATS)
def test_tensors_come_back_as_they_were_saved(tmp_path, kind):
    wanted = tensors_of_all_kinds()
    file = CheckpointFile(save({"tensors": wanted, "step": 3}, tmp_path / "a.ckpt", kind))
    assert file.root["step"] == 3
    assert file.root["tensors"].keys() == wanted.keys()
    for name, tensor in wanted.items():
        if name == "expanded":  # more values than its storage has: see below
            continue
        stored = file.root["tensors"][name]
        file.check(stored)
        found = file.read(stored)
        assert found.dtype == tensor.dtype, name
        assert torch.equal(found, tensor), name
        assert stored.storage.floating == tensor.is_floating_point()


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_of_pickle_that_torch_writes_is_read(tmp_path, kind, protocol):
    value = {"a": torch.arange(5.0), "b": [1, 2.5, None, True, "text", b"bytes", 1 << 100, {"x"}]}
    torch.save(value, tmp_path / "a.ckpt", pickle_protocol=protocol, _use_new_zipfile_serialization=kind == "zip")
    file = CheckpointFile(tmp_path / "a.ckpt")
    assert file.read(file.root["a"]).tolist() == [0, 1, 2, 3, 4]
    assert file.root["b"][:5] == [1, 2.5, None, True, "text"]


def test_numbers_of_other_kinds_are_refused(tmp_path):
    save({"a": torch.zeros(3, dtype=torch.complex64)}, tmp_path / "a.ckpt", "zip")
    refused(tmp_path / "a.ckpt", "ComplexFloatStorage")


@pytest.mark.parametrize("kind", FORMATS)
def test_views_share_a_storage(tmp_path, kind):
    file = CheckpointFile(save(tensors_of_all_kinds(), tmp_path / "a.ckpt", kind))
    names = ("whole", "tail", "columns", "transposed", "stepped", "one")
    assert len({file.root[name].storage.key for name in names}) == 1


def test_what_is_read_can_be_changed_without_changing_the_file(tmp_path):
    path = save({"a": torch.ones(1000)}, tmp_path / "a.ckpt", "zip")
    before = path.read_bytes()
    file = CheckpointFile(path)
    file.read(file.root["a"]).mul_(2)
    assert path.read_bytes() == before
    assert file.read(file.root["a"]).sum() == 1000


@pytest.mark.parametrize("kind", FORMATS)
def test_classes_and_objects_beside_the_tensors_stay_records(tmp_path, kind):
    """The old format keeps classes of modules, with their source, outside of its pickle."""
    parameters = {"loss": torch.nn.L1Loss, "optimizer": torch.optim.AdamW, "path": Path("/a/b")}
    file = CheckpointFile(save({"hyper_parameters": parameters}, tmp_path / "a.ckpt", kind))
    found = file.root["hyper_parameters"]
    assert found["loss"] == Named("torch.nn.modules.loss", "L1Loss")
    assert isinstance(found["path"], Call)


def test_views_of_the_oldest_files_count_from_their_first_number(tmp_path):
    """Until 0.4 a storage could be a view of another one: (its own key, its first number, its length)."""

    class Outside:
        def __init__(self, *identifier):
            self.identifier = identifier

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return value.identifier if isinstance(value, Outside) else None

    class Tensor:
        def __init__(self, storage, offset, shape, strides):
            self.arguments = storage, offset, shape, strides

        def __reduce__(self):
            return torch._utils._rebuild_tensor, self.arguments

    storage = Outside("storage", torch.FloatStorage, "7", "cpu", 10, ("8", 4, 6))
    stream = io.BytesIO()
    for value in (LEGACY_MAGIC, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}):
        pickle.dump(value, stream, 2)
    Pickler(stream, 2).dump({"a": Tensor(storage, 1, (2,), (2,))})
    pickle.dump(["7"], stream, 2)
    stream.write(struct.pack("<q10f", 10, *range(10)))
    (tmp_path / "old.ckpt").write_bytes(stream.getvalue())
    assert torch.load(tmp_path / "old.ckpt", weights_only=True)["a"].tolist() == [5, 7]
    file = CheckpointFile(tmp_path / "old.ckpt")
    assert file.read(file.root["a"]).tolist() == [5, 7]


def refused(path: Path, *words: str) -> None:
    """Check that opening or reading a file fails with one line that names it."""
    with pytest.raises(CheckpointError) as caught:
        file = CheckpointFile(path)
        for value in file.root.values():
            file.read(value)
    assert caught.value.exit_code == 3
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 0.5, 0.9, 0.999])
def test_truncated_file_is_refused(tmp_path, kind, share):
    whole = save({"a": torch.arange(5000.0), "b": torch.ones(5000)}, tmp_path / "a.ckpt", kind).read_bytes()
    (tmp_path / "cut.ckpt").write_bytes(whole[: int(len(whole) * share)])
    refused(tmp_path / "cut.ckpt")


def test_other_files_are_refused(tmp_path):
    for content in (b"nothing", pickle.dumps({"a": 1}), pickle.dumps(LEGACY_MAGIC), bytes(100), b"PK\x03\x04" * 9):
        (tmp_path / "other.ckpt").write_bytes(content)
        refused(tmp_path / "other.ckpt")


def test_missing_file_and_folder_are_refused(tmp_path):
    refused(tmp_path / "none.ckpt", "no such checkpoint")
    (tmp_path / "folder.ckpt").mkdir()
    refused(tmp_path / "folder.ckpt")


def rezip(source: Path, target: Path, change) -> Path:
    """Copy a zip; `change(name, data)` returns the new (name, data, compression), or None to drop the member."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for info in old.infolist():
            changed = change(info.filename, old.read(info))
            if changed:
                name, data, compression = changed
                new.writestr(zipfile.ZipInfo(name), data, compression)
    return target


def stored(name, data):
    return name, data, zipfile.ZIP_STORED


def test_zips_that_pytorch_does_not_write_are_refused(tmp_path):
    good = save({"a": torch.arange(100.0), "b": torch.ones(100)}, tmp_path / "good.ckpt", "zip")
    cases = {
        "escapes": lambda name, data: stored(name.replace("good/data/0", "good/../../0"), data),
        "compressed": lambda name, data: (name, data, zipfile.ZIP_DEFLATED),
        "lacks the storage '1'": lambda name, data: None if name.endswith("data/1") else stored(name, data),
        "in a storage of 396 bytes": lambda name, data: stored(name, data[:-4] if name.endswith("data/1") else data),
        "holds 0 pickles": lambda name, data: None if name.endswith("data.pkl") else stored(name, data),
        "big-endian": lambda name, data: stored(name, b"big" if name.endswith("byteorder") else data),
    }
    for number, (reason, change) in enumerate(cases.items()):
        refused(rezip(good, tmp_path / f"bad{number}.ckpt", change), reason)


def test_encrypted_zip_is_refused(tmp_path):
    path = save({"a": torch.arange(100.0)}, tmp_path / "a.ckpt", "zip")
    content = bytearray(path.read_bytes())
    for start in (b"PK\x03\x04", b"PK\x01\x02"):  # the flags of the first member, data.pkl, in both its headers
        content[content.index(start) + (6 if start[2] == 3 else 8)] |= 1
    path.write_bytes(bytes(content))
    refused(path)


def test_tensor_that_reaches_beyond_its_storage_is_refused(tmp_path):
    """A file may declare any shape, offset and stride for the bytes that it has."""
    file = CheckpointFile(save({"a": torch.zeros(8, 4, 3, 3)}, tmp_path / "a.ckpt", "zip"))
    tensor = file.root["a"]
    huge = 10 * 2**30 // 4
    for change in (
        {"shape": (huge,), "strides": (0,)},
        {"shape": (huge,), "strides": (1,)},
        {"shape": (1 << 61, 1 << 61), "strides": (1 << 61, 1)},
        {"offset": huge},
        {"strides": (1000, 1, 1, 1)},
    ):
        with pytest.raises(CheckpointError, match="beyond its storage"):
            file.check(dataclasses.replace(tensor, **change))


@pytest.mark.parametrize("number", [-1, 1 << 62, 2.5, None, "3"])
def test_sizes_beyond_reason_are_refused(tmp_path, number):
    class Tensor:
        def __reduce__(self):
            storage = torch.storage.TypedStorage(4, dtype=torch.float32, _internal=True)
            return torch._utils._rebuild_tensor_v2, (storage, 0, (number,), (1,), False, {})

    with pytest.raises(CheckpointError, match=r"a\.ckpt: its pickle is broken"):
        CheckpointFile(save({"a": Tensor()}, tmp_path / "a.ckpt", "zip"))


@pytest.mark.parametrize("kind", FORMATS)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutated_files_neither_crash_nor_import(tmp_path, kind, data):
    path = tmp_path / f"{kind}.ckpt"
    if not path.exists():
        value = {"state": collections.OrderedDict(a=torch.ones(3), b=torch.ones(2).half()), "loss": torch.optim.AdamW}
        save(value, path, kind)
    mutated = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "mutated.ckpt").write_bytes(mutated)
    modules = set(sys.modules)
    with contextlib.suppress(CheckpointError):
        file = CheckpointFile(tmp_path / "mutated.ckpt")
        state = file.root.get("state") if isinstance(file.root, dict) else None
        for value in state.values() if isinstance(state, dict) else ():
            if isinstance(value, StoredTensor):
                file.read(value)
    assert set(sys.modules) == modules
