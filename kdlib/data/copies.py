"""Copies of images: equal ones belong to one side of a split, and those that look alike across splits are counted."""

import collections
import hashlib
import io
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from kdlib.data.decoding import FORMATS

TEST = "test"
THUMBNAIL = 16  # pixels a side at which images are compared
ALIKE = 3.0  # root mean square of grey levels, of 255, by which two thumbnails differ at most
LOOKED_AT = 2000  # test images that are looked for among the training images


def numbers(sources) -> np.ndarray:
    """Return a number for each of N images, equal where their bytes are equal.

    Images of one colour, which show nothing, and those that cannot be read are like no other.

    Parameters
    ----------
    sources : dict or ndarray
        {name: path or bytes}, or pixels (N, …).
    """
    if isinstance(sources, dict):
        items, outline, digest = list(sources.values()), _outline, _digest
    else:
        items, outline, digest = list(sources), _pixels, _pixels
    outlines = [outline(item) for item in items]
    counts, number = collections.Counter(outlines), {}
    keys = [
        # only what may be equal is read as a whole
        row if key is None or counts[key] == 1 or (whole := digest(item)) is None else whole
        for row, (key, item) in enumerate(zip(outlines, items, strict=True))
    ]
    return np.array([number.setdefault(key, len(number)) for key in keys], dtype=int)


def joined(persons, same) -> np.ndarray:
    """Return numbers (N,), equal for images of one person or with equal bytes, or linked by such; `persons` without copies."""
    if len(np.unique(same)) == len(same):
        return persons
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    who, count = np.unique(persons, return_inverse=True)[1], len(same)
    # a graph of images, persons and contents: an edge from each image to its person, and to its content
    ends = np.concatenate([count + who, count + count + same])
    edges = coo_array((np.ones(2 * count), (np.tile(np.arange(count), 2), ends)), (3 * count, 3 * count))
    return connected_components(edges, directed=False)[1][:count]


def check_apart(name, sources, parts):
    """Raise ValueError where images of different splits have equal bytes.

    Parameters
    ----------
    name : str
        Of the data set.
    sources : dict
        As of `numbers`.
    parts : dict
        {"train": indices, …}.
    """
    same, names = numbers(sources), list(sources)
    place = np.full(len(names), "", dtype="<U5")
    for part, rows in parts.items():
        place[rows] = part
    first, clashes = {}, []
    for row in np.flatnonzero(place != ""):
        before = first.setdefault(same[row], row)
        if place[before] != place[row]:
            clashes.append(f"{names[before]!r} in {place[before]} is {names[row]!r} in {place[row]}")
    if clashes:
        more = f"; and {len(clashes) - 5} more" if len(clashes) > 5 else ""
        raise ValueError(
            f"{name}: {len(clashes)} images are in two splits, byte for byte: {'; '.join(clashes[:5])}{more}. What was trained "
            "on cannot test: remove one of each (where=… leaves rows out), or have the splits cut (split=none)"
        )


def tell_alike(name, splits):
    """Say on stderr how many test images have one among the training images that looks the same: a copy saved anew, maybe."""
    test = splits[TEST].images
    rows = np.arange(len(test))
    if len(test) > LOOKED_AT:
        rows = np.sort(np.random.default_rng(0).choice(len(test), LOOKED_AT, replace=False))
    wanted = _thumbnails(test[rows])
    trained = np.concatenate([_thumbnails(split.images) for part, split in splits.items() if part != TEST])
    from sklearn.neighbors import NearestNeighbors

    distance = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(trained).kneighbors(wanted)[0][:, 0]
    textured = wanted.std(1) > ALIKE  # blank images are all alike
    alike = int(((distance / np.sqrt(wanted.shape[1]) <= ALIKE) & textured).sum())
    if alike:
        print(
            f"kdlib: {name}: {alike} of {len(rows)} test images look like a training image (at {THUMBNAIL} pixels); if they "
            "are copies, the test is easier than it should be",
            file=sys.stderr,
        )


def _thumbnails(images):
    """Grey images (N, C, H, W) as float32 (N, at most 16 · 16), each the mean of blocks."""
    height, width = (min(THUMBNAIL, side) for side in images.shape[2:])
    blocks = [np.linspace(0, side, count, endpoint=False).astype(int) for side, count in
              zip(images.shape[2:], (height, width), strict=True)]  # fmt: skip
    sizes = [np.diff([*starts, side]) for starts, side in zip(blocks, images.shape[2:], strict=True)]
    found = np.empty((len(images), height * width), np.float32)
    for start in range(0, len(images), 512):  # images may be mapped from a file
        grey = images[start : start + 512].mean(1, dtype=np.float32)
        sums = np.add.reduceat(np.add.reduceat(grey, blocks[0], 1), blocks[1], 2)
        found[start : start + 512] = (sums / (sizes[0][:, None] * sizes[1])).reshape(len(grey), -1)
    return found


def _outline(source):
    """What equal images have in common and is read fast: length, and 4 kB from the middle; None if it cannot be read."""
    try:
        with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as file:
            length = file.seek(0, 2)
            file.seek(length // 2)
            return length, file.read(4096)
    except OSError:
        return None


def _digest(source):
    """SHA-256 of an image's bytes; None for an image of one colour, and for what is none."""
    content = source if isinstance(source, bytes) else Path(source).read_bytes()
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            extrema = np.array(image.convert("RGB").getextrema())
    except Exception:  # a damaged image raises many kinds; decoding says so
        return None
    return None if (extrema[:, 0] == extrema[:, 1]).all() else hashlib.sha256(content).digest()


def _pixels(image):
    """SHA-256 of an image's pixels (C, H, W); None for one colour."""
    flat = image.reshape(len(image), -1)
    return None if (flat == flat[:, :1]).all() else hashlib.sha256(np.ascontiguousarray(image).data).digest()
