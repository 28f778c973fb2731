"""Debiasers that take out of logits what the training split's groups say about its classes.

Builders as `debias.py` says."""

import torch

from kdlib.groups import membership
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


def balanced_teacher(facts, lam, teacher):
    """Distillation from a teacher without the training split's group prior.

    A teacher fitted to skewed data says z_T,k(x) = log p(x | k, g) + log P(k) + log P(g | k) + const: in the grey pictures
    of a set whose cats are coloured it holds cats for unlikely, and says so in all of its soft labels. Weighted by .9·T²
    these outweigh any correction of the labels' cross-entropy. What only distillation has is that this mistake can be taken
    out of the targets before a student sees them: with a_k(g) = λ·log P(g | k),

        z̃_T = z_T − a(g),   and the losses are the method's own of   z_S + a(g)   beside   z̃_T + a(g) = z_T.

    So the student that is deployed, z_S alone, is drawn to z̃_T, and its cross-entropy to the labels' posterior under
    independent groups. The known prior is explained away in both, compared on the scale on which teacher and labels
    live. λ = 1 is Bayes' rule; larger values correct a teacher that overstates the prior.

    P(g | k) is counted on the training split. With shares the shift is their mean; an unknown group has none."""
    return dict(select=_mover(facts, lam))


def _mover(facts, lam):
    """(output, batch) -> Output with lam · log P(g | k) added to the logits, in float32."""
    table = lam * log_prior(facts["cells"])

    def move(output, batch):
        shift = membership(batch.group, batch.share, facts["num_groups"]) @ table.T
        return Output(at_least_float32(output.logits) + shift, output.embedding)

    return move
