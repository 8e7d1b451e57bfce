"""A thread that writes shards from batches whose images are still being encoded: sampling never waits for it."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from synthmed.data.shards.write import Sample, ShardStats, write_shard

Batch = list[Future[Sample]]
# Batches that may wait while the shard before is flushed to disk: bounds the memory.
WAITING_BATCHES = 4
POLL_SEC = 0.1


class _Abandoned(Exception):
    """Ends the writing of a shard that will not be finished."""


class ShardWriter:
    """Writes one shard after the other; use as a context manager, which ends when all of them are on disk.

    What goes wrong in the thread is raised where the next batch is handed over, or at the end.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._written: list[Future[ShardStats]] = []
        self._abandoned = threading.Event()

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        if kind is not None:
            self._abandoned.set()
        # Also on an error: a shard's temporary file must be gone before the program ends.
        self._pool.shutdown()
        if kind is None:
            self._raise_failures()

    @contextlib.contextmanager
    def shard(self, path: Path) -> Iterator[Callable[[Batch], None]]:
        """Yield a function that takes the batches of one shard; the shard is whole some time after the block."""
        waiting: queue.Queue[Batch | None] = queue.Queue(WAITING_BATCHES)
        self._written.append(self._pool.submit(write_shard, path, self._samples(waiting)))

        def put(batch: Batch | None) -> None:
            while True:
                self._raise_failures()
                with contextlib.suppress(queue.Full):
                    waiting.put(batch, timeout=POLL_SEC)
                    return

        yield put
        put(None)

    def _samples(self, waiting: queue.Queue[Batch | None]) -> Iterator[Sample]:
        while (batch := self._next(waiting)) is not None:
            for future in batch:
                yield future.result()

    def _next(self, waiting: queue.Queue[Batch | None]) -> Batch | None:
        while not self._abandoned.is_set():
            with contextlib.suppress(queue.Empty):
                return waiting.get(timeout=POLL_SEC)
        raise _Abandoned

    def _raise_failures(self) -> None:
        for written in self._written:
            if written.done():
                written.result()
        self._written = [written for written in self._written if not written.done()]
