"""FairFace, CelebA and Waterbirds, each in a small tree of the published layout; Adience's through `table`."""

import numpy as np
import pandas as pd
import pytest
import set_examples
from set_examples import AGES, draw, numbers

from kdlib import data
from kdlib.data import fairface, rows


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A data folder of its own."""
    monkeypatch.setenv("KDLIB_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def faces(folder):
    return set_examples.fairface(folder)


def test_fairface_has_its_bands_in_order_and_its_validation_images_as_test(faces):
    dataset = data.load("fairface", size=8)
    assert (dataset.name, dataset.classes, dataset.groups) == ("fairface", AGES, ("Female", "Male"))
    assert sorted(numbers(dataset.test)) == list(range(120, 174))
    pool = np.concatenate([numbers(dataset.train), numbers(dataset.val)])
    assert sorted(pool) == list(range(108))
    for split in (dataset.train, dataset.val):
        assert split.labels.tolist() == [number % 9 for number in numbers(split)]
        assert split.group.tolist() == [1 - number // 9 % 2 for number in numbers(split)]


def test_fairface_by_other_columns_and_with_a_spreadsheets_dates(faces):
    by_race = data.load("fairface", size=8, label="race", group="gender+age", where="service_test == True")
    assert by_race.classes == ("Black", "East Asian", "White")
    assert "Female × 3-9" in by_race.groups
    assert all(number % 2 == 0 for number in numbers(by_race.test))
    assert by_race.left_out == ("81 rows: not where service_test == True",)
    before = data.load("fairface", size=8)
    for file in faces.glob("*.csv"):
        file.write_text(file.read_text().replace("3-9", "03-Sep").replace("10-19", "Oct-19"))
    assert data.load("fairface", size=8).fingerprint == before.fingerprint
    (faces / "fairface_label_val.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"train\.csv alone"):
        fairface.prepare(size=8)


@pytest.mark.parametrize("form", ["official", "csv"])
def test_celeba_from_its_lists(folder, form):
    parts = set_examples.celeba(folder, form)
    dataset = data.load("celeba", size=8)
    assert (dataset.classes, dataset.groups) == (("not Blond_Hair", "Blond_Hair"), ("female", "male"))
    for part, split in enumerate((dataset.train, dataset.val, dataset.test)):
        assert {parts[number] for number in numbers(split)} == {part}
        assert split.labels.tolist() == [number & 1 for number in numbers(split)]
        assert split.group.tolist() == [number >> 1 & 1 for number in numbers(split)]
    assert sum(map(len, dataset.splits.values())) == 48
    crossed = data.load("celeba", size=8, group="Male+Young")
    assert crossed.groups == ("female × Young", "female × not Young", "male × Young", "male × not Young")
    with pytest.raises(ValueError, match="Did you mean 'Young'"):
        data.load("celeba", label="young")


def test_waterbirds_from_its_table(folder):
    table = set_examples.waterbirds(folder)
    dataset = data.load("waterbirds", size=8)
    assert (dataset.classes, dataset.groups) == (("landbird", "waterbird"), ("land", "water"))
    for part, split in enumerate(dataset.splits.values()):
        assert {table[number][3] for number in numbers(split)} == {part}
        assert split.labels.tolist() == [number & 1 for number in numbers(split)]
        assert split.group.tolist() == [number >> 1 & 1 for number in numbers(split)]
    assert dataset.left_out == ()


@pytest.mark.parametrize(
    ("name", "address"), [("fairface", "joojs/fairface"), ("celeba", "mmlab"), ("waterbirds", "nlp.stanford.edu")]
)
def test_a_missing_set_says_where_to_get_it(name, address, folder):
    with pytest.raises(FileNotFoundError, match=address):
        data.load(name)


def test_a_prepared_set_is_enough_without_its_files(faces):
    first = data.load("fairface", size=8)
    for file in faces.glob("*.csv"):
        file.unlink()
    data.cache.cached.cache_clear()
    assert data.load("fairface", size=8).fingerprint == first.fingerprint


def test_adience_through_table(folder):
    ages = ("(0, 2)", "(25, 32)", "None")
    for fold in range(3):
        lines = ["user_id\toriginal_image\tface_id\tage\tgender"]
        for number in range(24):
            user, image = f"{fold}@N{number % 8}", f"{number}_o.jpg"
            draw(folder / "adience" / "faces" / user / f"coarse_tilt_aligned_face.{number}.{image}", 24 * fold + number)
            lines.append(f"{user}\t{image}\t{number}\t{ages[number // 8]}\t{'fmu'[number % 3]}")
        (folder / "adience" / f"fold_{fold}_data.txt").write_text("\n".join(lines))
    text = (
        "path=adience/faces, table=adience/fold_*_data.txt, label=age, group=gender, person=user_id, size=8, "
        "file={user_id}/coarse_tilt_aligned_face.{face_id}.{original_image}, where=age != None, group_values=u=nan, "
        "split=table, split_values=fold_2_data=test *=train"
    )
    dataset = data.load("table", **data.parse_options("table", text))
    assert (dataset.classes, dataset.groups) == (("(0, 2)", "(25, 32)"), ("f", "m"))
    assert sorted(numbers(dataset.test)) == list(range(48, 64))
    assert dataset.test.group.tolist() == [(0, 1, -1)[number % 24 % 3] for number in numbers(dataset.test)]
    assert not set(dataset.train.source) & set(dataset.val.source)
    assert dataset.left_out == ("24 rows: not where age != None",)


def test_tables_of_many_forms_are_read_alike(tmp_path):
    plain = "file,age,race\na.jpg,3,East Asian\nb.jpg,40,\n"
    forms = {
        "plain.csv": plain.encode(),
        "mark.csv": b"\xef\xbb\xbf" + plain.replace("\n", "\r\n").encode(),
        "wide.csv": plain.encode("utf-16"),
        "end.csv": plain.rstrip("\n").encode(),
        "count.csv": b"2\n" + plain.encode(),
        "quoted.csv": plain.replace("East Asian", '"East Asian"').encode(),
        "semicolon.csv": plain.replace(",", ";").encode(),
        "tabs.tsv": plain.replace(",", "\t").encode(),
    }
    for name, content in forms.items():
        (tmp_path / name).write_bytes(content)
        frame = rows.read([tmp_path / name])
        assert frame.to_numpy().tolist() == [["a.jpg", "3", "East Asian"], ["b.jpg", "40", ""]], name
        assert list(frame.columns) == ["file", "age", "race"]
        assert list(frame.index) == ["row 1", "row 2"]
    for content in ("file,age\na,1,2\n", "file,age\na,1\nb,1,2,3\n" * 3):
        (tmp_path / "odd.csv").write_text(content)
        with pytest.raises(ValueError, match=r"odd\.csv is not a table"):
            rows.read([tmp_path / "odd.csv"])


@pytest.mark.parametrize(
    ("condition", "kept"),
    [
        ("", "abcd"),
        ("age >= 20", "bc"),
        ("age >= 20 and sex == 'F'", "c"),
        ("sex != f & age < 20", "a"),
        ("ok == true", "ac"),
        ("sex == nan", "d"),
    ],
)
def test_where_keeps_rows(condition, kept):
    frame = pd.DataFrame({"file": list("abcd"), "age": ["3", "20", "41", ""], "sex": [*"MMF", "NaN"]})
    frame["ok"] = [True, False, True, False]
    assert "".join(frame.file[rows.where(frame, condition, "x.csv")]) == kept


def test_where_executes_nothing_and_names_what_is_wrong():
    frame = pd.DataFrame({"age": ["3"]})
    for condition, words in (
        ("__import__('os')", "where is such as"),
        ("agee > 3", "Did you mean 'age'"),
        ("age > x", "not a number"),
    ):
        with pytest.raises(ValueError, match=words):
            rows.where(frame, condition, "x.csv")


def test_values_become_numbers():
    assert rows.encode(["10", "9", "nan", "-1"], {}, (), "")[0] == ("9", "10")
    assert rows.encode(["-1", "1", ""], {}, (), "")[1].tolist() == [0, 1, -1]
    names, numbers = rows.encode(["b", "a", "c", "x"], rows.parse_values("c=last b=first *=None", ""), (), "")
    assert (names, numbers.tolist()) == (("last", "first"), [1, -1, 0, -1])
    names, numbers = rows.encode(["3", "20", "41", "", "70"], {}, (20, 40, 60), "label_bands")
    assert (names, numbers.tolist()) == (("under 20", "20–39", "40–59", "60+"), [0, 1, 2, -1, 3])
    with pytest.raises(ValueError, match="label_bands cut numbers"):
        rows.encode(["young"], {}, (20,), "label_bands")
    with pytest.raises(ValueError, match="split_values"):
        rows.parse_values("0 train", "split_values")
