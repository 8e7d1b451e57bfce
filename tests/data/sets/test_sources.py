"""Where the images of a set come from: place and split as they are written."""

from pathlib import Path

import pytest

from synthmed.data.sets.sources import split_place
from synthmed.errors import UsageError
from synthmed.files.storage import location


@pytest.mark.parametrize(
    ("where", "place", "split"),
    [
        ("shards", "shards", None),
        ("/a/shards:test", "/a/shards", "test"),
        ("../a:b/shards", "../a:b/shards", None),
        ("a:b:test", "a:b", "test"),
    ],
)
def test_split_stands_behind_the_last_colon(where: str, place: str, split: str | None) -> None:
    assert split_place(where) == (Path(place), split)


def test_colon_in_the_name_of_a_folder_is_no_split(tmp_path: Path) -> None:
    (tmp_path / "2024:11").mkdir()
    assert split_place(f"{tmp_path}/2024:11") == (tmp_path / "2024:11", None)
    assert split_place(f"{tmp_path}/2024:11:test") == (tmp_path / "2024:11", "test")
    assert split_place("x" * 5000 + ":test")[1] == "test"
    with pytest.raises(UsageError, match="no split is named"):
        split_place("shards:")


@pytest.mark.parametrize(
    ("where", "place", "split"),
    [
        ("memory://bucket/x:test", "memory://bucket/x", "test"),
        ("memory://bucket/x", "memory://bucket/x", None),
        ("memory://host:9000", "memory://host:9000", None),
        ("memory://host:9000/x:test", "memory://host:9000/x", "test"),
    ],
)
def test_colons_of_addresses_are_no_splits(where: str, place: str, split: str | None) -> None:
    pytest.importorskip("upath")
    assert split_place(where) == (location(place), split)
