"""`synthmed evaluate` from end to end on drawn eyes: what is compared, what is refused, what is written."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from synthmed.data.images import encode_image
from synthmed.data.pack.pack import PackConfig, pack_images
from synthmed.data.prepare.prepare import PrepareConfig, prepare_release
from synthmed.errors import DataError, UsageError
from synthmed.evaluation.config import EvaluateConfig, EvaluateRequest
from synthmed.evaluation.content import open_by_content
from synthmed.evaluation.sets import compared_sets, open_sets
from synthmed.metrics.scores import SCORES
from synthmed.phantoms.drawing import CLASSES, draw_phantom
from synthmed.phantoms.release import phantom_release

SIDE = 32


def draw(folder: Path, counts: dict[str, int], *, first: int, noise: float = 0) -> Path:
    """Write drawn eyes as files of other images than those of `prepare`, as another program's generator would."""
    generator = np.random.default_rng(first)
    for label, name in enumerate(CLASSES):
        for number in range(counts.get(name, 0)):
            image = draw_phantom(7, label, first + number, SIDE).image
            spoilt = np.clip(image + noise * generator.standard_normal(image.shape), 0, 255).astype(np.uint8)
            path = folder / name / f"{number:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode_image(spoilt, "png"))
    return folder


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of 60 drawn eyes to train on, 20 to validate and 20 to test."""
    path = tmp_path_factory.mktemp("real") / "eyes"
    prepare_release(phantom_release(100), path, PrepareConfig(size=SIDE, validation=0.2, test=0.2))
    return path


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a perfect generator makes: 24 eyes of each class."""
    return draw(tmp_path_factory.mktemp("drawn") / "good", dict.fromkeys(CLASSES, 24), first=0)


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a poor generator makes, and more of it: 30 noisy eyes of one class, 26 of the other."""
    counts = dict(zip(CLASSES, (30, 26), strict=True))
    return draw(tmp_path_factory.mktemp("noisy") / "bad", counts, first=100, noise=25)


def request(real: Path, *generated: Path, output: Path, **settings: Any) -> EvaluateRequest:
    config = replace(EvaluateConfig(features=("radiomic",), checks=("scores",)), **settings)
    return EvaluateRequest(real=str(real), generated=tuple(map(str, generated)), output=output, config=config)


def test_equal_numbers_of_every_class_are_compared(real, drawn, noisy, tmp_path):
    sets = open_sets(request(real, drawn, noisy, output=tmp_path))
    assert sets.held_out is not None
    assert (sets.real.split, sets.training, sets.held_out.split) == ("train", sets.real, "test")
    reference, generated = compared_sets(sets, balanced=True, seed=0)
    assert {Counter(images.labels.tolist()) == {0: 24, 1: 24} for images in generated} == {True}
    assert Counter(reference.labels.tolist()) == {0: 30, 1: 30}
    _, unbalanced = compared_sets(sets, balanced=False, seed=0)
    assert [len(images) for images in unbalanced] == [48, 56]


def test_one_generated_class_is_scored_against_its_own_real_images(real, tmp_path):
    files, shards = draw(tmp_path / "files", {CLASSES[1]: 5}, first=0), tmp_path / "shards"
    pack_images(files, shards, PackConfig(classes=(CLASSES[1],)))
    reference, (generated,) = compared_sets(open_sets(request(real, shards, output=tmp_path)), balanced=True, seed=0)
    assert reference.classes.names == generated.classes.names == (CLASSES[1],)
    assert (len(reference), len(generated)) == (30, 5)
    assert set(reference.labels) == {0}


def test_sets_of_the_same_name_are_told_apart(real, tmp_path):
    folders = [draw(tmp_path / parent / "out", dict.fromkeys(CLASSES, 2), first=9 * k) for k, parent in enumerate("ab")]
    sets = open_sets(request(real, *folders, output=tmp_path))
    assert [images.name for images in sets.generated] == list(map(str, folders))


def test_real_and_generated_cannot_be_confused(real, drawn, tmp_path):
    with pytest.raises(DataError, match="holds the images of --real"):
        open_sets(request(real, real, output=tmp_path))


def test_unknown_checks_and_shares_are_refused():
    with pytest.raises(UsageError, match="unknown check: fidelity"):
        EvaluateConfig(checks=("fidelity",))
    with pytest.raises(UsageError, match="false-alarms"):
        EvaluateConfig(false_alarms=1.0)


@pytest.fixture(scope="module")
def evaluated(real, drawn, noisy, tmp_path_factory):
    """The folder of an evaluation of both generators by scores alone, and its results."""
    from synthmed.evaluation.run import evaluate

    output = tmp_path_factory.mktemp("evaluated")
    return output, evaluate(request(real, drawn, noisy, output=output, checks=("scores", "artefacts")))


def scores(results, generated, label="all"):
    rows = [row for row in results["scores"] if (row["generated"], row["label"]) == (generated, label)]
    return {row["score"]: row for row in rows}


def test_better_generator_scores_better_and_its_floor_is_near(evaluated):
    _, results = evaluated
    good, bad = scores(results, "good"), scores(results, "bad")
    assert good["fid"]["value"] < 0.5 * bad["fid"]["value"]
    assert good["precision"]["value"] > bad["precision"]["value"]
    assert good["fid"]["value"] < 2 * good["fid"]["floor"]["mean"]
    assert bad["fid"]["low"] > bad["fid"]["floor"]["mean"]
    (difference,) = (row for row in results["differences"] if row["score"] == "fid")
    assert difference["difference"] < 0
    assert difference["p_value"] < 0.01


def test_noise_is_power_of_high_bands_and_no_spread_of_brightness(evaluated):
    _, results = evaluated
    assert {(row["generated"], row["label"]) for row in results["bands"]} == {
        (name, label) for name in ("good", "bad") for label in ("all", *CLASSES)
    }
    good, bad = (
        {row["band"]: row for row in results["bands"] if (row["generated"], row["label"]) == (name, "all")}
        for name in ("good", "bad")
    )
    assert len(good) == len(bad) == 6
    for row in good.values():
        assert row["low"] < 1.1 and row["high"] > 0.9 and 0.7 < row["floor"]["mean"] < 1.4
    assert bad["above 0.375"]["low"] > 3 and bad["0 to 0.0625"]["value"] < 1.3
    assert len(results["brightness"]) == 2 * 3 * 3
    assert not any(row["has_fault"] for row in results["brightness"]) and results["findings"] == []


def test_brightness_that_varies_too_much_is_a_finding_of_the_command(run_program, real, tmp_path):
    generator = np.random.default_rng(0)
    # Each eye is brighter or darker as a whole, as after a sampler whose noise has the wrong size.
    changed = [np.clip(image + 25 * generator.standard_normal(), 0, 255).astype(np.uint8) for image in eyes(60)]
    made = save(tmp_path / "made", changed)
    words = ("evaluate", "--real", real, "--synthetic", made, "--features", "radiomic", "--checks", "artefacts")
    code, out, _ = run_program(*words, "-o", tmp_path / "out")
    assert code == 0
    assert "made: brightness varies" in out and "spread / real spread" in out
    assert "power of generated images / power of real ones" in out and "above 0.375" in out
    code, out, _ = run_program(*words, "-o", tmp_path / "out", "--json")
    assert code == 0 and any(row["has_fault"] for row in json.loads(out)["brightness"])


def test_results_state_what_they_depend_on(evaluated, real):
    output, results = evaluated
    assert json.loads((output / "results.json").read_text()) == json.loads(json.dumps(results))
    assert results["real"]["num_images"] == dict.fromkeys(CLASSES, 30)
    assert [images["num_images"] for images in results["generated"]] == [dict.fromkeys(CLASSES, 24)] * 2
    extractor = results["features"]["radiomic"]
    assert (extractor["weights_sha256"], len(extractor["fingerprint"])) == (None, 64)
    assert {row["label"] for row in results["scores"]} == {"all", *CLASSES}
    assert results["conditions"]["reference_hash"] == results["real"]["content_hash"]


def test_earlier_results_stand_beside_if_made_alike(real, noisy, drawn, evaluated, tmp_path):
    from synthmed.evaluation.run import evaluate

    output, results = evaluated
    third = draw(tmp_path / "third", dict.fromkeys(CLASSES, 24), first=50)
    alone = request(real, third, output=tmp_path / "out")
    joined = evaluate(replace(alone, baselines=(output,)))
    assert joined is not None
    assert [images["name"] for images in joined["generated"]] == ["third", "good", "bad"]
    assert scores(joined, "good") == scores(results, "good")
    assert joined["bands"] == results["bands"] and joined["brightness"] == results["brightness"]
    # Results of earlier versions do not have these.
    older = {name: part for name, part in results.items() if name not in ("bands", "brightness")}
    (tmp_path / "older.json").write_text(json.dumps(older))
    joined = evaluate(replace(alone, baselines=(tmp_path / "older.json",)))
    assert joined is not None and scores(joined, "good") == scores(results, "good")
    assert joined["bands"] == joined["brightness"] == []
    smaller = draw(tmp_path / "smaller", dict.fromkeys(CLASSES, 10), first=50)
    with pytest.raises(DataError, match=r"cannot be compared: num_generated.*24.*10"):
        evaluate(replace(alone, generated=(str(smaller),), baselines=(output,)))
    with pytest.raises(DataError, match="evaluated here too"):
        evaluate(replace(request(real, drawn, noisy, output=tmp_path / "again"), baselines=(output,)))


def test_archive_scores_as_the_folder_does(real, drawn, tmp_path):
    from synthmed.evaluation.run import evaluate

    archive = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", drawn))
    results = evaluate(request(real, drawn, archive, output=tmp_path / "out"))
    assert results is not None
    for label in ("all", *CLASSES):
        folder, packed = (scores(results, name, label) for name in ("good", "packed.zip"))
        assert len(folder) == 6
        assert {name: {**row, "generated": "good"} for name, row in packed.items()} == folder
    assert {row["p_value"] for row in results["differences"]} == {1.0}


def test_command_prints_one_table_an_extractor(run_program, real, drawn, tmp_path):
    words = ("evaluate", "--real", real, "--synthetic", drawn, "--features", "radiomic", "-o", tmp_path / "out")
    code, out, _ = run_program(*words, "--checks", "scores")
    assert code == 0
    assert "scores on radiomic features" in out
    assert "real against real" in out
    code, out, _ = run_program(*words, "--checks", "scores", "--json")
    assert (code, json.loads(out)["settings"]["features"]) == (0, ["radiomic"])


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--features", "inception"), 3, "weights-inception-2015-12-05-6726825d.pth"),
        (("--features", "radio"), 2, "radiomic"),
        (("--features", "radiomic", "--checks", "scores,beauty"), 2, "unknown check: beauty"),
        (("--features", "radiomic", "--feature-weights", "w.pt"), 2, "does not say whose"),
        (("--features", "radiomic", "--held-out", "nowhere"), 3, "nowhere"),
    ],
)
def test_what_cannot_be_done_is_one_line(run_program, real, drawn, tmp_path, monkeypatch, words, code, message):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    found, out, err = run_program("evaluate", "--real", real, "--synthetic", drawn, "-o", tmp_path / "out", *words)
    assert (found, out) == (code, "")
    assert message in err.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_all_checks_in_one_run(real, noisy, tmp_path, monkeypatch):
    """A generator that repeats two training images, beside honest ones, is caught; a ruler reads the labels."""
    from synthmed.evaluation.label_classifier import LABEL_CLASSIFIER
    from synthmed.evaluation.run import evaluate

    quick = replace(LABEL_CLASSIFIER, model="resnet10t", steps=4)
    monkeypatch.setattr("synthmed.evaluation.checks.LABEL_CLASSIFIER", quick)
    copied = draw(tmp_path / "copied", dict.fromkeys(CLASSES, 12), first=0)
    for label, number in enumerate((3, 5)):
        source = open_by_content(f"{real}:train").load([number])[0].permute(1, 2, 0).numpy()
        (copied / CLASSES[label] / "000.png").write_bytes(encode_image(source, "png"))
    asked = request(real, copied, output=tmp_path / "out", checks=("copies", "labels", "artefacts"))
    results = evaluate(asked)
    assert results is not None
    suspects = {row["key"] for row in results["copies"]["copied"]["rows"] if row["suspect"]}
    assert {f"{name}/000.png" for name in CLASSES} <= suspects
    assert len(suspects) < 8
    assert (results["labels"]["held_out"]["name"], results["labels"]["generated"][0]["name"]) == ("eyes:test", "copied")
    ratios = results["labels"]["cup_to_disc"]["copied"]["rows"]
    assert ratios[0]["mean"] < ratios[1]["mean"]
    assert results["artefacts"]["copied"]["optic_discs"]["has_faults"] is False
    assert results["scores"] == []
    pictures = {path.name for path in (tmp_path / "out").glob("*.png")}
    assert pictures == {"samples.png", "copies-copied.png", "spectra.png"}
    hidden = tmp_path / "hidden"
    assert evaluate(replace(asked, output=hidden, sheets=False)) is not None
    assert {path.name for path in hidden.glob("*.png")} == {"spectra.png"}


def test_sets_too_small_for_a_check_still_get_their_scores(tmp_path):
    from synthmed.evaluation.run import evaluate

    small = tmp_path / "small"
    prepare_release(phantom_release(30), small, PrepareConfig(size=SIDE, validation=0.2, test=0.2))
    generated = draw(tmp_path / "made", dict.fromkeys(CLASSES, 9), first=0)
    results = evaluate(request(small, generated, output=tmp_path / "out", checks=("scores", "copies")))
    assert results is not None
    assert scores(results, "made").keys() >= {"fid", "kid"}
    found = results["copies"]["made"]
    assert (found["count"], found["p_value"], found["features"]["c_t"]) == (None, None, None)
    assert {row["suspect"] for row in found["rows"]} == {None} and found["features"]["authenticity"] > 0
    assert "6 held-out images cannot tell" in results["not_looked_into"]["suspected copies in made"]
    assert (tmp_path / "out" / "copies-made.png").exists()
    alone = draw(tmp_path / "alone", dict.fromkeys(CLASSES, 12), first=40)
    found = evaluate(request(alone, generated, output=tmp_path / "out2", checks=("labels", "copies")))
    assert found is not None
    assert found["not_looked_into"].keys() == {"labels", "suspected copies in made"}


def save(folder, images, names=CLASSES):
    """Write images as files, their classes in turn."""
    for number, image in enumerate(images):
        path = folder / names[number % len(names)] / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_image(np.ascontiguousarray(image), "png"))
    return folder


def pixels_of(where):
    images = open_by_content(str(where))
    return list(images.load(range(len(images))).permute(0, 2, 3, 1).numpy())


def eyes(count, first=500):
    return [draw_phantom(7, number % 2, first + number, SIDE).image for number in range(count)]


FLAT = np.full((SIDE, SIDE, 3), 90, dtype=np.uint8)
# Set -> its images; what is found; what has no value, C_T of held-out images among it, of which there are 20.
ODD_SETS = {
    "flat": ([FLAT] * 24, "flat: all 24 images are the same picture", {"C_T"}),
    "two": (eyes(2), None, {"Fréchet", "kernel", "precision,", "MS-SSIM", "C_T,", "C_T", "detail", "brightness"}),
}


@pytest.fixture(scope="module")
def pixels(real):
    """The training images."""
    return pixels_of(f"{real}:train")


def strictly(path):
    """Return a file of JSON as a strict reader takes it."""

    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


@pytest.mark.parametrize("name", ODD_SETS)
def test_odd_sets_are_findings_and_never_refused(real, tmp_path, name):
    """What cannot be computed is named with its reason, and all the rest is there."""
    from synthmed.evaluation.run import evaluate

    images, finding, missing = ODD_SETS[name]
    made = save(tmp_path / name, images)
    evaluate(request(real, made, output=tmp_path / "out", checks=("scores", "copies", "artefacts")))
    results = strictly(tmp_path / "out" / "results.json")
    assert (results["findings"] or [None])[0] == finding
    assert {what.partition(" ")[0] for what in results["not_looked_into"]} == missing
    assert {row["score"] for row in results["scores"]} == (set(SCORES) if name == "flat" else set())
    found = results["copies"][name]
    assert len(found["rows"]) == results["identical"][name]["images"]
    assert found["features"]["authenticity"] is not None and found["features"]["real_authenticity"]["mean"] > 0
    assert results["artefacts"][name].keys() == {"grid", "real_grid", "duplicates", "optic_discs"}
    assert (tmp_path / "out" / f"copies-{name}.png").exists()


def test_copies_are_a_finding_of_the_command_too(run_program, real, pixels, tmp_path):
    made = save(tmp_path / "made", pixels)
    words = ("evaluate", "--real", real, "--synthetic", made, "--features", "radiomic", "--checks", "copies")
    code, out, err = run_program(*words, "-o", tmp_path / "out")
    assert code == 0
    assert "made: all 60 images are copies of training images" in out
    assert "authenticity" in out and "0.00, real 0." in out
    assert "show real images" in err
    # The reference is a plain folder: nothing is held out, and still nothing is hidden.
    words = ("evaluate", "--real", save(tmp_path / "plain", pixels[:30]), "--synthetic", made, *words[5:])
    code, out, err = run_program(*words, "-o", tmp_path / "out2")
    assert code == 0
    assert "made: 30 of 60 images are copies of real images" in out
    assert "there are no held-out images" in out


def test_held_out_images_that_are_training_images_are_said(real, pixels, drawn, tmp_path):
    from synthmed.evaluation.run import evaluate

    leak = save(tmp_path / "leak", pixels[:24])
    asked = request(real, drawn, output=tmp_path / "out", checks=("copies", "labels"))
    results = evaluate(replace(asked, held_out=str(leak)))
    assert results is not None
    assert results["findings"] == ["leak: all 24 images are training images, not held out"]
    assert "24 of 24 held-out images are training" in results["not_looked_into"]["suspected copies in good"]
    assert "all 24 images of leak are images of" in results["not_looked_into"]["labels"]


def test_real_images_of_one_patient_have_no_intervals_and_all_else(drawn, tmp_path):
    from synthmed.evaluation.run import evaluate

    one = tmp_path / "one"
    one.mkdir()
    images = save(one, eyes(30))
    rows = [
        {"file_name": str(path.relative_to(one)), "label": path.parent.name, "group": "p"}
        for path in sorted(images.rglob("*.png"))
    ]
    (one / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    results = evaluate(request(one, drawn, output=tmp_path / "out", checks=("scores", "artefacts")))
    assert results is not None
    assert results["scores"] == [] and results["diversity"]
    notes = results["not_looked_into"]
    assert "all real images belong to one patient" in notes["kernel distance (KID) of good, all"]
    missing = {"grid patterns in good", "near-duplicates in good", "detail by band of good, all"}
    assert missing <= notes.keys() and results["bands"] == results["brightness"] == []


def test_eye_columns_are_of_eyes_alone(drawn, noisy, tmp_path):
    from synthmed.evaluation.results import artefact_table
    from synthmed.evaluation.run import evaluate

    # As files, of which nobody says what they show.
    for checks, eye in ((("artefacts",), False), (("artefacts", "discs"), True)):
        results = evaluate(request(drawn, noisy, output=tmp_path / "out", checks=checks))
        assert results is not None
        columns, rows = artefact_table(results)
        assert ("no disc" in columns) == eye
        assert {len(row) for row in rows} == {len(columns)}
        assert ("optic_discs" in results["artefacts"]["bad"]) == eye


def test_pictures_are_there(evaluated):
    output, _ = evaluated
    for name in ("samples.png", "pca-radiomic.png", "scores-radiomic.png", "sizes-radiomic.png", "spectra.png"):
        with Image.open(output / name) as picture:
            assert min(picture.size) > 100
