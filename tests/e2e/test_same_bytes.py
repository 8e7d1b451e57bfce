"""The shards of a run do not change from version to version: the embedded model's images, against a recorded shard."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from synthmed.runtime import version

RECORDED = Path(__file__).parents[1] / "golden" / "phantom-train-000000.tar"
COMMAND = ("generate", "--dataset", "phantom-fundus", "--balanced", "-n", 32, "--shards", 0)
# The folder's configuration decides whether an older run can be gone on with.
RUN_SHA256 = "bee75ef757e29f36b7e71d2051727de6be8d195c6fea9ab1a65a315163f23f70"


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as archive:
        return {info.name: archive.extractfile(info).read() for info in archive}  # type: ignore[union-attr]


def test_embedded_model_makes_the_recorded_shard(run_program, tmp_path, monkeypatch):
    monkeypatch.setattr(version, "__version__", "0.1.0")  # stands in every sample
    run_program(*COMMAND, "-o", tmp_path, "--device", "cpu")
    shard = tmp_path / "train-000000.tar"
    assert hashlib.sha256((tmp_path / ".synthmed" / "run.json").read_bytes()).hexdigest() == RUN_SHA256
    made, recorded = members(shard), members(RECORDED)
    assert list(made) == list(recorded)
    for name, data in recorded.items():
        if not name.endswith(".png"):
            assert made[name] == data, name
            continue
        images = [Image.open(io.BytesIO(found)) for found in (made[name], data)]
        # Another processor rounds a value otherwise here and there; the shard's own hash then differs.
        pixels = [np.asarray(image).astype(int) for image in images]
        assert np.abs(pixels[0] - pixels[1]).max() <= 1, name
        assert images[0].text == images[1].text, name  # type: ignore[attr-defined]
