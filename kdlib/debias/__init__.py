"""A debiaser: what is added to a student's (or teacher's) objective, sampling or head. Any one combines with any method.

`build_debiaser(name, …)` returns a Debiaser of optional parts; the training loop uses those that are there:

    head      module that takes the place of the model's classifier, built before training
    select    (output, batch) -> Output: whose logits the losses see
    teacher   (teacher's output, batch) -> Output: the teacher that the losses see
    weights   (output, batch) -> (N,): factor of each sample's loss
    terms     (output, batch, terms) -> dict: further loss terms, already weighted; `terms` are the method's
    order     (seed, epoch) -> int64 indices: the samples of an epoch, where sampling is what changes
    backward  (loss, parameters) -> None: in place of loss.backward(), leaves gradients in the model's parameters
    finish    (embedding, labels, group, share) -> (head, used): after training, another head, fitted on the rows `used` of
              the validation split, which are then no longer part of it
    module    its own parameters and state, kept in checkpoints and trained with the model's, unless it has
    optimizer for them, kept in checkpoints, which it steps itself
    report    () -> dict: figures to log that are not losses
    needs_embedding  whether it reads the teacher's embedding, which is None where nobody does

`batch` is a `groups.Batch`: labels, group, share and the teacher's output. A debiaser with a strength is no debiaser at
λ = 0: build_debiaser returns None, so such a run is plain distillation bit for bit. `weights` and `terms` see float32 and
run with autocast off.

To add one: a builder that returns a dict of parts, and an entry in DEBIASERS. It takes `facts` (labels, group and share of
the training split, cells, num_classes, num_groups, embedding_dim, device), `lam` if it has a strength, and `teacher` if it
needs one."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

from kdlib.debias import adversaries, balancing, matching, priors
from kdlib.debias.balancing import GroupHeads
from kdlib.debias.groups import Batch, batch_disparity, cell_counts, cell_weights, membership
from kdlib.losses import at_least_float32
from kdlib.models import Output
from kdlib.names import unknown_name

__all__ = ["DEBIASERS", "Batch", "Debiaser", "GroupHeads", "Teacher", "batch_disparity", "build_debiaser", "cell_weights",
           "check", "has_strength", "needs_teacher"]  # fmt: skip


@dataclass(frozen=True)
class Debiaser:
    """Parts as the module says; those that are None change nothing."""

    head: nn.Module | None = None
    select: Callable | None = None
    teacher: Callable | None = None
    weights: Callable | None = None
    terms: Callable | None = None
    order: Callable | None = None
    backward: Callable | None = None
    finish: Callable | None = None
    module: nn.Module | None = None
    optimizer: torch.optim.Optimizer | None = None
    report: Callable = dict
    needs_embedding: bool = False


class Teacher(NamedTuple):
    """What a debiaser may know of the teacher before training: the width of its embedding, and `outputs()`, its Output on the
    whole training split without augmentation."""

    embedding_dim: int
    outputs: Callable


def check(name, lam, *, distilled=True):
    """Raise ValueError unless `name` is a debiaser, `lam` a strength that it takes, and the run is `distilled` if it needs a
    teacher."""
    if name not in DEBIASERS:
        raise unknown_name(name, DEBIASERS, "debiaser")
    if not 0 <= lam < float("inf"):
        raise ValueError(f"λ is a strength, zero or more and finite; got {lam}")
    if lam and not has_strength(name):
        raise ValueError(f"debiaser {name!r} has no strength, so it takes no λ; got λ = {lam}, leave it at 0")
    if needs_teacher(name) and not distilled:
        raise ValueError(f"debiaser {name!r} works on what a teacher says, and a network trained alone has none")


def has_strength(name) -> bool:
    """Whether the debiaser takes a λ (and is none at λ = 0)."""
    return "lam" in _parameters(name)


def needs_teacher(name) -> bool:
    """Whether the debiaser is for students only."""
    return "teacher" in _parameters(name)


def build_debiaser(
    name, *, lam=0.0, labels, group, share=None, num_classes, num_groups, embedding_dim, teacher=None, device="cpu"
):
    """The debiaser `name` with strength `lam`, or None where that is no debiaser.

    labels, group: int64 (N,) of the whole training split; share: float (N,) or None; teacher: a Teacher, for a debiaser that
    needs one. Raises ValueError for an unknown name, a λ that it cannot take, a training split without two known groups,
    and data that it cannot work with."""
    check(name, lam, distilled=teacher is not None)
    if DEBIASERS[name] is None or (has_strength(name) and lam == 0):
        return None
    present = sorted(set(group[group >= 0].tolist()))
    if len(present) < 2:
        raise ValueError(f"debiaser {name!r} needs two known groups in the training split, found {present}")
    member = membership(group, share, num_groups)
    cells = cell_counts(labels, member, num_classes)
    if not ((cells > 0).sum(1) > 1).any():
        raise ValueError(
            f"debiaser {name!r} needs a class with images of two groups in the training split; each has one"
        )
    facts = dict(labels=labels, group=group, share=share, cells=cells.to(device))
    facts |= dict(num_classes=num_classes, num_groups=num_groups, embedding_dim=embedding_dim, device=device)
    options = {"lam": lam, "teacher": teacher}
    parts = DEBIASERS[name](facts, **{key: value for key, value in options.items() if key in _parameters(name)})
    return Debiaser(**parts | {key: _in_float32(parts[key]) for key in ("weights", "terms") if key in parts})


def about(name) -> str:
    """What a debiaser does and where it is from, as Markdown."""
    builder = DEBIASERS[name]
    if isinstance(builder, functools.partial):
        options = ", ".join(f"{option} = {value}" for option, value in builder.keywords.items())
        return f"As `{builder.func.__name__}`, with {options}: " + inspect.getdoc(builder.func)
    return inspect.getdoc(builder) or "Nothing is done about bias."


def _parameters(name):
    return () if DEBIASERS[name] is None else inspect.signature(DEBIASERS[name]).parameters


def _in_float32(part):
    @functools.wraps(part)
    def run(output, *rest):
        with torch.autocast(rest[0].labels.device.type, enabled=False):
            output = output and Output(*(values if values is None else at_least_float32(values) for values in output))
            return part(output, *rest)

    return run


# raised when a debiaser does something else than before: its stored runs are then no longer found
REVISIONS = {"group_dro": 1, "resample": 1, "balanced_teacher": 1}
DEBIASERS = {
    "none": None,
    "critic": adversaries.critic,
    "critic_faithful": adversaries.critic_faithful,
    "adversary": adversaries.adversary,
    "adversary_embedding": adversaries.adversary_embedding,
    "adversary_conditional": adversaries.adversary_conditional,
    "adversary_embedding_conditional": adversaries.adversary_embedding_conditional,
    "projection": adversaries.projection,
    "gap_penalty": matching.gap_penalty,
    "mfd": matching.mfd,
    "logit_adjustment": priors.logit_adjustment,
    "balanced_teacher": priors.balanced_teacher,
    "domain_independent": balancing.domain_independent,
    "reweight": balancing.reweight,
    "resample": balancing.resample,
    "group_dro": balancing.group_dro,
    "bias_mimicking": balancing.bias_mimicking,
    "dfr": balancing.dfr,
}
