"""How much a model's logits tell of the group beyond the class, found by an attacker."""

import numpy as np

from kdlib.bias.paired import units_of
from kdlib.bias.scores import as_scores
from kdlib.bias.tables import Images, as_array, check_index
from kdlib.bias.uncertainty import permuted_images, quantiles

FIGURES = (
    "above_floor", "attacker", "floor", "floor_low", "floor_high", "p_value", "attacker_labels", "leakage", "chance", "accuracy"
)  # fmt: skip


def degraded_labels(y_true, accuracy, num_classes, rng):
    """Return the labels with as many wrong as a model of this accuracy has: at random, each another class at random."""
    degraded = y_true.copy()
    wrong = rng.choice(len(y_true), round((1 - accuracy) * len(y_true)), replace=False)
    degraded[wrong] = (y_true[wrong] + rng.integers(1, max(num_classes, 2), len(wrong))) % max(num_classes, 2)
    return degraded


def leakage(y_true, logits, group, *, folds=5, repeats=5, n=20, seed=0, together=None, attacker=None):
    """How much more a model's logits tell of the group than chance allows, given the class.

    Read `above_floor` first: it is 0 on average for logits that hold nothing of the group. `leakage`, the figure of the
    literature, is not: an attacker learns less from logits than from labels that hold the same.

    Parameters
    ----------
    y_true : array (N,)
        Class indices.
    logits : array (N, K)
    group : array (N,)
        0, 1, …, or −1 where unknown.
    folds : int
        Parts of the data; the attacker predicts each from the others.
    repeats, n : int
        Draws of degraded labels, and permutations of the group.
    seed : int
    together : array (N,), optional
        Images with the same number (of one person, or one image in two colours) stay on one side of a fold. Where they have one
        class and several groups, the group is permuted within such pairs: see `noise_floor`.
    attacker : scikit-learn classifier, optional
        By default a logistic regression on standardised logits.

    Returns
    -------
    dict of numbers
        `above_floor` = `attacker` − `floor`. `attacker`: the accuracy, on images left out, of predicting the group from the
        logits. `floor`, `floor_low`, `floor_high`: its mean and 95 % range when the group is permuted within each class;
        `p_value` as in `noise_floor`, so never below 1/(1 + n). `attacker_labels`: the same accuracy from labels of which as
        many are wrong as the model has wrong, and `leakage` = `attacker` − `attacker_labels`. `chance` is the share of the
        largest group, `accuracy` the model's. `images` counts those of known group, `unknown` the others. NaN with one group
        only.

    Raises
    ------
    ValueError
        For lengths that differ, NaN, indices out of range, groups with fewer images than folds, and n or repeats below 1.

    References
    ----------
    Wang et al. (2019), Balanced datasets are not enough: estimating and mitigating gender bias in deep image representations.
    """
    check_index(y_true=y_true, logits=logits, group=group, together=together)
    images = Images(group, as_array(logits).shape[-1], y_true=y_true)
    (y_true,), group = images.labels, images.group
    logits, known = as_scores(logits, "logits", len(y_true)), group >= 0
    together = None if together is None else as_array(together)
    if together is not None and together.shape != group.shape:
        raise ValueError(
            f"together must have one entry for each of the {len(group)} images; its shape is {together.shape}"
        )
    counts = {"images": int(known.sum()), "unknown": int((~known).sum())}
    y_true, group, logits = y_true[known], group[known], logits[known]
    together = together if together is None else together[known]
    sizes = np.bincount(group, minlength=2)
    if (sizes > 0).sum() < 2:
        return dict.fromkeys(FIGURES, np.nan) | counts
    if sizes[sizes > 0].min() < folds or folds < 2:
        raise ValueError(
            f"leakage needs 2 folds or more, and as many images of each group; got {folds}, and {sizes} images"
        )
    if min(n, repeats) < 1:
        raise ValueError(f"n and repeats must be at least 1; they are {n} and {repeats}")
    rng, accuracy = np.random.default_rng(seed), np.mean(logits.argmax(1) == y_true)

    def attacked(features, target):
        return _attack(features, target, _folds(y_true, target, together, folds, rng), attacker)

    units = units_of(y_true, group, together)
    accuracy_of_logits = attacked(logits, group)
    one_hot = np.eye(max(logits.shape[1], 2))
    labels = [attacked(one_hot[degraded_labels(y_true, accuracy, logits.shape[1], rng)], group) for _ in range(repeats)]
    floor = np.array([attacked(logits, group[permuted_images(y_true, group, rng, units)[1]]) for _ in range(n)])
    low, high = quantiles(floor)
    p_value = (1 + (floor >= accuracy_of_logits - 1e-9).sum()) / (1 + n)
    figures = (
        accuracy_of_logits - floor.mean(), accuracy_of_logits, floor.mean(), low, high, p_value, np.mean(labels),
        accuracy_of_logits - np.mean(labels), sizes.max() / len(group), accuracy,
    )  # fmt: skip
    return dict(zip(FIGURES, map(float, figures), strict=True)) | counts


def _folds(y_true, group, together, folds, rng):
    """Return the fold (N,) of each image. Folds hold as many of each class and group: a group that is rare in training is then
    not common among what is left out, which would make an attacker that knows nothing worse than chance."""
    unit = np.arange(len(y_true)) if together is None else np.unique(together, return_inverse=True)[1]
    _, first, sizes = np.unique(unit, return_index=True, return_counts=True)
    kind = np.round(2 * np.bincount(unit, group) / sizes)  # of one group, of another, or mixed
    order = np.lexsort((rng.random(len(first)), kind, y_true[first]))
    fold = np.empty(len(first), int)
    fold[order] = np.arange(len(first)) % folds
    return fold[unit]


def _attack(features, group, fold, attacker):
    """Return the accuracy, on the folds left out of its training, of a classifier that predicts the group from the features."""
    from sklearn.linear_model import LogisticRegression  # a second of import
    from sklearn.model_selection import PredefinedSplit, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if attacker is None:
        attacker = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return np.mean(cross_val_predict(attacker, features, group, cv=PredefinedSplit(fold)) == group)
