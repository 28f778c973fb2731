"""CIFAR: pixels from a file or from torchvision, gender with merged classes, planted colour, and runs on what has no group."""

import dataclasses
import hashlib
import json
import os
import pickle
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REAL_DATA
from PIL import Image
from torchvision import datasets

from kdlib import bias, data, evaluate, files, models, paths, runs
from kdlib.data import cifar
from kdlib.data.splits import mean_std
from kdlib.runs import settings

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR100 = tuple(sorted([f"thing_{number:02}" for number in range(96)] + ["boy", "girl", "man", "woman"]))
CLASSES = {"cifar10": CIFAR10, "cifar100": CIFAR100}


def arrays(name, train=20, test=2):
    """What <name>.npz holds, with random pictures: `train` and `test` of each class."""
    generator, count = np.random.default_rng(0), len(CLASSES[name])
    content = {"classes": np.array(CLASSES[name])}
    for split, size in (("train", train), ("test", test)):
        content[f"{split}_images"] = generator.integers(0, 256, (size * count, 32, 32, 3)).astype(np.uint8)
        content[f"{split}_labels"] = generator.permutation(np.repeat(np.arange(count), size))
    return content


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A data folder of its own, without network."""

    def no_network(*arguments, **options):
        raise urllib.error.URLError("no network here")

    monkeypatch.setattr("urllib.request.urlopen", no_network)
    monkeypatch.setenv("KDLIB_DATA", str(tmp_path / "data"))
    return files.make_folder(tmp_path / "data")


@pytest.fixture
def archives(folder):
    """`folder` with a small cifar10.npz and cifar100.npz; the arrays by name."""
    content = {"cifar10": arrays("cifar10", train=40, test=4), "cifar100": arrays("cifar100")}
    for name, each in content.items():
        np.savez(folder / f"{name}.npz", **each)
    return content


def originals(content, split):
    """The pictures (N, 3, H, W) that a split's `source` names."""
    everything = np.concatenate([content["train_images"], content["test_images"]])
    return everything[split.source].transpose(0, 3, 1, 2)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_val_is_cut_from_each_class_of_train_and_test_stays_whole(name, archives):
    dataset, content = data.load(name, val_share=0.2), archives[name]
    per_class = {key: set(np.bincount(split.labels)) for key, split in dataset.splits.items()}
    expected = {"cifar10": ({32}, {8}, {4}), "cifar100": ({16}, {4}, {2})}[name]
    assert tuple(per_class.values()) == expected
    train, val, test = (set(split.source.tolist()) for split in dataset.splits.values())
    assert sorted(train | val) == list(range(len(content["train_labels"])))
    assert not train & val
    assert min(test) == len(content["train_labels"])
    assert np.array_equal(dataset.test.labels, content["test_labels"])
    for split in dataset.splits.values():
        assert np.array_equal(split.images, originals(content, split))
        assert split.images.dtype == np.uint8
        assert split.labels.dtype == split.group.dtype == split.source.dtype == np.int64
    assert dataset.classes == CLASSES[name]
    other = data.load(name, val_share=0.2, seed=1)
    assert set(other.val.source.tolist()) != val
    assert len(data.load(name).val) == len(dataset.val) / 2


def test_pixels_are_normalised_and_augmented_as_in_the_published_protocols(archives):
    ten, hundred = data.load("cifar10"), data.load("cifar100")
    assert (hundred.mean, hundred.std) == ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))
    assert (ten.mean, ten.std) == ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
    for name in ("cifar10", "cifar100", "cifar10s", "cifar100s"):
        dataset = data.load(name)
        assert (dataset.padding, dataset.flip) == (4, True)


def test_gender_is_known_where_the_class_tells_it(archives):
    dataset = data.load("cifar100")
    assert dataset.groups == ("female", "male")
    for split in dataset.splits.values():
        known = {CIFAR100[label]: group for label, group in zip(split.labels, split.group, strict=True) if group >= 0}
        assert known == {"girl": 0, "woman": 0, "boy": 1, "man": 1}
        assert (split.group >= 0).sum() == np.isin(split.labels, [CIFAR100.index(label) for label in known]).sum()


def test_children_and_adults_are_one_class_each_for_the_bias_analysis(archives):
    dataset = data.load("cifar100")
    merged = dict(zip(CIFAR100, data.bias_labels(dataset, np.arange(100)), strict=True))
    names = data.bias_classes(dataset)
    assert names[merged["boy"]] == names[merged["girl"]] == "boy + girl"
    assert names[merged["man"]] == names[merged["woman"]] == "man + woman"
    others = [label for label in CIFAR100 if label.startswith("thing")]
    assert [names[merged[label]] for label in others] == others
    assert sorted(set(merged.values())) == list(range(len(names))) == list(range(98))


def test_a_data_set_without_merged_classes_keeps_its_labels_and_its_fingerprint(digits):
    labels = np.array([3, 1, 4])
    assert data.bias_labels(digits, labels) is labels
    assert data.bias_classes(digits) == digits.classes
    assert "merged" not in data.cache._settings(digits)  # as before there was such a field
    settings = json.loads((paths.data_folder() / "digits_s.json").read_text())["dataset"]
    assert sorted(settings) == ["classes", "flip", "groups", "mean", "name", "padding", "std"]


@pytest.mark.parametrize(("name", "coloured"), [("cifar10s", CIFAR10[1::2]), ("cifar100s", CIFAR100[:50])])
def test_most_training_pictures_of_a_class_are_in_its_own_domain(name, coloured, archives):
    dataset = data.load(name, val_share=0.25)
    assert dataset.groups == ("grey", "colour")
    cells = {key: data.class_by_group(split, dataset) for key, split in dataset.splits.items()}
    pool = cells["train"] + cells["val"]
    own = np.isin(dataset.classes, coloured)
    assert np.array_equal(pool[own, 1] / pool[own].sum(1), np.full(own.sum(), 0.95))
    assert np.array_equal(pool[~own, 0] / pool[~own].sum(1), np.full((~own).sum(), 0.95))
    assert np.abs(cells["val"] - pool / 4).max() < 1
    assert len(np.unique(cells["test"])) == 1


@pytest.mark.parametrize("name", ["cifar10s", "cifar100s"])
def test_colour_is_the_picture_and_grey_its_luminance(name, archives):
    dataset, content = data.load(name), archives[name.removesuffix("s")]
    for split in dataset.splits.values():
        shown = originals(content, split)
        assert np.array_equal(split.images[split.group == 1], shown[split.group == 1])
        chosen = np.flatnonzero(split.group == 0)[:50]
        for picture, source in zip(split.images[chosen], shown[chosen], strict=True):
            luminance = np.asarray(Image.fromarray(source.transpose(1, 2, 0)).convert("L"))
            assert np.array_equal(picture, np.stack([luminance] * 3))
    half = len(dataset.test) // 2
    assert (dataset.test.group == np.repeat([0, 1], half)).all()
    assert np.array_equal(dataset.test.source, np.tile(dataset.test.source[:half], 2))
    assert np.array_equal(dataset.test.labels, np.tile(content["test_labels"], 2))
    train, val, test = (set(split.source.tolist()) for split in dataset.splits.values())
    assert not train & val
    assert not test & (train | val)
    assert len(train | val | test) == len(content["train_labels"]) + len(content["test_labels"])


def test_planted_pixels_are_normalised_by_their_own_mean(archives):
    dataset = data.load("cifar10s", skew=1.0)
    pixels = dataset.train.images / 255
    assert dataset.mean == pytest.approx(pixels.mean((0, 2, 3)), abs=1e-4)
    assert dataset.std == pytest.approx(pixels.std((0, 2, 3)), abs=1e-4)
    assert dataset.std[2] < 0.28  # uniform noise has .289, its luminance less


def test_skew_and_seed_are_as_asked_for(archives):
    balanced = data.load("cifar10s", skew=0.5)
    cells = data.class_by_group(balanced.train, balanced) + data.class_by_group(balanced.val, balanced)
    assert (cells == 20).all()
    mild = data.load("cifar10s", skew=0.7, val_share=0.25)
    assert set(data.class_by_group(mild.val, mild).flat) == {3, 7}  # a quarter of 12 and of 28
    one, other = data.load("cifar10s"), data.load("cifar10s", seed=1)
    grey = [set(d.train.source[d.train.group == 0]) | set(d.val.source[d.val.group == 0]) for d in (one, other)]
    assert grey[0] != grey[1]
    again = cifar.cifar10s()
    assert np.array_equal(again.train.images, one.train.images)
    assert np.array_equal(again.val.source, one.val.source)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("cifar10s", {"skew": 0.4}, r"skew .* 0\.5"),
        ("cifar100s", {"skew": 1.1}, r"skew .* 1\.1"),
        ("cifar100", {"val_share": 0}, "val_share .* between 0 and 1; got 0"),
        ("cifar10s", {"val_share": 1.0}, "val_share"),
        ("cifar10", {"skew": 0.9}, "option of data set cifar10.*val_share"),
    ],
)
def test_wrong_options_are_refused_before_any_data_is_sought(name, options, words, folder):
    with pytest.raises(ValueError, match=words):
        data.load(name, **options)


def without(key):
    return lambda content: content.pop(key)


def changed(key, change):
    return lambda content: content.update({key: change(content[key])})


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (without("test_labels"), "lacks test_labels"),
        (changed("train_images", lambda a: a / 255), r"train_images of float64 .* not uint8 \(N, 32, 32, 3\)"),
        (changed("test_images", lambda a: a.transpose(0, 3, 1, 2)), r"test_images .* not uint8 \(N, 32, 32, 3\)"),
        (changed("train_labels", lambda a: a[1:]), r"train_labels of int64 \(1999,\), not integers of shape \(2000,\)"),
        (changed("test_labels", lambda a: a.astype(float)), "test_labels of float64"),
        (changed("train_labels", lambda a: a + 1), "train_labels that are not the numbers 0 … 99"),
        (changed("train_labels", lambda a: a - 1), "train_labels that are not the numbers 0 … 99"),
        (changed("test_labels", lambda a: np.where(a == 7, 8, a)), "test_labels .* each at least once"),
        (changed("classes", lambda a: a[::-1]), "the 100 names of cifar100 in official order"),
        (changed("classes", lambda a: a[:-1]), "the 100 names of cifar100 in official order"),
        (changed("classes", lambda a: np.arange(100)), "the 100 names of cifar100 in official order"),
        (changed("classes", lambda a: np.char.replace(a, "woman", "womanly")), "lacks the classes woman"),
    ],
)
def test_a_wrong_file_is_refused_with_what_would_be_right(damage, words, folder):
    content = arrays("cifar100")
    damage(content)
    np.savez(folder / "cifar100.npz", **content)
    with pytest.raises(ValueError, match=words) as caught:
        data.load("cifar100s")
    assert str(folder / "cifar100.npz") in str(caught.value)
    assert "It should be a whole npz file with train_images, train_labels" in str(caught.value)


@pytest.mark.parametrize("kind", ["truncated", "flipped byte", "another format", "empty"])
def test_a_damaged_file_is_refused_not_half_read(kind, archives, folder):
    file = folder / "cifar10.npz"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    damaged = {"truncated": content[:-1000], "flipped byte": content, "another format": b"no npz" * 99, "empty": b""}
    file.write_bytes(damaged[kind])
    with pytest.raises(ValueError, match=r"cifar10\.npz cannot be read .* remove it and torchvision downloads"):
        data.load("cifar10")
    assert not (folder / "cifar10-prepared.npz").exists()


def test_the_cache_leaves_the_file_alone_and_is_enough_without_it(archives, folder):
    before = files.sha256(folder / "cifar100.npz")
    first = data.load("cifar100")
    assert files.sha256(folder / "cifar100.npz") == before
    (folder / "cifar100.npz").unlink()
    again = data.load("cifar100")
    assert again.fingerprint == first.fingerprint == data.cache.fingerprint(again)
    assert np.array_equal(again.test.images, first.test.images)
    assert (again.merged, again.groups) == (first.merged, first.groups)
    assert data.load("cifar100") is again


def test_a_cache_that_changes_after_it_was_loaded_is_not_trusted(archives, folder, capsys):
    first, again = data.load("cifar10s"), data.load("cifar10s")
    file = folder / "cifar10s.npz"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(0, 0))  # another time for sure, however coarse the clock of the file system
    third = data.load("cifar10s")
    assert "does not match the SHA-256" in capsys.readouterr().err
    assert third is not again
    assert data.cache.fingerprint(third) == first.fingerprint


def test_a_file_that_holds_a_part_of_the_data_is_used_with_a_word(archives, capsys):
    data.load("cifar10")
    words = capsys.readouterr().err
    assert "a part of the data: 400 train images, officially 5000 a class" in words
    assert "40 test images, officially 1000 a class" in words


def test_without_network_both_ways_of_getting_the_data_are_named(folder):
    with pytest.raises(OSError, match="no network here") as caught:
        data.load("cifar100s")
    for words in ("cannot get cifar100:", "cifar-100-python.tar.gz", "cifar100.npz", str(folder), "train_images"):
        assert words in str(caught.value)


def test_a_broken_archive_is_not_unpacked(folder):
    (folder / "cifar-10-python.tar.gz").write_bytes(b"half of an archive")
    with pytest.raises(OSError, match="cannot get cifar10"):
        data.load("cifar10")


def test_torchvision_reads_and_verifies_the_official_archive(folder, monkeypatch):
    content, source = arrays("cifar10"), datasets.CIFAR10
    (folder / source.base_folder).mkdir()

    def write(name, value):
        encoded = pickle.dumps(value)
        (folder / source.base_folder / name).write_bytes(encoded)
        return name, hashlib.md5(encoded).hexdigest()

    def batch(split):
        pixels = content[f"{split}_images"].transpose(0, 3, 1, 2).reshape(-1, 3072)
        return {"data": pixels, "labels": content[f"{split}_labels"].tolist()}

    monkeypatch.setattr(source, "train_list", [write("data_batch_1", batch("train"))])
    monkeypatch.setattr(source, "test_list", [write("test_batch", batch("test"))])
    meta = write("batches.meta", {"label_names": list(CIFAR10)})
    monkeypatch.setattr(source, "meta", {"filename": meta[0], "key": "label_names", "md5": meta[1]})
    dataset = data.load("cifar10")
    for split in dataset.splits.values():
        assert np.array_equal(split.images, originals(content, split))
    assert np.array_equal(dataset.test.labels, content["test_labels"])
    assert dataset.classes == CIFAR10

    damaged = folder / source.base_folder / "test_batch"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    with pytest.raises(OSError, match="cannot get cifar10"):
        data.load("cifar10", seed=1)


def test_each_data_set_says_what_it_is():
    texts = {name: " ".join(data.about(name).split()) for name in data.SOURCES}
    for name, text in texts.items():
        assert text.startswith(f"`{name.replace('folder', 'table')}`: ")
        assert "Parameters" not in text
    assert "boy + girl" in texts["cifar100"]
    assert "automobile, cat, dog, horse and truck are coloured" in texts["cifar10s"]
    with pytest.raises(ValueError, match="cifar100"):
        data.about("cifar1000")


SMALL = {"student": "convnet_4", "teacher": "convnet_5", "epochs": 1, "lr": 0.01}


def test_a_run_measures_accuracy_on_the_classes_and_bias_on_the_merged_ones(archives, monkeypatch):
    original = evaluate.predict

    def mostly_girls(model, images, **options):
        output = original(model, images, **options)
        output.logits[::4, CIFAR100.index("girl")] += 1000
        output.logits[1::4, CIFAR100.index("boy")] += 1000
        return output

    monkeypatch.setattr(evaluate, "predict", mostly_girls)
    settings = runs.Run(data="cifar100", **SMALL)
    record, dataset = runs.run(settings, log=list), data.load("cifar100")
    arrays, teacher = runs.predictions(settings), runs.predictions(settings.teacher_run())
    labels, group = arrays["test_labels"], arrays["test_group"]
    predicted, before = (each["test_logits"].argmax(1) for each in (arrays, teacher))
    metrics = record["metrics"]["test"]
    performance = evaluate.performance(labels, predicted, 100)
    assert {name: metrics[name] for name in performance} == performance
    three = [np.array(dataset.merged)[numbers] for numbers in (labels, before, predicted)]
    figures = files.plain(bias.summary(three[0], three[2], group, num_classes=98))
    assert figures.pop("accuracy") > metrics["accuracy"]
    assert {name: metrics[name] for name in figures} == figures
    assert metrics["classes_counted"] == 2
    compared = files.plain(bias.compare(*three, group, num_classes=98))
    assert record["metrics"]["vs_teacher"] == compared


def test_merging_counts_a_boy_taken_for_a_girl_as_recognised(archives):
    dataset = data.load("cifar100")
    labels, group = dataset.test.labels, dataset.test.group
    for guess, disparity in (("girl", 0), ("thing_00", 0.5)):
        predicted = np.where(labels == CIFAR100.index("boy"), CIFAR100.index(guess), labels)
        both = (data.bias_labels(dataset, numbers) for numbers in (labels, predicted))
        assert bias.mean_absolute_disparity(*both, group, num_classes=98) == disparity


def test_a_published_checkpoint_is_a_teacher_without_training(folder):
    np.savez(folder / "cifar100.npz", **arrays("cifar100", train=3, test=1))
    small = {"data": "cifar100", "student": "resnet8", "device": "cpu", "epochs": 1, "batch_size": 256}
    distilled = runs.Run(**small, teacher="resnet8", method="kdpp", teacher_weights="published")
    with pytest.raises(FileNotFoundError, match="fetch cifar_teachers"):
        runs.run(distilled, log=list)
    torch.manual_seed(3)
    model = models.build_model("resnet8", 100)
    checkpoint = files.make_folder(paths.data_folder() / "cifar_teachers" / "resnet8_vanilla") / "ckpt_epoch_240.pth"
    torch.save({"model": model.state_dict()}, checkpoint)
    record = runs.run(distilled, log=list)
    teacher = distilled.teacher_run()
    assert record["teacher_key"] == teacher.key
    kept = runs.load_model(teacher).state_dict()
    assert all(torch.equal(kept[name], value) for name, value in model.state_dict().items())
    other = dataclasses.replace(distilled, seed=1, lr=0.5, epochs=2).teacher_run()
    assert other.key == teacher.key, "one published teacher serves every recipe and seed"
    torch.save({"model": models.build_model("resnet8", 100).state_dict()}, checkpoint)
    settings._key.cache_clear()
    assert distilled.teacher_run().key != record["teacher_key"], "another file is another teacher"


def test_a_run_on_data_without_groups_has_no_bias_figures_and_takes_no_debiaser(archives):
    record = runs.run(runs.Run(data="cifar10", **SMALL), log=list)
    metrics = record["metrics"]["test"]
    assert 0 <= metrics["accuracy"] <= 1
    assert metrics["unknown"] == 40
    assert [metrics[name] for name in ("mad", "mad_floor", "mad_p_value", "sqrt_u", "worst_cell")] == [None] * 5
    assert record["metrics"]["vs_teacher"]["inflation"] is None
    assert data.class_by_group(data.load("cifar10").test, data.load("cifar10")).shape == (10, 0)
    with pytest.raises(ValueError, match="'domain_independent' needs two known groups in the training split"):
        runs.run(runs.Run(data="cifar10", method="scratch", debias="domain_independent", student="convnet_4"))


def test_a_run_on_a_planted_set_takes_its_skew_and_a_debiaser(archives):
    settings = runs.Run(data="cifar10s", skew=0.8, method="scratch", debias="domain_independent", **SMALL)
    record = runs.run(settings, log=list)
    assert record["metrics"]["test"]["classes_counted"] == 10
    assert record["data"]["fingerprint"] == data.load("cifar10s", skew=0.8).fingerprint


@pytest.mark.skipif(
    not (Path(REAL_DATA or "") / "cifar100.npz").is_file(), reason="KDLIB_DATA names no folder with cifar100.npz"
)
def test_the_real_pictures_are_the_official_ones(monkeypatch, capsys):
    monkeypatch.setenv("KDLIB_DATA", REAL_DATA)
    dataset = cifar.cifar100()  # without writing a cache there
    assert {name: set(np.bincount(split.labels)) for name, split in dataset.splits.items()} == {
        "train": {450}, "val": {50}, "test": {100},
    }  # fmt: skip
    assert [dataset.classes.index(name) for name in ("boy", "girl", "man", "woman")] == [11, 35, 46, 98]
    images = np.concatenate([dataset.train.images, dataset.val.images])
    mean, std = mean_std(images)
    assert mean == pytest.approx((0.5071, 0.4865, 0.4409), abs=2e-4)
    assert std == pytest.approx((0.2673, 0.2564, 0.2762), abs=2e-4)
    assert capsys.readouterr().err == ""


def test_coarse_classes_are_five_fine_ones_each(tmp_path, monkeypatch):
    monkeypatch.setenv("KDLIB_DATA", str(tmp_path))
    names = sorted(name for kind in cifar.COARSE.values() for name in kind)
    arrays = {"classes": np.array(names)}
    for part, count in (("train", 20), ("test", 2)):
        arrays[f"{part}_labels"] = np.repeat(np.arange(100), count)
        arrays[f"{part}_images"] = np.random.default_rng(0).integers(0, 256, (100 * count, 32, 32, 3), dtype=np.uint8)
    np.savez(tmp_path / "cifar100.npz", **arrays)
    dataset = data.load("cifar100s", labels="coarse")
    assert len(dataset.classes) == 20
    assert dataset.classes == tuple(sorted(dataset.classes))
    assert (np.bincount(dataset.test.labels) == 5 * 2 * 2).all()
    cells = data.class_by_group(dataset.train, dataset)
    assert (cells[:10, 1] > 5 * cells[:10, 0]).all()
    assert (cells[10:, 0] > 5 * cells[10:, 1]).all()
    fine = data.load("cifar100s")
    of = {
        names[label]: dataset.classes[kind] for label, kind in zip(fine.test.labels, dataset.test.labels, strict=True)
    }
    assert (of["maple_tree"], of["boy"], of["tank"]) == ("trees", "people", "vehicles_2")
    with pytest.raises(ValueError, match=r"fine .* or coarse"):
        data.load("cifar100s", labels="medium")
    np.savez(tmp_path / "cifar100.npz", **arrays | {"classes": np.array([*names[:-1], "zzz"])})
    with pytest.raises(ValueError, match="coarse class is known for zzz"):
        cifar.cifar100s(labels="coarse")
