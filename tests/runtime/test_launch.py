"""The variables of torchrun and SLURM: used rightly, or named with what is wrong."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synthmed.cli.generate_options import resolve_share
from synthmed.errors import UsageError
from synthmed.runtime.launch import Launch, check_device_name, check_threads, read_array_task, read_launch

ARRAY = "SLURM_ARRAY_TASK_"


def array(**values: object) -> dict[str, str]:
    """Return the variables of a SLURM array by the ends of their names."""
    return {ARRAY + name: str(value) for name, value in values.items()}


@pytest.mark.parametrize(
    ("environment", "launch"),
    [
        ({}, Launch()),
        ({"RANK": "0", "WORLD_SIZE": "1"}, Launch()),
        ({"RANK": "2", "WORLD_SIZE": "3", "LOCAL_RANK": "1"}, Launch(2, 3, 1)),
        ({"LOCAL_RANK": "3"}, Launch(local_rank=3)),
        ({"SLURM_PROCID": "3", "SLURM_NTASKS": "4"}, Launch()),
    ],
)
def test_launch_is_what_torchrun_says(environment: dict[str, str], launch: Launch) -> None:
    assert read_launch(environment) == launch


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"RANK": "1"}, "WORLD_SIZE of torchrun is not set"),
        ({"WORLD_SIZE": "2"}, "RANK of torchrun is not set"),
        ({"RANK": "", "WORLD_SIZE": "2"}, "RANK of torchrun is ''"),
        ({"RANK": "0", "WORLD_SIZE": ""}, "WORLD_SIZE of torchrun is ''"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK of torchrun is '2' (a number from 0 to 1"),
        ({"RANK": "-1", "WORLD_SIZE": "2"}, "RANK of torchrun is '-1'"),
        ({"RANK": "0", "WORLD_SIZE": "0"}, "WORLD_SIZE of torchrun is '0'"),
        ({"RANK": "0", "WORLD_SIZE": "two"}, "WORLD_SIZE of torchrun is 'two'"),
        ({"RANK": "٠", "WORLD_SIZE": "2"}, "RANK of torchrun is '٠'"),
        ({"RANK": "0", "WORLD_SIZE": "9" * 5000}, "WORLD_SIZE of torchrun is"),
        ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "2"}, "LOCAL_RANK of torchrun is '2'"),
        ({"LOCAL_RANK": "gpu0"}, "LOCAL_RANK of torchrun is 'gpu0'"),
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "a"}, "MASTER_PORT of torchrun is not set"),
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "70000"}, "MASTER_PORT"),
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_PORT": "29500"}, "MASTER_ADDR of torchrun is not set"),
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_PORT": "29500", "MASTER_ADDR": ""}, "MASTER_ADDR of torchrun is ''"),
    ],
)
def test_variable_that_makes_no_sense_is_named(environment: dict[str, str], words: str) -> None:
    with pytest.raises(UsageError, match=re.escape(words)):
        read_launch(environment, together=True)


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({}, (0, 1)),
        (array(ID=7, COUNT=1), (0, 1)),
        (array(ID=0, COUNT=4, MIN=0, MAX=3, STEP=1), (0, 4)),
        (array(ID=4, COUNT=4, MIN=1), (3, 4)),
        (array(ID=15, COUNT=3, MIN=5, MAX=15, STEP=5), (2, 3)),
    ],
)
def test_place_in_an_array_is_counted_from_its_first_task(environment: dict[str, str], place: tuple[int, int]) -> None:
    assert read_array_task(environment) == place


@pytest.mark.parametrize(
    ("environment", "name"),
    [
        (array(ID=1), "COUNT"),
        (array(COUNT=2), "ID"),
        (array(ID=1, COUNT=2), "MIN"),
        (array(ID="", COUNT=2, MIN=0), "ID"),
        (array(ID="x", COUNT=2, MIN=0), "ID"),
        (array(ID=2, COUNT=2, MIN=0), "ID"),
        (array(ID=1, COUNT=2, MIN=0, STEP=2), "ID"),
        (array(ID=1, COUNT=2, MIN=0, STEP=0), "STEP"),
        (array(ID=7, COUNT=3, MIN=1, MAX=7), "MAX"),  # 1,3,7
        (array(ID=1, COUNT=-2, MIN=0), "COUNT"),
    ],
)
def test_array_that_makes_no_sense_is_named(environment: dict[str, str], name: str) -> None:
    with pytest.raises(UsageError, match=f"the variable {ARRAY}{name} .*--shards"):
        read_array_task(environment)


WORDS = st.one_of(st.integers(-2, 12).map(str), st.text(max_size=4), st.just("9" * 5000))
NAMES = ("RANK", "WORLD_SIZE", *(ARRAY + name for name in ("ID", "COUNT", "MIN", "MAX", "STEP")))


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(NAMES), WORDS), st.one_of(st.none(), st.text("0123456789-, x", max_size=8)))
def test_share_of_any_variables_is_a_true_one_or_a_usage_error(environment: dict[str, str], shards: str | None) -> None:
    try:
        share = resolve_share(shards, environment)
    except UsageError:
        return
    assert 0 <= share.rank < share.world
    assert share.chosen is None or share.chosen


@pytest.mark.parametrize("text", ["1", "16", "2,2", " 4"])
def test_threads_that_openmp_can_read_pass(text: str) -> None:
    check_threads({"OMP_NUM_THREADS": text})


@pytest.mark.parametrize("text", ["", "0", "-1", "abc", "2,", "1000000", "٢", "1.5"])
def test_threads_that_openmp_cannot_read_are_named(text: str) -> None:
    with pytest.raises(UsageError, match=f"the variable OMP_NUM_THREADS is '{text}'"):
        check_threads({"OMP_NUM_THREADS": text})


@pytest.mark.parametrize("name", ["", "gpu", "CUDA", "cuda:", "cuda:-1", "cuda:01", "cuda:9999", "cuda:٣", "cpu:1"])
def test_unknown_device_is_told_without_torch(name: str) -> None:
    with pytest.raises(UsageError, match="unknown device"):
        check_device_name(name)
