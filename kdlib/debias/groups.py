"""Classes and groups of a batch or a training split, as debiasers see them: membership, cells, weights, disparities.

A *cell* is a class × group. Where the attribute is fractional, a sample is in both groups by its share, so counts are sums
of shares and means are weighted by them; where its group is unknown it is in none."""

from typing import NamedTuple

import torch

from kdlib.losses import one_hot
from kdlib.models import Output


class Batch(NamedTuple):
    """What a debiaser is told of a batch: labels (N,) int64; group (N,) int64, −1 where unknown; share (N,) float of group 1,
    NaN where unknown, or None where the attribute is not fractional; the teacher's Output, or None."""

    labels: torch.Tensor
    group: torch.Tensor
    share: torch.Tensor | None = None
    teacher: Output | None = None


def membership(group, share, num_groups) -> torch.Tensor:
    """(N, G) float32: how much each sample is in each group: 1 and 0; 1 − share and share where it has one; 0 where its
    group is unknown. group int64 (N,); share float (N,) or None."""
    whole = one_hot(group, num_groups)
    if share is None:
        return whole
    parts = torch.stack([1 - share, share], dim=1).float()
    return torch.where(share.isnan()[:, None], whole, parts)


def cell_counts(labels, member, num_classes) -> torch.Tensor:
    """(K, G): how many samples each cell holds. labels int64 (N,); member (N, G) of `membership`."""
    return member.new_zeros(num_classes, member.shape[1]).index_add_(0, labels, member)


def cell_means(values, labels, member, num_classes):
    """(K, G) mean of values (N,) over each cell, 0 where it is empty; (K, G) counts. Gradients flow through the mean."""
    count = cell_counts(labels, member, num_classes)
    return cell_counts(labels, member * values[:, None], num_classes) / torch.where(count > 0, count, 1), count


def balance(cells, largest=float("inf")) -> torch.Tensor:
    """(K, G): N_y / (G_y · N_{y,g}), at most `largest`, G_y being the number of groups that class y has: with these weights a
    class weighs the same in each of them, and the classes as before. cells (K, G) of `cell_counts`."""
    groups = (cells > 0).sum(1, keepdim=True).clamp(min=1)
    return (cells.sum(1, keepdim=True) / (groups * cells.clamp(min=1))).clamp(max=largest)


def of_cells(table, labels, member, unknown=1.0) -> torch.Tensor:
    """(N,): the entry of table (K, G) of each sample's cell, the mean of both by its shares; `unknown` where its group is."""
    known = member.sum(1) > 0
    return torch.where(known, (member * table[labels]).sum(1), unknown)


def cell_weights(labels, group, num_groups, largest=20.0, share=None) -> torch.Tensor:
    """(N,): `balance` of each sample's cell, 1 where the group is unknown. labels, group int64 (N,); share (N,) or None."""
    member = membership(group, share, num_groups)
    cells = cell_counts(labels, member, int(labels.max()) + 1)
    return of_cells(balance(cells, largest), labels, member)


def batch_disparity(logits, batch, num_classes):
    """Per class, recall in group 1 minus recall in group 0 in the batch (K,), and which classes have both (K,) bool.

    Classes with an empty cell are 0 in the first and False in the second. Unknown groups are left out."""
    hit = (logits.argmax(1) == batch.labels).float()
    recall, count = cell_means(hit, batch.labels, membership(batch.group, batch.share, 2), num_classes)
    valid = (count > 0).all(1)
    return torch.where(valid, recall[:, 1] - recall[:, 0], 0), valid
