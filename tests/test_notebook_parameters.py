"""Parameters of the notebooks: seeds are those of the profile, and names that it does not have are refused."""

import nbformat
import pytest

from kdlib import paths, profiles, runs
from kdlib.report import figures

PROFILE = """pairs = ["convnet_8->convnet_4"]
methods = ["rkd", "ckd", "kdpp"]
seeds = [3, 7]
[data]
name = "digits_s"
[training]
epochs = 1
lr = 0.1
batch_size = 60
device = "cpu"
[debias]
resample = []
critic = [1]
"""
SEEDED = ("03_teacher_means", "04_ckd", "05_rkd", "07_kdpp")


@pytest.fixture
def study(tiny, tmp_path):
    (tmp_path / "odd.toml").write_text(PROFILE)
    return str(tmp_path / "odd.toml")


def executed(name, monkeypatch, cells=None, **parameters):
    """Run a notebook's cells in this process; return the captions of its figures and the names that it leaves."""
    captions, space = [], {}
    caption = figures.caption
    monkeypatch.setattr(figures, "caption", lambda drawing, text: captions.append(text) or caption(drawing, text))
    for cell in [
        cell for cell in nbformat.read(paths.ROOT / "notebooks" / f"{name}.ipynb", 4).cells if cell.cell_type == "code"
    ][:cells]:
        exec(cell.source, space)
        if "parameters" in cell.metadata.get("tags", ()):
            space |= parameters
    return captions, space


def in_this_process(settings, *_, **__):
    settings = list(settings)
    for each in settings:
        runs.run(each, log=list)
    return runs.table.table(settings)


@pytest.mark.parametrize("name", SEEDED)
def test_a_seed_is_a_seed_and_no_position(name, study, monkeypatch):
    monkeypatch.setattr("kdlib.sweep.sweep", in_this_process)
    captions, space = executed(name, monkeypatch, profile=study, seed=7)
    assert any("seed 7" in text for text in captions), captions
    assert not any("seed 3" in text for text in captions)
    shown = space.get("teacher") or space["shown"]["teacher"]
    assert shown["seed"] == 7
    assert runs.as_run(shown).key == runs.as_run(profiles.profile(study).teachers()[1]).key


@pytest.mark.parametrize("name", SEEDED)
@pytest.mark.parametrize("seed", [0, 1, 8])
def test_other_seeds_are_refused_before_training(name, seed, study, monkeypatch):
    monkeypatch.setattr("kdlib.sweep.sweep", lambda *_, **__: pytest.fail("training began"))
    with pytest.raises(ValueError, match=f"profile odd has the seeds 3, 7; got {seed}"):
        executed(name, monkeypatch, cells=2, profile=study, seed=seed)


def test_without_a_seed_the_first_is_shown(study):
    found = profiles.profile(study)
    assert (found.position(-1), found.position(3), found.position(7)) == (0, 0, 1)


@pytest.mark.parametrize(
    ("name", "parameters", "words"),
    [
        ("08_debiasing", {"debiaser": "critc"}, "debiaser of profile odd: .*critc.*critic"),
        ("08_debiasing", {"debiaser": "balanced_teacher"}, "debiaser of profile odd"),
        ("08_debiasing", {"method": "cdk"}, "method of profile odd: .*cdk.*ckd"),
        ("09_bias_analysis", {"method": "ctkd"}, "method of profile odd"),
        ("02_teachers", {"pair": "convnet_8->convnet_2"}, "pair of profile odd"),
    ],
)
def test_names_that_the_profile_does_not_have_are_refused(name, parameters, words, study, monkeypatch):
    monkeypatch.setattr("kdlib.sweep.sweep", lambda *_, **__: pytest.fail("training began"))
    with pytest.raises(ValueError, match=words):
        executed(name, monkeypatch, cells=2, profile=study, **parameters)


def test_empty_names_are_the_first(study):
    found = profiles.profile(study)
    assert (found.one_method(), found.one_method("scratch"), found.one_debiaser()) == ("rkd", "scratch", "critic")
