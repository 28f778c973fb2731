"""A published study: what the repository keeps of it, and that `verify` finds whatever does not follow from its predictions."""

import functools
import json
import shutil

import numpy as np
import pandas as pd
import pytest

from kdlib import bias, profiles
from kdlib.report import evidence, gallery, publish, verify
from kdlib.sweep import sweep

STUDY = """
pairs = ["convnet_8->convnet_4", "convnet_8->convnet_5"]
methods = ["ckd"]
seeds = [0, 1]
temperatures = [1, 4]
controls = ["resample -> resample"]

[data]
name = "digits_s"

[training]
epochs = 1
lr = 0.2
batch_size = 32
ramp = 1
device = "cpu"

[teacher]
seed = 0

[debias]
gap_penalty = [0.5, 1]
resample = []
dfr = []
"""


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setattr(publish, "published_folder", lambda name="": tmp_path / "published" / name)
    monkeypatch.setattr(publish, "RESULTS", str(tmp_path / "results.md"))
    (tmp_path / "results.md").write_text("# Results\n\n<!-- mine -->\nold\n<!-- /mine -->\nthe rest\n")
    return tmp_path


@pytest.fixture
def published(tiny, root, monkeypatch):
    for name in ("summary", "compare"):  # fewer draws for the floors
        monkeypatch.setattr(bias, name, functools.partial(getattr(bias, name), n=20))
    (root / "mine.toml").write_text(STUDY)
    study = profiles.profile(root / "mine.toml", "all")
    sweep(study.grid() + study.extras(), workers=1, log=lambda line: None)
    return publish.publish(root / "mine.toml")


def test_what_is_published_follows_from_its_predictions(published, root, tiny):
    assert {"results.csv", "predictions.npz", "study.json", "README.md"} <= {file.name for file in published.iterdir()}
    assert (published / "debiasers.png").exists()
    lines = []
    assert verify.verify("mine", workers=1, log=lines.append) == []
    assert len(lines) == 1
    results = (root / "results.md").read_text()
    assert "old" not in results
    assert results.endswith("the rest\n")
    table = pd.read_csv(published / "results.csv")
    assert set(table["part"]) == {"grid", "temperature", "convnet_8->convnet_5"}
    assert sum(file.stat().st_size for file in published.glob("*.npz")) < 50_000
    page = (published / "README.md").read_text()
    assert f"{table['key'].nunique()} runs" in page
    assert "resample" in page

    proof, _ = evidence.read(published)
    stored = evidence.of_store(table)
    assert proof.dataset.classes == tiny.classes
    assert not proof.dataset.test.images.size, "no image is published"
    for key in table["key"].unique():
        saved, read = stored.predictions(key), proof.predictions(key)
        assert {name: values.tolist() for name, values in saved.items()} == {
            name: v.tolist() for name, v in read.items()
        }
    drawn = gallery.of_table(table, proof)
    assert {"bias_against_accuracy", "debiasers", "strengths", "temperatures"} == set(drawn)
    for name, drawing in drawn.items():
        text = gallery.alternative_text(drawing, name)
        assert "accuracy" in text
        assert "2 seeds" in text
    refitted = table.loc[table["debias"] == "dfr", "key"].iloc[0]
    assert len(proof.predictions(refitted)["val_labels"]) < len(tiny.val), "DFR fits on a part of validation"
    find_what_does_not_follow(published, root)


def damage_a_figure(folder):
    table = pd.read_csv(folder / "results.csv")
    table.loc[3, "test_mad"] += 0.001
    table.to_csv(folder / "results.csv", index=False)


def damage_a_prediction(folder):
    with np.load(folder / "predictions.npz") as stored:
        arrays = dict(stored)
    arrays["test_predicted"][2, :20] = (arrays["test_predicted"][2, :20] + 1) % 10
    np.savez(folder / "predictions.npz", **arrays)


def damage_a_sentence(folder):
    page = (folder / "README.md").read_text()
    assert "mean" in page
    (folder / "README.md").write_text(page.replace("mean", "median", 1))


def damage_the_results(folder):
    file = folder.parent.parent / "results.md"
    file.write_text(file.read_text().replace("| ", "|  ", 1))


def damage_the_marks(folder):
    file = folder.parent.parent / "results.md"
    file.write_text(file.read_text().replace("<!-- mine -->", ""))


def damage_a_name(folder):
    study = json.loads((folder / "study.json").read_text())
    study["provenance"]["date"] = "1970-01-01"
    (folder / "study.json").write_text(json.dumps(study))


def find_what_does_not_follow(published, root):
    whole = root / "whole"
    shutil.copytree(published, whole)
    results = (root / "results.md").read_text()
    expected = {
        damage_a_figure: "results.csv, test_mad", damage_a_prediction: "results.csv, test_",
        damage_a_sentence: "README.md differs", damage_the_results: "results.md differs", damage_a_name: "README.md differs",
        damage_the_marks: "no marks",
    }  # fmt: skip
    for damage, words in expected.items():
        damage(published)
        problems = verify.verify("mine", workers=1, log=lambda line: None)
        assert any(words in problem for problem in problems), damage.__name__
        shutil.rmtree(published)
        shutil.copytree(whole, published)
        (root / "results.md").write_text(results)
    with pytest.raises(ValueError, match="no published study"):
        verify.verify("other")


def test_a_study_that_was_not_run_is_not_published(tiny, root):
    (root / "mine.toml").write_text(STUDY)
    with pytest.raises(ValueError, match="not in the store"):
        publish.publish(root / "mine.toml")
