"""Groups by several attributes at once."""

from collections import namedtuple

import numpy as np

from kdlib.bias.tables import as_array, check_index, check_signs, is_missing

Intersection = namedtuple("Intersection", "group names counts pooled")


def intersection(attributes, *, min_count=20):
    """Cross several attributes into one group number, pooling the combinations that are too rare to be measured.

    Parameters
    ----------
    attributes : dict of name: array (N,)
        Values of each attribute: numbers or names. An image is unknown (−1) if any of them is missing: masked, −1, NaN, None,
        "" or another word for it, as NULL.
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
        For no attributes, lengths that differ, and an attribute of −1 and 1 alone.

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
    for name, values in columns.items():
        check_signs(name, set(np.ma.compressed(values).tolist()))
        known &= ~is_missing(values)
    for name, values in columns.items():
        different, number = np.unique(np.ma.getdata(values)[known], return_inverse=True)
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
