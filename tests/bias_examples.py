"""What the tests of bias share: an example for pencil and paper, simulated models, and random small data."""

import inspect
import io

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from kdlib import bias

TABLE_METRICS = [metric for metric in vars(bias).values() if hasattr(metric, "of_tables")]
VECTORS = [bias.class_disparity, bias.class_disparity_range]
SCALARS = [metric for metric in TABLE_METRICS if metric not in VECTORS]
MANY_GROUPS = [metric for metric in TABLE_METRICS if metric.groups is None]
WITH_MIN_COUNT = [metric for metric in TABLE_METRICS if "min_count" in inspect.signature(metric).parameters]
checked = settings(deadline=None, max_examples=40, derandomize=True)

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
    return y, p, g, k
