"""How small a bias a test split can show, from the sizes of its cells (class × group) alone, before any model is trained.

A model that ignores the group is right with one probability in every cell; its mean absolute disparity (MAD) is chance."""

import numpy as np
import pandas as pd

from kdlib.bias.tables import extent

RECALLS = (0.5, 0.65, 0.8, 0.9, 0.95, 0.99)
ALIKE = 0.1  # share of pictures that one of two like models has right and the other wrong


def blind_mads(cells, recall, *, differ=None, models=4000, seed=0) -> np.ndarray:
    """(2, models) MADs of simulated pairs of models that are right with probability `recall` whatever the group.

    cells: (K, G) numbers of pictures; differ: the share of pictures that one of a pair has right and the other wrong, at most
    and by default that of independent errors, 2 · recall · (1 − recall). Classes with fewer than two groups are left out, and
    so is an empty cell. With more than two groups a class's disparity is its largest recall minus its smallest. Raises
    ValueError where no class has two groups."""
    cells = counted(cells)
    if not len(cells):
        raise ValueError("no class has pictures of two groups, so there is no disparity")
    independent = 2 * recall * (1 - recall)
    only = min(independent if differ is None else differ, independent) / 2
    shares = [recall - only, only, only, 1 - recall - only]  # both right, one only, other only, neither
    generator = np.random.default_rng(seed)
    both, one, other, _ = np.moveaxis(generator.multinomial(cells, shares, (models, *cells.shape)), -1, 0)
    right = np.stack([both + one, both + other])
    rates = np.divide(right, cells, out=np.full(right.shape, np.nan), where=cells > 0)
    return extent(rates, axis=-1).mean(axis=-1)


def counted(cells) -> np.ndarray:
    """The rows of (K, G) numbers of pictures whose class has a disparity: those with two groups or more."""
    cells = np.asarray(cells)
    return cells[(cells > 0).sum(axis=1) >= 2]


def floors(cells, *, recalls=RECALLS, models=4000, seed=0) -> pd.DataFrame:
    """A row per recall: `floor`, `low` and `high`, mean and 95 % range of a blind model's MAD; `apart`, below which the MADs of
    two blind models differ in 95 % of cases where their errors are independent; `alike`, the same of models of which one is
    right and the other wrong in the share ALIKE of pictures. Arguments and errors as `blind_mads`."""
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


def in_words(cells, recall=0.65) -> str:
    """What a split with these cells can and cannot show, as Markdown."""
    chosen = counted(cells)
    if not len(chosen):
        return "No class has test pictures of two groups: this split can show no disparity, of whatever size."
    at, every = floors(cells, recalls=(recall,)).iloc[0], floors(cells)
    return (
        f"{len(chosen)} of {len(cells)} classes have test pictures of two groups, {chosen.sum()} pictures in cells of "
        f"{chosen[chosen > 0].min()} to {chosen.max()}. A model blind to the group with a recall of {recall:g} shows a MAD of "
        f"{at.floor:.3f} (95 %: {at.low:.3f} to {at.high:.3f}): a MAD in that range is no evidence of bias. Two such models "
        f"differ by up to {at.apart:.3f} by chance, or {at.alike:.3f} where one is right and the other wrong in {ALIKE:.0%} of "
        f"pictures. **So no change of MAD below about {at.alike:.3f} can be resolved here at that recall, and none below "
        f"{every.alike.min():.3f} at all**, even at a recall of {RECALLS[-1]:g}, unless two models are more alike than that. "
        "More seeds average out the chance of training, not that of these pictures."
    )
