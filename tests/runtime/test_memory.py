"""The budget of memory that threads share."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from synthmed.runtime.memory import Budget


def test_threads_never_hold_more_than_there_is() -> None:
    budget, lock = Budget(100), threading.Lock()
    held, most = 0, 0

    def work(size: int) -> None:
        nonlocal held, most
        with budget.task():
            budget.need(size)
            with lock:
                held += size
                most = max(most, held)
            time.sleep(0.0005)
            with lock:
                held -= size

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, np.random.default_rng(0).integers(1, 100, 200).tolist()))
    assert most <= 100
    assert budget._used == 0


def test_what_is_larger_than_the_budget_goes_on_alone() -> None:
    budget = Budget(100)
    running = threading.Semaphore(1)

    def work(size: int) -> bool:
        with budget.task():
            budget.need(size)
            alone = running.acquire(blocking=False)
            time.sleep(0.001)
            running.release()
            return alone

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, [500] * 12))


def test_tasks_that_wait_for_each_other_all_end() -> None:
    budget = Budget(100)
    together = threading.Barrier(4, timeout=10)

    def work(_: int) -> None:
        with budget.task():
            budget.need(25)
            together.wait()
            budget.need(90)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert budget._used == budget._waiting == 0


def test_errors_give_back_what_was_taken() -> None:
    budget = Budget(100)
    with pytest.raises(KeyError), budget.task():
        budget.need(90)
        with budget.task():
            budget.need(95)
        assert budget._used == 95
        raise KeyError
    assert budget._used == 0


def test_nothing_is_counted_outside_a_task() -> None:
    budget = Budget(1)
    budget.need(1000)
    budget.need(1000)
    assert budget._used == 0
