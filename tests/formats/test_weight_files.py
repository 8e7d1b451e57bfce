"""Weights from files: the same numbers from either format, and what is refused."""

import pytest
import torch
from safetensors.torch import save_file

from synthmed.errors import CheckpointError
from synthmed.formats.weight_files import check_weights, read_weights

WEIGHTS = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.tensor([1.0, 2.0], dtype=torch.float16)}


def test_both_formats_give_the_same_tensors(tmp_path):
    save_file(WEIGHTS, tmp_path / "w.safetensors")
    torch.save(torch.nn.Module().state_dict() | WEIGHTS, tmp_path / "w.pth")
    torch.save(WEIGHTS, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    for name in ("w.safetensors", "w.pth", "old.pth"):
        found = read_weights(tmp_path / name)
        assert found.keys() == WEIGHTS.keys()
        for key, tensor in WEIGHTS.items():
            assert found[key].dtype == tensor.dtype
            assert torch.equal(found[key], tensor)


@pytest.mark.parametrize("name", ["no.pth", "no.safetensors"])
def test_missing_file_is_named(tmp_path, name):
    with pytest.raises(CheckpointError, match=f"no such weights file: .*{name}") as caught:
        read_weights(tmp_path / name)
    assert caught.value.exit_code == 3


class Evil:
    def __reduce__(self):
        return exec, ("raise SystemExit('a pickle was run')",)


@pytest.mark.parametrize("content", [{"a": Evil()}, {"a": 1.0}, [torch.zeros(2)], {"net": WEIGHTS}])
def test_file_that_is_no_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"w\.pth"):
        read_weights(tmp_path / "w.pth")


def test_many_names_for_one_storage_are_refused(tmp_path):
    one = torch.zeros(1 << 16)
    torch.save({str(number): one for number in range(20)}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="more numbers than it has bytes"):
        read_weights(tmp_path / "w.pth")


def test_what_is_wrong_with_weights_is_named(tmp_path):
    def refused(changes, match):
        found = {key: value for key, value in (WEIGHTS | changes).items() if value is not None}
        with pytest.raises(CheckpointError, match=match):
            check_weights(tmp_path / "w.pth", "a network", found, WEIGHTS, "bring another")

    check_weights(tmp_path / "w.pth", "a network", WEIGHTS, WEIGHTS | {"n.num_batches_tracked": torch.tensor(0)})
    refused({"a.bias": None}, r"w\.pth does not hold the weights of a network: a\.bias is missing \(bring another\)")
    refused({"b": torch.zeros(1)}, "b is not part of it")
    refused({"a.bias": torch.zeros(3)}, r"a\.bias has shape \[3\], not \[2\]")
    refused({"a.bias": torch.tensor([1.0, torch.inf])}, r"not finite: a\.bias")
