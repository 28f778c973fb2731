"""Tables with a row per image: reading them, choosing rows, and turning columns into numbers."""

import csv
import gzip
import io
import itertools
import re
import shlex
import unicodedata
from collections import defaultdict

import numpy as np
import pandas as pd

from kdlib.names import unknown_name

UNKNOWN = ("", "nan", "NaN", "NA", "N/A", "<NA>", "null", "None")
OPERATORS = {
    "==": lambda a, b: a == b, "!=": lambda a, b: a != b, "<=": lambda a, b: a <= b,
    ">=": lambda a, b: a >= b, "<": lambda a, b: a < b, ">": lambda a, b: a > b,
}  # fmt: skip


def read(files, header=None) -> pd.DataFrame:
    """Read one or several tables into one, with a column `table` (the file's name without extension) if there are several.

    Delimiter (comma, tab, semicolon, bar or blanks), line ends, byte order mark, a first line with the number of rows, and a
    header without a name for the first column (then called `file`) are recognised.

    Parameters
    ----------
    files : list of Path
        CSV or other text in UTF-8, UTF-16 with its mark, also compressed by gzip, or parquet.
    header : tuple of str, optional
        Names of the columns of text without a header.

    Returns
    -------
    DataFrame
        Columns of text (of any type from parquet); the index says "row 1", …, with the file's name if there are several.

    Raises
    ------
    ValueError
        If a file is not a table, or has two columns of one name.
    """
    frames = []
    for file in files:
        try:
            frame = _read_parquet(file) if file.suffix == ".parquet" else _read_text(file.read_bytes(), header)
        except Exception as error:  # of pandas, pyarrow, csv and the decoder of text
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(f"{file} is not a table, text in UTF-8 or parquet ({reason})") from error
        frame.columns = [str(column).strip() for column in frame.columns]
        repeated = frame.columns[frame.columns.duplicated() & (frame.columns != "")]
        if len(repeated):
            raise ValueError(f"{file} has two columns {repeated[0]!r}: rename or remove one")
        prefix = f"{file.name}, " if len(files) > 1 else ""
        frame.index = [f"{prefix}row {number + 1}" for number in range(len(frame))]
        frames.append(frame.assign(table=file.stem) if len(files) > 1 else frame)
    return pd.concat(frames) if len(frames) > 1 else frames[0]


def _read_parquet(file):
    frame = pd.read_parquet(file)
    return frame.reset_index() if frame.index.name else frame


def _read_text(content, header):
    if content[:2] == b"\x1f\x8b":
        content = gzip.decompress(content)
    utf16 = content[:2] in (b"\xff\xfe", b"\xfe\xff")
    text = content.decode("utf-16" if utf16 else "utf-8-sig").replace("\r\n", "\n").replace("\r", "\n").lstrip("\n")
    if text[:1] in ("{", "["):
        raise ValueError("it is JSON")
    lines = [line for line in text.split("\n", 4)[:4] if line.strip()]
    skipped = 0
    if len(lines) > 1 and lines[0].strip().isdecimal() and not lines[1].strip().isdecimal():
        skipped, lines = 1, lines[1:]  # the number of rows
    separator = max("\t,;|", key=lambda each: len(_fields(lines[0], each)))
    if len(_fields(lines[0], separator)) == 1:
        separator = None if " " in lines[0].strip() else ","
    first, *rest = (_fields(line, separator) for line in lines)
    if header is None:
        header, skipped = first, skipped + 1
        if rest and separator is None and len(rest[0]) == len(header) + 1:
            header = ["file", *header]
    width = max(map(len, rest), default=len(header))
    if width > len(header):
        raise ValueError(f"a row has {width} values, and there are {len(header)} columns")
    options = {"sep": separator or r"\s+", "skipinitialspace": separator is not None, "skiprows": skipped}
    # Without names: pandas renames columns of one name.
    frame = pd.read_csv(
        io.StringIO(text), dtype=str, keep_default_na=False, header=None, names=range(len(header)), **options
    )
    return frame.set_axis([name.strip() for name in header], axis=1)


def _fields(line, separator):
    return next(csv.reader([line], delimiter=separator)) if separator else line.split()


def texts(values) -> list:
    """Values as text: empty if missing, whole numbers without a point."""
    plain = ("" if pd.api.types.is_scalar(value) and pd.isna(value) else str(value).strip() for value in values)
    return [re.sub(r"^(-?\d+)\.0+$", r"\1", text) for text in plain]


def numbers(values) -> pd.Series:
    """Texts as numbers, NaN where they are none; the decimal sign is a point or a comma."""
    return pd.to_numeric(pd.Series([re.sub(r"^(-?\d*),(\d+)$", r"\1.\2", text) for text in values]), errors="coerce")


def column(frame, name, role, table) -> list | None:
    """The column `name` as text, several as "gender+race" crossed; None if it has its default name and is absent.

    Of several columns of 0 and 1 of which each row has 1 in exactly one, the text is the name of that one.

    Raises ValueError, with the columns that exist, for another name."""
    if name in frame:
        return texts(frame[name])
    parts = [part.strip() for part in name.split("+")]
    if len(parts) > 1 and all(part in frame for part in parts):
        columns = [texts(frame[part]) for part in parts]
        ones = [[{"0": 0, "1": 1}.get(text, -1) for text in values] for values in columns]
        if all(sorted(row) == [0] * (len(parts) - 1) + [1] for row in zip(*ones, strict=True)):
            return [parts[row.index(1)] for row in zip(*ones, strict=True)]
        unknown = [{*UNKNOWN, *_minus_one(set(values))} for values in columns]
        crossed = []
        for values in zip(*columns, strict=True):
            missing = any(value in of_column for value, of_column in zip(values, unknown, strict=True))
            crossed.append("" if missing else " × ".join(values))
        return crossed
    if name != role:
        missing = next((part for part in parts if part not in frame), name)
        raise ValueError(f"{table} has no column {missing!r}, named as {role}; it has {', '.join(frame.columns)}")
    return None


def image_names(frame, file, table) -> list:
    """The image that each row names: the column `file`, or a text such as "{person}/{number}.jpg" with columns in braces."""
    if file in frame:
        return texts(frame[file])
    fields = re.findall(r"\{([^{}]+)\}", file)
    for field in fields or [file]:
        if field not in frame:
            raise ValueError(
                f"{table} has no column {field!r}, of the images' paths; it has {', '.join(frame.columns)}. Name theirs "
                "with file (--file)"
            )
    values = {field: texts(frame[field]) for field in fields}
    return [re.sub(r"\{([^{}]+)\}", lambda hit: values[hit[1]][row], file) for row in range(len(frame))]  # noqa: B023


def match(wanted, names) -> list:
    """For each text in `wanted` the list of `names` (relative paths) that it can mean.

    A text is the path, its end, a path that ends with it (as an absolute one), or one of these without extension. Where none
    is, another extension, upper or lower case, and leading zeros of a number make no difference."""
    exact = {unicodedata.normalize("NFC", name): name for name in names}
    known = {form: defaultdict(list) for form in (_end, _stem, _loose)}
    for name in exact:
        for form, by_form in known.items():
            by_form[form(name).rsplit("/", 1)[-1]].append(name)

    def candidates(text):
        name = unicodedata.normalize("NFC", text)
        if name not in exact:
            name = name.replace("\\", "/").removeprefix("./")
        if name in exact:
            return [name]
        for form, by_form in known.items():
            text = _loose(name) if form is _loose else name
            fitting = [
                each
                for each in by_form.get(text.rsplit("/", 1)[-1], ())
                if f"/{form(each)}".endswith(f"/{text}") or f"/{text}".endswith(f"/{form(each)}")
            ]
            if fitting or (form is _end and text.rsplit("/", 1)[-1] in by_form):
                return fitting
        return []

    return [[exact[name] for name in candidates(text)] for text in wanted]


def _end(name):
    return name


def _stem(name):
    return name[: name.rindex(".")] if "." in name.rsplit("/", 1)[-1] else name


def _loose(name):
    folder, slash, end = name.rpartition("/")
    end = re.sub(r"\.(jpe?g|png|bmp|gif|tiff?|webp|ppm)$", "", end.lower())
    return folder + slash + (end.lstrip("0") or "0" if end.isdecimal() else end)


def parse_values(text, option) -> dict:
    """Read "0=train 1=val *=test" (quotes around what holds blanks): {value in the table: what it means}; * is any other."""
    try:
        items = [item.partition("=") for item in shlex.split(text)]
    except ValueError as error:
        raise ValueError(f"{option} {text!r} has an unfinished quotation") from error
    if wrong := [key for key, equals, value in items if not (key and equals and value)]:
        raise ValueError(f'{option} is such as "0=train 1=val 2=test"; got {wrong[0]!r} in {text!r}')
    return {key: value for key, _, value in items}


def where(frame, condition, table) -> np.ndarray:
    """bool (N,): the rows for which a condition such as `age >= 20 and service_test == False` holds; nothing is executed."""
    kept = np.ones(len(frame), dtype=bool)
    for part in re.split(r"\s+and\s+|\s*&+\s*", condition.strip()) if condition.strip() else ():
        if not (parsed := re.fullmatch(r"(.+?)\s*(==|!=|<=|>=|<|>)\s*(.+)", part)):
            raise ValueError(f'where is such as "age >= 20 and service_test == False"; got {part!r}')
        name, operator, value = parsed[1], parsed[2], parsed[3].strip("'\"")
        if name not in frame:
            raise unknown_name(name, frame.columns, f"column of {table} in where:")
        values = texts(frame[name])
        number = numbers([value])[0]
        if not pd.isna(number):
            kept &= OPERATORS[operator](numbers(values), number).to_numpy()
        elif operator in ("==", "!="):
            same = [text.lower() == value.lower() or (value in UNKNOWN and text in UNKNOWN) for text in values]
            kept &= np.array(same) == (operator == "==")
        else:
            raise ValueError(f"where compares {name} with {value!r}, which is not a number")
    return kept


def encode(values, meanings, bands, option):
    """Turn texts into numbers of names.

    Parameters
    ----------
    values : list of str
        `nan` and the like are unknown, and so is −1 unless the only other value is 1.
    meanings : dict
        Of `parse_values`; its order is that of the names, before all others, which are sorted.
    bands : tuple of int
        First value of each band but the first; () for values as they are.

    Returns
    -------
    names : tuple of str
    numbers : ndarray of int64, (N,)
        −1 where unknown.
    """
    values = [meanings.get(text, meanings.get("*", text)) for text in values]
    values = ["" if text in UNKNOWN else text for text in values]
    if bands:
        return _banded(values, bands, option)
    known = set(values) - {""}
    known -= _minus_one(known)
    ordered = list(dict.fromkeys(meaning for meaning in meanings.values() if meaning in known))
    rest = sorted(known - set(ordered))
    if all(re.fullmatch(r"-?\d+", text) for text in rest):
        rest.sort(key=int)
    names = tuple(ordered + rest)
    number = {name: position for position, name in enumerate(names)}
    return names, np.array([number.get(text, -1) for text in values], dtype=np.int64)


def _minus_one(values) -> set:
    """{"-1"} if it means unknown among these values: unless 1 is the only other one."""
    return set() if values - set(UNKNOWN) == {"-1", "1"} else {"-1"}


def _banded(values, bands, option):
    if list(bands) != sorted(set(bands)):
        raise ValueError(f"{option} are the first values of the bands, rising, such as 20 40 60; got {bands}")
    values_read = numbers(values).to_numpy(float)
    if np.isnan(values_read).all():
        raise ValueError(f"{option} cut numbers, and there are values such as {values[0]!r}")
    whole = all(number % 1 == 0 for number in (*bands, *values_read[~np.isnan(values_read)]))
    inner = [f"{low}–{high - 1 if whole else high}" for low, high in itertools.pairwise(bands)]
    names = (f"under {bands[0]}", *inner, f"{bands[-1]}+")
    banded = [names[band] for band in np.digitize(np.nan_to_num(values_read), bands)]
    banded = ["" if np.isnan(number) else text for text, number in zip(banded, values_read, strict=True)]
    present = [name for name in names if name in set(banded)]
    return encode(banded, {name: name for name in present}, (), option)
