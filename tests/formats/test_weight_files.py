"""Weights from files: the same numbers from any format and wrapper, and what is refused."""

import copy
import json
import struct
import zipfile
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from synthmed.errors import CheckpointError
from synthmed.formats.weight_files import fit_weights, hash_weights, read_weights

WEIGHTS = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.tensor([1.0, 2.0])}


def same(found: dict[str, Any], wanted: dict[str, Any] = WEIGHTS) -> bool:
    return found.keys() == wanted.keys() and all(torch.equal(found[key], wanted[key]) for key in wanted)


def test_content_decides_on_the_format_and_not_the_ending(tmp_path):
    for ending in ("safetensors", "pth", "pt", "bin", "ckpt", "data"):
        for number, write in enumerate(
            (
                lambda path: save_file(WEIGHTS, path),
                lambda path: torch.save(torch.nn.Module().state_dict() | WEIGHTS, path),
                lambda path: torch.save(WEIGHTS, path, _use_new_zipfile_serialization=False),
                lambda path: torch.save({key: torch.nn.Parameter(value) for key, value in WEIGHTS.items()}, path),
            )
        ):
            write(tmp_path / f"{number}.{ending}")
            assert same(read_weights(tmp_path / f"{number}.{ending}", WEIGHTS))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_floats_of_any_precision_become_single_and_whole_numbers_stay(tmp_path, dtype):
    whole = {"n": torch.tensor(5), "0": torch.tensor(True)}
    stored = {key: tensor.to(dtype) for key, tensor in WEIGHTS.items()} | whole
    save_file(stored, tmp_path / "w.safetensors")
    torch.save(stored, tmp_path / "w.pth")
    for name in ("w.safetensors", "w.pth"):
        assert same(read_weights(tmp_path / name, stored), WEIGHTS | whole)


@pytest.mark.parametrize(
    ("prefix", "said"),
    [
        ("module.", "module."),
        ("_orig_mod.", "_orig_mod."),
        ("model.", "model."),
        ("state_dict.", "state_dict."),
        ("module._orig_mod.", "_orig_mod. and module."),
        ("_orig_mod.module.", "_orig_mod. and module."),
        ("model.net.backbone.", "model. and net. and backbone."),
    ],
)
def test_prefix_of_all_names_comes_off_and_is_said(tmp_path, capsys, prefix, said):
    renamed = {prefix + key: tensor for key, tensor in WEIGHTS.items()}
    save_file(renamed, tmp_path / "w.safetensors")
    torch.save({"state_dict": renamed}, tmp_path / "w.ckpt")
    for name in ("w.safetensors", "w.ckpt"):
        assert same(read_weights(tmp_path / name, WEIGHTS))
        assert f"{name}: names are taken without {said}\n" in capsys.readouterr().err


def test_same_weights_have_one_hash_whatever_file_they_were_in(tmp_path):
    torch.save({f"module.{key}": tensor for key, tensor in reversed(WEIGHTS.items())}, tmp_path / "w.pth")
    assert hash_weights(read_weights(tmp_path / "w.pth", WEIGHTS)) == hash_weights(WEIGHTS)
    for changed in (
        {"a.bias": torch.tensor([1.0, 3.0])},
        {"a.bias": torch.tensor([[1.0, 2.0]])},
        {"b": torch.tensor(1)},
    ):
        assert hash_weights(WEIGHTS | changed) != hash_weights(WEIGHTS)


def test_parts_that_were_compiled_alone_have_their_names(tmp_path):
    save_file({f"a._orig_mod.{key[2:]}": tensor for key, tensor in WEIGHTS.items()}, tmp_path / "w.safetensors")
    assert same(read_weights(tmp_path / "w.safetensors", WEIGHTS))


def test_average_that_torch_makes_is_read_without_its_counter(tmp_path):
    network = torch.nn.Sequential(torch.nn.Linear(2, 2))
    torch.save(torch.optim.swa_utils.AveragedModel(network).state_dict(), tmp_path / "w.pth")
    assert same(read_weights(tmp_path / "w.pth", network.state_dict()), network.state_dict())


def test_names_that_the_network_has_itself_keep_their_beginning(tmp_path, capsys):
    own = {f"model.{key}": tensor for key, tensor in WEIGHTS.items()}
    save_file(own, tmp_path / "w.safetensors")
    assert same(read_weights(tmp_path / "w.safetensors", own), own)
    save_file({f"module.{key}": tensor for key, tensor in own.items()}, tmp_path / "w.safetensors")
    assert same(read_weights(tmp_path / "w.safetensors", own), own)
    save_file({"model.a": torch.zeros(1), "b": torch.zeros(1)}, tmp_path / "mixed.safetensors")
    assert read_weights(tmp_path / "mixed.safetensors", WEIGHTS).keys() == {"model.a", "b"}
    assert capsys.readouterr().err.count("\n") == 1


OTHER = {"a.weight": torch.zeros(2, 3), "a.bias": torch.zeros(2)}
OPTIMIZER = {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"net": WEIGHTS}, "under net\n"),
        ({"epoch": 3, "model": WEIGHTS, "optimizer": OPTIMIZER}, "under model\n"),
        ({"model_state_dict": WEIGHTS, "optimizer_state_dict": OPTIMIZER, "loss": 0.1}, "under model_state_dict\n"),
        (
            {"state_dict": OTHER, "state_dict_ema": WEIGHTS, "args": {"lr": 1}},
            "state_dict_ema, not those under state_dict",
        ),
        ({"ema": {"decay": 0.999}, "model": WEIGHTS}, "under model\n"),
        ({"ema": {"decay": 0.999, "module": WEIGHTS}, "model": OTHER}, "under ema, not those under model\n"),
        ({"state_dict": {"model": WEIGHTS}}, "under state_dict\n"),
        ({"temperature": torch.zeros(1), "state_dict": WEIGHTS}, "under state_dict\n"),
        ({"whatever": WEIGHTS, "args": {"lr": 0.1}}, "under whatever\n"),
    ],
)
def test_weights_among_other_things_are_found_and_it_is_said_which(tmp_path, capsys, content, said):
    torch.save(copy.deepcopy(content), tmp_path / "w.pth")
    assert same(read_weights(tmp_path / "w.pth", WEIGHTS))
    assert said in capsys.readouterr().err


def test_tied_weights_are_read_under_both_names(tmp_path):
    tied = {**WEIGHTS, "b.weight": WEIGHTS["a.weight"]}
    torch.save(tied, tmp_path / "w.pth")
    assert same(read_weights(tmp_path / "w.pth", tied), tied)


@pytest.mark.parametrize("name", ["no.pth", "no.safetensors"])
def test_missing_file_is_named(tmp_path, name):
    with pytest.raises(CheckpointError, match=rf"no such weights file: .*{name} \(bring it\)") as caught:
        read_weights(tmp_path / name, WEIGHTS, remedy="bring it")
    assert caught.value.exit_code == 3


class Evil:
    def __reduce__(self):
        return exec, ("raise SystemExit('a pickle was run')",)


@pytest.mark.parametrize(
    "content",
    [
        {"a": Evil()},
        {"state_dict": {"a": Evil()}},
        {"a": 1.0},
        {"a": torch.zeros(1), "b": 1.0},
        {"a": torch.zeros(1), 5: torch.zeros(1)},
        {"a\nb": torch.zeros(1)},
        [torch.zeros(2)],
        {"one": WEIGHTS, "two": WEIGHTS},
        {"a": torch.zeros(1, dtype=torch.complex64)},
        {},
        torch.nn.Linear(1, 1),
    ],
)
@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_file_that_is_no_state_dict_is_refused(tmp_path, content, name):
    torch.save(content, tmp_path / name)
    with pytest.raises(CheckpointError, match=name) as caught:
        read_weights(tmp_path / name, WEIGHTS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"x", bytes(99), b"\x89HDF\r\n\x1a\n" + bytes(99), b"PK\x03\x04" + bytes(99)])
def test_file_of_another_kind_is_refused(tmp_path, content):
    for name in ("w.pth", "w.safetensors"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=name):
            read_weights(tmp_path / name, WEIGHTS)
    with zipfile.ZipFile(tmp_path / "w.npz", "w") as archive:
        archive.writestr("a.npy", b"")
    with pytest.raises(CheckpointError, match=r"w\.npz"):
        read_weights(tmp_path / "w.npz", WEIGHTS)


@pytest.mark.parametrize("kept", [0, 4, 9, 40, 0.5, -1])
def test_file_that_is_cut_short_is_refused(tmp_path, kept):
    save_file(WEIGHTS, tmp_path / "w.safetensors")
    torch.save(WEIGHTS, tmp_path / "w.pth")
    for name in ("w.safetensors", "w.pth"):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: int(len(whole) * kept) if isinstance(kept, float) else kept])
        with pytest.raises(CheckpointError, match=name):
            read_weights(tmp_path / name, WEIGHTS)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"shape": [2, float("inf")]}, "has no place for its tensor 'a'"),
        ({"shape": [2, 1.0]}, "has no place for its tensor 'a'"),
        ({"shape": [2, True]}, "has no place for its tensor 'a'"),
        ({"shape": [-2]}, "has no place for its tensor 'a'"),
        ({"shape": [1] * 10_000}, "has no place for its tensor 'a'"),
        ({"shape": "2"}, "has no place for its tensor 'a'"),
        ({"data_offsets": [0]}, "has no place for its tensor 'a'"),
        ({"data_offsets": [0, 2**70]}, "has no place for its tensor 'a'"),
        ({"more": 1}, "has no place for its tensor 'a'"),
        ({"dtype": "F5"}, "numbers of a kind that is not known: 'F5'"),
        ({"dtype": ["F32"]}, "has no place for its tensor 'a'"),
        ({"shape": [3]}, r"has a tensor of shape \[3\] in 8 bytes"),
        ({"data_offsets": [8, 16]}, "has a gap before its tensor"),
        ({"shape": [4], "data_offsets": [0, 16]}, "or another one over it"),
        ({"shape": [0], "data_offsets": [4, 4]}, "or another one over it"),
        ({"shape": [100], "data_offsets": [16, 416]}, "has a gap before its tensor"),
    ],
)
def test_list_of_tensors_that_cannot_be_true_is_refused(tmp_path, entry, said):
    good = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    table = {"a": {**good, **entry}, "b": {**good, "data_offsets": [8, 16]}}
    write_list(tmp_path / "w.safetensors", json.dumps(table), 16)
    with pytest.raises(CheckpointError, match=said) as caught:
        read_weights(tmp_path / "w.safetensors", WEIGHTS)
    assert len(str(caught.value)) < 500 + len(str(tmp_path))


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 50_000, '{"a":1,"a":2}', '{"a', "{}x", '{"a":1}'])
def test_list_that_is_no_json_or_doubles_a_name_is_refused(tmp_path, text):
    write_list(tmp_path / "w.safetensors", text, 0)
    with pytest.raises(CheckpointError, match=r"w\.safetensors"):
        read_weights(tmp_path / "w.safetensors", WEIGHTS)


def write_list(path, text: str, num_bytes: int) -> None:
    path.write_bytes(struct.pack("<Q", len(text)) + text.encode() + bytes(num_bytes))


def test_many_names_for_one_storage_are_refused(tmp_path):
    one = torch.zeros(1 << 16)
    torch.save({str(number): one for number in range(20)}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"declares 1310720 weights in \d+ bytes"):
        read_weights(tmp_path / "w.pth", WEIGHTS)


def test_weights_that_fit_are_the_networks_own_names(tmp_path):
    wanted = WEIGHTS | {"n.num_batches_tracked": torch.tensor(3)}
    found = fit_weights(tmp_path / "w.pth", "a network", WEIGHTS | {"x.num_batches_tracked": torch.tensor(1)}, wanted)
    assert same(found, WEIGHTS | {"n.num_batches_tracked": torch.tensor(0)})


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (
            {"a.bias": None},
            r"w\.pth does not hold the weights of a network: a\.bias is missing \(1 of 2 tensors\) \(bring it\)",
        ),
        ({"b": torch.zeros(1), "c": torch.zeros(1)}, r"b is not part of it \(2 tensors\)"),
        ({"a.bias": torch.zeros(3)}, r"a\.bias has shape \[3\], not \[2\] \(1 tensors\)"),
        ({"a.bias": torch.zeros(2, dtype=torch.int8)}, r"a\.bias is of torch\.int8, not of torch\.float32"),
        ({"a.bias": torch.tensor([1.0, torch.inf])}, r"not finite: a\.bias"),
        (
            {"a.bias": None, "a.weight": torch.zeros(1), "b": torch.zeros(1)},
            r"a\.bias is missing.*; b is not part of it.*; a\.weight has shape",
        ),
    ],
)
def test_what_is_wrong_with_weights_is_counted_and_named(tmp_path, changes, match):
    found = {key: value for key, value in (WEIGHTS | changes).items() if value is not None}
    with pytest.raises(CheckpointError, match=match):
        fit_weights(tmp_path / "w.pth", "a network", found, WEIGHTS, "bring it")
