"""What a test split can resolve: simulated floors agree with permutation, and changes with simulated pairs of models."""

import numpy as np
import pytest

from kdlib import bias
from kdlib.bias import resolution

CELLS = np.array([[120, 60], [40, 200], [80, 80]])


def test_a_blind_models_mad_is_that_of_the_permuted_group():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), CELLS.sum(1))
    group = np.concatenate([np.repeat([0, 1], row) for row in CELLS])
    floors = []
    for _ in range(40):  # models that are right with probability .8, each with its own permutation floor
        guess = np.where(rng.random(len(labels)) < 0.8, labels, (labels + 1) % 3)
        floors.append(bias.noise_floor(bias.mean_absolute_disparity, labels, guess, group, n=500))
    ours = resolution.floors(CELLS, recalls=(0.8,)).iloc[0]
    assert ours.floor == pytest.approx(np.mean([floor.mean for floor in floors]), rel=0.05)
    assert ours.low == pytest.approx(np.mean([floor.low for floor in floors]), rel=0.15)
    assert ours.high == pytest.approx(np.mean([floor.high for floor in floors]), rel=0.1)


@pytest.mark.parametrize("share", [0.32, 0.1])
def test_the_smallest_change_is_that_of_simulated_pairs(share):
    """Recall .8, image by image; one model is right and the other wrong in `share` of them (.32: independent errors)."""
    rng, mads = np.random.default_rng(1), np.zeros((2, 3000))
    for row in CELLS:
        recalls = []
        for count in row:
            one, flips = rng.random((3000, count)) < 0.8, rng.random((3000, count))
            other = np.where(one, flips >= share / 2 / 0.8, flips < share / 2 / 0.2)
            assert (one != other).mean() == pytest.approx(share, abs=0.005)
            recalls.append((one.mean(1), other.mean(1)))
        for model in (0, 1):
            mads[model] += np.abs(recalls[1][model] - recalls[0][model]) / len(CELLS)
    floors = resolution.floors(CELLS, recalls=(0.8,)).iloc[0]
    expected = floors.alike if share == resolution.ALIKE else floors.apart
    assert np.quantile(np.abs(mads[0] - mads[1]), 0.95) == pytest.approx(expected, rel=0.08)


def test_empty_cells_and_many_groups():
    with_empty = np.array([[120, 60], [40, 200], [80, 80], [0, 500]])
    one, other = resolution.blind_mads(with_empty, 0.8)
    assert np.array_equal(one, resolution.blind_mads(CELLS, 0.8)[0]), "a class of one group does not count"
    assert not np.array_equal(one, other)
    assert np.array_equal(*resolution.blind_mads(CELLS, 0.8, differ=0.0)), "models that never differ are one"
    many = np.array([[50, 50, 50, 0], [50, 50, 50, 50]])
    rng = np.random.default_rng(2)
    slow = []
    for _ in range(3000):
        spreads = [np.ptp([rng.binomial(n, 0.7) / n for n in row if n]) for row in many]
        slow.append(np.mean(spreads))
    assert resolution.blind_mads(many, 0.7)[0].mean() == pytest.approx(np.mean(slow), rel=0.03)
    with pytest.raises(ValueError, match="no class has images of two groups"):
        resolution.blind_mads([[3, 0], [0, 5]], 0.7)


def test_the_sentence_holds_the_figures():
    text = resolution.in_words(CELLS)
    at = resolution.floors(CELLS, recalls=(0.65,)).iloc[0]
    for figure in (at.floor, at.low, at.high, at.apart, at.alike):
        assert f"{figure:.3f}" in text
    assert "3 of 3 classes" in text
    assert "580 images in cells of 40 to 200" in text
    assert "can show no disparity" in resolution.in_words(np.array([[3, 0], [0, 5]]))
    assert "can show no disparity" in resolution.in_words(np.zeros((3, 0), int))


def test_pairs_are_told_apart_from_images():
    """A model that flips 10 % of 60 pairs: E|binomial difference| / 60, by the normal approximation."""
    mads = resolution.flipping_mads([60] * 10)
    assert mads.mean() == pytest.approx(np.sqrt(0.1 / 60) * np.sqrt(2 / np.pi), rel=0.05)
    assert not resolution.flipping_mads([60] * 10, flips=0.0).any()
    text = resolution.in_words(np.full((10, 2), 60), paired=True)
    assert "600 originals" in text
    assert "exactly 0" in text
    assert f"{mads.mean():.3f}" in text
