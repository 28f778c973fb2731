"""Small-sample statistics over seeds: Student's interval and test, paired differences, adjustment for many tests."""

import numpy as np

NO_SPREAD = 1e-12  # a standard error below this is none: no test is possible


def student_interval(values, level=0.95):
    """Return Student's t interval of the mean over the first axis.

    Parameters
    ----------
    values : array (n, ...)
        One value per seed.
    level : float
        Coverage, in (0, 1).

    Returns
    -------
    low, high : arrays (...)
        NaN for fewer than two values.
    """
    from scipy import stats  # takes a second to import

    values = np.asarray(values, dtype=float)
    if len(values) < 2:
        return np.full(values.shape[1:], np.nan), np.full(values.shape[1:], np.nan)
    error = values.std(axis=0, ddof=1) / np.sqrt(len(values))
    half = stats.t.ppf((1 + level) / 2, len(values) - 1) * error
    return values.mean(axis=0) - half, values.mean(axis=0) + half


def interval(values, level=0.95):
    """Return (mean, half-width) of Student's interval of the mean of a few numbers.

    The half-width is NaN for fewer than two numbers, the mean for none."""
    values = np.asarray(values, dtype=float)
    mean = float(values.mean()) if len(values) else np.nan
    return mean, float(student_interval(values, level)[1] - mean)


def t_test(differences):
    """Return the two-sided p-value of Student's t-test that the mean over the first axis is 0; NaN where nothing varies."""
    from scipy import stats

    differences = np.asarray(differences, dtype=float)
    n = len(differences)
    error = differences.std(axis=0, ddof=1) / np.sqrt(n) if n > 1 else np.zeros(differences.shape[1:])
    t = np.abs(differences.mean(axis=0)) / np.where(error > NO_SPREAD, error, np.nan)
    return 2 * stats.t.sf(t, max(n - 1, 1))


def welch(values, control):
    """Return (low, high, p_value) of the difference of means over the first axis, by Welch's t-test (95 %)."""
    from scipy import stats

    if min(len(values), len(control)) < 2:
        return np.full((3, values.shape[1]), np.nan)
    result = stats.ttest_ind(values, control, equal_var=False)
    ends = result.confidence_interval(0.95)
    error = np.sqrt(values.var(0, ddof=1) / len(values) + control.var(0, ddof=1) / len(control))
    return ends.low, ends.high, np.where(error > NO_SPREAD, result.pvalue, np.nan)


def paired_difference(values, control) -> dict:
    """Return the mean of `values` − `control`, with Student's 95 % interval and the paired t-test.

    Parameters
    ----------
    values, control : Series or arrays (n,)
        The same metric of two kinds of model. Series are matched on their index (the seed, or method and seed), and what only
        one of them has is left out; arrays are matched by position.

    Returns
    -------
    dict
        difference, half (the interval's half-width), p_value (two-sided), n.
    """
    if hasattr(values, "reindex") and hasattr(control, "reindex"):
        difference = (values.astype(float) - control.astype(float)).dropna()
    else:
        values, control = np.asarray(values, dtype=float), np.asarray(control, dtype=float)
        if values.shape != control.shape:
            raise ValueError(
                f"values and control are matched by position; their shapes are {values.shape}, {control.shape}"
            )
        difference = values - control
    mean, half = interval(difference)
    return {"difference": mean, "half": half, "p_value": float(t_test(difference)), "n": len(difference)}


def benjamini_hochberg(p_values):
    """Return p-values adjusted after Benjamini and Hochberg (1995): those below q are discoveries at a false discovery rate q.

    NaN stays NaN and does not count as a test."""
    from scipy import stats

    p_values = np.asarray(p_values, dtype=float)
    tested = ~np.isnan(p_values)
    adjusted = np.full(p_values.shape, np.nan)
    if tested.any():
        adjusted[tested] = stats.false_discovery_control(p_values[tested])
    return adjusted


def holm(p_values):
    """Return p-values adjusted after Holm (1979), step-down. NaN stays NaN and does not count as a test."""
    p_values = np.asarray(p_values, dtype=float)
    adjusted, tested = np.full(p_values.shape, np.nan), np.flatnonzero(~np.isnan(p_values))
    order = tested[np.argsort(p_values[tested], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.maximum.accumulate(np.minimum(1.0, factors * p_values[order]))
    return adjusted
