"""`synthmed.open_shards`: what other people's training jobs read."""

import pytest
import torch

import synthmed
from synthmed.data.prepare.prepare import PrepareConfig, prepare_release
from synthmed.errors import DataError
from synthmed.phantoms.release import phantom_release


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("shards")
    prepare_release(phantom_release(40), path / "out", PrepareConfig(size=32))
    return path / "out"


def test_every_sample_is_read_once_with_its_label(folder):
    samples = list(synthmed.open_shards(folder, "test"))
    assert len({metadata["source"] for _, _, metadata in samples}) == len(samples) == 12
    for image, label, metadata in samples:
        assert image.dtype == torch.uint8
        assert image.shape == (3, 32, 32)
        assert metadata["label"] == label


def test_missing_split_names_those_there_are(folder):
    with pytest.raises(DataError, match="train, validation"):
        synthmed.open_shards(folder, "holdout")
