"""One's own pictures: class folders with a table of attributes, or arrays."""

import re
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from kdlib import files, paths
from kdlib.data import pictures
from kdlib.data.splits import Dataset, Split, cut_together

PARTS = ("train", "val", "test")
COLUMNS = ("group", "share", "split", "person")
# what may lie beside pictures without being one that cannot be read
NO_PICTURES = (".txt", ".json", ".csv", ".md", ".parquet", ".xml", ".yaml", ".yml", ".ini", ".log")


def prepare(
    *,
    path="",
    table="",
    file="file",
    group="group",
    share="share",
    split="split",
    person="person",
    size=None,
    test_share=0.2,
    val_share=0.1,
    seed=0,
    flip=True,
    leave_out=0.01,
) -> Dataset:
    """`table`: pictures of your own: a folder of class folders with a table of attributes, or arrays.

    A folder holds one folder for each class (or train/, val/ and test/, which hold those); a table, CSV or parquet, names
    each picture and its attribute, binary, many-valued or a share between 0 and 1 (as of the males in a picture: above .5 it
    counts as group 1, below as 0, at .5 as unknown). The split is that of the table's column, if it has one; otherwise test
    and val are cut, stratified by class and group, with all pictures of a person on one side where the table says who it is.
    What is no picture, and what the table does not name, is counted, listed and left out. An .npz file holds images, uint8
    (N, H, W, 3), (N, 3, H, W) or (N, H, W), labels (N,), numbers or names, and optionally classes and the columns above.

    Options: `path`, of the folder or .npz file, and `table`, of the CSV or parquet file, each from the data folder on if not
    absolute; `file`, `group`, `share`, `split` and `person`, the table's columns: the picture's path within the folder (or
    its name alone, where that is unique), the attribute (empty or −1: unknown), the share (empty: unknown), train, val or
    test, and whoever is in it; `size`, pixels a side (default 64; arrays keep theirs); `test_share` and `val_share`, parts
    of each class and group, or of the persons; `seed`, of the splits; `flip`, whether a mirrored picture is as good;
    `leave_out`, largest share of pictures that may be unusable. Raises ValueError for values outside their ranges, folders
    or a table that do not fit and more unusable pictures; OSError where there is nothing."""
    named = {"group": group, "share": share, "split": split, "person": person}
    place, table_file = _resolve(path, table)
    if size is not None:
        pictures.check_size(size)
    if place.suffix == ".npz":
        classes, labels, columns, images = _from_arrays(place, named, size)
        left_out, where = (), str(place)
    else:
        found, labels, split_by_folder, left_out = _look(place, leave_out)
        classes, images, where = tuple(sorted(set(labels))), None, str(place)
        labels = np.array([classes.index(label) for label in labels])
        columns = {"split": split_by_folder} if split_by_folder else {}
        if table:
            rows, read, called, unnamed = _read_table(table_file, file, named, list(found), leave_out)
            found = {name: found[name] for name in rows}
            labels, left_out, where = labels[list(rows.values())], left_out + unnamed, str(table_file)
            columns = {key: [column[row] for row in rows.values()] for key, column in columns.items()} | read
    if not table or place.suffix == ".npz":
        called = [f"picture {number + 1}" for number in range(len(labels))]
    groups, values, shares = _attribute(columns, named, called, where)
    persons = _persons(columns, called, where)
    parts = _parts(columns, labels, values, persons, classes, test_share, val_share, seed, called, where)
    source = np.unique(persons, return_inverse=True)[1].astype(np.int64)
    fields = {"labels": labels.astype(np.int64), "group": values, "source": source}
    fields |= {} if shares is None else {"group_share": shares}
    if images is None:
        splits, broken = pictures.split_pictures("folder", found, fields, parts, size or 64, leave_out)
        left_out += broken
        _check_trained(splits["train"].labels, classes, where)
    else:
        splits = {
            part: Split(images[index], **{field: column[index] for field, column in fields.items()})
            for part, index in parts.items()
        }
    mean, std = pictures.mean_std(splits["train"].images)
    padding = max(1, splits["train"].images.shape[-1] // 16)  # 4 pixels of 64
    look = {"mean": mean, "std": std, "padding": padding, "flip": flip}
    return Dataset("folder", classes, groups, **splits, **look, left_out=left_out)


def example() -> dict:
    """Options of a tiny set of this form, which is made in the data folder where it is not there: 120 handwritten digits, 3
    and 8, on light or dark paper, of 40 invented writers."""
    place = paths.data_folder() / "example"
    options = {"path": "example", "table": "example.csv", "group": "paper", "person": "writer"}
    if (paths.data_folder() / options["table"]).exists():
        return options
    from sklearn.datasets import load_digits

    digits, generator, rows = load_digits(), np.random.default_rng(0), []
    for digit in (3, 8):
        for number, scan in enumerate(digits.images[digits.target == digit][:60]):
            dark, name = bool(generator.integers(2)), f"{digit}/{number}.png"
            files.make_folder(place / str(digit))
            grey = (scan if dark else 16 - scan) * 255 / 16
            Image.fromarray(grey.round().astype(np.uint8)).resize((64, 64)).save(place / name)
            rows.append({"file": name, "paper": ("light", "dark")[dark], "writer": f"writer {number % 40}"})
    with files.replacing(paths.data_folder() / options["table"]) as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False)
    return options


def stamp(*, path, table, **_) -> str:
    """What changes when the pictures, the .npz file or the table do."""
    place, table_file = _resolve(path, table)
    return pictures.stamp(place, *([table_file] if table else []))


def _resolve(path, table):
    """Absolute paths of the pictures and the table; ValueError or FileNotFoundError where there are none."""
    if not path:
        raise ValueError("the data set folder needs a path: of a folder of class folders, or of an .npz file")
    place, table_file = paths.data_folder() / path, paths.data_folder() / table
    if not place.exists() or (table and not table_file.is_file()):
        missing = table_file if place.exists() else place
        raise FileNotFoundError(f"there is no {missing} (a path that is not absolute starts at the data folder)")
    return place, table_file


def _look(place, leave_out):
    """({name: path}, class of each, split of each or None, left out) of the pictures in class folders."""
    folders = _folders(place)
    split = _are_splits(place, folders)
    depth = 2 if split else 1
    classes = {name for folder in folders for name in _folders(place / folder)} if split else set(folders)
    known = {ending for ending, form in Image.registered_extensions().items() if form in pictures.FORMATS}
    found, parts, left_out, unusable = {}, [], [], []
    for entry in pictures.walk(place):
        path = Path(entry.path)
        name = path.relative_to(place)
        if len(name.parts) <= depth:
            left_out.append(f"{name}: is in no class folder")
        elif path.suffix.lower() not in known:
            left_out.append(f"{name}: has no picture's extension")
            if not (path.name.startswith(".") or path.name == "Thumbs.db" or path.suffix.lower() in NO_PICTURES):
                unusable.append(left_out[-1])
        else:
            found[str(name)] = path
            parts.append(name.parts[:depth])
    pictures.refuse(f"folder, {place}", unusable, len(found) + len(unusable), leave_out)
    if not found:
        raise ValueError(f"{place} has no pictures: it should hold a folder for each class, with pictures in it")
    labels, splits = [each[-1] for each in parts], [each[0] for each in parts] if split else None
    if empty := sorted(classes - set(labels)):
        raise ValueError(f"{place} has no picture of class {empty[0]!r}: put some there, or remove the folder")
    pictures.tell(f"folder, {place}", left_out)
    return found, labels, splits, tuple(left_out)


def _folders(place) -> list:
    return sorted(each.name for each in place.iterdir() if each.is_dir() and not each.name.startswith("."))


def _are_splits(place, folders) -> bool:
    """Whether the folders are the splits, not the classes; ValueError where some are and the others do not fit."""
    if not {name.lower() for name in folders} & set(PARTS):
        return False
    odd = [name for name in folders if name not in PARTS]
    missing = [part for part in ("train", "test") if part not in folders]
    if odd or missing:
        wrong = f"{odd[0]}/ is none of the splits" if odd else f"{missing[0]}/ is missing"
        raise ValueError(
            f"{place} holds {', '.join(f'{name}/' for name in folders)}, and {wrong}: it should hold train/, test/ and, if "
            "there is one, val/, with a folder for each class in each; or only classes, none of them with a split's name"
        )
    return True


def _read_table(table, file, named, names, leave_out):
    """({picture: its number} in the table's order, columns of those rows as text, where each row is, left out)."""
    try:
        if table.suffix == ".parquet":
            frame = pd.read_parquet(table)
        else:
            # pandas renames columns of one name, so it does not see the header as one
            rows = pd.read_csv(table, dtype=str, keep_default_na=False, encoding="utf-8-sig", header=None)
            frame = rows[1:].set_axis(rows.iloc[0], axis=1)
    except Exception as error:  # of pandas, pyarrow and the decoder of text
        raise ValueError(f"{table} is no table, CSV in UTF-8 or parquet ({error})") from error
    frame.columns = [str(column).strip() for column in frame.columns]
    twice = frame.columns[frame.columns.duplicated() & (frame.columns != "")]
    if len(twice):
        raise ValueError(f"{table} has two columns {twice[0]!r}: rename or remove one")
    if file not in frame:
        raise ValueError(f"{table} has no column {file!r}, of the pictures' paths; it has {', '.join(frame.columns)}")
    for key, column in named.items():
        if column != key and column not in frame:
            raise ValueError(f"{table} has no column {column!r}, named as {key}; it has {', '.join(frame.columns)}")
    exact = {unicodedata.normalize("NFC", name): name for name in names}
    alone = {}
    for name in exact:
        alone.setdefault(name.rsplit("/", 1)[-1], []).append(name)
    rows, missing, numbers = {}, [], {name: number for number, name in enumerate(names)}
    for row, text in enumerate(_texts(frame[file])):
        name = unicodedata.normalize("NFC", text)
        if name not in exact and len(alone.get(name, ())) > 1:
            raise ValueError(f"{table}, row {row + 1}: {text!r} could be {' or '.join(alone[name][:2])}; give its path")
        name = exact.get(name) or exact.get(alone.get(name, [""])[0])
        if name is None:
            missing.append(f"{text}: is in {table.name}, row {row + 1}, but no such picture is there")
        elif name in rows:
            raise ValueError(f"{table}, row {row + 1}: {text!r} is named already in row {rows[name] + 1}")
        else:
            rows[name] = row
    if not rows:
        raise ValueError(
            f"no row of {table} names a picture: {missing[:1] or 'it is empty'}; pictures are as {names[0]!r}"
        )
    missing += [f"{name}: is not in {table.name}" for name in names if name not in rows]
    pictures.refuse(f"folder, {table}", missing, len(rows) + len(missing), leave_out)
    pictures.tell(f"folder, {table}", missing)
    chosen = frame.iloc[list(rows.values())]
    columns = {key: _texts(chosen[column]) for key, column in named.items() if column in chosen}
    where = [f"row {row + 1}, {name!r}" for name, row in rows.items()]
    return {name: numbers[name] for name in rows}, columns, where, tuple(missing)


def _texts(values):
    """Values as text: empty where there is none, whole numbers without a point."""
    texts = ["" if pd.api.types.is_scalar(value) and pd.isna(value) else str(value).strip() for value in values]
    return [re.sub(r"^(-?\d+)\.0+$", r"\1", text) for text in texts]


def _attribute(columns, named, called, where):
    """(names of the groups, int64 group of each picture, float32 share of each or None); called: each in messages."""
    shares = None
    if "share" in columns:
        numbers = pd.to_numeric(pd.Series(columns["share"]).replace("", None), errors="coerce").to_numpy(float)
        for row, text in enumerate(columns["share"]):
            if text and not 0 <= numbers[row] <= 1:
                raise ValueError(
                    f"{where}: {named['share']} of {called[row]} is {text!r}; it should be 0 to 1, or empty"
                )
        shares = numbers.astype(np.float32)
        if "group" not in columns:
            group = np.select([shares > 0.5, shares < 0.5], [1, 0], -1)
            return tuple(f"{named['share']} {sign} .5" for sign in "<>"), group.astype(np.int64), shares
    texts = ["" if text == "-1" else text for text in columns.get("group", ())]
    known = sorted(set(texts) - {""})
    if any(re.fullmatch(r"-?\d*\.\d+", text) for text in known):
        raise ValueError(
            f"{where}: {named['group']} has values as {known[0]}: name a column of shares as share, not as group"
        )
    if all(re.fullmatch(r"\d+", text) for text in known):
        known.sort(key=int)
    group = np.array([known.index(text) if text else -1 for text in texts] or [-1] * len(called), dtype=np.int64)
    return tuple(known), group, shares


def _persons(columns, called, where):
    """A text or number per picture, equal where they must be on one side."""
    if "person" not in columns:
        return np.arange(len(called))
    if "" in columns["person"]:
        raise ValueError(f"{where}: {called[columns['person'].index('')]} has no person; name all of them, or none")
    return np.array(columns["person"])


def _parts(columns, labels, group, persons, classes, test_share, val_share, seed, called, where):
    """{"train": indices, …}: as the column says, or cut."""
    if "split" in columns:
        split = np.array(columns["split"])
        wrong = np.flatnonzero(~np.isin(split, PARTS))
        if len(wrong):
            raise ValueError(
                f"{where}: the split of {called[wrong[0]]} is {str(split[wrong[0]])!r}, not {', '.join(PARTS)}"
            )
        for person, parts in pd.Series(split).groupby(persons).unique().items():
            if len(parts) > 1:
                raise ValueError(
                    f"{where}: {person!r} is in {' and in '.join(sorted(parts))}: a person belongs to one split"
                )
        pool, test, val = (np.flatnonzero(split == part) for part in ("train", "test", "val"))
    else:
        pool, test = cut_together(labels, group, persons, test_share, seed)
        val = ()
    train = pool
    if len(val) == 0:
        train, val = (
            pool[part] for part in cut_together(labels[pool], group[pool], persons[pool], val_share, seed + 1)
        )
    for part, index in zip(PARTS, (train, val, test), strict=True):
        if len(index) == 0:
            raise ValueError(
                f"{where}: no picture is left for {part}: there are {len(labels)}, of {len(set(persons))} persons"
            )
    _check_trained(labels[train], classes, where)
    return {"train": train, "val": val, "test": test}


def _check_trained(labels, classes, where):
    if absent := sorted(set(range(len(classes))) - set(labels.tolist())):
        raise ValueError(f"{where}: no training picture of class {classes[absent[0]]!r}")


def _from_arrays(file, named, size):
    """(classes, labels, columns as text, images (N, 3, H, W) uint8) of an .npz file."""
    try:
        with np.load(file) as stored:
            arrays = dict(stored)
    except Exception as error:  # a damaged file raises many kinds, of zipfile, zlib and numpy
        raise ValueError(
            f"{file} cannot be read ({error}): it should be a whole npz file, without pickled objects"
        ) from error
    if missing := [key for key in ("images", "labels") if key not in arrays]:
        raise ValueError(f"{file} lacks {' and '.join(missing)}; it has {', '.join(arrays)}")
    images, labels = arrays["images"], arrays["labels"]
    if images.ndim == 3:
        images = np.repeat(images[:, None], 3, axis=1)
    elif images.ndim == 4 and images.shape[3] == 3:
        images = images.transpose(0, 3, 1, 2)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] != 3 or len(images) == 0:
        raise ValueError(
            f"{file} has images of {arrays['images'].dtype} {arrays['images'].shape}, not uint8 (N, H, W, 3)"
        )
    if size is not None and images.shape[2:] != (size, size):
        raise ValueError(
            f"{file} has images of {images.shape[2]} × {images.shape[3]} pixels; arrays are not resized to {size}"
        )
    columns = {key: arrays[column] for key, column in named.items() if column in arrays}
    for key, column in {"labels": labels, **columns}.items():
        if column.shape != images.shape[:1]:
            raise ValueError(f"{file} has {key} of shape {column.shape}, not {images.shape[:1]}, one for each image")
    if labels.dtype.kind not in "iuU":
        raise ValueError(f"{file} has labels of {labels.dtype}; they should be whole numbers or names")
    known = sorted(set(labels.tolist()))
    classes = arrays.get("classes", np.array(known))
    if classes.ndim != 1 or classes.dtype.kind not in "iuU":
        raise ValueError(
            f"{file} has classes of {classes.dtype} {classes.shape}; they should be names, one for each class"
        )
    classes = tuple(map(str, classes.tolist()))
    if len(set(classes)) < len(classes):
        raise ValueError(f"{file} has two classes of one name among {', '.join(classes)}")
    if "classes" in arrays and labels.dtype.kind != "U":
        known = list(range(len(classes)))
    elif "classes" in arrays:
        known = list(classes)
    if unknown := set(labels.tolist()) - set(known):
        raise ValueError(f"{file} has the label {unknown.pop()!r}, which is none of its {len(classes)} classes")
    numbers = np.array([known.index(label) for label in labels.tolist()])
    return classes, numbers, {key: _texts(column.tolist()) for key, column in columns.items()}, images
