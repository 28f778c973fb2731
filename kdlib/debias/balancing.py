"""Debiasers that change how much each class × group counts, or which head decides: heads per group, weights, sampling.

Builders as `debias.py` says."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from kdlib.data import stratified_cut
from kdlib.debias.groups import balance, cell_counts, cell_means, cell_weights, membership, of_cells
from kdlib.losses import one_hot
from kdlib.models import Output


class GroupHeads(nn.Module):
    """One linear classifier per group on a shared embedding. `forward` gives the mean of the heads' logits, (N, K): the
    decision of their sum, which needs no group at inference. `own` gives each sample's logits from its own group's head."""

    def __init__(self, embedding_dim, num_classes, num_groups):
        super().__init__()
        self.num_groups = num_groups
        self.heads = nn.Linear(embedding_dim, num_groups * num_classes)

    def forward(self, embedding):
        return self._each(embedding).mean(1)

    def own(self, embedding, group, share=None):
        """(N, K); the heads weighted by 1 − share and share where a sample has one; their mean where its group is unknown."""
        each = self._each(embedding)
        if share is not None:
            member = membership(group, share, self.num_groups).to(each.dtype)
            mixed = (each * member[:, :, None]).sum(1)
            return torch.where(member.sum(1, keepdim=True) > 0, mixed, each.mean(1))
        own = each[torch.arange(len(each), device=each.device), group.clamp(min=0)]
        return torch.where((group >= 0)[:, None], own, each.mean(1))

    def _each(self, embedding):
        return self.heads(embedding).view(len(embedding), self.num_groups, -1)


def domain_independent(facts):
    """Domain-independent heads (Wang et al., CVPR 2020): a classifier per group on a shared backbone. In training a sample's
    losses see its own group's head; at inference the heads' scores are summed. It has no strength."""
    head = GroupHeads(facts["embedding_dim"], facts["num_classes"], facts["num_groups"]).to(facts["device"])

    def select(output, batch):
        return Output(head.own(output.embedding, batch.group, batch.share), output.embedding)

    return dict(head=head, select=select)


def reweight(facts, *, largest=20.0):
    """Each sample's cross-entropy and logit distillation weighted by N_y / (G · N_{y,g}), at most 20 (Kamiran & Calders 2012).
    An unknown group has weight 1. It has no strength."""
    table = balance(facts["cells"], largest)

    def weights(output, batch):
        return of_cells(table, batch.labels, membership(batch.group, batch.share, facts["num_groups"]))

    return dict(weights=weights)


def resample(facts):
    """Samples of an epoch drawn with replacement, in proportion to `cell_weights` without a ceiling: each class is seen
    equally often in every group. It has no strength."""
    weights = cell_weights(
        facts["labels"], facts["group"], facts["num_groups"], largest=float("inf"), share=facts["share"]
    )
    return dict(order=_drawn(weights))


class CellWeights(nn.Module):
    """Group DRO's q (K, G), a distribution over the cells that exist."""

    def __init__(self, cells):
        super().__init__()
        self.register_buffer("q", (cells > 0).float() / (cells > 0).sum())


def group_dro(facts, lam):
    """Group DRO (Sagawa et al. 2020, algorithm 1): the loss is Σ_c q_c ℓ_c over the cells c (class × group), ℓ_c a cell's mean
    cross-entropy; before each step q_c ← q_c · exp(λ·ℓ_c), normalised, so the worst cell comes to count most. λ is their step
    size η (.01 there). A cell that the batch lacks keeps its q, up to normalisation, and the cells that it has share the whole
    loss.

    As there, batches are drawn uniformly over cells, with replacement. The method's logit distillation has the same weights.
    As λ → 0 this is balanced sampling; at λ = 0 there is no debiaser. Shares weigh; unknown groups keep their part of the
    epoch and weight 1."""
    cells, state = facts["cells"], CellWeights(facts["cells"])
    classes, groups = facts["num_classes"], facts["num_groups"]

    @torch.no_grad()
    def weights(output, batch):
        member = membership(batch.group, batch.share, groups)
        each = F.cross_entropy(output.logits, batch.labels, reduction="none")
        loss, count = cell_means(each, batch.labels, member, classes)
        state.q.mul_(torch.exp(lam * (loss - loss.max())))
        state.q.div_(state.q.sum())
        here = count > 0
        table = member.sum() * state.q / torch.where(here, count, 1) / torch.where(here, state.q, 0).sum()
        return of_cells(table, batch.labels, member)

    member = membership(facts["group"], facts["share"], groups)
    table = cells.sum() / ((cells > 0).sum() * cells.clamp(min=1))
    order = _drawn(of_cells(table.cpu(), facts["labels"], member))
    return dict(weights=weights, order=order, module=state, report=lambda: {"largest_q": state.q.max().item()})


def bias_mimicking(facts, *, largest=20.0):
    """Bias Mimicking (Qraitem et al., CVPR 2023): K binary classifiers on the shared backbone, the c-th trained on all of
    class c and on as much of each other class as can be had with class c's own distribution over groups, so that in its
    training set the group says nothing about the label. The decision is a further linear layer's, on an embedding through
    which no gradient returns.

    Each epoch's draw is replaced by its expectation: in classifier c's loss a sample of class y ≠ c and group g weighs
    P(g | c)/P(g | y), over the largest such ratio of y; half a sample is added to each cell, so that none is empty. The
    last layer learns from the method's terms with `reweight`'s weights (in the authors' code, one of three ways). So of a
    teacher's logits the backbone learns nothing, of embeddings (RKD, KD++) it does. Shares weigh; an unknown group is
    left to the last layer. It has no strength."""
    cells, classes, groups = facts["cells"], facts["num_classes"], facts["num_groups"]
    kept = mimicked(cells)
    head, binary = (nn.Linear(facts["embedding_dim"], classes).to(facts["device"]) for _ in range(2))

    def select(output, batch):
        return Output(head(output.embedding.detach()), output.embedding)

    def terms(output, batch, method_terms):
        member = membership(batch.group, batch.share, groups)
        weights = (kept[:, batch.labels] * member).sum(2).T  # (N, K)
        target = one_hot(batch.labels, classes)
        loss = F.binary_cross_entropy_with_logits(binary(output.embedding), target, weights, reduction="sum")
        return {"binary": loss / weights.sum().clamp(min=1)}

    return dict(head=head, select=select, terms=terms, module=binary) | reweight(facts, largest=largest)


def mimicked(cells) -> torch.Tensor:
    """(K, K, G): how much of cell (y, g) classifier c keeps, [c, y, g], at most 1; all of its own class. cells (K, G)."""
    within = (cells + 0.5) / (cells + 0.5).sum(1, keepdim=True)
    ratio = within[:, None] / within[None]
    return ratio / ratio.amax(2, keepdim=True)


def dfr(facts, *, strength=1.0):
    """Deep feature reweighting (Kirichenko et al., ICLR 2023) as a last step: the backbone is frozen and the last layer fitted
    anew, as a logistic regression in which every cell weighs the same, on embeddings that it was not trained on.

    These are half of the validation split, cut by class and group, always the same half. The other half remains as
    validation, and nothing else is known of a run's validation afterwards: so a run with this debiaser has figures of
    validation over half as many pictures, and the network is the better for pictures which others do not learn from.
    Weights stand in for the published average over balanced subsets, as cells may hold one picture; the penalty is
    ½‖W‖² / (strength · N) on standardised embeddings. The whole group counts (a share is rounded by the data set); an
    unknown one is left out. It has no strength."""

    def finish(embedding, labels, group, share):
        used, _ = stratified_cut(labels.cpu().numpy(), group.cpu().numpy(), 0.5, 0)
        rows = torch.zeros(len(labels), dtype=torch.bool, device=labels.device)
        rows[torch.from_numpy(used).to(labels.device)] = True
        known = rows & (group >= 0)
        member = membership(group[known], None, facts["num_groups"])
        cells = cell_counts(labels[known], member, facts["num_classes"])
        weights = of_cells(1 / cells, labels[known], member)
        return fitted_head(embedding[known], labels[known], weights, facts["num_classes"], strength), rows

    return dict(finish=finish)


def fitted_head(embedding, labels, weights, num_classes, strength) -> nn.Linear:
    """The logistic regression of labels (N,) on embedding (N, d), weights (N,): it minimises Σ w·CE / Σ w +
    ‖W‖² / (2 · strength · N), W being the slopes on standardised embeddings, by L-BFGS in float64."""
    values, labels, weights = embedding.detach().double(), labels, weights.double() / weights.sum()
    mean, spread = values.mean(0), values.std(0).clamp(min=1e-6)
    standard = (values - mean) / spread
    slope = standard.new_zeros(num_classes, standard.shape[1], requires_grad=True)
    offset = standard.new_zeros(num_classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([slope, offset], max_iter=500, tolerance_grad=1e-7, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        error = F.cross_entropy(F.linear(standard, slope, offset), labels, reduction="none")
        total = (weights * error).sum() + slope.square().sum() / (2 * strength * len(labels))
        total.backward()
        return total

    optimizer.step(loss)
    head = nn.Linear(standard.shape[1], num_classes).to(embedding.device)
    with torch.no_grad():
        head.weight.copy_(slope / spread)
        head.bias.copy_(offset - (slope / spread) @ mean)
    return head


def _drawn(weights):
    """order(seed, epoch): as many samples as there are weights (N,), drawn with replacement in proportion to them."""
    weights = weights.double().cpu()
    share = (weights / weights.sum()).numpy()

    def order(seed, epoch):
        generator = np.random.default_rng([seed, epoch, 2])
        return torch.from_numpy(generator.choice(len(share), len(share), p=share))

    return order
