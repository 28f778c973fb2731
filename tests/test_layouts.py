"""Layouts of one's own pictures: every example of docs/data.md, and forms that others' tables have."""

import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from kdlib import data, paths

DOCUMENT = (paths.ROOT / "docs" / "data.md").read_text()
EXAMPLES = re.findall(r"^path=.*$", DOCUMENT.partition("### Layouts")[2], re.MULTILINE)
COUNT = 60


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A data folder of its own."""
    monkeypatch.setenv("KDLIB_DATA", str(tmp_path))
    return tmp_path


def draw(place, name, number=0):
    """Write a picture whose pixels are all (number, 0, 0)."""
    (place / name).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (9, 8), (number, 0, 0)).save(place / name, "PNG")


def numbers(split):
    return split.images[:, 0, 0, 0].astype(int)


def write(root, name, names, separator=",", **columns):
    """Draw pictures of these names, and write a table of them whose columns are functions of their number."""
    for number, each in enumerate(names):
        draw(root, each, number)
    frame = pd.DataFrame({column: [value(n) for n in range(len(names))] for column, value in columns.items()})
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    frame.to_csv(root / name, index=False, sep=separator)
    return frame


def animal(number):
    return ("cat", "dog")[number % 2]


def people(place):
    names = [f"photos/{animal(number)}/{number}.jpg" for number in range(COUNT)]
    write(place, "people.csv", names, file=lambda n: names[n][7:], gender=lambda n: "fm"[n // 2 % 2])


def image_folders(place):
    for number in range(COUNT):
        for parts, tree in ((("train", "val", "test"), "imagefolder"), (("train", "train", "val"), "imagenet")):
            draw(place, f"{tree}/{parts[number // 2 % 3]}/{animal(number)}/{number}.jpg", number)


def faces(place):
    names = [f"faces/{number % 7}/{number:05}.jpg" for number in range(COUNT)]
    write(
        place, "faces.csv", names, file=lambda n: names[n], age=lambda n: n + 10, gender=lambda n: "fm"[n % 2],
        race=lambda n: "xy"[n // 2 % 2],
    )  # fmt: skip
    ones = {name: (lambda n, k=k: int(n % 3 == k)) for k, name in enumerate(("cat", "dog", "emu"))}
    write(place, "animals.csv", names, id=int, group=lambda n: "ab"[n // 3 % 2], **ones)
    write(
        place, "coded.csv", names, file=lambda n: f"{n:05}", y=lambda n: n % 2, place=lambda n: n // 2 % 2,
        split=lambda n: n // 4 % 3,
    )  # fmt: skip
    write(place, "photos.csv", names, file=lambda n: names[n], event=animal, males=lambda n: n // 2 % 4 / 4)


def clinic(place):
    write(
        place, "clinic/visits.tsv", [f"clinic/p{n % 12}/{n}.png" for n in range(COUNT)], "\t", patient=lambda n: f"p{n % 12}",
        number=int, finding=lambda n: "ab"[n % 2], sex=lambda n: "fm"[n // 2 % 2], quality=lambda n: 2 + (n % 12 < 11),
        device=lambda n: ("new", "old")[n % 12 == 0],
    )  # fmt: skip


def adience(place):
    ages = ("(0, 2)", "(25, 32)", "None")
    for fold in range(5):
        names = [f"adience/faces/{fold}@N{n % 8}/coarse_tilt_aligned_face.{n}.{n}_o.jpg" for n in range(24)]
        write(
            place, f"adience/fold_{fold}_data.txt", names, "\t", user_id=lambda n, fold=fold: f"{fold}@N{n % 8}",
            original_image=lambda n: f"{n}_o.jpg", face_id=int, age=lambda n: ages[n // 8], gender=lambda n: "fmu"[n % 3],
        )  # fmt: skip


def arrays(place):
    images = np.zeros((COUNT, 8, 8, 3), np.uint8)
    np.savez(place / "arrays.npz", images=images, labels=np.arange(COUNT) % 2, group=np.arange(COUNT) // 2 % 2)


GENDERS = ("f × x", "f × y", "m × x", "m × y")
# {what distinguishes a line: (the tree, classes, groups, images in test, images left out)}
EXPECTED = {
    "path=photos, table": (people, ("cat", "dog"), ("f", "m"), 12, 0),
    "path=photos": (people, ("cat", "dog"), (), 12, 0),
    "path=imagefolder": (image_folders, ("cat", "dog"), (), 20, 0),
    "path=imagenet, split_values": (image_folders, ("cat", "dog"), (), 20, 0),
    "path=imagenet, split=none": (image_folders, ("cat", "dog"), (), 12, 0),
    "label_bands": (faces, ("under 20", "20–39", "40–59", "60+"), GENDERS, 16, 0),
    "label=cat+dog+emu": (faces, ("cat", "dog", "emu"), ("a", "b"), 12, 0),
    "table=coded.csv": (faces, ("land", "water"), ("forest", "sea"), 20, 0),
    "share=males": (faces, ("cat", "dog"), ("males < .5", "males > .5"), 10, 0),
    "path=clinic": (clinic, ("a", "b"), ("f", "m"), 20, 1),
    "path=adience": (adience, ("(0, 2)", "(25, 32)"), ("female", "male"), 16, 1),
    "path=arrays.npz": (arrays, ("0", "1"), ("0", "1"), 12, 0),
}


@pytest.mark.parametrize("text", EXAMPLES)
def test_examples_of_the_documentation_are_read(text, place):
    tree, classes, groups, tested, left_out = next(each for part, each in EXPECTED.items() if part in text)
    tree(place)
    dataset = data.load("table", **data.parse_options("table", text) | ({} if "npz" in text else {"size": 8}))
    assert (dataset.classes, dataset.groups) == (classes, groups)
    assert len(dataset.test) == tested
    assert len(dataset.left_out) == left_out, dataset.left_out


def test_every_option_has_an_example_or_a_row():
    used = {option for text in EXAMPLES for option in data.parse_options("table", text)}
    rows = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| `.*?\|", DOCUMENT, re.MULTILINE))))
    options = set(data.defaults("table"))
    assert options <= rows
    assert options - used <= {"group_bands", "size", "test_share", "val_share", "seed", "flip", "leave_out"}
    assert {part for part in EXPECTED if any(part in text for text in EXAMPLES)} == set(EXPECTED)


def frame(**changes):
    columns = {"file": [f"{n}.jpg" for n in range(COUNT)], "label": [animal(n) for n in range(COUNT)]}
    return pd.DataFrame(columns | {"group": ["fm"[n // 2 % 2] for n in range(COUNT)]} | changes)


def csv(place, table, **options):
    table.to_csv(place / "table.csv", index=False, **options)


# {what is odd: (how its table is written, pictures' names, options beside)}
ODD = {
    "decimal commas": (
        lambda place: csv(place, frame(males=[f"{n // 2 % 2 * 3 / 4:.2f}".replace(".", ",") for n in range(COUNT)]), sep=";"),
        "{}.jpg", {"group": "males"},
    ),
    "bars": (lambda place: csv(place, frame(), sep="|"), "{}.jpg", {}),
    "old line ends": (lambda place: csv(place, frame(), lineterminator="\r"), "{}.jpg", {}),
    "gzip": (lambda place: frame().to_csv(place / "table.csv.gz", index=False), "{}.jpg", {"table": "table.csv.gz"}),
    "parquet, file as index": (
        lambda place: frame().set_index("file").to_parquet(place / "table.parquet"), "{}.jpg", {"table": "table.parquet"},
    ),
    "numbers without leading zeros": (lambda place: csv(place, frame(file=range(COUNT))), "deep/{:06}.jpg", {}),
    "leading zeros": (lambda place: csv(place, frame(file=[f"{n:09}.jpg" for n in range(COUNT)])), "{}.jpg", {}),
    "another extension": (lambda place: csv(place, frame()), "deep/{}.PNG", {}),
    "no extension": (lambda place: csv(place, frame(file=range(COUNT))), "deep/{}", {}),
    "one-hot groups": (
        lambda place: csv(place, frame(f=[1 - n // 2 % 2 for n in range(COUNT)], m=[n // 2 % 2 for n in range(COUNT)])),
        "{}.jpg", {"group": "f+m"},
    ),
    "numbers as labels": (lambda place: csv(place, frame(label=[n % 2 + 0.0 for n in range(COUNT)])), "{}.jpg", {}),
    "bands of fractions": (
        lambda place: csv(place, frame(label=[n % 2 / 3 for n in range(COUNT)])), "{}.jpg", {"label_bands": (0.25,)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("odd", ODD)
def test_tables_and_names_of_other_forms(odd, place):
    write_table, name, options = ODD[odd]
    write_table(place)
    for number in range(COUNT):
        draw(place / "pictures", name.format(number), number)
    dataset = data.load("table", **{"path": "pictures", "table": "table.csv", "size": 8} | options)
    assert sum(map(len, dataset.splits.values())) == COUNT
    for split in dataset.splits.values():
        assert split.labels.tolist() == [number % 2 for number in numbers(split)]
        assert split.group.tolist() == [number // 2 % 2 for number in numbers(split)]


def test_splits_of_other_names(place):
    parts = ("Training", "validation", "TEST")
    csv(place, frame(split=[parts[n // 4 % 3] for n in range(COUNT)]))
    for number in range(COUNT):
        draw(place / "pictures", f"{number}.jpg", number)
    dataset = data.load("table", path="pictures", table="table.csv", size=8)
    for part, split in enumerate(dataset.splits.values()):
        assert {number // 4 % 3 for number in numbers(split)} == {part}


@pytest.mark.parametrize(
    ("write_table", "options", "words"),
    [
        (
            lambda place: csv(place, frame().rename(columns=str.title)),
            {},
            "no column 'label'.*it has File, Label, Group",
        ),
        (lambda place: csv(place, frame(label=range(COUNT))), {}, r"60 different numbers.*label_bands=\"20 40\""),
        (lambda place: frame().to_json(place / "table.csv", orient="records"), {}, "it is JSON"),
        (lambda place: csv(place, frame()), {"path": "table.csv"}, "is a file: path is a folder"),
    ],
)
def test_what_cannot_be_read_is_named(write_table, options, words, place):
    write_table(place)
    for number in range(COUNT):
        draw(place / "pictures", f"{number}.jpg", number)
    with pytest.raises(ValueError, match=words):
        data.load("table", **{"path": "pictures", "table": "table.csv"} | options)
