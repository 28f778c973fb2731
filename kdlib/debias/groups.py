"""Classes and groups of a batch or a training split, as debiasers see them: membership, cells, weights, disparities.

A *cell* is a class × group. Where the attribute is fractional, a sample belongs to both groups by its share: counts are then
sums of shares, and means are weighted by them. A sample whose group is unknown belongs to no cell."""

from typing import NamedTuple

import torch

from kdlib.losses import one_hot
from kdlib.models import Output


class Batch(NamedTuple):
    """What a debiaser knows of a batch.

    Attributes
    ----------
    labels : int64 (N,)
    group : int64 (N,)
        −1 where unknown.
    share : float (N,), optional
        Share of group 1, NaN where unknown; None where the attribute is not fractional.
    teacher : Output, optional
        What the teacher returns for this batch.
    """

    labels: torch.Tensor
    group: torch.Tensor
    share: torch.Tensor | None = None
    teacher: Output | None = None


def membership(group, share, num_groups) -> torch.Tensor:
    """Return how much each sample belongs to each group, float32 (N, G).

    Rows hold 1 and 0, or 1 − share and share where a sample has a share; they are 0 where the group is unknown.

    Parameters
    ----------
    group : int64 (N,)
    share : float (N,) or None
    num_groups : int

    Examples
    --------
    >>> membership(torch.tensor([0, 1, -1]), None, 2).tolist()
    [[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]
    """
    whole = one_hot(group, num_groups)
    if share is None:
        return whole
    parts = torch.stack([1 - share, share], dim=1).float()
    return torch.where(share.isnan()[:, None], whole, parts)


def cell_counts(labels, member, num_classes) -> torch.Tensor:
    """Return how many samples each cell holds, (K, G); labels int64 (N,), member (N, G) of `membership`."""
    return member.new_zeros(num_classes, member.shape[1]).index_add_(0, labels, member)


def cell_means(values, labels, member, num_classes):
    """Return the mean of values (N,) over each cell, (K, G), and the counts, (K, G).

    The mean of an empty cell is 0. Gradients flow through the means."""
    count = cell_counts(labels, member, num_classes)
    return cell_counts(labels, member * values[:, None], num_classes) / torch.where(count > 0, count, 1), count


def balance(cells, largest=float("inf")) -> torch.Tensor:
    """Return the weights of cells that balance the groups within each class, (K, G).

    They are N_y / (G_y · N_{y,g}), at most `largest`; G_y is the number of groups that class y has. Every group then counts
    equally within a class, and every class counts as before.

    Parameters
    ----------
    cells : (K, G)
        Counts of `cell_counts`.
    largest : float
    """
    groups = (cells > 0).sum(1, keepdim=True).clamp(min=1)
    return (cells.sum(1, keepdim=True) / (groups * cells.clamp(min=1))).clamp(max=largest)


def of_cells(table, labels, member, unknown=1.0) -> torch.Tensor:
    """Return each sample's entry of table (K, G), averaged by its shares, (N,); `unknown` where its group is unknown."""
    known = member.sum(1) > 0
    return torch.where(known, (member * table[labels]).sum(1), unknown)


def cell_weights(labels, group, num_groups, largest=20.0, share=None) -> torch.Tensor:
    """Return the weight of each sample that `balance` gives its cell, (N,); 1 where the group is unknown.

    Parameters
    ----------
    labels, group : int64 (N,)
    num_groups : int
    largest : float
        Upper limit of a weight.
    share : float (N,), optional

    Examples
    --------
    >>> cell_weights(torch.tensor([0, 0, 0, 0]), torch.tensor([1, 1, 1, 0]), 2).tolist()
    [0.6666666865348816, 0.6666666865348816, 0.6666666865348816, 2.0]
    """
    member = membership(group, share, num_groups)
    cells = cell_counts(labels, member, int(labels.max()) + 1)
    return of_cells(balance(cells, largest), labels, member)


def batch_disparity(logits, batch, num_classes):
    """Return each class's recall in group 1 minus that in group 0, (K,), and which classes have both groups, bool (K,).

    A class with an empty cell has disparity 0 and is False in the second tensor. Unknown groups are left out."""
    hit = (logits.argmax(1) == batch.labels).float()
    recall, count = cell_means(hit, batch.labels, membership(batch.group, batch.share, 2), num_classes)
    valid = (count > 0).all(1)
    return torch.where(valid, recall[:, 1] - recall[:, 0], 0), valid
