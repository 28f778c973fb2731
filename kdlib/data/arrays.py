"""Images and their columns from an .npz file."""

import numpy as np

from kdlib.data.rows import texts


def read(file, columns, size):
    """Read images, labels and columns from an .npz file.

    Parameters
    ----------
    file : Path
        With `images`, uint8 (N, H, W, 3), (N, 3, H, W) or (N, H, W), `labels` (N,), numbers or names, and optionally `classes`,
        their names, and columns (N,).
    columns : dict
        {role: name of the column}.
    size : int or None
        Pixels per side that the images must have.

    Returns
    -------
    classes : tuple of str
    labels : ndarray of int64, (N,)
    columns : dict
        {role: list of N texts} of the columns that exist.
    images : ndarray of uint8, (N, 3, H, W)

    Raises
    ------
    ValueError
        If the file is not as above.
    """
    try:
        with np.load(file) as stored:
            arrays = dict(stored)
    except Exception as error:  # a damaged file raises many kinds, of zipfile, zlib and numpy
        raise ValueError(
            f"{file} cannot be read ({error}): it should be a whole npz file, without pickled objects"
        ) from error
    if missing := [key for key in ("images", "labels") if key not in arrays]:
        raise ValueError(f"{file} lacks {' and '.join(missing)}; it has {', '.join(arrays)}")
    images = _colour(arrays["images"], file)
    if size is not None and images.shape[2:] != (size, size):
        raise ValueError(
            f"{file} has images of {images.shape[2]} × {images.shape[3]} pixels; arrays are not resized to {size}"
        )
    columns = {role: arrays[name] for role, name in columns.items() if name in arrays}
    for role, column in {"labels": arrays["labels"], **columns}.items():
        if column.shape != images.shape[:1]:
            raise ValueError(f"{file} has {role} of shape {column.shape}, not {images.shape[:1]}, one for each image")
    classes, labels = _classes(arrays["labels"], arrays.get("classes"), file)
    return classes, labels, {role: texts(column.tolist()) for role, column in columns.items()}, images


def _colour(images, file):
    """As (N, 3, H, W)."""
    given = images
    if images.ndim == 3:
        images = np.repeat(images[:, None], 3, axis=1)
    elif images.ndim == 4 and images.shape[3] == 3:
        images = images.transpose(0, 3, 1, 2)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] != 3 or len(images) == 0:
        raise ValueError(f"{file} has images of {given.dtype} {given.shape}, not uint8 (N, H, W, 3)")
    return images


def _classes(labels, classes, file):
    """(names of the classes, int64 number of each label); without `classes` they are the sorted labels."""
    if labels.dtype.kind not in "iuU":
        raise ValueError(f"{file} has labels of {labels.dtype}; they should be whole numbers or names")
    known = sorted(set(labels.tolist()))
    if classes is None:
        names = tuple(map(str, known))
    else:
        if classes.ndim != 1 or classes.dtype.kind not in "iuU":
            raise ValueError(
                f"{file} has classes of {classes.dtype} {classes.shape}; they should be names, one for each class"
            )
        names = tuple(map(str, classes.tolist()))
        known = list(names) if labels.dtype.kind == "U" else list(range(len(names)))
    if len(set(names)) < len(names):
        raise ValueError(f"{file} has two classes of one name among {', '.join(names)}")
    if unknown := set(labels.tolist()) - set(known):
        raise ValueError(f"{file} has the label {unknown.pop()!r}, which is none of its {len(names)} classes")
    return names, np.array([known.index(label) for label in labels.tolist()])
