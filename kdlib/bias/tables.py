"""Checked arrays, tables of counts, and arithmetic in which NaN means undefined.

A table counts images by [..., group, class, predicted]; leading axes are replicates. Differences are group 1 minus group 0."""

import operator

import numpy as np

TINY = np.finfo(float).tiny  # any weight at all
MOST_GROUPS = 1000  # more values than this are no groups
MOST_CLASSES = 10**6  # more entries than this are no table of figures by class
MANY_CLASSES = 1000  # from here on, classes that do not occur take no room
MOST_CELLS = 2**29  # entries of one table of counts (4 GiB)
UNKNOWN = {
    "",
    "-1",
    "nan",
    "none",
    "null",
    "<na>",
    "na",
    "n/a",
}  # as programs write that a value is missing, in any case


# ---- checks


def as_array(values):
    """Return a numpy array of an array, tensor or list; numbers and booleans of dtype object become what they are.

    Missing entries of pandas' nullable numbers are masked."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = (values.float() if str(values.dtype) == "torch.bfloat16" else values).numpy()
    dtype = getattr(values, "dtype", None)
    if hasattr(values, "isna") and not isinstance(dtype, np.dtype) and dtype is not None and dtype.kind in "biuf":
        missing = np.asarray(values.isna(), dtype=bool)
        values = np.asarray(values.fillna(dtype.type(0)).to_numpy())
        values = np.ma.masked_array(values, missing) if missing.any() else values
    array = values if isinstance(values, np.ma.MaskedArray) else np.asarray(values)
    if array.dtype.kind == "V" and array.dtype.name == "bfloat16":
        array = array.astype(np.float32)
    if array.dtype.kind == "O" and all(isinstance(value, (int, float, np.number, np.bool_)) for value in array.flat):
        array = np.array(array.tolist()).reshape(array.shape)
    return array


def unmasked(values, name):
    """Return a plain array; raise ValueError where entries are masked."""
    if np.ma.is_masked(values):
        raise ValueError(f"{name} must have no masked entries; {np.ma.count_masked(values)} are masked")
    return np.asarray(values)


def is_missing(values):
    """Return which entries (N,) of an array are masked, None, NaN, −1 or a word for missing."""

    def missing(value):
        if isinstance(value, str):
            return value.strip().casefold() in UNKNOWN
        return value is None or type(value).__name__ in ("NAType", "NaTType") or value == -1 or value != value

    masked = np.ma.getmaskarray(values) if isinstance(values, np.ma.MaskedArray) else np.zeros(len(values), bool)
    return masked | np.array([missing(value) for value in np.ma.getdata(values).tolist()], dtype=bool)


def as_vector(values, name):
    """Return a one-dimensional array with at least one entry; raise ValueError otherwise."""
    values = as_array(values)
    if values.ndim != 1 or not values.size:
        raise ValueError(f"{name} must be one-dimensional, with one entry for each image; its shape is {values.shape}")
    return values


def as_integers(values, name):
    """Return a vector of int64; raise ValueError for entries that are missing or no whole numbers."""
    values = as_vector(values, name)
    values = unmasked(values, name)
    if values.dtype.kind not in "biuf" or not np.isfinite(values).all() or (values.astype(np.int64) != values).any():
        raise ValueError(f"{name} must hold whole numbers; it has NaN, infinite, fractional or non-numeric entries")
    return values.astype(np.int64)


def check_signs(name, values):
    """Raise ValueError for groups −1 and 1, numbers or texts, as some sets write two groups: −1 means unknown here."""
    found = {str(value).strip().removesuffix(".0") for value in values}
    if "-1" in found and {value for value in found if value.casefold() not in UNKNOWN} == {"1"}:
        raise ValueError(
            f"{name} holds −1 and 1 alone: write 0 and 1 for two groups; −1 means that the group is unknown"
        )


def check_index(**arrays):
    """Raise ValueError for pandas objects whose indexes differ: their rows would be matched by position."""
    indexed = {
        name: values.index for name, values in arrays.items() if hasattr(getattr(values, "index", None), "equals")
    }
    first = next(iter(indexed), "")
    for name, index in indexed.items():
        if not index.equals(indexed[first]):
            raise ValueError(
                f"{name} and {first} have different pandas indexes, so their rows may not belong together; "
                "align them first, or pass .to_numpy() to match rows by position"
            )


def model_rows(name, predictions):
    """Return {"name[0]": predictions (N,) of the first model, …} of (models, N); rows of pandas objects keep their index."""
    if hasattr(predictions, "iterrows"):
        rows = [row for _, row in predictions.iterrows()]
    elif isinstance(predictions, (list, tuple)) and any(hasattr(row, "iloc") for row in predictions):
        rows = list(predictions)
    else:
        rows = as_array(predictions)
        if rows.ndim != 2 or not len(rows):
            raise ValueError(f"{name} must be (models, images); their shape is {rows.shape}")
    return {f"{name}[{i}]": row for i, row in enumerate(rows)}


def occurring(values):
    """Return the sorted different values of a vector of integers ≥ 0."""
    if values.size and values.max() < 4 * values.size + 1000:
        return np.flatnonzero(np.bincount(values))  # faster than sorting
    return np.unique(values)


def check_labels(attribute, num_classes, **labels):
    """Return class indices, checked, of the images that `attribute` describes; and the number of classes."""
    labels = {name: as_integers(values, name) for name, values in labels.items()}
    limit = max(0, *map(np.max, labels.values())) + 1 if num_classes is None else operator.index(num_classes)
    for name, values in labels.items():
        if len(values) != len(attribute):
            raise ValueError(f"{name} has {len(values)} entries, the group or share {len(attribute)}: lengths differ")
        if values.min() < 0 or values.max() >= limit:
            raise ValueError(f"{name} must be in 0 … {limit - 1}; it reaches from {values.min()} to {values.max()}")
    return list(labels.values()), int(limit)


def check_group(group, groups=None, numbered=True):
    """Return groups, checked, and how many there are, at least two; `groups=2` refuses more.

    Groups other than 0 and 1 are numbered in ascending order, unless `numbered` is False. Masked entries become −1.
    """
    group = as_array(group)
    if masked := isinstance(group, np.ma.MaskedArray):
        check_signs("group", set(group.compressed().tolist()))
        group = np.where(np.ma.getmaskarray(group), -1, group.data)
    group = as_integers(group, "group")
    codes = occurring(group[group >= 0])
    if (
        group.min() < -1
        or len(codes) > (groups or MOST_GROUPS)
        or (not numbered and codes.max(initial=0) >= MOST_GROUPS)
    ):
        found = ", ".join(map(str, np.unique(group)[:5]))
        raise ValueError(
            f"group must have at most {groups or MOST_GROUPS} values from 0 up, or −1 where unknown, not {found}"
            + (" (signed figures compare two groups; class_disparity_range takes more)" if groups == 2 else "")
        )
    if not masked and len(codes) == 1 and (group < 0).any():
        check_signs("group", (-1, codes[0]))
    if not numbered or codes.max(initial=0) <= 1:
        return group, max(2, int(codes.max(initial=0)) + 1)
    return np.where(group >= 0, np.searchsorted(codes, group), -1), max(2, len(codes))


class Images:
    """Checked labels and groups; classes that do not occur take no room, unless `num_classes` is given and small.

    Attributes: `labels` (list of (N,) arrays in the order given), `group` (N,), `num_classes`, `groups`.
    """

    def __init__(self, group, num_classes, groups=None, *, numbered_groups=True, **labels):
        check_index(group=group, **labels)
        self.group, self.groups = check_group(group, groups, numbered_groups)
        self.labels, self.limit = check_labels(self.group, num_classes, **labels)
        self.num_classes, self.classes = self.limit, None
        if num_classes is None or self.limit > MANY_CLASSES:
            classes = occurring(np.concatenate([occurring(values) for values in self.labels]))
            if len(classes) < self.limit:
                self.num_classes, self.classes = len(classes), classes
                self.labels = [np.searchsorted(classes, values) for values in self.labels]

    def table(self):
        """Return the table of the first two labels, true and predicted: (G, K, K)."""
        shape = self.groups, self.num_classes, self.num_classes
        if np.prod(shape, dtype=float) > MOST_CELLS:
            raise ValueError(
                f"{self.num_classes} classes in {self.groups} groups take {8e-9 * np.prod(shape, dtype=float):.0f} GB; "
                "merge classes, or leave out rare ones"
            )
        return count_cells(shape, self.group, *self.labels)

    def by_class(self, values):
        """Return figures by class (last axis) at the places of their classes, NaN elsewhere; scalars as they are."""
        if self.classes is None or np.ndim(values) == 0:
            return values
        check_reach(self.limit)
        placed = np.full((*np.shape(values)[:-1], self.limit), np.nan)
        placed[..., self.classes] = values
        return placed


def check_reach(limit):
    """Raise ValueError where figures by class would be too many."""
    if limit > MOST_CLASSES:
        raise ValueError(f"classes reach to {limit - 1}; number them from 0 for figures by class")


def count_cells(shape, group, *indices):
    """Return how often each (group, *indices) occurs, as an array of that shape; unknown groups are left out."""
    if (group < 0).any():
        group, indices = group[group >= 0], [index[group >= 0] for index in indices]
    return np.bincount(np.ravel_multi_index((group, *indices), shape), minlength=np.prod(shape)).reshape(shape)


# ---- arithmetic


def rate(part, whole, min_count=1):
    """Return part / whole; NaN where whole is less than `min_count`. Raise ValueError unless that is above 0."""
    if not min_count > 0:
        raise ValueError(f"min_count must be at least 1, since a rate needs an image; it is {min_count}")
    return np.where(whole >= min_count, part / np.where(whole >= min_count, whole, 1), np.nan)


def mean_of(values, weights=1.0, axis=-1):
    """Return the weighted mean over an axis, passing over NaN; NaN where there is nothing else."""
    weights = np.where(np.isnan(values), 0, weights)
    return rate(np.nansum(weights * values, axis=axis), weights.sum(axis), TINY)


def cells(table) -> tuple[np.ndarray, np.ndarray]:
    """Return images predicted right, and images, per (group, class)."""
    return np.diagonal(table, axis1=-2, axis2=-1), table.sum(-1)


def gap(part, whole, min_count=1):
    """Return group 1's rate minus group 0's, per class: shape (..., K)."""
    both = rate(part, whole, min_count)
    return both[..., 1, :] - both[..., 0, :]


def extent(values, axis=-2):
    """Return the largest minus the smallest over the groups, passing over NaN; NaN where fewer than two are left."""
    between = np.fmax.reduce(values, axis=axis) - np.fmin.reduce(values, axis=axis)
    return np.where((~np.isnan(values)).sum(axis) >= 2, between, np.nan)


def ratio(values, axis=-2):
    """Return the smallest over the largest of the groups, passing over NaN; NaN where fewer than two are left, or all are 0."""
    most = np.fmax.reduce(values, axis=axis)
    share = rate(np.fmin.reduce(values, axis=axis), np.nan_to_num(most), TINY)
    return np.where((~np.isnan(values)).sum(axis) >= 2, share, np.nan)


def plain(result):
    """Return a float where the result has no axes."""
    return float(result) if np.ndim(result) == 0 else result
