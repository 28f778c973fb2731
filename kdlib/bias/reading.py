"""Anybody's predictions, from a CSV file."""

from collections import namedtuple

import numpy as np

Predictions = namedtuple("Predictions", "y_true y_pred group classes groups")


def read_csv(path, *, label="label", prediction="prediction", group="group"):
    """Anybody's predictions from a CSV file with these three columns and a line for each image: the tuple Predictions of
    y_true, y_pred, group (int64, as the functions here take them) and the names of `classes` and `groups` by number.

    Whole numbers, 1.0 among them, stay as they are; other values are names, without the blanks around them, numbered in
    alphabetical order; so are groups, whatever they are. An empty group, or −1, is unknown. ValueError for a file without
    these columns or without lines, and for a line without label or prediction.
    """
    import pandas as pd  # the rest needs numpy alone

    table = pd.read_csv(path, dtype=str, keep_default_na=False)  # a class may be called NA
    table.columns = table.columns.str.strip()
    missing = [name for name in (label, prediction, group) if name not in table]
    if missing:
        raise ValueError(f"{path} has no column {', '.join(missing)}; it has {', '.join(table.columns)}")
    if table.empty:
        raise ValueError(f"{path} has no line below its header")
    table = table[[label, prediction, group]].apply(lambda column: column.map(_text))
    for name in (label, prediction):
        if (table[name] == "").any():
            raise ValueError(f"{path}: no {name} in line {(table[name] == '').argmax() + 2}")
    known = ~table[group].isin(("", "-1"))
    classes, (y_true, y_pred) = _numbered([table[label], table[prediction]])
    groups = tuple(sorted(set(table[group][known]), key=lambda name: (int(name) if name.isdecimal() else -1, name)))
    numbers = np.full(len(table), -1)
    numbers[known] = table[group][known].map(groups.index)
    return Predictions(y_true, y_pred, numbers, classes, groups)


def _text(value):
    """A value of a CSV file without blanks around it; a whole number, as 1.0 or -1.0, as 1 or -1."""
    value = value.strip()
    whole, _, rest = value.partition(".")
    return whole if rest and not rest.strip("0") and whole.removeprefix("-").isdecimal() else value


def _numbered(columns):
    """Names by number, and the columns as numbers."""
    values = sorted(set().union(*columns))
    if all(value.isdecimal() for value in values):  # numbers already
        count = max(map(int, values), default=-1) + 1
        return tuple(map(str, range(count))), [column.astype(int).to_numpy() for column in columns]
    number = {value: i for i, value in enumerate(values)}
    return tuple(values), [column.map(number).to_numpy() for column in columns]
