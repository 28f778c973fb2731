"""`kdlib audit`: from a table of anybody's predictions to one page. Here it is read; `audit_findings` measures,
`audit_words` judges, `audit_page` writes.

Nothing here needs torch or the checkout."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from kdlib import bias, files
from kdlib.bias import reading
from kdlib.bias.tables import check_signs
from kdlib.data import rows

IDS = ("id", "file", "filename", "image", "path")  # columns that name a row, where no other is given
MOST_GROUPS = 60
SMALL = 20  # images: rarer combinations of several attributes are pooled


@dataclass(frozen=True)
class Predictions:
    """What the files say: arrays (N,) as `kdlib.bias` takes them, and names by number."""

    name: str
    y_true: np.ndarray
    student: np.ndarray
    group: np.ndarray
    classes: tuple
    groups: tuple
    attribute: str  # the group's column, or several crossed
    teacher_name: str = ""
    teacher: np.ndarray | None = None
    pair: np.ndarray | None = None
    probability: np.ndarray | None = None  # (N, K)
    alone: dict = field(default_factory=dict)  # {column: group (N,)} of each attribute, where several are crossed
    pooled: dict = field(default_factory=dict)  # {combination of attributes: images} that are in the group "other"


def audit(predictions, *, out="audit.html", **options) -> tuple:
    """Write a page on the bias of a table of predictions; return its path and the verdict in words.

    Parameters
    ----------
    predictions : path
        A table with a line for each image, as `rows.read` takes it: CSV, TSV, parquet.
    out : path
        The page, one HTML file that needs no network.
    **options
        Of `read`.

    Raises
    ------
    ValueError, OSError
        In one sentence, for files and columns that are missing or do not fit, and a page that cannot be written.
    """
    found, out = read(predictions, **options), Path(out).expanduser()
    inputs = [Path(file).expanduser().resolve() for file in (predictions, options.get("teacher")) if file]
    if out.is_dir() or out.resolve() in inputs:
        raise ValueError(
            f"the page would take the place of {out}, {'a folder' if out.is_dir() else 'a table'}: rename it"
        )
    try:
        files.make_folder(out.parent)
    except OSError as error:
        reason = getattr(error.__cause__, "strerror", None) or error
        raise OSError(f"cannot write {out}: {reason}; name another place with --out") from error
    # a second; what is wrong with the files is said before
    from kdlib.report import audit_findings, audit_page, audit_words

    findings = audit_findings.measure(found)
    verdict = audit_words.verdict(found, findings)
    with files.replacing(out) as temporary, files.writing(out):
        temporary.write_text(audit_page.page(found, findings, verdict), encoding="utf-8")
    return out, " ".join([verdict.title, *verdict.sentences, *verdict.of_teacher])


def read(
    predictions, *, teacher=None, label="label", prediction="prediction", group=("group",), pair=None, identity=None,
    probabilities=(), teacher_prediction=None,
) -> Predictions:  # fmt: skip
    """Return what a table of predictions, and one of its teacher, hold.

    Parameters
    ----------
    predictions : path
    teacher : path, optional
        A table of the teacher's predictions on the same images. Its rows are matched by a column that both tables have:
        `identity`, else the first of IDS, else by their order, where all labels must agree.
    label, prediction : str
        Names of columns.
    group : str or sequence of str
        A column; several, or "gender+race", are crossed, and combinations with fewer than SMALL images pooled.
    pair : str, optional
        The column that says which original an image shows; by default `pair`, where there is one.
    identity : str, optional
        The column that names each row.
    probabilities : sequence of str
        Columns, one for each class: known by their names, as `cat` or `p_cat`, or else in the order of the classes.
    teacher_prediction : str, optional
        The teacher's column, by default called as the student's. Without `teacher`, a column of `predictions`.
    """
    table, name = _table(predictions), Path(predictions).name
    texts = [group] if isinstance(group, str) else list(group)
    attributes = [part.strip() for text in texts for part in ([text] if text in table else text.split("+"))]
    pair = pair or ("pair" if "pair" in table else None)
    own = [] if teacher else [teacher_prediction]
    _check_columns(table, name, [label, prediction, *attributes, pair, identity, *probabilities, *own])
    other, teacher_name = table, teacher_prediction or ""
    if teacher:
        other, teacher_name = _table(teacher), Path(teacher).name
        _check_columns(other, teacher_name, [teacher_prediction or prediction, identity])
        other = _aligned(table, other, name, teacher_name, [label, *attributes], identity)
    columns = [prediction]
    if teacher_name:
        columns.append(f"{teacher_prediction or prediction} of {teacher_name}" if teacher else teacher_prediction)
        table = table.assign(**{columns[1]: other[teacher_prediction or prediction].to_numpy()})
    alone, pooled, attribute = {}, {}, attributes[0]
    if len(attributes) > 1:
        attribute = " × ".join(attributes)
        table[attribute], alone, pooled = _crossed(table, attributes)
    y_true, models, number, classes, groups = reading.from_table(table, name, label, columns, attribute)
    if len(groups) < 2 or len(groups) > MOST_GROUPS:
        found = f"one group only, {groups[0]!r}" if len(groups) == 1 else f"{len(groups) or 'no'} known groups"
        raise ValueError(f"{name}: column {attribute} has {found}; an audit compares 2 to {MOST_GROUPS} groups")
    numbers = [y_true, *models]
    if len(probabilities) != len(classes):  # numbers that name no class take no room
        present = np.unique(np.concatenate(numbers))
        numbers, classes = [np.searchsorted(present, part) for part in numbers], tuple(classes[k] for k in present)
    probability = _probability(table, name, list(probabilities), classes, numbers[1]) if probabilities else None
    ids = None if pair is None else _ids(table[pair])
    return Predictions(
        name, *numbers[:2], number, classes, groups, attribute, teacher_name, numbers[2] if teacher_name else None, ids,
        probability, alone, pooled,
    )  # fmt: skip


def _table(path):
    path = Path(path).expanduser()
    if not path.is_file():
        raise ValueError(f"there is no file {path}" if not path.exists() else f"{path} is a folder; name a table")
    if not path.read_bytes().strip():
        raise ValueError(f"{path} is empty")
    return rows.read([path]).reset_index(drop=True)


def _check_columns(table, name, columns):
    """Raise ValueError, with the columns that are there, unless all of these are (None apart)."""
    missing = [column for column in columns if column is not None and column not in table]
    if missing:
        raise ValueError(
            f"{name} has no column {', '.join(dict.fromkeys(missing))}; it has {', '.join(table.columns)}. Options such as "
            "--label, --prediction and --group name other columns"
        )


def _texts(column):
    return column.fillna("").astype(str).map(reading.plain_text)


def _aligned(table, other, name, teacher_name, compared, identity):
    """Return the teacher's rows in the order of `table`'s; raise ValueError where they are of other images."""
    key = identity or next((column for column in IDS if column in table and column in other), None)
    if key is not None and not _texts(table[key]).equals(_texts(other[key])):
        ids = {name: _texts(table[key]), teacher_name: _texts(other[key])}
        for file, values in ids.items():
            if values.duplicated().any():
                twice = values[values.duplicated()].iloc[0]
                raise ValueError(f"{file}: {key} {twice!r} is in several rows; name a column that differs with --id")
        for (file, values), (elsewhere, known) in ((*ids.items(),), (*reversed(ids.items()),)):
            lacking = known[~known.isin(values)]
            if len(lacking):
                raise ValueError(
                    f"{file} lacks {len(lacking)} of the {len(known)} rows of {elsewhere}, as {key} {lacking.iloc[0]!r}: "
                    "both must be of the same images"
                )
        other = other.set_axis(ids[teacher_name]).loc[ids[name]].reset_index(drop=True)
    elif key is None and len(table) != len(other):
        raise ValueError(
            f"{teacher_name} has {len(other)} rows and {name} {len(table)}: both must be of the same images, row by row or "
            f"with a column that names each ({', '.join(IDS)}, or --id)"
        )
    if key is None and compared[0] not in other:
        raise ValueError(
            f"{teacher_name} has neither the column {compared[0]} nor one that names each row: {', '.join(IDS)}"
        )
    for column in compared:
        if column in other:
            differ = np.flatnonzero(_texts(table[column]).to_numpy() != _texts(other[column]).to_numpy())
            if len(differ):
                one, two = table[column][differ[0]], other[column][differ[0]]
                raise ValueError(
                    f"{name} and {teacher_name} differ in {column}, first in row {differ[0] + 1} ({one!r} and {two!r}): both "
                    "must be of the same images"
                )
    return other


def _crossed(table, attributes):
    """Return the crossed group (N,) as text, {attribute: group (N,)} and the combinations that were pooled."""
    texts = {}
    for column in attributes:
        values = _texts(table[column])
        check_signs(f"column {column}", set(values))
        texts[column] = values.where(~reading.is_unknown(values), "").to_numpy(object)
    crossed = bias.intersection(texts, min_count=SMALL)
    if len(crossed.names) - bool(crossed.pooled) < 2:  # small data: better tiny groups than none
        crossed = bias.intersection(texts, min_count=1)
    names = np.array([*crossed.names, ""], dtype=object)  # −1, unknown, is the last
    alone = {column: bias.intersection({column: values}, min_count=1).group for column, values in texts.items()}
    return names[crossed.group], alone, crossed.pooled


def _ids(column):
    """Return a number (N,) for each id, −1 where it is missing."""
    values = _texts(column)
    return np.where(reading.is_unknown(values), -1, np.unique(values, return_inverse=True)[1])


def _probability(table, name, columns, classes, predicted):
    """Return the probabilities (N, K), with columns in the order of the classes."""
    if len(columns) != len(classes):
        raise ValueError(
            f"{name}: probabilities need a column for each of the {len(classes)} classes ({', '.join(classes[:10])}"
            f"{', …' if len(classes) > 10 else ''}); got {len(columns)}"
        )
    matches = [[column for column in columns if _names_class(column, known)] for known in classes]
    if all(len(found) == 1 for found in matches) and len({found[0] for found in matches}) == len(classes):
        columns = [found[0] for found in matches]
    values = table[columns].apply(lambda column: pd.to_numeric(_texts(column).str.replace(",", "."), errors="coerce"))
    wrong = np.argwhere(~((values >= 0) & (values <= 1)).to_numpy())  # NaN too
    if len(wrong):
        row, column = wrong[0]
        raise ValueError(
            f"{name}: {columns[column]} is {table[columns[column]][row]!r} in row {row + 1}; probabilities are numbers from 0 "
            "to 1 (take the softmax of logits)"
        )
    values, sums = values.to_numpy(float), values.sum(axis=1).to_numpy(float)
    if np.abs(sums - 1).max() > 0.02 + 0.005 * len(classes):  # rounded to two digits
        row = np.abs(sums - 1).argmax()
        raise ValueError(f"{name}: the probabilities of row {row + 1} sum to {sums[row]:.3g}, not to 1")
    agree = (values.argmax(1) == predicted).mean()
    if agree < 0.5:
        raise ValueError(
            f"{name}: the most probable class is the predicted one in {agree:.0%} of the rows; give the columns in the order "
            f"of the classes: {', '.join(classes)}"
        )
    return values / sums[:, None]


def _names_class(column, known):
    """Whether a column is called as a class, or so at its end: `cat`, `p_cat`, `prob.cat`, `p3`."""
    start = column.removesuffix(known)
    return start != column and (not start or not start[-1].isalnum() or start in ("p", "prob", "P"))
