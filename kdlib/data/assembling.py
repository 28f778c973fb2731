"""From images and columns of text to a data set: groups, persons, splits."""

import re
import sys

import numpy as np
import pandas as pd

from kdlib.data import copies, pictures, rows
from kdlib.data.folders import PARTS
from kdlib.data.splits import Dataset, Split, cut_together, mean_std

# of a column in any case
SPLITS = dict(zip(PARTS, PARTS, strict=True)) | {
    "training": "train",
    "validation": "val",
    "valid": "val",
    "testing": "test",
}
ROLES = ("group", "share", "split", "person")  # of columns, beside the label


def assemble(images, labels, columns, called, source, options, left_out=(), name="table") -> Dataset:
    """Cut the splits and decode the images.

    Parameters
    ----------
    images : dict or ndarray
        {name: Path} of N images, or uint8 (N, 3, H, W).
    labels : (tuple of str, ndarray of int64, (N,))
        The classes, and the number of each image's.
    columns : dict
        {role: list of N texts} for some of `ROLES`.
    called : list of str
        Each image in messages.
    source : Path
        Where the columns come from, for messages.
    options : dict
        Those of `table.prepare`.
    left_out : tuple of str
        What was left out so far.
    name : str
        Before the names of cached images.
    """
    classes, numbers = labels
    if options["split"] == "none":
        columns = {role: values for role, values in columns.items() if role != "split"}
    groups, group, shares = _attribute(columns, options, called, source)
    _tell_counts(source, "class", classes, numbers)
    _tell_counts(source, options["group"] if "group" in columns else options["share"], groups, group)
    _check_classes(classes, numbers, groups, group, source)
    persons = _persons(columns, called, source)
    if "split" not in columns:
        persons = copies.joined(persons, copies.numbers(images))
    parts = _parts(columns, numbers, group, persons, options, called, source)
    _check_trained(numbers[parts["train"]], classes, source)
    origin = np.unique(persons, return_inverse=True)[1].astype(np.int64)
    fields = {"labels": numbers.astype(np.int64), "group": group, "source": origin}
    fields |= {"names": np.array(list(images))} if isinstance(images, dict) else {}
    fields |= {} if shares is None else {"group_share": shares}
    if isinstance(images, dict):
        size = options["size"] or 64
        splits, broken = pictures.split_pictures(name, images, fields, parts, size, options["leave_out"])
        left_out += broken
        _check_trained(splits["train"].labels, classes, source)
    else:
        splits = {
            part: Split(images[index], **{field: column[index] for field, column in fields.items()})
            for part, index in parts.items()
        }
    mean, std = mean_std(splits["train"].images)
    padding = max(1, splits["train"].images.shape[-1] // 16)  # 4 pixels of 64
    look = {"mean": mean, "std": std, "padding": padding, "flip": options["flip"]}
    return Dataset(name, classes, groups, **splits, **look, left_out=left_out)


def _attribute(columns, options, called, source):
    """(names of the groups, int64 group of each image, float32 share of each or None)."""
    share, title, shares = columns.get("share"), options["share"], None
    group = columns.get("group", [""] * len(called))
    if share is None and any(re.fullmatch(r"-?\d*[.,]\d+", text) for text in group) and not options["group_bands"]:
        share, title, group = group, options["group"], None  # a share, by its values
    if share is not None:
        numbers = rows.numbers("" if text in rows.UNKNOWN else text for text in share)
        for row, text in enumerate(share):
            if text not in rows.UNKNOWN and not 0 <= numbers[row] <= 1:
                raise ValueError(f"{source}: {title} of {called[row]} is {text!r}; a share should be 0 to 1, or empty")
        shares = numbers.to_numpy(np.float32)
        if "group" not in columns or group is None:
            numbers = np.select([shares > 0.5, shares < 0.5], [1, 0], -1)
            return tuple(f"{title} {sign} .5" for sign in "<>"), numbers.astype(np.int64), shares
    meanings = rows.parse_values(options["group_values"], "group_values")
    if not any(group or ()):
        return (), np.full(len(called), -1, dtype=np.int64), shares
    return *rows.encode(group, meanings, options["group_bands"], "group_bands"), shares


def _tell_counts(source, title, names, numbers):
    """Say on stderr how many images each class or group has."""
    counts = [f"{name} {(numbers == number).sum()}" for number, name in enumerate(names[:20])]
    counts += [f"and {len(names) - 20} more"] if len(names) > 20 else []
    counts += [f"unknown {(numbers < 0).sum()}"] if (numbers < 0).any() and names else []
    if names:
        print(f"kdlib: {source}: {title}: {', '.join(counts)}", file=sys.stderr)


def _check_classes(classes, labels, groups, group, source):
    """Refuse what no split can be cut from, and what no bias can be measured on."""
    if len(classes) < 2:
        raise ValueError(f"{source}: there is one class, {classes[0]!r}; a classifier needs two")
    for number, count in enumerate(np.bincount(labels, minlength=len(classes))):
        if count == 1:
            raise ValueError(
                f"{source}: class {classes[number]!r} has one image; it needs three, for train, val and test"
            )
    if len(groups) > 1 and not any(
        len(set(group[(labels == number) & (group >= 0)])) > 1 for number in range(len(classes))
    ):
        raise ValueError(f"{source}: no class has images of two groups, so no bias can be measured")
    for number, name in enumerate(groups):
        if len(set(labels[group == number])) == 1 and len(groups) > 1:
            print(f"kdlib: {source}: group {name!r} is in one class only", file=sys.stderr)


def _persons(columns, called, source):
    """A text or number per image, equal for those that must be in one split."""
    if "person" not in columns:
        return np.arange(len(called))
    if "" in columns["person"]:
        raise ValueError(f"{source}: {called[columns['person'].index('')]} has no person; name all of them, or none")
    return np.array(columns["person"])


def _parts(columns, labels, group, persons, options, called, source):
    """{"train": indices, …}: as the column says, or cut."""
    seed, val = options["seed"], ()
    if "split" in columns:
        meanings = rows.parse_values(options["split_values"], "split_values")
        split = np.array([meanings.get(text, meanings.get("*", text)) for text in columns["split"]])
        split = np.array([SPLITS.get(text.lower(), text) for text in split])
        wrong = np.flatnonzero(~np.isin(split, PARTS))
        if len(wrong):
            raise ValueError(
                f"{source}: the split of {called[wrong[0]]} is {str(split[wrong[0]])!r}, not {', '.join(PARTS)}: say what it "
                'means with split_values, such as "0=train 1=val 2=test"'
            )
        for person, parts in pd.Series(split).groupby(persons).unique().items():
            if len(parts) > 1:
                raise ValueError(
                    f"{source}: {person!r} is in {' and in '.join(sorted(parts))}: a person belongs to one split"
                )
        pool, test, val = (np.flatnonzero(split == part) for part in ("train", "test", "val"))
    else:
        pool, test = cut_together(labels, group, persons, options["test_share"], seed)
    train = pool
    if len(val) == 0:
        cut = cut_together(labels[pool], group[pool], persons[pool], options["val_share"], seed + 1)
        train, val = (pool[part] for part in cut)
    for part, index in zip(PARTS, (train, val, test), strict=True):
        if len(index) == 0:
            raise ValueError(
                f"{source}: no image is left for {part}: there are {len(labels)}, of {len(set(persons))} persons"
            )
    return {"train": train, "val": val, "test": test}


def _check_trained(labels, classes, source):
    if absent := sorted(set(range(len(classes))) - set(labels.tolist())):
        raise ValueError(f"{source}: no training image of class {classes[absent[0]]!r}")
