"""The spread of a metric over seeds and over images."""

from collections import namedtuple

import numpy as np

from kdlib.bias.stats import student_interval
from kdlib.bias.tables import Images, mean_of, model_rows, plain
from kdlib.bias.uncertainty import CHUNK, collect, quantiles, strata

Spread = namedtuple("Spread", "value seeds_std seeds_low seeds_high images_std images_low images_high seeds n")


def sources_of_spread(metric, y_true, predictions, group, *, n=2000, seed=0, **kw):
    """A metric's mean over models that differ only in their seed, and its two sources of spread, which do not add to one.

    Parameters
    ----------
    metric, y_true, group, **kw
        As in `noise_floor`. Unknown groups are left out.
    predictions : array (S, N)
        Class indices of S models.
    n, seed : int
        Draws of images.

    Returns
    -------
    Spread
        The tuple (value, seeds_std, seeds_low, seeds_high, images_std, images_low, images_high, seeds, n); vectors where the
        metric is one. Training, the images staying as they are: `seeds_std` is the standard deviation between the models,
        `seeds_low` and `seeds_high` Student's 95 % interval of their mean (NaN for one model). Images, the models staying as
        they are: `images_std` is the standard deviation of the models' mean when images are drawn with replacement within each
        (class, group), the same for every model; `images_low` and `images_high` its 95 % interval, centred as in `bootstrap`.

    Raises
    ------
    ValueError
        As in the metric.
    """
    rows = model_rows("predictions", predictions)
    images = Images(group, kw.pop("num_classes", None), getattr(metric, "groups", None), y_true=y_true, **rows)
    kw = kw | {"num_classes": images.num_classes}
    y_true, predictions, group = images.labels[0], np.stack(images.labels[1:]), images.group
    values = np.array([metric(y_true, predicted, group, **kw) for predicted in predictions])
    known, groups, classes = group >= 0, images.groups, images.num_classes
    y_true, predictions, group = y_true[known], predictions[:, known], group[known]
    fields = values.std(axis=0, ddof=1) if len(values) > 1 else values[0] * np.nan, *student_interval(values)
    if not known.any():
        return _spread(images, values, (*fields, *[values[0] * np.nan] * 3), n)
    options = {name: value for name, value in kw.items() if name != "num_classes"}
    order, first, size = strata(y_true, group)

    def draw(count, rng):
        rows = order[first + (rng.random((count, len(size))) * size).astype(int)]
        if not hasattr(metric, "of_tables"):
            every = [[metric(y_true[i], predicted[i], group[i], **kw) for predicted in predictions] for i in rows]
            return np.mean(every, axis=1)
        shape = count, groups, classes, classes
        cell = np.ravel_multi_index((np.arange(count)[:, None], group[order], y_true[order], 0), shape)
        flat = ((cell + predicted[rows]).ravel() for predicted in predictions)  # cells keep their images' places
        tables = (np.bincount(places, minlength=np.prod(shape)).reshape(shape) for places in flat)
        return np.mean([metric.of_tables(table, **options) for table in tables], axis=0)

    entries = max(len(y_true), groups * classes**2) if hasattr(metric, "of_tables") else CHUNK
    drawn = collect(draw, n, seed, entries)
    over_images = drawn.std(axis=0, ddof=1), *quantiles(drawn - mean_of(drawn, axis=0) + values.mean(0))
    return _spread(images, values, (*fields, *over_images), n)


def _spread(images, values, fields, n):
    """Return the Spread, figures by class at the places of their classes."""
    return Spread._make([*(plain(images.by_class(field)) for field in (values.mean(0), *fields)), len(values), n])
