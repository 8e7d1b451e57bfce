"""Inception's features against torch-fidelity's own class, and what is refused as its weights."""

import hashlib
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3

from synthmed.errors import CheckpointError
from synthmed.features import inception
from synthmed.features.extractor import open_extractor
from synthmed.features.inception import InceptionExtractor, find_inception_weights
from synthmed.features.names import INCEPTION_FILE
from synthmed.runtime.seeds import torch_generator

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def state():
    """Random weights under torch-fidelity's names, scaled so that features keep their size; the real ones are 95 MB."""
    generator = torch_generator(0, "inception")
    with torch.device("meta"):
        wanted = inception._Network().state_dict()
    found = {}
    for name, tensor in wanted.items():
        noise = torch.randn(tensor.shape, generator=generator)
        if name.endswith("num_batches_tracked"):
            found[name] = torch.tensor(0)
        elif tensor.ndim > 1:
            found[name] = noise * (2 / tensor[0].numel()) ** 0.5
        else:
            found[name] = noise.abs() + 0.5 if name.endswith(("bn.weight", "running_var")) else 0.3 * noise
    return found


@pytest.fixture(scope="module")
def weights(state, tmp_path_factory):
    """The random weights as torch.save writes them; not to be changed."""
    path = tmp_path_factory.mktemp("inception") / "inception.pth"
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def extractor(weights):
    return InceptionExtractor(weights, CPU)


@pytest.fixture(scope="module")
def images():
    # Of different contrast, so that their features differ, and not square.
    contrast = torch.tensor([10, 255]).view(2, 1, 1, 1)
    noise = torch.rand(2, 3, 48, 40, generator=torch_generator(0, "images"))
    return (noise * contrast).to(torch.uint8)


def test_equals_torch_fidelitys_own_class(extractor, weights, images):
    other = FeatureExtractorInceptionV3("other", ["2048"], feature_extractor_weights_path=str(weights))
    expected, found = other(images)[0], extractor(images)
    assert found.shape == (2, extractor.num_features) and found.dtype == torch.float32
    assert (expected[0] - expected[1]).norm() > 0.01 * expected[0].norm()
    assert (found - expected).norm() <= 1e-6 * expected.norm()


def test_row_depends_on_its_image_alone(extractor, images):
    torch.testing.assert_close(extractor(images.flip(0))[:1], extractor(images[1:]), rtol=1e-5, atol=1e-5)


def test_format_of_the_file_makes_no_difference(extractor, state, images, tmp_path):
    # Without the counters, as some converters leave them.
    save_file({k: v for k, v in state.items() if "num_batches" not in k}, tmp_path / "inception.safetensors")
    other = InceptionExtractor(tmp_path / "inception.safetensors", CPU)
    assert torch.equal(other(images[:1]), extractor(images[:1]))
    assert other.fingerprint != extractor.fingerprint


def test_states_what_it_is(extractor, weights, capsys):
    again = open_extractor("inception", weights=weights, device=CPU)
    assert again.name == "inception" and again.fingerprint == extractor.fingerprint
    assert again.weights_sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert "299 x 299" in again.resize
    assert "not the published weights-inception" in capsys.readouterr().err


def test_wrong_weights_are_named(state, tmp_path):
    def refused(changes, match):
        wrong = {key: value for key, value in (state | changes).items() if value is not None}
        torch.save(wrong, tmp_path / "wrong.pth")
        with pytest.raises(CheckpointError, match=rf"wrong\.pth .*{match}.*--feature-weights"):
            InceptionExtractor(tmp_path / "wrong.pth", CPU)

    refused({"Mixed_5b.branch1x1.conv.weight": None}, r"Mixed_5b\.branch1x1\.conv\.weight is missing")
    refused({"fc.bias": torch.zeros(1000)}, r"fc\.bias has shape \[1000\], not \[1008\]")


class TestCache:
    @pytest.fixture(autouse=True)
    def hub(self, tmp_path, monkeypatch):
        """torch's cache, empty, and a connection."""
        monkeypatch.setattr(inception, "check_connection", lambda address: None)
        monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
        return tmp_path / "hub" / "checkpoints" / INCEPTION_FILE

    def test_missing_weights_say_what_to_bring_and_fetch_nothing(self, hub, monkeypatch):
        monkeypatch.setattr(torch.hub, "download_url_to_file", None)
        with pytest.raises(CheckpointError, match=r"bring https://.*6726825d\.pth and use --feature-weights") as caught:
            open_extractor("inception", device=CPU)
        assert caught.value.exit_code == 3 and "\n" not in str(caught.value) and "--download" in str(caught.value)

    def test_file_in_the_cache_is_used_only_with_its_hash(self, hub, monkeypatch):
        hub.parent.mkdir(parents=True)
        hub.write_bytes(b"weights")
        with pytest.raises(CheckpointError, match="is broken: its SHA-256"):
            find_inception_weights(download=True)
        monkeypatch.setattr(inception, "HASH_PREFIX", hashlib.sha256(b"weights").hexdigest()[:8])
        assert find_inception_weights(download=False) == hub

    def test_download_is_checked_and_goes_to_the_cache(self, hub, monkeypatch):
        asked = []

        def fetch(url, path, hash_prefix, progress):
            asked.append((url, hash_prefix))
            hub.write_bytes(b"weights")

        monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
        with pytest.raises(CheckpointError, match="is broken"):
            find_inception_weights(download=True)
        assert asked == [(URL_INCEPTION_V3, "6726825d")]

    def test_failed_download_says_what_to_bring(self, monkeypatch):
        def fetch(*words, **options):
            raise URLError("no route to host")

        monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
        with pytest.raises(CheckpointError, match=r"cannot fetch .*no route to host.*--feature-weights"):
            open_extractor("inception", device=CPU, download=True)
