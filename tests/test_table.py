"""One's own data: class folders with a table, arrays, splits by person or by column, and what is wrong with them."""

import json
import os

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from kdlib import data, files
from kdlib.data import table


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The folder `mine` in a data folder of its own, with 20 pictures of each of two classes; its path."""
    monkeypatch.setenv("KDLIB_DATA", str(tmp_path / "data"))
    place = tmp_path / "data" / "mine"
    for number in range(40):
        name = picture_name(number)
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (12, 8), (number, 0, 0)).save(place / name)
    return place


def picture_name(number):
    return f"{('cat', 'dog')[number % 2]}/picture {number}.png"


@pytest.fixture
def write_table(place):
    """Write a table with a row per picture, functions of its number as columns, then `changes`; the file's name."""

    def write(changes=None, *, name="table.csv", rows=range(40), **columns):
        frame = pd.DataFrame({"file": [picture_name(number) for number in rows]})
        for column, value in columns.items():
            frame[column] = [value(number) for number in rows]
        for row, column, value in changes or ():
            frame.loc[row, column] = value
        file = place.parent / name
        frame.to_parquet(file) if file.suffix == ".parquet" else frame.to_csv(file, index=False)
        return name

    return write


def sex(number):
    return ("female", "male")[number // 2 % 2]


def numbers(split):
    """Which pictures a split shows."""
    return split.images[:, 0, 0, 0].astype(int)


def test_the_folder_is_the_class_and_the_table_says_the_group(write_table):
    dataset = data.load("folder", path="mine", table=write_table(group=sex), size=8)
    assert dataset.classes == ("cat", "dog")
    assert dataset.groups == ("female", "male")
    shown = np.concatenate([numbers(split) for split in dataset.splits.values()])
    assert sorted(shown) == list(range(40))
    for split in dataset.splits.values():
        assert split.labels.tolist() == [number % 2 for number in numbers(split)]
        assert split.group.tolist() == [number // 2 % 2 for number in numbers(split)]
        assert split.images.shape == (len(split), 3, 8, 8)
        assert split.group_share is None
    assert data.class_by_group(dataset.test, dataset).tolist() == [[2, 2], [2, 2]]
    assert data.class_by_group(dataset.val, dataset).tolist() == [[1, 1], [1, 1]]


def test_a_folder_alone_has_no_groups(place):
    dataset = data.load("folder", path=place, size=8, flip=False)
    assert dataset.groups == ()
    assert {*dataset.train.group.tolist(), *dataset.test.group.tolist()} == {-1}
    assert not dataset.flip
    assert dataset.mean[0] == pytest.approx(dataset.train.images[:, 0].mean() / 255, abs=1e-4)


def test_an_attribute_has_many_values_or_none(write_table):
    def group(number):
        return [None, -1, 10, 9, 2][number % 5]

    for name in ("table.csv", "table.parquet"):
        dataset = table.prepare(path="mine", table=write_table(group=group, name=name), size=8)
        assert dataset.groups == ("2", "9", "10")
        for split in dataset.splits.values():
            assert split.group.tolist() == [[-1, -1, 2, 1, 0][number % 5] for number in numbers(split)]


def test_a_nullable_column_of_parquet_may_lack_values(write_table, place):
    frame = pd.DataFrame({"file": [picture_name(number) for number in range(40)]})
    frame["group"] = pd.array([[None, 1, 2][number % 3] for number in range(40)], dtype="Int64")
    frame.to_parquet(place.parent / "table.parquet")
    dataset = table.prepare(path="mine", table="table.parquet", size=8)
    for split in dataset.splits.values():
        assert split.group.tolist() == [[-1, 0, 1][number % 3] for number in numbers(split)]


def test_numbers_can_be_the_names_of_classes(place):
    np.savez(place / "arrays.npz", **arrays(classes=np.array([7, 9])))
    assert data.load("folder", path="mine/arrays.npz").classes == ("7", "9")


def test_rows_are_called_by_their_number_in_the_table(write_table):
    rows = [40, *range(40)]
    changes = [(0, "file", "nowhere.png"), (3, "share", "half")]
    name = write_table(changes, rows=rows, share=lambda _: "0.5")
    with pytest.raises(ValueError, match=r"share of row 4, 'cat/picture 2\.png' is 'half'"):
        table.prepare(path="mine", table=name, size=8, leave_out=0.1)


def test_a_share_is_kept_and_counted_as_a_group(write_table):
    def share(number):
        return [0.0, 0.4, 0.5, 0.75, None][number % 5]

    for name in ("table.csv", "table.parquet"):
        dataset = table.prepare(path="mine", table=write_table(males=share, name=name), share="males", size=8)
        assert dataset.groups == ("males < .5", "males > .5")
        for split in dataset.splits.values():
            expected = np.array([[0.0, 0.4, 0.5, 0.75, np.nan][number % 5] for number in numbers(split)], np.float32)
            assert split.group_share.dtype == np.float32
            assert np.array_equal(split.group_share, expected, equal_nan=True)
            assert split.group.tolist() == [[0, 0, -1, 1, -1][number % 5] for number in numbers(split)]


def test_a_person_is_on_one_side(write_table):
    def who(number):
        return f"person {number % 20}"

    dataset = data.load("folder", path="mine", table=write_table(group=sex, person=who), size=8)
    persons = [{number % 20 for number in numbers(split)} for split in dataset.splits.values()]
    assert list(map(len, persons)) == [12, 4, 4]
    assert all(
        len(np.unique(split.source)) == len(each) for split, each in zip(dataset.splits.values(), persons, strict=True)
    )


def test_a_split_column_is_followed(write_table):
    def part(number):
        return ["train", "train", "val", "test"][number // 2 % 4]

    dataset = data.load("folder", path="mine", table=write_table(group=sex, split=part), size=8)
    for name, split in dataset.splits.items():
        assert {part(number) for number in numbers(split)} == {name}
        assert len(split) == {"train": 20, "val": 10, "test": 10}[name]
    two = table.prepare(path="mine", table=write_table(split=lambda n: "test" if n >= 30 else "train"), size=8)
    assert sorted(numbers(two.test)) == list(range(30, 40))
    assert len(two.val) == 4
    leak = write_table(split=part, person=lambda number: number % 8 if number else 7)
    with pytest.raises(ValueError, match=r"'7' is in test and in train: a person belongs to one split"):
        table.prepare(path="mine", table=leak, size=8)
    with pytest.raises(ValueError, match=r"split of row 4, 'dog/picture 3\.png' is 'dev', not train"):
        table.prepare(path="mine", table=write_table([(3, "split", "dev")], split=part), size=8)


def test_folders_train_and_test_are_the_split(place):
    for number in range(40):
        target = place / ("test" if number < 8 else "train") / picture_name(number)
        target.parent.mkdir(parents=True, exist_ok=True)
        (place / picture_name(number)).rename(target)
    (place / "cat").rmdir()
    (place / "dog").rmdir()
    dataset = data.load("folder", path="mine", size=8)
    assert dataset.classes == ("cat", "dog")
    assert sorted(numbers(dataset.test)) == list(range(8))


def test_the_example_is_a_set_of_this_form_made_once(tmp_path, monkeypatch):
    monkeypatch.setenv("KDLIB_DATA", str(tmp_path / "data"))
    options = table.example()
    dataset = data.load("folder", **options)
    assert (dataset.classes, dataset.groups, dataset.left_out) == (("3", "8"), ("dark", "light"), ())
    assert sum(map(len, dataset.splits.values())) == 120
    assert data.class_by_group(dataset.train, dataset).all()
    assert data.class_by_group(dataset.test, dataset).all()
    dark = dataset.train.images.mean((1, 2, 3)) < 128
    assert np.array_equal(dark, dataset.train.group == 0), "each its own picture"
    times = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}
    assert table.example() == options
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")} == times


def test_later_options_name_a_cache_only_where_they_are_used(tmp_path, monkeypatch):
    monkeypatch.setenv("KDLIB_DATA", str(tmp_path / "data"))
    options = table.example()
    plain, chosen = data.load("folder", **options), data.load("folder", **options, where="paper == dark", size=8)
    assert len(chosen.train) < len(plain.train)
    manifests = [json.loads(file.read_text())["options"] for file in (tmp_path / "data").glob("folder-????????.json")]
    later = [set(manifest) & set(table.LATER) for manifest in manifests]
    assert sorted(map(sorted, later)) == [[], ["where"]]


def test_rows_and_pictures_that_do_not_match_are_listed_and_refused_above_a_share(place, write_table, capsys):
    with pytest.raises(ValueError, match=r"2 of 41 images cannot be used.*nowhere\.png: is in table\.csv, row 4"):
        data.load("folder", path="mine", table=write_table([(3, "file", "nowhere.png")], group=sex), size=8)
    dataset = data.load("folder", path="mine", table="table.csv", size=8, leave_out=0.1)
    assert dataset.left_out == (
        "nowhere.png: is in table.csv, row 4, but no such picture is there", "dog/picture 3.png: is not in table.csv"
    )  # fmt: skip
    assert "2 left out: nowhere.png" in capsys.readouterr().err
    assert sum(len(split) for split in dataset.splits.values()) == 39
    for split in dataset.splits.values():
        assert split.group.tolist() == [number // 2 % 2 for number in numbers(split)]
    with pytest.raises(ValueError, match=r"no row of .* names an image: .*images are as 'cat/picture 0\.png'"):
        table.prepare(path="mine", table=write_table([(row, "file", f"{row}.png") for row in range(40)], group=sex))


def test_names_alone_odd_names_and_twice_named_pictures(place, write_table):
    names = {0: "cat/été, «x»\t'1.png", 1: "dog/\udcff.png", 2: "cat/-rf $(x);#.png"}
    for number, name in names.items():
        (place / picture_name(number)).rename(place / name)
    changes = [(0, "file", "e\u0301te\u0301, «x»\t'1.png"), (2, "file", names[2]), (3, "file", "picture 3.png")]
    dataset = table.prepare(path="mine", table=write_table(changes, group=sex), size=8, leave_out=0.06)
    assert {0, 2, 3} <= set(np.concatenate([numbers(split) for split in dataset.splits.values()]))
    assert [text.split(":")[0] for text in dataset.left_out] == ["dog/picture 1.png", "dog/\udcff.png"]
    with pytest.raises(ValueError, match=r"row 6: 'cat/picture 4\.png' is named already in row 5"):
        table.prepare(path="mine", table=write_table([(5, "file", picture_name(4))], group=sex), leave_out=0.2)
    os.link(place / picture_name(5), place / "cat" / "picture 5.png")
    with pytest.raises(ValueError, match=r"row 6: 'picture 5\.png' could be cat/picture 5\.png or dog/picture 5\.png"):
        table.prepare(path="mine", table=write_table([(5, "file", "picture 5.png")], group=sex), leave_out=0.2)


def test_the_class_can_be_a_column_in_a_folder_of_any_layout(place, write_table):
    (place / "deep" / "er").mkdir(parents=True)
    (place / "cat").rename(place / "deep" / "er" / "cat")
    for number in range(1, 40, 2):
        (place / picture_name(number)).rename(place / f"picture {number}.png")
    (place / "dog").rmdir()
    absolute = [(4, "file", str(place / "deep" / "er" / picture_name(4))), (6, "file", "cat\\picture 6")]
    alone = [(number, "file", f"picture {number}") for number in range(1, 40, 2)]
    columns = {"label": lambda number: number + 10, "sex": sex, "race": lambda number: "ab"[number // 4 % 2]}
    name = write_table([*absolute, *alone, (8, "race", "nan")], name="mine/people.csv", **columns)
    options = {"path": "mine", "table": "people.csv", "label_bands": (20, 30), "group": "sex+race", "size": 8}
    dataset = data.load("table", **options)
    assert dataset.classes == ("under 20", "20–29", "30+")
    assert dataset.groups == ("female × a", "female × b", "male × a", "male × b")
    assert dataset.left_out == ()
    for split in dataset.splits.values():
        shown = numbers(split)
        assert split.labels.tolist() == np.digitize(shown + 10, (20, 30)).tolist()
        expected = [-1 if n == 8 else 2 * (n // 2 % 2) + n // 4 % 2 for n in shown]
        assert split.group.tolist() == expected
    few = data.load("table", **options, where="label >= 20")
    assert few.classes == ("20–29", "30+")
    assert few.left_out == ("10 rows: not where label >= 20",)
    assert name.endswith("people.csv")


def test_an_image_without_a_label_is_left_out(write_table):
    name = write_table([(3, "label", None), (8, "label", "x")], label=lambda number: str(number % 3))
    with pytest.raises(ValueError, match=r"2 of 40 .*dog/picture 3\.png: has no label"):
        table.prepare(path="mine", table=name, label_values="x=nan")
    dataset = table.prepare(path="mine", table=name, label_values="x=nan 2=two", size=8, leave_out=0.1)
    assert dataset.classes == ("two", "0", "1")
    assert dataset.left_out == ("dog/picture 3.png: has no label", "cat/picture 8.png: has no label")


def test_split_values_are_mapped_or_the_column_is_ignored(write_table):
    name = write_table(split=lambda number: number // 2 % 3, group=sex)
    with pytest.raises(ValueError, match=r"is '0', not train.*split_values"):
        table.prepare(path="mine", table=name, size=8)
    dataset = table.prepare(path="mine", table=name, size=8, split_values="0=train 1=val 2=test")
    for part, split in enumerate(dataset.splits.values()):
        assert {number // 2 % 3 for number in numbers(split)} == {part}
    cut = table.prepare(path="mine", table=name, size=8, split="none")
    assert [len(split) for split in cut.splits.values()] == [28, 4, 8]


def test_several_tables_in_the_folder_are_read_as_one(write_table):
    for fold in range(4):
        rows = range(10 * fold, 10 * fold + 10)
        write_table(name=f"mine/fold_{fold}.csv", rows=rows, label=lambda number: "ab"[number % 2], group=sex)
    options = {"path": "mine", "table": "fold_*.csv", "size": 8}
    dataset = table.prepare(**options, split="table", split_values="fold_3=test *=train")
    assert sorted(numbers(dataset.test)) == list(range(30, 40))
    assert (dataset.classes, dataset.left_out) == (("a", "b"), ())
    with pytest.raises(ValueError, match=r"fold_0\.csv, row 1, .* is 'fold_0', not train"):
        table.prepare(**options, split="table")


def test_a_group_column_of_fractions_is_a_share(write_table, capsys):
    name = write_table(males=lambda number: number / 39)
    dataset = table.prepare(path="mine", table=name, group="males", size=8)
    assert dataset.groups == ("males < .5", "males > .5")
    assert dataset.test.group_share == pytest.approx(numbers(dataset.test) / 39)
    assert "males: males < .5 20, males > .5 20" in capsys.readouterr().err


def test_what_is_no_picture_is_listed(place, capsys):
    (place / "readme.txt").write_text("mine")
    (place / "cat" / "Thumbs.db").write_text("no picture")
    Image.new("RGB", (8, 8)).save(place / "cat" / "program.eps")
    (place / "cat" / "false.png").write_text("no picture")
    (place / "dog" / "folder.png").mkdir()
    Image.new("I;16", (8, 8)).save(place / "dog" / "deep.png")
    with pytest.raises(ValueError, match=r"1 of 43 .*cat/program\.eps: has no picture's extension"):
        data.load("folder", path="mine", size=8)
    with pytest.raises(ValueError, match=r"2 of 42 .*false\.png: cannot identify"):
        data.load("folder", path="mine", size=8, leave_out=0.03)
    dataset = data.load("folder", path="mine", size=8, leave_out=0.05)
    reasons = dict(text.split(": ", 1) for text in dataset.left_out)
    assert set(reasons) == {"readme.txt", "cat/Thumbs.db", "cat/program.eps", "cat/false.png", "dog/deep.png"}
    assert "8 bits" in reasons["dog/deep.png"]
    assert sum(len(split) for split in dataset.splits.values()) == 40
    assert "readme.txt: is in no class folder" in capsys.readouterr().err


def test_a_changed_table_or_folder_is_prepared_again(place, write_table):
    name = write_table(group=sex)
    first = data.load("folder", path="mine", table=name, size=8)
    again = data.load("folder", path="mine", table=name, size=8)
    assert data.load("folder", path="mine", table=name, size=8) is again
    assert again.fingerprint == first.fingerprint
    write_table(group=lambda number: "male" if number else "female")
    changed = data.load("folder", path="mine", table=name, size=8)
    assert changed.fingerprint != first.fingerprint
    (place / picture_name(0)).unlink()
    assert len(data.load("folder", path="mine", table=name, size=8, leave_out=0.1).left_out) == 1


def test_a_repaired_picture_is_noticed_and_the_same_picture_gives_the_same_set(place):
    first = data.load("folder", path="mine", size=8)
    file = place / picture_name(0)
    content, folder_time = file.read_bytes(), file.parent.stat().st_mtime_ns
    Image.new("RGB", (12, 8), (99, 0, 0)).save(file)
    assert file.parent.stat().st_mtime_ns == folder_time, "only the file tells"
    changed = data.load("folder", path="mine", size=8)
    assert 99 in np.concatenate([numbers(split) for split in changed.splits.values()])
    file.write_bytes(content)
    assert data.load("folder", path="mine", size=8).fingerprint == first.fingerprint


def test_folders_that_are_neither_splits_nor_classes_are_refused(place):
    before = data.load("folder", path="mine", size=8).fingerprint
    (place / ".ipynb_checkpoints").mkdir()
    Image.new("RGB", (8, 8)).save(place / ".ipynb_checkpoints" / "picture.png")
    assert data.load("folder", path="mine", size=8).fingerprint == before, "hidden folders are no classes"
    for folders, words in (
        (("train", "val"), "train/, val/, and test/ is missing"),
        (("train", "test", "valid"), "valid/ is none of the splits"),
        (("Train", "Test"), "Test/ is none of the splits"),
    ):
        for name in folders:
            (place.parent / words[:5] / name / "cat").mkdir(parents=True)
        with pytest.raises(ValueError, match=f"{words}: it should hold train/, test/"):
            table.prepare(path=words[:5])


def test_links_are_followed_but_not_in_a_circle(place):
    before = data.load("folder", path="mine", size=8).fingerprint
    elsewhere = place.parent / "elsewhere"
    (place / "dog").rename(elsewhere)
    (place / "dog").symlink_to(elsewhere)
    (place / "cat" / "deep").symlink_to(place.parent / "deep")
    (place.parent / "deep").mkdir()
    (place / "cat" / "picture 0.png").rename(place.parent / "deep" / "picture 0.png")
    dataset = data.load("folder", path="mine", size=8)
    assert dataset.classes == ("cat", "dog")
    assert sum(len(split) for split in dataset.splits.values()) == 40
    (place.parent / "deep" / "picture 0.png").rename(place / "cat" / "picture 0.png")
    (place / "cat" / "deep").unlink()
    assert data.load("folder", path="mine", size=8).fingerprint == before
    (place / "cat" / "round").symlink_to(place)
    with pytest.raises(ValueError, match="cat/round is a link that leads back"):
        data.load("folder", path="mine", size=8)


def test_a_class_without_pictures_and_a_folder_that_cannot_be_read_are_named(place, monkeypatch):
    (place / "emu").mkdir()
    (place / "emu" / "readme.txt").write_text("none yet")
    with pytest.raises(ValueError, match="no image of class 'emu'"):
        table.prepare(path="mine", size=8)
    for name in ("one.png", "two.png"):
        (place / "emu" / name).write_text("no picture")
    with pytest.raises(ValueError, match="no training image of class 'emu'"):
        table.prepare(path="mine", size=8, leave_out=0.1)

    def scandir(path, real=os.scandir):
        if os.fspath(path).endswith("dog"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(PermissionError, match="mine/dog"):
        table.prepare(path="mine", size=8)


def arrays(**changes):
    images = np.zeros((40, 8, 8, 3), np.uint8)
    images[:] = np.arange(40)[:, None, None, None]
    return {"images": images, "labels": np.arange(40) % 2, "group": np.arange(40) // 2 % 2} | changes


def test_arrays_in_every_form(place):
    file, expected = place / "arrays.npz", None
    classes = np.array(["cat", "dog"])
    for changes in (
        {"classes": classes},
        {"labels": classes[np.arange(40) % 2], "classes": classes},
        {"labels": classes[np.arange(40) % 2]},
        {"images": arrays()["images"].transpose(0, 3, 1, 2), "classes": classes},
        {"images": arrays()["images"][..., 0], "classes": classes, "labels": classes[np.arange(40) % 2]},
    ):
        np.savez(file, **arrays(**changes))
        dataset = data.load("folder", path="mine/arrays.npz")
        assert dataset.classes == ("cat", "dog")
        assert dataset.groups == ("0", "1")
        expected = expected or dataset.fingerprint
        assert dataset.fingerprint == expected
        for split in dataset.splits.values():
            assert split.images.shape == (len(split), 3, 8, 8)
            assert split.labels.tolist() == [number % 2 for number in numbers(split)]
            assert split.group.tolist() == [number // 2 % 2 for number in numbers(split)]
    np.savez(file, **arrays(share=np.linspace(0, 1, 40), person=np.arange(40) // 4))
    dataset = data.load("folder", path="mine/arrays.npz")
    for split in dataset.splits.values():
        assert split.group_share == pytest.approx(numbers(split) / 39)
    persons = [{number // 4 for number in numbers(split)} for split in dataset.splits.values()]
    assert sum(map(len, persons)) == 10


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": np.zeros((40, 8, 8, 3))}, "images of float64"),
        ({"images": np.zeros((40, 8, 8, 4), np.uint8)}, r"\(40, 8, 8, 4\), not uint8"),
        ({"labels": np.arange(39) % 2}, r"labels of shape \(39,\)"),
        ({"labels": np.linspace(0, 1, 40)}, "labels of float64"),
        ({"classes": np.array(["cat"])}, "label 1, which is none of its 1 classes"),
        ({"classes": np.array(["cat", "cat"])}, "two classes of one name among cat, cat"),
        ({"classes": np.array([0.5, 1])}, r"classes of float64 \(2,\)"),
        ({"group": np.arange(4)}, r"group of shape \(4,\)"),
        ({"group": np.linspace(0, 1.1, 40)}, "group of image 37 is '1.0"),
        ({"share": np.full(40, 1.5)}, "share of image 1 is '1.5'"),
        (
            {"labels": np.array([0] * 38 + [1] * 2), "split": ["train"] * 20 + ["test"] * 20},
            "no training image of class '1'",
        ),
        ({"labels": np.array([0] * 39 + [1])}, "class '1' has one image"),
        ({"labels": np.zeros(40, int)}, "one class, '0'"),
        ({"group": np.arange(40) % 2}, "no class has images of two groups"),
        ({"split": np.array(["train"] * 40)}, "no image is left for test"),
    ],
)
def test_wrong_arrays_are_named(changes, message, place):
    np.savez(place / "arrays.npz", **arrays(**changes))
    with pytest.raises(ValueError, match=message) as caught:
        table.prepare(path="mine/arrays.npz")
    assert "arrays.npz" in str(caught.value)


def test_wrong_options_and_tables_are_named(place, write_table):
    for options, message in (
        ({}, "needs a path"),
        (
            {"path": "mine", "table": write_table(), "group": "sex"},
            r"table\.csv has no column 'sex', named as group; it has file",
        ),
        ({"path": "mine", "table": write_table(), "file": "name"}, "no column 'name', of the images' paths"),
        (
            {"path": "mine", "table": write_table(share=lambda _: "half", name="half.csv")},
            r"half\.csv: share of row 1, 'cat/picture 0\.png' is 'half'",
        ),
        (
            {"path": "mine", "table": write_table([(4, "person", "")], person=str, name="persons.csv")},
            r"row 5, 'cat/picture 4\.png' has no person",
        ),
        ({"path": "mine", "size": 3}, "pixels"),
        ({"path": "mine", "val_share": 0}, "between 0 and 1"),
    ):
        with pytest.raises(ValueError, match=message):
            table.prepare(**options)
    for header in ("file,group,group", "file,group, group"):
        (place.parent / "table.csv").write_text(f"{header}\ncat/picture 0.png,a,b\n")
        with pytest.raises(ValueError, match=r"table\.csv has two columns 'group'"):
            table.prepare(path="mine", table="table.csv")
    (place.parent / "table.csv").write_bytes(b"file,group\n\xff\xfe,1\n")
    with pytest.raises(ValueError, match=r"table\.csv is not a table"):
        table.prepare(path="mine", table="table.csv")
    for options in ({"path": "nowhere"}, {"path": "mine", "table": "nowhere.csv"}):
        with pytest.raises(FileNotFoundError, match="nowhere"):
            data.load("folder", **options)
    files.make_folder(place.parent / "empty")
    with pytest.raises(ValueError, match="a folder for each class"):
        data.load("folder", path="empty")
