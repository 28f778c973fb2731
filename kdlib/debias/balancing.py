"""Debiasers that change how much each cell (class × group) counts, or which head decides: heads, weights, sampling.

The package's docstring describes what a builder takes and returns."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from kdlib.data import stratified_cut
from kdlib.debias.groups import balance, cell_counts, cell_means, cell_weights, membership, of_cells
from kdlib.debias.heads import GroupHeads, fitted_head
from kdlib.losses import one_hot
from kdlib.models import Output


def domain_independent(setting):
    """Train one classifier per group on a shared backbone (domain-independent training, Wang et al. 2020).

    In training a sample's losses see the head of its own group; at inference the heads' scores are summed. No strength.

    References
    ----------
    Wang et al. (2020). Towards fairness in visual recognition: effective strategies for bias mitigation. CVPR.
    """
    head = GroupHeads(setting["embedding_dim"], setting["num_classes"], setting["num_groups"]).to(setting["device"])

    def select(output, batch):
        return Output(head.of_group(output.embedding, batch.group, batch.share), output.embedding)

    return dict(head=head, select=select)


def reweight(setting, *, largest=20.0):
    """Weight each sample's cross-entropy and logit distillation by N_y / (G · N_{y,g}), at most 20.

    Groups then count equally within a class (Kamiran & Calders 2012). An unknown group has weight 1. No strength.

    Parameters
    ----------
    largest : float
        Upper limit of a weight.

    References
    ----------
    Kamiran, Calders (2012). Data preprocessing techniques for classification without discrimination. KAIS 33.
    """
    table = balance(setting["cells"], largest)

    def weights(output, batch):
        return of_cells(table, batch.labels, membership(batch.group, batch.share, setting["num_groups"]))

    return dict(weights=weights)


def resample(setting):
    """Draw the samples of an epoch with replacement so that each class is seen equally often in every group.

    The chances are proportional to `cell_weights` without an upper limit. No strength."""
    weights = cell_weights(
        setting["labels"], setting["group"], setting["num_groups"], largest=float("inf"), share=setting["share"]
    )
    return dict(order=lambda seed, epoch: draw(weights, seed=seed, epoch=epoch))


class CellWeights(nn.Module):
    """Group DRO's q, (K, G): a distribution over the cells that exist."""

    def __init__(self, cells):
        super().__init__()
        self.register_buffer("q", (cells > 0).float() / (cells > 0).sum())


def group_dro(setting, lam):
    """Minimise Σ_c q_c ℓ_c over the cells c, with q moved towards the worst cell (group DRO, Sagawa et al. 2020, algorithm 1).

    ℓ_c is the mean cross-entropy of a cell; before each step q_c ← q_c · exp(λ · ℓ_c), normalised. λ is the paper's step size
    η (.01 there). A cell that the batch lacks keeps its q, up to normalisation; the cells of the batch share the whole loss.

    As in the paper, batches are drawn uniformly over cells, with replacement. The method's logit distillation is weighted
    alike. As λ → 0 this is balanced sampling; at λ = 0 there is no debiaser. Shares are weights; samples of unknown groups
    keep their part of the epoch and have weight 1.

    References
    ----------
    Sagawa, Koh, Hashimoto, Liang (2020). Distributionally robust neural networks for group shifts. ICLR.
    """
    cells, state = setting["cells"], CellWeights(setting["cells"])
    classes, groups = setting["num_classes"], setting["num_groups"]

    @torch.no_grad()
    def weights(output, batch):
        member = membership(batch.group, batch.share, groups)
        losses = F.cross_entropy(output.logits, batch.labels, reduction="none")
        loss, count = cell_means(losses, batch.labels, member, classes)
        state.q.mul_(torch.exp(lam * (loss - loss.max())))
        state.q.div_(state.q.sum())
        in_batch = count > 0
        table = member.sum() * state.q / torch.where(in_batch, count, 1) / torch.where(in_batch, state.q, 0).sum()
        return of_cells(table, batch.labels, member)

    member = membership(setting["group"], setting["share"], groups)
    table = cells.sum() / ((cells > 0).sum() * cells.clamp(min=1))
    chances = of_cells(table.cpu(), setting["labels"], member)
    return dict(
        weights=weights,
        order=lambda seed, epoch: draw(chances, seed=seed, epoch=epoch),
        module=state,
        report=lambda: {"largest_q": state.q.max().item()},
    )


def bias_mimicking(setting, *, largest=20.0):
    """Train K binary classifiers, each on samples in which the group says nothing about its class (Bias Mimicking).

    In Bias Mimicking (Qraitem et al. 2023) the c-th classifier is trained on all of class c, and on as much of each other
    class as can be had with class c's distribution over groups. A further linear layer decides, on an embedding through
    which no gradient returns.

    Each epoch's draw is replaced by its expectation: in classifier c's loss a sample of class y ≠ c and group g weighs
    P(g | c) / P(g | y), divided by the largest such ratio of y; half a sample is added to each cell, so that none is empty.
    The last layer learns from the method's terms with `reweight`'s weights (one of three ways in the authors' code).
    The backbone therefore learns nothing from a teacher's logits, but does from embeddings (RKD, KD++). Shares are weights;
    samples of unknown groups train the last layer alone. No strength.

    Parameters
    ----------
    largest : float
        Upper limit of the last layer's weights.

    References
    ----------
    Qraitem, Saenko, Plummer (2023). Bias Mimicking: a simple sampling approach for bias mitigation. CVPR.
    """
    cells, classes, groups = setting["cells"], setting["num_classes"], setting["num_groups"]
    kept = mimicked(cells)
    head, binary = (nn.Linear(setting["embedding_dim"], classes).to(setting["device"]) for _ in range(2))

    def select(output, batch):
        return Output(head(output.embedding.detach()), output.embedding)

    def terms(output, batch, method_terms):
        member = membership(batch.group, batch.share, groups)
        weights = (kept[:, batch.labels] * member).sum(2).T  # (N, K)
        target = one_hot(batch.labels, classes)
        loss = F.binary_cross_entropy_with_logits(binary(output.embedding), target, weights, reduction="sum")
        return {"binary": loss / weights.sum().clamp(min=1)}

    return dict(head=head, select=select, terms=terms, module=binary) | reweight(setting, largest=largest)


def mimicked(cells) -> torch.Tensor:
    """Return how much of cell (y, g) classifier c keeps, (K, K, G) as [c, y, g]: at most 1; all of its own class.

    cells: (K, G), counts."""
    within = (cells + 0.5) / (cells + 0.5).sum(1, keepdim=True)
    ratio = within[:, None] / within[None]
    return ratio / ratio.amax(2, keepdim=True)


def dfr(setting, *, strength=1.0):
    """Refit the last layer on balanced held-out embeddings, after training (deep feature reweighting, Kirichenko et al. 2023).

    The backbone is frozen, and the last layer becomes a logistic regression in which every cell weighs the same, fitted on
    embeddings that the network was not trained on: half of the validation split, cut by class and group, always the same
    half. The other half remains as validation. So such a run reports validation over half as many images, and has learned
    from images that others do not learn from.

    Weights stand in for the published average over balanced subsets, since a cell may hold a single image. The penalty is
    ½‖W‖² / (strength · N) on standardised embeddings. The whole group counts (the data set rounds a share); samples of
    unknown groups are left out. No strength λ.

    Parameters
    ----------
    strength : float
        Inverse of the penalty, as scikit-learn's C per sample.

    Raises
    ------
    ValueError
        After training, where the half of validation has fewer than two images of known groups.

    References
    ----------
    Kirichenko, Izmailov, Wilson (2023). Last layer re-training is sufficient for robustness to spurious correlations. ICLR.
    """

    def finish(head, embedding, labels, group, share):
        rows = half_of_validation(labels, group)
        known = rows & (group >= 0)
        if known.sum() < 2:
            raise ValueError("debiaser 'dfr' needs validation images whose group is known")
        member = membership(group[known], None, setting["num_groups"])
        cells = cell_counts(labels[known], member, setting["num_classes"])
        weights = of_cells(1 / cells, labels[known], member)
        return fitted_head(embedding[known], labels[known], weights, setting["num_classes"], strength), rows

    return dict(finish=finish)


def half_of_validation(labels, group) -> torch.Tensor:
    """Return which rows a refit may use, bool (N,): half of them, cut by class and group, always the same half."""
    used, _ = stratified_cut(labels.cpu().numpy(), group.cpu().numpy(), 0.5, 0)
    rows = torch.zeros(len(labels), dtype=torch.bool, device=labels.device)
    rows[torch.from_numpy(used).to(labels.device)] = True
    return rows


def draw(weights, *, seed, epoch) -> torch.Tensor:
    """Return as many indices as there are weights (N,), int64, drawn with replacement in proportion to them."""
    weights = weights.double().cpu()
    generator = np.random.default_rng([seed, epoch, 2])
    return torch.from_numpy(generator.choice(len(weights), len(weights), p=(weights / weights.sum()).numpy()))
