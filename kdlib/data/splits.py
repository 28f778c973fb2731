"""What a data set is (`Dataset`, `Split`), and how splits are cut from it."""

import contextlib
from dataclasses import dataclass

import numpy as np

_blank: list | None = None  # sizes of the images that `undecoded` leaves blank; None: images are decoded


@dataclass(frozen=True)
class Split:
    """N samples.

    Attributes
    ----------
    images : uint8, (N, C, H, W)
    labels : int64, (N,)
    group : int64, (N,)
        −1 where unknown; in sets of people 1 is male and 0 female.
    group_share : float32, (N,), or None
        In [0, 1], NaN where unknown; None unless the attribute is fractional.
    source : int64, (N,)
        Which original image or person a sample shows.
    names : str, (N,), or None
        What a table of your own calls each image.
    """

    images: np.ndarray
    labels: np.ndarray
    group: np.ndarray
    group_share: np.ndarray | None = None
    source: np.ndarray | None = None
    names: np.ndarray | None = None

    def __len__(self):
        return len(self.labels)


@dataclass(frozen=True)
class Dataset:
    """A classification problem with a protected attribute. Class and group numbers index `classes` and `groups`.

    `val` is cut from the training data; the test split stays whole, and nothing is ever selected on it. `padding` and `flip`
    are the augmentation that suits these images (a mirrored digit is not a digit)."""

    name: str
    classes: tuple
    groups: tuple
    train: Split
    val: Split
    test: Split
    mean: tuple = (0.5, 0.5, 0.5)  # per channel, of pixels scaled to [0, 1]
    std: tuple = (0.25, 0.25, 0.25)
    padding: int = 4
    flip: bool = True
    # class number -> class number for the bias analysis, if the attribute is part of a class; empty: the classes themselves
    merged: tuple = ()
    left_out: tuple = ()  # images that could not be used, each as "name: why"
    fingerprint: str = ""  # SHA-256 of everything above; a run's key depends on it

    @property
    def splits(self):
        return {"train": self.train, "val": self.val, "test": self.test}


@contextlib.contextmanager
def undecoded():
    """Have images that would be decoded left blank, all zeros; yield a list that is empty as long as there are none."""
    global _blank
    _blank = []
    try:
        yield _blank
    finally:
        _blank = None


def blank_splits(columns, parts, size) -> dict:
    """Return {part: Split} with blank images, arguments as of `pictures.split_pictures`; {} unless within `undecoded`."""
    if _blank is None:
        return {}
    _blank.append(size)
    images = np.zeros((1, 3, size, size), np.uint8)
    return {
        part: Split(
            np.broadcast_to(images, (len(rows), 3, size, size)),
            **{field: column[rows] for field, column in columns.items()},
        )
        for part, rows in parts.items()
    }


def bias_labels(dataset, labels) -> np.ndarray:
    """Return class numbers (N,), labelled or predicted, as the bias analysis counts them: those of `bias_classes`."""
    return np.array(dataset.merged)[labels] if dataset.merged else labels


def bias_classes(dataset) -> tuple:
    """Return the names of the classes that bias is measured on: the data set's own, or merged ones such as "boy + girl"."""
    names = {}
    for name, number in zip(dataset.classes, dataset.merged or range(len(dataset.classes)), strict=True):
        names.setdefault(number, []).append(name)
    return tuple(" + ".join(names[number]) for number in sorted(names))


def class_by_group(split, dataset, *, merged=False) -> np.ndarray:
    """Return the number of samples per class (rows; with `merged`, those of `bias_classes`) and known group (columns)."""
    classes, labels = dataset.classes, split.labels
    if merged:
        classes, labels = bias_classes(dataset), bias_labels(dataset, labels)
    counts = np.zeros((len(classes), len(dataset.groups)), dtype=int)
    known = split.group >= 0
    np.add.at(counts, (labels[known], split.group[known]), 1)
    return counts


def stratified_cut(labels, group, share, seed):
    """Cut about a share of each class × group cell, at least one sample of a cell that has two.

    Parameters
    ----------
    labels, group : ndarray of int64, (N,)
    share : float
        Part to cut, in (0, 1).
    seed : int

    Returns
    -------
    rest, cut : ndarray of int64
        Indices.

    Raises
    ------
    ValueError
        For a share outside (0, 1).
    """
    if not 0 < share < 1:
        raise ValueError(f"share is the part to cut, between 0 and 1; got {share}")
    generator = np.random.default_rng(seed)
    cut = np.zeros(len(labels), dtype=bool)
    for cell in np.unique(np.stack([labels, group]), axis=1).T:
        members = generator.permutation(np.flatnonzero((labels == cell[0]) & (group == cell[1])))
        count = round(share * len(members))
        cut[members[: max(count, 1) if len(members) > 1 else 0]] = True
    return np.flatnonzero(~cut), np.flatnonzero(cut)


def cut_together(labels, group, together, share, seed):
    """Cut as `stratified_cut` does, but keep samples with the same `together` (N,), such as a person, on one side.

    The share is one of persons, each of whom counts in the cell of their first sample."""
    _, first, which = np.unique(together, return_index=True, return_inverse=True)
    _, cut = stratified_cut(labels[first], group[first], share, seed)
    chosen = np.isin(which, cut)
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def check_skew(skew):
    """Raise ValueError unless `skew` can be the share of a class in its own domain."""
    if not 0.5 <= skew <= 1:
        raise ValueError(f"skew is the share of a class in its own domain, from 0.5 (balanced) to 1; got {skew}")


def plant(labels, usual, skew, generator) -> np.ndarray:
    """Return the domain of each sample, int64 (N,): `usual` (N,), 0 or 1, for `skew` of each class, the other for the rest."""
    group = usual.copy()
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        others = members[: round((1 - skew) * len(members))]
        group[others] = 1 - usual[others]
    return group


def mean_std(images):
    """Mean and standard deviation per channel of uint8 (N, C, H, W), of pixels in [0, 1], to four digits.

    No float copy of the images is made."""
    if images.strides[0] == 0:  # blank ones, all the same
        images = images[:1]
    counts = np.zeros((images.shape[1], 256))
    for start in range(0, len(images), 1024):
        for channel, pixels in enumerate(images[start : start + 1024].swapaxes(0, 1)):
            counts[channel] += np.bincount(pixels.reshape(-1), minlength=256)
    levels, share = np.arange(256) / 255, counts / counts.sum(1, keepdims=True)
    mean = share @ levels
    std = np.sqrt(share @ levels**2 - mean**2)
    return tuple(mean.round(4).tolist()), tuple(np.maximum(std, 0.0001).round(4).tolist())
