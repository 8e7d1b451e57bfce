"""Rules of device and number type selection."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch

from synthmed.errors import DeviceError, UsageError
from synthmed.runtime import device as devices

CPU = torch.device("cpu")


def test_auto_takes_the_cpu_where_there_is_no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert devices.select_device("auto") == CPU


def test_auto_takes_a_gpu_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert devices.select_device("auto").type == "cuda"


def test_missing_gpu_is_a_device_error_that_says_what_to_do(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="--device cpu") as caught:
        devices.select_device("cuda:0")
    assert caught.value.exit_code == 4


def test_gpu_number_beyond_the_last_is_a_device_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert devices.select_device("cuda:1").index == 1
    with pytest.raises(DeviceError, match="cuda:0 to cuda:1"):
        devices.select_device("cuda:2")


@pytest.mark.parametrize("name", ["gpu", "", "mps", "cuda:x"])
def test_unknown_device_name_is_a_usage_error(name):
    with pytest.raises(UsageError, match="use auto, cpu, cuda"):
        devices.select_device(name)


@pytest.mark.parametrize(("has_tiles", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_auto_precision_on_a_cpu_follows_its_matrix_units(monkeypatch, has_tiles, dtype):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: has_tiles, raising=False)
    assert devices.select_dtype("auto", CPU) == dtype


def test_auto_precision_is_float32_where_torch_cannot_tell(monkeypatch):
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported", raising=False)
    assert devices.select_dtype("auto", CPU) == torch.float32


@pytest.mark.parametrize(("capability", "dtype"), [((7, 5), torch.float32), ((8, 0), torch.bfloat16)])
def test_auto_precision_on_a_gpu_follows_its_generation(monkeypatch, capability, dtype):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert devices.select_dtype("auto", torch.device("cuda")) == dtype


def test_named_precision_is_taken():
    assert devices.select_dtype("fp32", CPU) == torch.float32
    assert devices.select_dtype("bf16", CPU) == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_multiplies_in_the_asked_type(dtype):
    with devices.autocast(CPU, dtype):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


@pytest.mark.parametrize(("given", "used"), [(1, 1), (2, 2), (3, 2), (6, 4), (8, 8)])
def test_threads_that_give_the_same_results_are_a_power_of_two(given, used):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(given)
        devices.configure(CPU)
        assert torch.get_num_threads() == given
        devices.configure(CPU, any_threads=True)
        assert torch.get_num_threads() == used
    finally:
        torch.set_num_threads(before)


def test_configure_switches_tf32_off_for_parity():
    flags: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [flag.allow_tf32 for flag in flags]
    try:
        devices.configure(torch.device("cuda"), allow_tf32=True)
        assert all(flag.allow_tf32 for flag in flags)
        devices.configure(torch.device("cuda"))
        assert not any(flag.allow_tf32 for flag in flags)
    finally:
        for flag, value in zip(flags, before, strict=True):
            flag.allow_tf32 = value


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.cuda.OutOfMemoryError("CUDA out of memory."), True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("shape mismatch"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_out_of_memory_is_told_from_other_errors(error, expected):
    assert devices.is_out_of_memory(error) is expected


def test_real_allocation_failure_is_recognised():
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        torch.empty(1 << 60)
    assert devices.is_out_of_memory(caught.value)


def test_batches_are_halved_for_good_until_they_fit(capsys):
    tried = []

    def work(batch):
        tried.append(len(batch))
        if len(batch) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [value * 10 for value in batch]

    fitting = devices.FittingBatches(CPU, 8, "numbers")
    assert [value for rows in fitting.map(work, range(9)) for value in rows] == [value * 10 for value in range(9)]
    assert fitting.map(work, range(3)) == [[0, 10], [20]]
    assert tried == [8, 4, 2, 2, 2, 2, 1, 2, 1]
    assert fitting.size == 2
    assert capsys.readouterr().err.splitlines()[1] == (
        "note: out of memory with 4 images at once, going on with 2: the same numbers"
    )


def test_no_batch_is_tried_again_after_other_errors_or_a_single_image():
    def fail(batch):
        raise RuntimeError("shape mismatch" if len(batch) > 1 else "can't allocate memory")

    with pytest.raises(RuntimeError, match="shape mismatch"):
        devices.FittingBatches(CPU, 2, "numbers").map(fail, [1, 2])
    with pytest.raises(DeviceError, match="out of memory for a single image"):
        devices.FittingBatches(CPU, 1, "numbers").map(fail, [1, 2])


def test_timer_measures_and_memory_is_that_of_the_process():
    timer = devices.Timer(CPU)
    time.sleep(0.01)
    assert 0.01 <= timer.elapsed_sec() < 10
    assert 0.05 < devices.peak_memory_gib(CPU) < 64
