"""Debiasers that take out of logits what the training split's groups say about its classes.

Builders as `debias.py` says."""

import torch

from kdlib.debias.balancing import resample
from kdlib.debias.groups import membership
from kdlib.losses import at_least_float32
from kdlib.models import Output


def log_prior(cells) -> torch.Tensor:
    """(K, G): log P(g | k), estimated as (N_kg + ½) / (N_k + G/2), so that an empty cell is rare, not impossible."""
    return ((cells + 0.5) / (cells.sum(1, keepdim=True) + cells.shape[1] / 2)).log()


def logit_adjustment(facts, lam):
    """The cross-entropy reads z_k + λ·log P(g | k) in place of the student's logits z (Menon et al. 2021, with the group's
    part of the prior alone). A network fits p(k | x) ∝ p(x | k, g)·P(k)·P(g | k); at λ = 1 the last factor is given to it, so z
    learns what remains, in which the group says nothing about the class; z alone decides afterwards.

    Distillation is left as it is: the teacher's logits are moved by the same amount, so the student is still drawn to
    the teacher's own. `balanced_teacher` differs in that alone. With shares the shift is their mean of log P(g | k); an
    unknown group has none. The factor P(k) stays, so classes that are rare stay so."""
    move = _mover(facts, lam)
    return dict(select=move, teacher=move)


def balanced_teacher(facts, lam, teacher, *, prior_weight=10.0):
    """Distillation from a teacher that has been relieved of what the group says about the class.

    A teacher fitted to skewed data says z_T,k(x) = log p(x | k, g) + log P(k) + log P(g | k) + const: in the grey pictures
    of a set whose cats are coloured it holds cats for unlikely, and says so in all of its soft labels. In CKD these weigh
    .9·T², so correcting the labels' side alone (`logit_adjustment`, `resample`) leaves most of the bias. What only
    distillation has is that this mistake can be measured, and taken out of the targets before a student sees them:

        z̃_T(x, y, g) = z_T(x) − λ·D_y(g),   D_y(g) = ā + (n_y·(M_y(g) − M̄_y) + κ·(a(g) − ā)) / (n_y + κ),

    a_k(g) = log P(g | k) counted on the training split, ā its mean over groups; M_y(g) the teacher's mean logits over the
    training pictures of class y in group g, M̄_y their mean over groups; n_y the size of y's smallest cell. With κ = 0 and
    λ = 1 the group-conditional mean logits agree for every class, up to what Bayes' rule keeps (ā); with κ → ∞
    the correction is Bayes' rule alone, for a teacher that overstates nothing. κ = 10: where the rare cells hold a few
    pictures, which the teacher knows by heart, the prior speaks, where they hold many, the teacher's own shift.

    The teacher's embeddings, where the method reads them, lose λ·n_y/(n_y + κ) of their own deviation of group means (KD++
    reads their norm alone: its directions are the class means, which stay). Samples are drawn as in `resample`, so that the
    labels say nothing of the group either. As λ → 0 this is `resample`; at λ = 0 there is no debiaser. With shares, D is
    their mean; with an unknown group nothing is taken out."""
    labels, cells = facts["labels"].to(facts["device"]), facts["cells"]
    member = membership(facts["group"], facts["share"], facts["num_groups"]).to(facts["device"])
    logits, embedding = (group_deviation(part, labels, member, cells) for part in teacher.outputs())
    smallest = cells.amin(1)[:, None, None]
    trust = smallest / (smallest + prior_weight)
    prior = log_prior(cells).T
    shared = prior.mean(0)
    correction = lam * (shared + trust * logits + (1 - trust) * (prior - shared))
    moved = lam * trust * embedding

    def corrected(output, batch):
        member = membership(batch.group, batch.share, facts["num_groups"])[:, :, None]
        values = output.logits - (member * correction[batch.labels]).sum(1)
        if output.embedding is None:
            return Output(values, output.embedding)
        return Output(values, output.embedding - (member * moved[batch.labels]).sum(1))

    return dict(teacher=corrected) | resample(facts)


def group_deviation(values, labels, member, cells) -> torch.Tensor:
    """(K, G, D): the mean of values (N, D) over each cell, minus its mean over the groups that the class has; 0 in an empty
    cell. labels int64 (N,), member (N, G), cells (K, G)."""
    total = values.new_zeros(*cells.shape, values.shape[1]).index_add_(0, labels, member[:, :, None] * values[:, None])
    there = (cells > 0)[:, :, None]
    mean = total / torch.where(there, cells[:, :, None], 1)
    return torch.where(there, mean - mean.sum(1, keepdim=True) / there.sum(1, keepdim=True).clamp(min=1), 0)


def _mover(facts, lam):
    """(output, batch) -> Output with lam · log P(g | k) added to the logits, in float32."""
    table = lam * log_prior(facts["cells"])

    def move(output, batch):
        shift = membership(batch.group, batch.share, facts["num_groups"]) @ table.T
        return Output(at_least_float32(output.logits) + shift, output.embedding)

    return move
