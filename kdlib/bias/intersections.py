"""Groups by several attributes at once."""

from collections import namedtuple

import numpy as np

from kdlib.bias.tables import as_array, check_index

Intersection = namedtuple("Intersection", "group names counts pooled")


def intersection(attributes, *, min_count=20):
    """Cross several attributes into one group number, pooling the combinations that are too rare to be measured.

    Parameters
    ----------
    attributes : dict of name: array (N,)
        Values of each attribute: numbers or names. An image is unknown (−1) if any of them is missing: −1, NaN, None or "".
    min_count : int
        Combinations with fewer images are pooled into one last group, "other".

    Returns
    -------
    Intersection
        The tuple (group, names, counts, pooled): group (N,), for any function of this module; the names of the groups, as
        "gender=1, age=0"; their images; and a dict of the combinations that were pooled, with their images.

    Raises
    ------
    ValueError
        For no attributes, and lengths that differ.

    References
    ----------
    Buolamwini and Gebru (2018), Gender shades: intersectional accuracy disparities in commercial gender classification.

    Examples
    --------
    >>> crossed = intersection({"gender": [0, 0, 1, 1, 1], "old": [0, 0, 1, 1, 0]}, min_count=2)
    >>> crossed.names, crossed.group.tolist(), crossed.pooled
    (('gender=0, old=0', 'gender=1, old=1', 'other'), [0, 0, 1, 1, 2], {'gender=1, old=0': 1})
    """
    check_index(**attributes)
    columns = {name: as_array(values) for name, values in attributes.items()}
    if not columns or len({values.shape for values in columns.values()}) > 1:
        shapes = {name: values.shape for name, values in columns.items()}
        raise ValueError(f"attributes must be arrays of one length, one or more; their shapes are {shapes}")
    count = len(next(iter(columns.values())))
    known, code, labels = np.ones(count, bool), np.zeros(count, int), [""]
    for values in columns.values():
        known &= ~np.array([_missing(value) for value in np.ma.filled(values.astype(object), None)], dtype=bool)
    for name, values in columns.items():
        different, number = np.unique(values[known], return_inverse=True)
        labels = [f"{label}, {name}={value}" if label else f"{name}={value}" for label in labels for value in different]
        code[known] = code[known] * len(different) + number
    if not known.any():
        return Intersection(np.full(count, -1), (), np.zeros(0, int), {})
    images = np.bincount(code[known], minlength=len(labels))
    kept = np.flatnonzero(images >= min_count)
    rare = np.flatnonzero((images > 0) & (images < min_count))
    place = np.full(len(labels), len(kept))
    place[kept] = np.arange(len(kept))
    group = np.where(known, place[code], -1)
    names = tuple(labels[number] for number in kept) + (("other",) if rare.size else ())
    counts = np.append(images[kept], images[rare].sum()) if rare.size else images[kept]
    return Intersection(group, names, counts, {labels[number]: int(images[number]) for number in rare})


def _missing(value):
    """Whether an attribute's value is unknown."""
    return value is None or value == "" or value == -1 or value != value
