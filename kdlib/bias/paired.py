"""Pairs: images that show the same original in several groups, their exchange under the null, and their resampling.

A pair is a set of images of one class with the same id in different groups. Where a group has several images with one class and
id, the first is paired with the first of the other groups, the second with the second, and so on. Images without a partner
stay in every figure; under the null they are exchanged among themselves within their class, and they are resampled alone."""

import numpy as np

from kdlib.bias.tables import TINY, as_vector, check_group, check_index, count_cells, is_missing, rate


def is_paired(source, group) -> bool:
    """Whether a split shows the same original image in several groups, so that its images are not independent.

    Parameters
    ----------
    source : array (N,)
        Which original each image shows: numbers or names. Missing and negative entries have no partner.
    group : array (N,)
        Group of each image, −1 where unknown.

    Examples
    --------
    >>> is_paired([7, 8, 7, 8], [0, 0, 1, 1]), is_paired([7, 7, 8, 8], [0, 0, 1, 1])
    (True, False)
    """
    check_index(source=source, group=group)
    group, _ = check_group(group)
    return bool((pair_units(np.zeros(len(group), int), group, source) >= 0).any())


def pair_numbers(pair, images):
    """Return pair ids as integers from 0 up, −1 where missing; raise ValueError for another length."""
    pair = as_vector(pair, "pair")
    if len(pair) != images:
        raise ValueError(f"pair has {len(pair)} entries, the group {images}: lengths differ")
    values = np.ma.getdata(pair)
    if values.dtype.kind in "iuf":
        missing = np.ma.getmaskarray(pair) | (values != values) | (values < 0)
    else:
        missing = is_missing(pair)
    numbers = np.full(images, -1)
    numbers[~missing] = np.unique(values[~missing], return_inverse=True)[1]
    return numbers


def pair_units(y_true, attribute, pair):
    """Return the number of each image's pair, from 0 up; −1 for images without a partner or of unknown group.

    With fractional attributes (shares) all images of one class and id are one unit, since they have no groups.
    """
    attribute = np.where(np.isnan(attribute), -1, attribute)
    pair, fractional = pair_numbers(pair, len(attribute)), (attribute != np.floor(attribute)).any()
    known = np.flatnonzero((attribute >= 0) & (pair >= 0))
    unit = np.unique(y_true[known] * (pair.max(initial=0) + 1) + pair[known], return_inverse=True)[1]
    if not fractional:
        group = attribute[known].astype(int)
        order = np.lexsort((group, unit))
        new = np.append(True, np.diff(unit[order] * (group.max(initial=0) + 1) + group[order]) != 0)[: len(order)]
        repeat = np.empty(len(order), int)  # how many images of the same unit and group come before
        repeat[order] = np.arange(len(order)) - np.maximum.accumulate(np.where(new, np.arange(len(order)), 0))
        unit = np.unique(unit * (repeat.max(initial=0) + 1) + repeat, return_inverse=True)[1]
    partners = np.bincount(unit, minlength=1)[unit] > 1
    units = np.full(len(attribute), -1)
    units[known[partners]] = np.unique(unit[partners], return_inverse=True)[1]
    return units


def units_of(y_true, attribute, pair):
    """Return `pair_units`, or None where no image has a partner."""
    units = None if pair is None else pair_units(y_true, attribute, pair)
    return units if units is not None and (units >= 0).any() else None


def covariance(right, pairs, both, count):
    """Return the estimated covariance of the recalls R_k(1) and R_k(0): shape (..., K).

    right (..., 2, K): images right among the pairs; pairs (..., K); both (..., K): pairs with both images right; count (..., 2,
    K): all images, with those that have no partner. Two pairs are needed; it is 0 for fewer.
    """
    return np.nan_to_num(rate(both * pairs - right.prod(-2), (pairs - 1) * count.prod(-2, dtype=float), TINY))


class PairCounts:
    """Paired images, counted by pattern: a class, and for every group the value (0 … M−1) of its image, −1 for none.

    Attributes: `number` of pairs; `alone`, the table (G, K, M) of images without a partner; `counts` (P,) pairs per pattern.
    """

    def __init__(self, y_true, values, group, units, shape):
        paired = np.flatnonzero(units >= 0)
        self.shape, self.number = shape, int(units.max(initial=-1)) + 1
        self.alone = count_cells(shape, np.where(units >= 0, -1, group), y_true, values)
        slots, classes = np.full((self.number, shape[0]), -1), np.zeros(self.number, int)
        slots[units[paired], group[paired]] = values[paired]
        classes[units[paired]] = y_true[paired]
        code = classes
        for column in slots.T:
            code = np.unique(code * (shape[2] + 1) + column + 1, return_inverse=True)[1]
        _, first, self.counts = np.unique(code, return_index=True, return_counts=True)
        self.slots, self.classes = slots[first], classes[first]
        self.present = self.slots >= 0

    def _matrix(self, rows, columns, width, values=None):
        from scipy import sparse  # not needed without pairs

        values = np.ones(len(rows), np.int64) if values is None else values
        return sparse.csr_array((values, (rows, columns)), shape=(len(self.counts), width))

    def _place(self, pattern, group, value):
        """Return the flat place in a table of these values of these patterns' classes."""
        return np.ravel_multi_index((group, self.classes[pattern], value), self.shape)

    def tables(self, counts):
        """Return the tables (..., G, K, M) of paired images, from numbers of pairs (..., P) per pattern."""
        pattern, group = np.nonzero(self.present)
        places = self._place(pattern, group, self.slots[pattern, group])
        return _product(counts, self._matrix(pattern, places, np.prod(self.shape))).reshape(
            *counts.shape[:-1], *self.shape
        )

    def both(self, counts, right):
        """Return the pairs (..., K) whose images in groups 0 and 1 are both right; `right` (K, M) or (M,)."""
        of_class = np.broadcast_to(right, self.shape[1:])[self.classes]
        rows = np.arange(len(self.counts))
        hits = of_class[rows, self.slots[:, 0]] & of_class[rows, self.slots[:, 1]] & self.present[:, :2].all(1)
        rows = np.flatnonzero(hits)
        return _product(counts, self._matrix(rows, self.classes[rows], self.shape[1]))

    def exchanged(self, size, rng):
        """Return `size` tables of the pairs with the groups permuted within each pair, which is the exact null."""
        tables = np.repeat(self.tables(self.counts)[None], size, axis=0)
        images = self.present.sum(1)
        two = np.flatnonzero((images == 2) & self._differ())
        if two.size:  # each pair keeps its groups or swaps them; pairs that agree never count
            first, second = np.nonzero(self.present[two])[1].reshape(-1, 2).T
            one, other = self.slots[two, first], self.slots[two, second]
            places = [
                self._place(two, *pair) for pair in ((first, one), (second, other), (first, other), (second, one))
            ]
            signs = np.repeat([-1, -1, 1, 1], len(two))
            swap = self._matrix(np.tile(two, 4), np.concatenate(places), np.prod(self.shape), signs)[two]
            swapped = rng.binomial(self.counts[two], 0.5, size=(size, len(two)))
            tables += _product(swapped, swap).reshape(tables.shape)
        for pattern in np.flatnonzero((images > 2) & self._differ()):
            groups = np.flatnonzero(self.present[pattern])
            values = np.broadcast_to(self.slots[pattern, groups], (size, self.counts[pattern], len(groups)))
            drawn = rng.permuted(values, axis=-1)
            for column, group in enumerate(groups):
                tables[:, group, self.classes[pattern], self.slots[pattern, group]] -= self.counts[pattern]
                replicate = np.repeat(np.arange(size), self.counts[pattern])
                np.add.at(tables, (replicate, group, self.classes[pattern], drawn[..., column].ravel()), 1)
        return tables

    def _differ(self):
        """Which patterns have images that differ in value."""
        largest = np.where(self.present, self.slots, -1).max(1)
        return largest != np.where(self.present, self.slots, self.shape[2]).min(1)

    def resampled(self, size, rng):
        """Return numbers (size, P) of pairs per pattern, drawn with replacement within class and groups that are present."""
        _, stratum = np.unique(np.column_stack([self.classes, self.present]), axis=0, return_inverse=True)
        drawn = np.zeros((size, len(self.counts)), np.int64)
        for number in range(stratum.max(initial=-1) + 1):
            rows = np.flatnonzero(stratum == number)
            count = self.counts[rows]
            drawn[:, rows] = rng.multinomial(count.sum(), count / count.sum(), size=size)
        return drawn


def _product(counts, matrix):
    """Return counts (..., P) @ matrix (P, W) of a sparse matrix."""
    return (matrix.T @ counts.reshape(-1, counts.shape[-1]).T).T.reshape(*counts.shape[:-1], matrix.shape[1])


# ---- images, for metrics that are no function of tables


def exchange_strata(y_true, units):
    """Return the stratum (N,) within which each image's attribute is permuted: its pair, or its class if it has no partner."""
    return np.where(units >= 0, units + y_true.max() + 1, y_true)


def resampled_pairs(y_true, attribute, units, rng):
    """Return (images, pair): pairs and lone images drawn with replacement within class and groups; every draw is a new pair."""
    attribute = np.where(np.isnan(attribute), -1, attribute)
    units = units.copy()
    lone = np.flatnonzero(units < 0)
    units[lone] = units.max() + 1 + np.arange(len(lone))
    order = np.lexsort((attribute, units))
    sizes = np.bincount(units)
    starts = np.cumsum(sizes) - sizes
    if (attribute == np.floor(attribute)).all():
        codes = np.zeros(len(sizes), int)
        for place in range(sizes.max()):  # which groups a unit has, one after the other
            inside = sizes > place
            following = np.full(len(sizes), -2)
            following[inside] = attribute[order[starts[inside] + place]]
            codes = np.unique(np.column_stack([codes, following]), axis=0, return_inverse=True)[1]
    else:
        codes = sizes
    stratum = np.unique(np.column_stack([y_true[order[starts]], codes]), axis=0, return_inverse=True)[1]
    members = np.argsort(stratum, kind="stable")
    count = np.bincount(stratum)
    first, many = np.repeat(np.cumsum(count) - count, count), np.repeat(count, count)
    drawn = members[first + (rng.random(len(members)) * many).astype(int)]
    repeats = sizes[drawn]
    offset = np.arange(repeats.sum()) - np.repeat(np.cumsum(repeats) - repeats, repeats)
    return order[np.repeat(starts[drawn], repeats) + offset], np.repeat(np.arange(len(drawn)), repeats)
