"""How small a bias a test split can show, from the sizes of its cells (class × group) alone, before any model is trained.

A model that ignores the group is right with one probability in every cell; its mean absolute disparity (MAD) is chance."""

import numpy as np
import pandas as pd

from kdlib.bias.metrics import mean_absolute_disparity
from kdlib.bias.tables import extent
from kdlib.bias.uncertainty import noise_floor

RECALLS = (0.5, 0.65, 0.8, 0.9, 0.95, 0.99)
ALIKE = 0.1  # share of images that one of two similar models has right and the other wrong; of pairs that flip


def blind_mads(cells, recall, *, differ=None, models=4000, seed=0) -> np.ndarray:
    """Simulate pairs of models that are right with probability `recall` whatever the group.

    Parameters
    ----------
    cells : array (K, G)
        Numbers of images. Classes with fewer than two groups are left out, and so is an empty cell.
    recall : float
    differ : float, optional
        Share of images that one of the two models has right and the other wrong; at most, and by default, that of independent
        errors, 2 · recall · (1 − recall).
    models, seed : int
        Number of simulated pairs of models.

    Returns
    -------
    array (2, models)
        MADs; with more than two groups a class's disparity is its largest recall minus its smallest.

    Raises
    ------
    ValueError
        If no class has two groups.
    """
    cells = counted(cells)
    if not len(cells):
        raise ValueError("no class has images of two groups, so there is no disparity")
    independent = 2 * recall * (1 - recall)
    only = min(independent if differ is None else differ, independent) / 2
    shares = [recall - only, only, only, 1 - recall - only]  # both right, one only, other only, neither
    generator = np.random.default_rng(seed)
    both, one, other, _ = np.moveaxis(generator.multinomial(cells, shares, (models, *cells.shape)), -1, 0)
    right = np.stack([both + one, both + other])
    rates = np.divide(right, cells, out=np.full(right.shape, np.nan), where=cells > 0)
    return extent(rates, axis=-1).mean(axis=-1)


def flipping_mads(pairs, flips=ALIKE, *, models=4000, seed=0) -> np.ndarray:
    """Simulate the MADs (models,) of models that get a share `flips` of pairs right in one group alone, either one alike.

    pairs (K,): numbers of originals that are shown in both groups. A model blind to the group has flips 0 and MAD 0.
    """
    pairs, generator = np.asarray(pairs)[np.asarray(pairs) > 0], np.random.default_rng(seed)
    one, other, _ = np.moveaxis(
        generator.multinomial(pairs, [flips / 2, flips / 2, 1 - flips], (models, len(pairs))), -1, 0
    )
    return (np.abs(one - other) / pairs).mean(-1)


def counted(cells) -> np.ndarray:
    """Return the rows of (K, G) numbers of images whose class has a disparity: those with two groups or more."""
    cells = np.asarray(cells)
    return cells[(cells > 0).sum(axis=1) >= 2]


def least_p_value(cells, *, n=400, seed=0) -> float:
    """Return the p-value of about the largest bias that a split can show; NaN if no class has two groups.

    It is that of a model which is always right in the largest group of each class and never in the others, when the groups are
    permuted `n` times within classes. Where it is not small, no bias can be told from chance. cells: numbers of images (K, G).
    """
    cells = counted(cells)
    if not len(cells):
        return float("nan")
    label, group = np.indices(cells.shape).reshape(2, -1).repeat(cells.reshape(-1), axis=1)
    predicted = np.where(group == cells.argmax(1)[label], label, len(cells))  # the last class has no images
    return noise_floor(
        mean_absolute_disparity, label, predicted, group, num_classes=len(cells) + 1, n=n, seed=seed
    ).p_value


def floors(cells, *, recalls=RECALLS, models=4000, seed=0) -> pd.DataFrame:
    """Return what blind models show, one row per recall; arguments and errors as in `blind_mads`.

    Returns
    -------
    DataFrame
        `floor`, `low`, `high`: mean and 95 % range of a blind model's MAD. `apart`: the MADs of two blind models differ by less
        than this in 95 % of cases if their errors are independent; `alike`: if they differ in the share ALIKE of images.
    """
    rows = []
    for recall in recalls:
        pairs = [blind_mads(cells, recall, differ=differ, models=models, seed=seed) for differ in (None, ALIKE)]
        apart, alike = (np.quantile(np.abs(one - other), 0.95) for one, other in pairs)
        single = pairs[0][0]
        low, high = np.quantile(single, [0.025, 0.975])
        rows.append(
            {"recall": recall, "floor": single.mean(), "low": low, "high": high, "apart": apart, "alike": alike}
        )
    return pd.DataFrame(rows)


def in_words(cells, recall=0.65, *, paired=False) -> str:
    """Return what a split with these cells can and cannot show, as Markdown; paired: each original is in every group."""
    chosen = counted(cells)
    if not len(chosen):
        return "No class has test images of two groups: this split can show no disparity."
    if paired:
        flipping = flipping_mads(chosen.min(axis=1))
        low, high = np.quantile(flipping, [0.025, 0.975])
        return (
            f"Each of {chosen.min(axis=1).sum()} originals is shown in every group, so **a model blind to the group has a MAD "
            f"of exactly 0**. One that gets {ALIKE:.0%} of pairs right in one group alone, in either alike, shows "
            f"{flipping.mean():.3f} (95 %: {low:.3f} to {high:.3f})."
        )
    row, every = floors(cells, recalls=(recall,)).iloc[0], floors(cells)
    return (
        f"{len(chosen)} of {len(cells)} classes have test images of two groups, {chosen.sum()} images in cells of "
        f"{chosen[chosen > 0].min()} to {chosen.max()}. A model blind to the group with a recall of {recall:g} shows a MAD of "
        f"{row.floor:.3f} (95 %: {row.low:.3f} to {row.high:.3f}): a MAD in that range is no evidence of bias. Two such models "
        f"differ by up to {row.apart:.3f} by chance, or {row.alike:.3f} if they disagree on {ALIKE:.0%} of images. **At that "
        f"recall this split cannot resolve changes of MAD below about {row.alike:.3f}, and at no recall below "
        f"{every.alike.min():.3f}**, unless two models are more alike. More seeds average out the chance of training, not that "
        "of these images."
    )
