"""Membership, cells, weights and disparities: values by slow loops and by hand."""

import pytest
import torch
from debias_examples import BATCH, GROUP, LABELS, LOGITS, UNKNOWN, build

from kdlib import debias
from kdlib.debias import groups


def test_membership_is_whole_fractional_or_none():
    group, share = torch.tensor([0, 1, -1, 1, -1]), torch.tensor([0.25, 1.0, float("nan"), float("nan"), 0.5])
    assert groups.membership(group, None, 3).tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 0], [0, 1, 0], [0, 0, 0]]
    assert groups.membership(group, share, 2).tolist() == [[0.75, 0.25], [0, 1], [0, 0], [0, 1], [0.5, 0.5]]


def test_cell_means_are_weighted_means():
    generator = torch.Generator().manual_seed(0)
    labels, share = torch.randint(3, (30,), generator=generator), torch.rand(30, generator=generator)
    values, member = torch.rand(30, generator=generator), torch.stack([1 - share, share], 1)
    mean, count = groups.cell_means(values, labels, member, 4)
    for k in range(4):
        for g in range(2):
            inside = labels == k
            total = member[inside, g].sum()
            assert count[k, g].item() == pytest.approx(total.item())
            expected = (member[inside, g] * values[inside]).sum() / total if inside.any() else torch.zeros(())
            assert mean[k, g].item() == pytest.approx(expected.item(), abs=1e-6)


def test_batch_disparity_masks_empty_cells_and_unknown_groups():
    disparity, valid = groups.batch_disparity(LOGITS, BATCH, 3)
    assert disparity.tolist() == pytest.approx([2 / 3, 1 - 1 / 3, 0])
    assert valid.tolist() == [True, True, False]
    hidden = BATCH._replace(group=torch.where(torch.arange(8) == 7, -1, GROUP))
    disparity, valid = groups.batch_disparity(LOGITS, hidden, 3)
    assert valid.tolist() == [True, False, False]
    assert disparity[1] == 0


def test_a_perfect_classifier_has_no_batch_disparity_whatever_cells_are_empty():
    logits = torch.eye(2)[LABELS]
    for group in (GROUP, torch.ones(8, dtype=torch.int64), UNKNOWN):
        assert groups.batch_disparity(logits, debias.Batch(LABELS, group), 2)[0].abs().max() == 0


def test_cell_weights_balance_the_groups_within_a_class():
    weights = debias.cell_weights(LABELS, GROUP, 2)
    for label in (0, 1):
        sums = [weights[(label == LABELS) & (g == GROUP)].sum().item() for g in (0, 1)]
        assert sums == pytest.approx([2, 2])
    assert debias.cell_weights(LABELS, UNKNOWN, 2).tolist() == [1] * 8
    torch.testing.assert_close(build("reweight").weights(None, BATCH), weights)
    share = torch.where(GROUP == 1, 0.9, 0.2)
    member = groups.membership(GROUP, share, 2)
    weights = groups.balance(groups.cell_counts(LABELS, member, 2))[LABELS]
    for label in (0, 1):
        assert (member * weights)[label == LABELS].sum(0).tolist() == pytest.approx([2, 2])
    assert groups.balance(torch.tensor([[10.0, 0], [4, 1]]))[[0, 1, 1], [0, 0, 1]].tolist() == pytest.approx(
        [1, 0.625, 2.5]
    )
