"""Scikit-learn's digits with a planted attribute."""

import colorsys

import numpy as np
from PIL import Image

from kdlib.data.splits import Dataset, Split, check_skew, plant, stratified_cut

TEST_SHARE = 1 / 3
VAL_SHARE = 1 / 6  # of what is not test


def prepare(*, skew=0.95, size=16, seed=0, fold=0) -> Dataset:
    """`digits_s`: real handwritten digits with a planted protected attribute, after CIFAR-10S (Wang et al., CVPR 2020).

    The images are scikit-learn's 1,797 scanned digits (8×8, 17 grey levels). Domain 0 shows a digit in grey, domain 1 in a
    colour whose hue is drawn at random for each image, so that a hue says nothing about the class. In training, `skew` of the
    images of classes 0–4 are coloured and `skew` of those of classes 5–9 are grey: colour predicts which half of the classes
    a digit is in. The test split shows every test image in both domains.

    Parameters
    ----------
    skew : float
        Share of a class's training images in its own domain, .5 (no bias) to 1.
    size : int
        Pixels per side.
    seed : int
        Of the splits, the domains and the hues.
    fold : int
        Which of three thirds is the test split, 0 to 2.

    Raises
    ------
    ValueError
        For options outside these ranges.
    """
    check_skew(skew)
    if size < 8:
        raise ValueError(f"size is the width in pixels, at least the original 8; got {size}")
    if fold not in range(3):
        raise ValueError(f"fold is the third that is tested on: 0, 1 or 2; got {fold}")
    from sklearn.datasets import load_digits  # a second of import, needed only here

    digits = load_digits()
    labels = digits.target.astype(np.int64)
    grey = np.stack([_enlarge(scan, size) for scan in digits.images])
    generator = np.random.default_rng(seed)
    tints = np.array([colorsys.hsv_to_rgb(hue, 1, 1) for hue in generator.random(len(labels))])

    test = _thirds(labels, seed)[fold]
    pool = np.setdiff1d(np.arange(len(labels)), test)
    usual = (labels < 5).astype(np.int64)  # the domain of most of a class: colour for 0–4, grey for 5–9
    group = usual.copy()
    group[pool] = plant(labels[pool], usual[pool], skew, generator)
    train, val = (pool[part] for part in stratified_cut(labels[pool], group[pool], VAL_SHARE, seed + 1))

    def split(index, domain):
        images = np.where(domain[:, None, None, None], _tint(grey[index], tints[index]), grey[index][:, None])
        return Split(np.ascontiguousarray(images), labels[index], domain, source=index)

    both = np.concatenate([test, test]), np.repeat([0, 1], len(test))
    splits = {"train": split(train, group[train]), "val": split(val, group[val]), "test": split(*both)}
    pixels = splits["train"].images / 255
    return Dataset(
        "digits_s",
        tuple(str(digit) for digit in range(10)),
        ("grey", "colour"),
        **splits,
        mean=tuple(pixels.mean((0, 2, 3)).round(4).tolist()),
        std=tuple(pixels.std((0, 2, 3)).round(4).tolist()),
        padding=max(1, size // 8),  # one pixel of the original scan
        flip=False,
    )


def _thirds(labels, seed):
    """Indices of three disjoint thirds, each with the same share of each class."""
    group = np.zeros_like(labels)
    rest, first = stratified_cut(labels, group, TEST_SHARE, seed)
    second, third = stratified_cut(labels[rest], group[rest], 0.5, seed)
    return first, rest[second], rest[third]


def _enlarge(scan, size):
    """(8, 8) grey levels 0–16 -> (size, size) uint8."""
    image = Image.fromarray((scan * 255 / 16).round().astype(np.uint8))
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))


def _tint(grey, tints):
    """(N, H, W) uint8 and (N, 3) in [0, 1] -> (N, 3, H, W) uint8."""
    return (grey[:, None] * tints[:, :, None, None]).round().astype(np.uint8)
