"""Skew amplification, as the literature measures it."""

import numpy as np
import pytest
import torch

from kdlib.bias.skew import skew_amplification


def test_skew_amplification_by_hand():
    group = np.repeat([0, 1], 8)
    predicted = np.array([0, 0, 0, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 1, 1])  # class 0: 3 and 6, class 1: 5 and 2
    assert skew_amplification(predicted, group) == pytest.approx((6 / 9 + 5 / 7) / 2 - 0.5)
    assert skew_amplification(np.tile(np.arange(8), 2), group) == 0, "blind to the group"
    assert skew_amplification(group, group, num_classes=5) == 0.5, "nothing but the group; classes never predicted"
    assert skew_amplification(torch.tensor([0, 0, 1, 0, 1, 1]), torch.tensor([0, 0, 0, 1, 1, 1])) == pytest.approx(
        1 / 6
    )
    unknown = np.append(predicted, [0, 0, 1]), np.append(group, [-1, -1, -1])
    assert skew_amplification(*unknown) == skew_amplification(predicted, group)
    three = skew_amplification(np.array([0, 1, 2] * 3), np.repeat([0, 1, 2], 3))
    assert three == pytest.approx(0)


@pytest.mark.parametrize("group", [np.array([0, 0, 1]), np.zeros(3, int), np.array([0, 1])])
def test_skew_amplification_needs_groups_that_show_the_same(group):
    with pytest.raises(ValueError, match="group"):
        skew_amplification(np.array([0, 1, 1]), group)
