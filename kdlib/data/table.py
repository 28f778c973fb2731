"""Your own images: a folder with a table of labels and attributes, or class folders, or arrays."""

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from kdlib import files, paths
from kdlib.data import arrays, folders, pictures, rows
from kdlib.data.assembling import ROLES, assemble
from kdlib.data.splits import Dataset
from kdlib.names import unknown_name

SETS = {"table": "prepare", "folder": "prepare"}  # folder is its earlier name
MOST = 12  # values of a column that could be a group
MANY = 10  # classes that are numbers: with fewer images than classes need, they are measurements
LATER = ("label", "split_values", "label_values", "group_values", "label_bands", "group_bands", "where")


def prepare(
    *,
    path="",
    table="",
    file="file",
    label="label",
    group="group",
    share="share",
    split="split",
    person="person",
    split_values="",
    label_values="",
    group_values="",
    label_bands=(),
    group_bands=(),
    where="",
    size=None,
    test_share=0.2,
    val_share=0.1,
    seed=0,
    flip=True,
    leave_out=0.01,
) -> Dataset:
    """`table`: your own images: a folder of any layout and a table with a row per image, or class folders, or arrays.

    The class is a column of the table, or else the folder that an image is in. The group is a column, or several crossed:
    binary, many-valued, or a share between 0 and 1 (above .5 it counts as group 1, below as 0, at .5 as unknown). The split is
    that of a column or of folders train/, val/ and test/; otherwise test and val are cut, stratified by class and group, with
    all images of a person in one split. Everything left out is counted and listed.

    Parameters
    ----------
    path : str
        The folder, from the data folder on if it is not absolute; or an .npz file with `images`, uint8 (N, H, W, 3),
        `labels` (N,), numbers or names, and optionally `classes` and the columns below.
    table : str
        CSV, tab- or blank-separated text, or parquet, from the data folder or from `path` on; "fold_*.txt" reads several
        as one, with their names as the column `table`.
    file : str
        The column with the image's path (its end is enough where that is unique), or a text such as "{person}/{number}.jpg".
    label, group, share, split, person : str
        Columns: class, group (crossed as "gender+race"; empty, nan, and −1 unless all others are 1, are unknown), share
        (empty: unknown), train, val or test, and who is in the image. split="none" ignores the table's.
    split_values, label_values, group_values : str
        What values mean, such as "0=train 1=val 2=test"; * is any other. Labels and groups are numbered in this order.
    label_bands, group_bands : tuple of int
        First value of each band but the first, for columns of numbers: "20 40 60".
    where : str
        Which rows to keep, such as "age >= 20 and service_test == False".
    size : int, optional
        Pixels per side (default 64; arrays keep theirs).
    test_share, val_share : float
        Parts of each class and group, or of the persons, where no split is given.
    seed : int
        Of these cuts.
    flip : bool
        Whether a mirrored image is as good.
    leave_out : float
        Largest share of images that may be unusable.

    Raises
    ------
    ValueError
        For options outside their ranges, data that do not fit them, and more unusable images.
    OSError
        If there is no such folder or table.
    """
    options = dict(locals())
    place, tables = _resolve(path, table)
    if size is not None:
        pictures.check_size(size)
    if place.suffix == ".npz":
        columns = {role: options[role] for role in ROLES}
        classes, labels, columns, images = arrays.read(place, columns, size)
        called = [f"image {number + 1}" for number in range(len(labels))]
        return assemble(images, (classes, labels), columns, called, place, options)
    if not tables:
        return from_rows(place, None, options)
    source = tables[0] if len(tables) == 1 else tables[0].with_name(Path(table).name)
    return from_rows(place, rows.read(tables), options, source)


def defaults(**changes) -> dict:
    """Return the options of `prepare`, some of them changed: for data sets that are read by `from_rows`."""
    known = prepare.__kwdefaults__ or {}
    if unknown := set(changes) - set(known):
        raise unknown_name(unknown.pop(), known, "option of data set table:")
    return known | changes


def from_rows(place, frame, options, source=None, name="table") -> Dataset:
    """Prepare the images of a folder as `prepare` does.

    Parameters
    ----------
    place : Path
        The folder.
    frame : DataFrame or None
        A row per image, as `rows.read` returns it; None for class folders alone.
    options : dict
        Those of `prepare`: see `defaults`.
    source : Path, optional
        Where the rows come from, for messages.
    name : str
        Before the names of cached images.
    """
    source, leave_out = source or place, options["leave_out"]
    label, read, kept = None, {}, None
    if frame is not None:
        kept = rows.where(frame, options["where"], source)
        label = rows.column(frame, options["label"], "label", source)
        read = {role: rows.column(frame, options[role], role, source) for role in ROLES if options[role] != "none"}
    beside = () if label is None else sorted(source.parent.glob(source.name))
    if frame is not None and label is None and not any(each.is_dir() for each in place.iterdir()):
        raise ValueError(
            f"{source} has no column 'label', and {place} no class folders: say which column is the class with label; it has "
            f"{', '.join(frame.columns)}"
        )
    meanings = None if options["split"] == "none" else rows.parse_values(options["split_values"], "split_values")
    found, folder, split, left_out = folders.images(
        place, leave_out, by_class=label is None, beside=beside, meanings=meanings
    )
    classes = tuple(sorted(set(folder or ())))
    columns = {"split": split} if split else {}
    called, chosen = list(found), dict.fromkeys(found)
    if frame is not None:
        chosen, unmatched = _choose(frame, kept, list(found), options, source)
        left_out += unmatched
        if label is not None:
            (classes, numbers), chosen, unlabelled = _labelled(label, chosen, options, source)
            left_out += unlabelled
        called = [f"{frame.index[row]}, {image!r}" for image, row in chosen.items()]
        position = {image: number for number, image in enumerate(found)}
        columns = {role: [values[position[image]] for image in chosen] for role, values in columns.items()}
        columns |= {
            role: [values[row] for row in chosen.values()] for role, values in read.items() if values is not None
        }
    if label is None:
        label_of = dict(zip(found, folder, strict=True))
        numbers = np.array([classes.index(label_of[image]) for image in chosen])
    images = {image: found[image] for image in chosen}
    return assemble(images, (classes, numbers), columns, called, source, options, left_out, name)


def example() -> dict:
    """Make a tiny data set of this form in the data folder, unless it is there, and return its options.

    It has 120 handwritten digits, 3 and 8, on light or dark paper, with thin or thick pens, of 40 invented writers."""
    place = paths.data_folder() / "example"
    options = {"path": "example", "table": "example.csv", "group": "paper", "person": "writer"}
    listed = paths.data_folder() / options["table"]
    if listed.exists() and "pen" in listed.read_text(encoding="utf-8").partition("\n")[0]:
        return options
    from sklearn.datasets import load_digits

    digits, generator, written = load_digits(), np.random.default_rng(0), []
    for digit in (3, 8):
        for number, scan in enumerate(digits.images[digits.target == digit][:60]):
            dark, name = bool(generator.integers(2)), f"{digit}/{number}.png"
            files.make_folder(place / str(digit))
            thick = number % 3 == 0
            scan = 16 * (scan / 16) ** 0.5 if thick else scan
            grey = (scan if dark else 16 - scan) * 255 / 16
            Image.fromarray(grey.round().astype(np.uint8)).resize((64, 64)).save(place / name)
            row = {"file": name, "paper": ("light", "dark")[dark], "pen": ("thin", "thick")[thick]}
            written.append(row | {"writer": f"writer {number % 40}"})
    with files.replacing(listed) as temporary:
        pd.DataFrame(written).to_csv(temporary, index=False)
    return options


def attributes(*, path, table, **options):
    """The columns that could be a group: those of 2 to 12 different values."""
    place, tables = _resolve(path, table)
    if place.suffix == ".npz" or not tables:
        return ()
    frame = rows.read(tables)
    known = {name: set(rows.texts(frame[name])) - set(rows.UNKNOWN) for name in frame}
    other = {options[role] for role in ("file", "label", "split", "person", "share")}
    return [name for name, values in known.items() if 2 <= len(values) <= MOST and name not in other]


def stamp(*, path, table, **_) -> str:
    """What changes when the images, the .npz file or the table do."""
    place, tables = _resolve(path, table)
    return folders.stamp(place, *tables)


def official(path, pattern, advice):
    """Return (folder, tables) of a published data set; FileNotFoundError with `advice` if they are missing."""
    try:
        return _resolve(path, pattern)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"there is no {pattern} in {paths.data_folder() / path}: {advice}") from error


def official_stamp(path, *patterns) -> str | None:
    """As `stamp` for a published data set; None if its files are missing."""
    try:
        resolved = [_resolve(path, pattern) for pattern in patterns]
    except FileNotFoundError:
        return None
    return folders.stamp(resolved[0][0], *(each for _, tables in resolved for each in tables))


def _resolve(path, table):
    """(the folder or .npz file, list of tables); ValueError or FileNotFoundError if there are none."""
    if not path:
        raise ValueError("the data set table needs a path: of a folder of images, or of an .npz file")
    place = paths.data_folder() / Path(path).expanduser()
    if not place.exists():
        raise FileNotFoundError(f"there is no {place} (a path that is not absolute starts at the data folder)")
    if not place.is_dir() and place.suffix != ".npz":
        raise ValueError(f"{place} is a file: path is a folder of images (unpacked), or an .npz file of arrays")
    if not table:
        return place, []
    name = Path(table).expanduser()
    for folder in (paths.data_folder(), place, *(place.glob("*/") if len(name.parts) == 1 else ())):
        if (folder / name).is_file():
            return place, [folder / name]
        if "*" in table and (several := sorted((folder / name).parent.glob(name.name))):
            return place, several
    raise FileNotFoundError(
        f"there is no {paths.data_folder() / name}, nor {place / name} (a path that is not absolute starts at the data folder)"
    )


def _choose(frame, kept, images, options, source):
    """({image: number of its row} in the table's order, what is left out)."""
    wanted = rows.image_names(frame, options["file"], source)
    chosen, missing, excluded = {}, [], set()
    prefix = f"{source.name}, " if frame.index[:1].str.startswith("row ").all() else ""
    for number, (text, fitting) in enumerate(zip(wanted, rows.match(wanted, images), strict=True)):
        row = frame.index[number]
        if len(fitting) > 1:
            raise ValueError(f"{source}, {row}: {text!r} could be {' or '.join(fitting[:2])}; give its path")
        if not kept[number]:
            excluded.update(fitting)
        elif not fitting:
            missing.append(f"{text}: is in {prefix}{row}, but no such picture is there")
        elif fitting[0] in chosen:
            raise ValueError(f"{source}, {row}: {text!r} is named already in {frame.index[chosen[fitting[0]]]}")
        else:
            chosen[fitting[0]] = number
    if not chosen:
        raise ValueError(
            f"no row of {source} names an image: {missing[:1] or 'none is left'}; images are as {images[0]!r}"
        )
    missing += [
        f"{image}: is not in {source.name}" for image in images if image not in chosen and image not in excluded
    ]
    pictures.refuse(f"table, {source}", missing, len(chosen) + len(missing), options["leave_out"])
    if not kept.all():
        missing.append(f"{(~kept).sum()} rows: not where {options['where']}")
    pictures.tell(f"table, {source}", missing)
    return chosen, tuple(missing)


def _labelled(label, chosen, options, source):
    """((classes, number of each image's), the images that have one, what is left out)."""
    values = [label[number] for number in chosen.values()]
    meanings = rows.parse_values(options["label_values"], "label_values")
    classes, numbers = rows.encode(values, meanings, options["label_bands"], "label_bands")
    fewest = min((numbers == each).sum() for each in range(len(classes))) if classes else 0
    if len(classes) > MANY and fewest < 3 and rows.numbers(classes).notna().all():
        raise ValueError(
            f"{source}: {options['label']} has {len(classes)} different numbers, some in fewer than three images; cut them "
            f'into bands, such as label_bands="{classes[len(classes) // 3]} {classes[2 * len(classes) // 3]}"'
        )
    unlabelled = [f"{image}: has no label" for image, number in zip(chosen, numbers, strict=True) if number < 0]
    pictures.refuse(f"table, {source}", unlabelled, len(chosen), options["leave_out"])
    pictures.tell(f"table, {source}", unlabelled)
    labelled = {image: row for (image, row), number in zip(chosen.items(), numbers, strict=True) if number >= 0}
    return (classes, numbers[numbers >= 0]), labelled, tuple(unlabelled)
