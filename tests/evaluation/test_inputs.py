"""What an evaluation is given: told in one line, the first fault of several, before torch is imported."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from synthmed.data.images import encode_image
from synthmed.data.labels import Classes
from synthmed.data.prepare.prepare import PrepareConfig, prepare_release
from synthmed.data.sets.sources import Listing
from synthmed.errors import DataError
from synthmed.evaluation.config import EvaluateConfig, EvaluateRequest
from synthmed.evaluation.inputs import match_classes, open_inputs
from synthmed.phantoms.drawing import CLASSES
from synthmed.phantoms.release import phantom_release

SIDE = 32


def listing(*labels: int, name: str = "gan", classes: Classes | tuple[str, ...] = CLASSES) -> Listing:
    keys = [str(index) for index in range(len(labels))]
    known = classes if isinstance(classes, Classes) else Classes(classes)
    return Listing(name, None, None, None, known, labels, keys, [""] * len(keys), lambda index: b"", keys.__getitem__)


REAL = listing(0, 1, 0, 1, name="shards:train", classes=Classes(CLASSES, {"RG": "glaucoma"}))


def test_classes_are_matched_by_name_and_alias_in_any_order() -> None:
    generated = listing(0, 1, 1, classes=("RG", "No Glaucoma"))
    matched = match_classes(real=REAL, generated=generated)
    assert (matched.classes.names, matched.labels) == (CLASSES, [1, 0, 0])
    # An alias that only the generated side knows.
    words = Classes(("healthy", "sick"), {"no-glaucoma": "healthy", "RG": "sick"})
    assert match_classes(real=REAL, generated=replace(generated, classes=words)).labels == [0, 1, 1]
    # A class that was not generated, and one that is only named.
    for classes in (("glaucoma",), ("glaucoma", "class1")):
        assert match_classes(real=REAL, generated=listing(0, 0, classes=classes)).labels == [1, 1]


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (("no-glaucoma", "cataract"), r"cataract of gan is none of no-glaucoma, glaucoma of shards:train"),
        (("class0", "class1"), r"class0, class1 of gan"),
        (("glaucoma", "RG"), "several classes of gan mean glaucoma"),
    ],
)
def test_classes_that_disagree_are_refused(classes: tuple[str, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        match_classes(real=REAL, generated=listing(0, 1, classes=classes))


def save(folder: Path, classes: tuple[str, ...] = CLASSES, count: int = 2) -> Path:
    """Write noise as files, a folder for each class."""
    generator = np.random.default_rng(0)
    for name in classes:
        for number in range(count):
            path = folder / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode_image(generator.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8), "png"))
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with shards of real images and their like, and with other things that may be named by mistake."""
    folder = tmp_path_factory.mktemp("inputs")
    prepare_release(phantom_release(20), folder / "real", PrepareConfig(size=SIDE, validation=0.2, test=0.2))
    for name, kind in (("photographs", "real"), ("fakes", "synthetic")):
        shutil.copytree(folder / "real", folder / name)
        described = folder / name / ".synthmed" / "run.json"
        described.write_text(described.read_text().replace('"kind": "phantom"', f'"kind": "{kind}"'))
    save(folder / "made")
    save(folder / "cataracts", ("cataract", "glaucoma"))
    (folder / "file").write_text("no folder")
    (folder / "results.json").write_text('{"conditions": {}}')
    later: dict[str, object] = {"conditions": {}, "generated": [], "scores": [], "kid_subsets": [], "bands": {}}
    (folder / "bands.json").write_text(json.dumps(later))
    return folder


# After --real real --synthetic made --features radiomic -o out, of which the last one that is given counts.
FAULTS = [
    (["--checks", "scores,beauty"], 2, "unknown check: beauty"),
    (["--checks", ","], 2, "no checks are asked for"),
    (["--features", "radio"], 2, "unknown feature extractor: 'radio'"),
    (["--features", "timm:"], 2, "unknown feature extractor: 'timm:'"),
    (["--features", "radiomic", "--feature-weights", "radiomic=w.pth"], 2, "radiomic features have no weights"),
    (
        ["--features", "timm:resnet18", "--feature-weights", "w.pth", "--features", "radiomic"],
        3,
        "no such weights file",
    ),
    (["--features", "inception"], 3, "weights-inception-2015-12-05-6726825d.pth"),
    (["--real", "nowhere"], 3, "nowhere"),
    (["--real", "real:tset"], 3, "has no split 'tset'"),
    (["--real", "file"], 3, "file"),
    (["--real", "fakes"], 3, "says that its images are synthetic"),
    (["--synthetic", "nowhere"], 3, "nowhere"),
    (["--synthetic", "photographs"], 3, "says that its images are real"),
    (["--synthetic", "real"], 3, "--synthetic real holds the images of --real"),
    (["--synthetic", "real:test"], 3, "--synthetic real:test holds the images of --held-out"),
    (["--synthetic", "made", "--synthetic", "./made"], 3, "--synthetic ./made is given twice"),
    (["--synthetic", "cataracts"], 3, "the classes differ: cataract of cataracts is none of"),
    (["--training", "nowhere"], 3, "nowhere"),
    (["--held-out", "nowhere"], 3, "nowhere"),
    (["--held-out", "real:train"], 3, "--held-out real:train holds the training images"),
    (["--baseline", "nowhere"], 3, "no such file: nowhere"),
    (["--baseline", "results.json"], 3, "holds no results of synthmed evaluate"),
    (["--baseline", "bands.json"], 3, "holds no results of synthmed evaluate"),
    (["-o", "file"], 3, "file is not a folder"),
    (["-o", "file/deeper"], 4, "a part of the path is a file"),
    # Of several faults the first is told, words before files.
    (["--real", "nowhere", "--checks", "beauty"], 2, "unknown check: beauty"),
    (["--real", "nowhere", "-o", "file"], 3, "file is not a folder"),
    (["--real", "nowhere", "--features", "inception"], 3, "nowhere"),
]
RUN_ALL = """
import contextlib, io, json, sys
from synthmed.cli import app

for words in json.loads(sys.argv[1]):
    synthetic = [] if "--synthetic" in words else ["--synthetic", "made"]
    features = [] if "--features" in words else ["--features", "radiomic"]
    sys.argv = ["synthmed", "evaluate", "--real", "real", *synthetic, *features, "-o", "out", *words]
    err = io.StringIO()
    try:
        with contextlib.redirect_stderr(err):
            app.main()
    except SystemExit as end:
        print(json.dumps([end.code, err.getvalue(), "torch" in sys.modules or "timm" in sys.modules]))
"""


def test_faults_are_told_in_one_line_without_torch(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(place / "no-torch"))
    words = json.dumps([words for words, *_ in FAULTS])
    done = subprocess.run(
        [sys.executable, "-c", RUN_ALL, words], cwd=place, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    for (asked, code, message), (found, err, heavy) in zip(FAULTS, answers, strict=True):
        assert (found, heavy) == (code, False), (asked, err)
        assert message in err.splitlines()[-1], asked
    assert not (place / "out").exists()


def request(place: Path, *generated: str) -> EvaluateRequest:
    config = EvaluateConfig(features=("radiomic",))
    where = tuple(str(place / name) for name in generated)
    return EvaluateRequest(real=str(place / "real"), generated=where, output=place / "out", config=config)


def test_a_class_that_only_one_set_has_is_missed_before_images_are_read(place: Path, tmp_path: Path) -> None:
    save(tmp_path, CLASSES)
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": [["glaucoma/0.png", 1]], "classes": list(CLASSES)}))
    asked = request(place, "made", str(tmp_path))
    with pytest.raises(DataError, match=r"has no images of class no-glaucoma, which others have"):
        open_inputs(asked)
    assert len(open_inputs(replace(asked, config=replace(asked.config, balanced=False))).generated) == 2


def test_a_split_alone_is_the_reference_and_holds_nothing_out(place: Path, tmp_path: Path) -> None:
    found = open_inputs(request(place, "made"))
    assert found.training is found.real and found.held_out is not None and found.held_out.split == "test"
    shutil.copytree(place / "real", tmp_path / "real", ignore=shutil.ignore_patterns("train-*", "validation-*"))
    alone = open_inputs(replace(request(place, "made"), real=str(tmp_path / "real")))
    assert (alone.real.split, alone.training, alone.held_out) == ("test", None, None)
