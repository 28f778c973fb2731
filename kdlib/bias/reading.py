"""Anybody's predictions, from a CSV file."""

from collections import namedtuple

import numpy as np

from kdlib.bias.tables import UNKNOWN, check_signs

Predictions = namedtuple("Predictions", "y_true y_pred group classes groups")


def read_csv(path, *, label="label", prediction="prediction", group="group"):
    """Read predictions from a CSV file with these three columns and a line for each image.

    Parameters
    ----------
    path : path
    label, prediction, group : str
        Names of the columns. Whole numbers, 1.0 among them, stay as they are unless they lie far apart; other values are names,
        without the blanks around them, numbered in alphabetical order; so are groups, whatever they are. A group is unknown
        where it is empty, −1, or a word for missing, as NaN, None, NULL, NA.

    Returns
    -------
    Predictions
        The tuple (y_true, y_pred, group, classes, groups): int64 arrays (N,) as the functions here take them, and the names of
        classes and groups by number.

    Raises
    ------
    ValueError
        For a file that is no such table: columns or lines missing, lines that end in a comma, no label or prediction in a line,
        labels and predictions without a common value, scores in place of classes, groups −1, 1.
    """
    import pandas as pd  # the rest needs numpy alone

    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)  # a class may be called NA
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8: {error}") from error
    if isinstance(table.index, pd.MultiIndex) or (
        not isinstance(table.index, pd.RangeIndex) and not table.iloc[:, -1].astype(bool).any()
    ):
        raise ValueError(f"{path}: its lines have more fields than its header, as with a comma at their end")
    table.columns = table.columns.str.strip()
    y_true, (y_pred,), numbers, classes, groups = from_table(table, path, label, [prediction], group)
    return Predictions(y_true, y_pred, numbers, classes, groups)


def from_table(table, name, label, predictions, group) -> tuple:
    """Return (y_true, list of y_pred, group, classes, groups) as `read_csv` does, from a DataFrame of text.

    Parameters
    ----------
    table : DataFrame
    name : str
        What the table is called in errors.
    label, group : str
        Names of columns.
    predictions : list of str
        Columns of predictions of one or several models, whose classes are numbered together.
    """
    columns = [label, *predictions, group]
    missing = [column for column in columns if column not in table]
    if missing:
        raise ValueError(f"{name} has no column {', '.join(missing)}; it has {', '.join(table.columns)}")
    if len(set(columns)) < len(columns):
        raise ValueError(f"{name}: label, prediction and group are columns of their own; got {', '.join(columns)}")
    if table.empty:
        raise ValueError(f"{name} has no line below its header")
    table = table[columns].fillna("").apply(lambda column: column.map(plain_text))
    for column in columns[:-1]:
        if (table[column] == "").any():
            raise ValueError(f"{name}: no {column} in line {(table[column] == '').to_numpy().argmax() + 2}")
    for column in predictions:
        _check_classes(name if column == predictions[0] else f"{name}, {column}", table[label], table[column])
    known = ~is_unknown(table[group])
    check_signs(f"{name}: column {group}", set(table[group]))
    classes, (y_true, *y_pred) = _numbered([table[column] for column in columns[:-1]])
    groups = tuple(sorted(set(table[group][known]), key=lambda name: (int(name) if name.isdecimal() else -1, name)))
    numbers = np.full(len(table), -1)
    numbers[known] = table[group][known].map({name: number for number, name in enumerate(groups)})
    return y_true, y_pred, numbers, classes, groups


def is_unknown(texts):
    """Return which entries (N,) of a Series of text say that a value is missing."""
    return texts.str.casefold().isin(UNKNOWN).to_numpy()


def _check_classes(path, labels, predictions):
    """Raise ValueError for predictions that are no classes of these labels."""
    scores = predictions.str.fullmatch(r"-?\d*\.\d+(e-?\d+)?") & ~predictions.isin(set(labels))
    if scores.mean() > 0.5:
        raise ValueError(f"{path}: predictions are scores, as {predictions[scores].iloc[0]}; write the predicted class")
    if not set(labels) & set(predictions):
        raise ValueError(
            f"{path}: labels and predictions share no value: {sorted(set(labels))[:3]} and {sorted(set(predictions))[:3]}; "
            "write both in the same way"
        )


def plain_text(value):
    """Return a value of a CSV file without blanks around it; a whole number, as 1.0 or -1.0, as 1 or -1."""
    value = value.strip()
    whole, _, rest = value.partition(".")
    return whole if rest and not rest.strip("0") and whole.removeprefix("-").isdecimal() else value


def _numbered(columns):
    """Return names by number, and the columns as numbers."""
    values = sorted(set().union(*columns))
    if all(value.isdecimal() for value in values):  # numbers already
        count = max(map(int, values), default=-1) + 1
        if count <= 1000 + 10 * len(values):
            return tuple(map(str, range(count))), [column.astype(int).to_numpy() for column in columns]
        values.sort(key=int)
    number = {value: i for i, value in enumerate(values)}
    return tuple(values), [column.map(number).to_numpy() for column in columns]
