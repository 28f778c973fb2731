"""The embedded data set: real pictures, planted attribute, disjoint stratified splits, and a cache that is never half-read."""

import hashlib
import json

import numpy as np
import pytest
from conftest import damage_file

from kdlib import data, files
from kdlib.data import digits_s


def hashes(split):
    """Of the pictures, whatever their colour: the brightest channel is the grey level."""
    return {hashlib.sha256(image.max(0).tobytes()).hexdigest() for image in split.images}


def test_every_digit_is_used_once_and_test_shows_it_in_both_domains(digits):
    train, val, test = (set(split.source.tolist()) for split in digits.splits.values())
    assert len(train | val | test) == 1797
    assert not train & val
    assert not test & (train | val)
    assert len(digits.train) + len(digits.val) == len(train) + len(val)
    half = len(digits.test) // 2
    assert (digits.test.source[:half] == digits.test.source[half:]).all()
    assert (digits.test.group[:half] == 0).all()
    assert (digits.test.group[half:] == 1).all()


def test_no_picture_is_in_two_splits(digits):
    grey = {name: hashes(split) for name, split in digits.splits.items()}
    exact = {name: {image.tobytes() for image in split.images} for name, split in digits.splits.items()}
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        assert not exact[one] & exact[other]
        assert not {h for h in grey[one] if h in grey[other]}, "the same scan under another tint"


def test_the_skew_is_as_asked_for(digits):
    both = data.class_by_group(digits.train, digits) + data.class_by_group(digits.val, digits)
    share_of_colour = both[:, 1] / both.sum(1)
    assert share_of_colour[:5] == pytest.approx(0.95, abs=0.01)
    assert share_of_colour[5:] == pytest.approx(0.05, abs=0.01)
    balanced = digits_s.prepare(skew=0.5)
    both = data.class_by_group(balanced.train, balanced) + data.class_by_group(balanced.val, balanced)
    assert both[:, 1] / both.sum(1) == pytest.approx(0.5, abs=0.01)


def test_val_is_stratified_by_class_and_group(digits):
    val, train = data.class_by_group(digits.val, digits), data.class_by_group(digits.train, digits)
    assert val.min() >= 1
    assert np.abs(val - (val + train) / 6).max() <= 1


def test_grey_is_grey_and_colour_is_coloured(digits):
    spread = np.ptp(digits.test.images.astype(int), axis=1).reshape(len(digits.test), -1).max(1)
    assert (spread[digits.test.group == 0] == 0).all()
    assert (spread[digits.test.group == 1] > 100).all()


def test_hue_tells_nothing_of_the_class(digits):
    coloured = digits.test.images[digits.test.group == 1].astype(float)
    mean = coloured.mean((2, 3))
    hue = np.round(np.arctan2(np.sqrt(3) * (mean[:, 1] - mean[:, 2]), 2 * mean[:, 0] - mean[:, 1] - mean[:, 2]), 2)
    labels = digits.test.labels[digits.test.group == 1]
    directions = np.array([np.exp(1j * hue[labels == digit]).mean() for digit in range(10)])
    assert np.abs(directions).max() < 4 / np.sqrt(np.bincount(labels).min())  # uniform hues: about 1/√n


def test_types_and_shapes(digits):
    for split in digits.splits.values():
        assert split.images.dtype == np.uint8
        assert split.images.shape == (len(split), 3, 16, 16)
        assert split.labels.dtype == split.group.dtype == np.int64
    assert digits.groups == ("grey", "colour")


def test_the_same_seed_gives_the_same_data_and_another_seed_other_splits(digits):
    again, other = digits_s.prepare(), digits_s.prepare(seed=1)
    assert (again.train.images == digits.train.images).all()
    assert (again.val.source == digits.val.source).all()
    assert set(other.test.source.tolist()) != set(digits.test.source.tolist())


def test_folds_are_tested_on_disjoint_thirds(digits):
    folds = [digits, *(digits_s.prepare(fold=fold) for fold in (1, 2))]
    tested = [set(one.test.source.tolist()) for one in folds]
    assert [len(each) for each in tested] == pytest.approx([599] * 3, abs=5)
    assert len(set.union(*tested)) == 1797 == sum(map(len, tested))
    for one in folds:
        assert not set(one.test.source) & (set(one.train.source) | set(one.val.source))
        assert data.class_by_group(one.train, one).min() >= 3
    with pytest.raises(ValueError, match="fold"):
        digits_s.prepare(fold=3)


def test_cache_reloads_the_same(digits):
    again = data.load("digits_s")
    assert again.fingerprint == digits.fingerprint
    assert (again.test.images == digits.test.images).all()
    assert again.classes == digits.classes
    assert again.mean == digits.mean


def test_options_have_caches_of_their_own(digits):
    other = data.load("digits_s", skew=0.8)
    assert other.fingerprint != digits.fingerprint
    assert data.load("digits_s").fingerprint == digits.fingerprint


@pytest.mark.parametrize("damage", ["truncated", "flipped byte", "no manifest", "bad manifest", "other options"])
def test_a_damaged_cache_is_prepared_again_with_a_word(damage, tmp_path, monkeypatch, capsys, digits):
    monkeypatch.setenv("KDLIB_DATA", str(tmp_path))
    data.load("digits_s")
    file, manifest = tmp_path / "digits_s.npz", tmp_path / "digits_s.json"
    if damage == "other options":
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"options": {"skew": 0.7}}))
    else:
        damage_file(damage, file, manifest)
    again = data.load("digits_s")
    assert (again.train.images == digits.train.images).all()
    assert "preparing it again" in capsys.readouterr().err
    assert files.sha256(file) == json.loads(manifest.read_text())["sha256"]


def test_wrong_names_and_options_are_named():
    with pytest.raises(ValueError, match="digits_s"):
        data.load("digit_s")
    with pytest.raises(ValueError, match="skew"):
        data.load("digits_s", skwe=0.9)
    with pytest.raises(ValueError, match=r"0\.5"):
        data.load("digits_s", skew=0.2)
    with pytest.raises(ValueError, match="pixels"):
        data.load("digits_s", size=4)


def test_options_as_text_have_the_types_of_their_defaults():
    text = "label=race, size = 32, bands=20 40 60, skew=.9, leave_out=1"
    options = {"label": "race", "size": 32, "bands": (20, 40, 60), "skew": 0.9, "leave_out": 1.0}
    assert data.parse_options("utkface", text) == options
    assert data.option_text("utkface", text) == "bands=20 40 60, label=race, leave_out=1, skew=0.9, size=32".replace(
        "skew=0.9, size=32", "size=32, skew=0.9"
    )
    assert data.parse_options("utkface", data.option_text("utkface", text)) == options
    own = '"path=faces, old", table=a table.csv, flip=False, size=none'
    assert data.parse_options("folder", own) == {
        "path": "faces, old", "table": "a table.csv", "flip": False, "size": None,
    }  # fmt: skip
    assert data.option_text("folder", own) == 'flip=False, "path=faces, old", table=a table.csv'
    assert data.parse_options("digits_s", "") == data.parse_options("digits_s", " ") == {}
    for wrong, words in [
        ("scew=.9", "Did you mean 'skew'"),
        ("skew", "option=value"),
        ("size=3.5", "size of data set digits_s cannot be '3.5': its default is 16"),
        ("size=8, size=9", "given twice"),
        ("size=8\nskew=.9", r"on one line, with commas between them; got 'size=8\\nskew=\.9'"),
    ]:
        with pytest.raises(ValueError, match=words):
            data.parse_options("digits_s", wrong)


def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KDLIB_DATA", str(tmp_path / "file"))
    with pytest.raises(OSError, match="KDLIB_DATA"):
        data.load("digits_s")


def test_stratified_cut_takes_its_share_of_each_cell():
    labels, group = np.repeat([0, 1], 50), np.tile([0] * 40 + [1] * 10, 2)
    rest, cut = data.stratified_cut(labels, group, 0.2, seed=3)
    assert sorted([*rest, *cut]) == list(range(100))
    for label in (0, 1):
        assert ((labels[cut] == label) & (group[cut] == 0)).sum() == 8
        assert ((labels[cut] == label) & (group[cut] == 1)).sum() == 2
    with pytest.raises(ValueError, match="between"):
        data.stratified_cut(labels, group, 1.5, seed=3)
