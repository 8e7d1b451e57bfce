"""Devices and number types: the only module that touches torch's global flags."""

from __future__ import annotations

import gc
import resource
import sys
import time
from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

import torch

from synthmed.errors import DeviceError
from synthmed.runtime.launch import check_device_name
from synthmed.runtime.progress import log

Precision = Literal["auto", "fp32", "bf16"]
Item = TypeVar("Item")
Result = TypeVar("Result")


def select_device(name: str) -> torch.device:
    """Return the device for `auto`, `cpu`, `cuda` or `cuda:N`; `auto` takes a GPU if there is one.

    Raises:
        UsageError: The name is none of these.
        DeviceError: That device is not there.
    """
    if check_device_name(name) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count == 0:
            raise DeviceError(f"no usable GPU for --device {name}", "use --device cpu, or check driver and torch build")
        if (device.index or 0) >= count:
            raise DeviceError(f"no such GPU: {name}", f"this machine has cuda:0 to cuda:{count - 1}")
    return device


def select_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """Return the number type of autocast regions.

    `auto` is bfloat16 where the hardware multiplies bfloat16 matrices (GPUs from Ampere on, CPUs with AMX tiles),
    float32 elsewhere: on other CPUs bfloat16 is emulated and slower.
    """
    if precision == "fp32":
        return torch.float32
    if precision == "bf16":
        return torch.bfloat16
    if device.type == "cuda":
        fast = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        has_amx = getattr(torch.cpu, "_is_amx_tile_supported", None)
        fast = has_amx is not None and bool(has_amx())
    return torch.bfloat16 if fast else torch.float32


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Return a context in which matrix products and convolutions run in `dtype`; float32 switches it off."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)


def configure(device: torch.device, *, allow_tf32: bool = False, any_threads: bool = False) -> None:
    """Set torch's global flags for one process.

    Args:
        device: What will be computed on.
        allow_tf32: Round float32 products to 10 bits of mantissa, twice as fast. Off by default: at t = 999 the
            schedule multiplies the noise estimate's error by 116, so parity needs full float32. Regions under
            bfloat16 autocast are not affected.
        any_threads: Make results on the CPU the same whatever number of threads there is, by using the largest power
            of two of them. Threads share a tensor's values evenly, and the rest of a share that does not fill the
            processor's vectors is rounded differently: powers of two leave no rest.
    """
    if device.type == "cpu" and any_threads:
        torch.set_num_threads(1 << (torch.get_num_threads().bit_length() - 1))
    if device.type != "cuda":
        return
    torch.backends.cuda.matmul.allow_tf32 = allow_tf32
    torch.backends.cudnn.allow_tf32 = allow_tf32
    # Benchmarking picks algorithms by timing, and so may change results from run to run.
    torch.backends.cudnn.benchmark = False


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an error means that the device's or the machine's memory is used up."""
    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError):
        return True
    # The CPU allocator, cuDNN and cuBLAS raise plain RuntimeErrors.
    text = str(error)
    signs = ("out of memory", "can't allocate memory", "CUDNN_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(sign in text for sign in signs)


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what was queued."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Timer:
    """Seconds since it was made, with the device's queue emptied at both ends."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        synchronize(device)
        self._start = time.perf_counter()

    def elapsed_sec(self) -> float:
        """Return the seconds since the timer was made."""
        synchronize(self._device)
        return time.perf_counter() - self._start


def peak_memory_gib(device: torch.device) -> float:
    """Return the most memory used so far, in GiB (2^30 bytes): by tensors on a GPU, by the process on a CPU."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device)) / 2**30
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts in KiB, macOS in bytes.
    return peak / (2**30 if sys.platform == "darwin" else 2**20)


def release_memory(device: torch.device) -> None:
    """Release cached memory before a smaller batch is tried."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


class FittingBatches:
    """Works through images in batches, which are halved for good where the device's memory is too small.

    Args:
        device: Where the work is done.
        size: Images in a batch.
        result: What stays the same with a smaller one, for the note to the user.

    Attributes:
        size: Images in a batch from now on.
    """

    def __init__(self, device: torch.device, size: int, result: str) -> None:
        self.size = size
        self._device = device
        self._result = result

    def map(self, work: Callable[[Sequence[Item]], Result], items: Sequence[Item]) -> list[Result]:
        """Return what `work` gives for each batch of the items, in their order.

        Raises:
            DeviceError: There is no memory for a single image.
        """
        done: list[Result] = []
        first = 0
        while first < len(items):
            batch = items[first : first + self.size]
            try:
                done.append(work(batch))
                first += len(batch)
                continue
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            # Outside the handler: while it runs, the error's trace holds on to the tensors of the failed batch.
            self._shrink(len(batch))
        return done

    def fit(self, work: Callable[[int], Result], most: int) -> Result:
        """Return what `work` gives for the largest number of images that fits, `most` or a batch at the most.

        Raises:
            DeviceError: There is no memory for a single image.
        """
        (first, *_) = self.map(lambda batch: work(len(batch)), range(min(most, self.size)))
        return first

    def _shrink(self, tried: int) -> None:
        if tried == 1:
            raise DeviceError("the device is out of memory for a single image", "use another --device")
        self.size = tried // 2
        release_memory(self._device)
        log(f"note: out of memory with {tried} images at once, going on with {self.size}: the same {self._result}")
