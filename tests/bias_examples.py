"""What the tests of bias share: an example for pencil and paper, simulated models, and random small data."""

import inspect
import io
from statistics import NormalDist

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from kdlib import bias

TABLE_METRICS = [metric for metric in vars(bias).values() if hasattr(metric, "of_tables")]
VECTORS = [bias.class_disparity, bias.class_disparity_range]
SCALARS = [metric for metric in TABLE_METRICS if metric not in VECTORS]
MANY_GROUPS = [metric for metric in TABLE_METRICS if metric.groups is None]
WITH_MIN_COUNT = [metric for metric in TABLE_METRICS if "min_count" in inspect.signature(metric).parameters]
checked = settings(deadline=None, max_examples=20, derandomize=True)

# 16 images of 3 classes, small enough for pencil and paper
Y = np.array([0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2])
G = np.array([1, 1, 1, 1, 0, 0, 1, 1, 0, 0, 0, 0, 1, 1, 1, 0])
STUDENT = np.array([0, 0, 0, 1, 0, 2, 1, 0, 1, 1, 1, 2, 2, 2, 0, 2])
TEACHER = np.array([0, 0, 0, 1, 0, 0, 1, 0, 1, 1, 1, 2, 2, 2, 0, 2])
SHARE = np.array([1, 1, 0.75, 0.5, 0, 0.25, 1, 0.5, 0, 0, 0.25, 0, 1, 1, 0.5, 0])


def identifier(metric):
    return metric.__name__


def render(drawing):
    """Draw the figure, which lays it out; its own canvas draws nothing."""
    drawing.savefig(io.BytesIO(), format="png")


def close(actual, expected, tolerance=1e-6):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance)


def simulate(rng, classes=5, per_cell=40, recall=0.7, disparity=0.0, groups=2):
    """Labels, predictions and groups, with `per_cell` images in each cell; wrong predictions are spread evenly."""
    y = np.repeat(np.arange(classes), groups * per_cell)
    g = np.tile(np.arange(groups), classes * per_cell)
    right = rng.random(len(y)) < recall + disparity * (g - 0.5)
    return y, np.where(right, y, (y + rng.integers(1, classes, len(y))) % classes), g


def simulate_pairs(rng, classes=10, pairs=60, recall=0.9, disparity=0.0, correlation=0.8):
    """Labels, predictions, groups and pair ids: originals in both groups, `pairs` a class (or one number each), correlated.

    An image is right where a latent normal lies below its group's quantile; `correlation` is that of a pair's latents."""
    y = np.repeat(np.arange(classes), pairs)
    shared, own = rng.standard_normal(len(y)), rng.standard_normal((2, len(y)))
    latent = np.sqrt(correlation) * shared + np.sqrt(1 - correlation) * own
    quantiles = [NormalDist().inv_cdf(recall + disparity * (group - 0.5)) for group in (0, 1)]
    right = latent < np.array(quantiles)[:, None]
    p = np.where(right, y, (y + rng.integers(1, classes, right.shape)) % classes)
    return np.tile(y, 2), p.ravel(), np.repeat([0, 1], len(y)), np.tile(np.arange(len(y)), 2)


def any_callable(metric):
    """The same metric, as a function of which the module knows nothing."""

    def call(*arrays, **options):
        return metric(*arrays, **options)

    call.tail = metric.tail
    return call


@st.composite
def images(draw, unknown=True, classes=(1, 4), complete=False, groups=2):
    """(y_true, y_pred, group, num_classes); `complete` gives every cell (class, group) at least two images."""
    k = draw(st.integers(*classes))
    entry = st.tuples(st.integers(0, k - 1), st.integers(0, k - 1), st.integers(-1 if unknown else 0, groups - 1))
    rows = draw(st.lists(entry, min_size=1, max_size=40))
    if complete:
        rows += [(y, draw(st.integers(0, k - 1)), g) for y in range(k) for g in range(groups) for _ in range(2)]
    y, p, g = np.array(rows).T
    if len(set(g[g >= 0])) == 1:  # −1 and 1 alone are refused, since −1 may then be a group
        g = np.abs(g)
    return y, p, g, k
