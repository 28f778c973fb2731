"""A debiaser: what is added to a student's (or teacher's) objective, sampling or head. Any debiaser combines with any method.

`build_debiaser(name, …)` returns a Debiaser of optional parts; the training loop uses those that are given:

    head      module that takes the place of the model's classifier, built before training
    select    (output, batch) -> Output: whose logits the losses see
    teacher   (teacher's output, batch) -> Output: the teacher that the losses see
    weights   (output, batch) -> (N,): factor of each sample's loss
    terms     (output, batch, terms) -> dict: further loss terms, already weighted; `terms` are the method's
    order     (seed, epoch) -> int64 indices: the samples of an epoch, where sampling is what changes
    backward  (loss, parameters) -> None: in place of loss.backward(), leaves gradients in the model's parameters
    finish    (head, embedding, labels, group, share) -> (head, used): after training, another head in place of the trained
              one, fitted on the rows `used` (bool) of the validation split, which are then no longer part of it
    module    its own parameters and state, kept in checkpoints and trained with the model's, unless it has an
    optimizer for them, kept in checkpoints, which it steps itself
    report    () -> dict: figures to log that are not losses
    needs_embedding  whether it reads the teacher's embedding, which is None where nobody does

`batch` is a `groups.Batch`: labels, group, share and the teacher's output. A debiaser with a strength is no debiaser at
λ = 0: build_debiaser returns None, so such a run is plain distillation bit for bit. `weights` and `terms` see float32 and
run with autocast off.

To add one: a builder that returns a dict of parts, and an entry in DEBIASERS. The builder takes `setting`, a dict (labels,
group and share of the training split; cells, (K, G) counts; num_classes, num_groups, embedding_dim, epochs, device), `lam` if
it has a strength, and `teacher`, a Teacher, if it needs one."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

from kdlib.debias import adversaries, balancing, matching, priors, unlabelled
from kdlib.debias.groups import Batch, batch_disparity, cell_counts, cell_weights, membership
from kdlib.debias.heads import GroupHeads
from kdlib.losses import at_least_float32
from kdlib.models import Output
from kdlib.names import unknown_name

__all__ = ["DEBIASERS", "Batch", "Debiaser", "GroupHeads", "Teacher", "batch_disparity", "build_debiaser", "cell_weights",
           "check", "check_groups", "has_strength", "needs_groups", "needs_teacher"]  # fmt: skip


@dataclass(frozen=True)
class Debiaser:
    """The parts that the package's docstring lists; those that are None change nothing."""

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


READ_EMBEDDING = ("mfd", "dett")  # debiasers that read the teacher's embedding


class Teacher(NamedTuple):
    """What a debiaser may know of the teacher before training.

    Attributes
    ----------
    embedding_dim : int
        Width of its embedding.
    outputs : callable
        () -> Output on the whole training split, without augmentation.
    head : torch.nn.Module, optional
        Its last layer, from embeddings to logits; None where it is not at hand.
    held_out : callable, optional
        () -> Batch: the whole validation split, with the teacher's Output.
    """

    embedding_dim: int
    outputs: Callable
    head: nn.Module | None = None
    held_out: Callable | None = None


def check(name, lam, *, distilled=True):
    """Raise ValueError for an unknown debiaser, a strength that it cannot take, or a teacher that it needs and lacks.

    Parameters
    ----------
    name : str
    lam : float
        Strength λ; 0 where the debiaser has none.
    distilled : bool
        Whether the run has a teacher.
    """
    if name not in DEBIASERS:
        raise unknown_name(name, DEBIASERS, "debiaser")
    if not 0 <= lam < float("inf"):
        raise ValueError(f"λ is a strength, zero or more and finite; got {lam}")
    if lam and not has_strength(name):
        raise ValueError(f"debiaser {name!r} has no strength, so it takes no λ; got λ = {lam}, leave it at 0")
    if needs_teacher(name) and not distilled:
        raise ValueError(f"debiaser {name!r} works on a teacher's outputs, and a network trained alone has none")


def has_strength(name) -> bool:
    """Return whether the debiaser takes a λ (and is none at λ = 0)."""
    return "lam" in _parameters(name)


def needs_teacher(name) -> bool:
    """Return whether the debiaser is for distilled students only."""
    return "teacher" in _parameters(name)


def needs_groups(name) -> bool:
    """Return whether the debiaser reads group labels."""
    return inspect.getmodule(_function(name)) is not unlabelled


def build_debiaser(
    name, *, lam=0.0, labels, group, share=None, num_classes, num_groups, embedding_dim, teacher=None, epochs=None,
    device="cpu",
):  # fmt: skip
    """Return the debiaser `name` with strength `lam`, or None where that is no debiaser.

    Parameters
    ----------
    name : str
        One of DEBIASERS.
    lam : float
        Strength λ.
    labels, group : int64 (N,)
        Of the whole training split; group −1 where unknown.
    share : float (N,), optional
        Share of group 1, where the attribute is fractional.
    num_classes, num_groups, embedding_dim : int
        Of the data set and of the network that is trained.
    teacher : Teacher, optional
        For a debiaser that needs one.
    epochs : int, optional
        How long training takes, for a debiaser with stages.
    device : torch.device or str

    Returns
    -------
    Debiaser or None

    Raises
    ------
    ValueError
        For an unknown name, a λ that it cannot take, a training split without two known groups where it needs them, and data
        or a teacher that it cannot work with.
    """
    check(name, lam, distilled=teacher is not None)
    if DEBIASERS[name] is None or (has_strength(name) and lam == 0):
        return None
    cells = cell_counts(labels, membership(group, share, num_groups), num_classes)
    check_groups(name, group, cells)
    setting = dict(
        labels=labels, group=group, share=share, cells=cells.to(device), num_classes=num_classes, num_groups=num_groups,
        embedding_dim=embedding_dim, epochs=epochs, device=device,
    )  # fmt: skip
    options = {"lam": lam, "teacher": teacher}
    parts = DEBIASERS[name](setting, **{key: value for key, value in options.items() if key in _parameters(name)})
    return Debiaser(**parts | {key: _in_float32(parts[key]) for key in ("weights", "terms") if key in parts})


def about(name) -> str:
    """Return what a debiaser does and where it is from, as Markdown."""
    builder = DEBIASERS[name]
    if builder is None:
        return "Nothing is done about bias."
    text = inspect.getdoc(_function(name))
    for section in ("Parameters", "Raises", "References"):
        text = text.partition(f"\n\n{section}\n---")[0]
    if not isinstance(builder, functools.partial):
        return text
    options = ", ".join(f"{option} = {value}" for option, value in builder.keywords.items())
    return f"As `{builder.func.__name__}`, with {options}: {text}"


def _function(name):
    """Return the builder of a debiaser, without the options that its entry fixes."""
    return getattr(DEBIASERS[name], "func", DEBIASERS[name])


def _parameters(name):
    return () if DEBIASERS[name] is None else inspect.signature(DEBIASERS[name]).parameters


def check_groups(name, group, cells):
    """Raise ValueError if the debiaser needs groups, unless the training split has two known ones, and a class with both.

    group (N,) and cells (K, G), its counts by class, are tensors or arrays."""
    if DEBIASERS[name] is None or not needs_groups(name):
        return
    present = sorted(set(group[group >= 0].tolist()))
    if len(present) < 2:
        raise ValueError(f"debiaser {name!r} needs two known groups in the training split, found {present}")
    if not ((cells > 0).sum(1) > 1).any():
        raise ValueError(
            f"debiaser {name!r} needs a class with images of two groups in the training split; each has one"
        )


def _in_float32(part):
    """Return `part` with its output in float32 and autocast off."""

    @functools.wraps(part)
    def run(output, *rest):
        with torch.autocast(rest[0].labels.device.type, enabled=False):
            output = output and Output(*(values if values is None else at_least_float32(values) for values in output))
            return part(output, *rest)

    return run


# raised when a debiaser does something else than before: its stored runs are then no longer found
REVISIONS = {
    "group_dro": 1, "resample": 1, "logit_adjustment": 1, "balanced_teacher": 2, "balanced_teacher_measured": 1,
    "balanced_teacher_unsampled": 1, "ltkd": 1,
}  # fmt: skip
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
    "dett": matching.dett,
    "logit_adjustment": priors.logit_adjustment,
    "balanced_teacher": priors.balanced_teacher,
    "balanced_teacher_measured": functools.partial(priors.balanced_teacher, prior_weight=0.0),
    "balanced_teacher_prior": functools.partial(priors.balanced_teacher, prior_weight=float("inf")),
    "balanced_teacher_unsampled": functools.partial(priors.balanced_teacher, resampled=False),
    "ltkd": priors.ltkd,
    "teachers_pet": priors.teachers_pet,
    "domain_independent": balancing.domain_independent,
    "reweight": balancing.reweight,
    "resample": balancing.resample,
    "group_dro": balancing.group_dro,
    "bias_mimicking": balancing.bias_mimicking,
    "dfr": balancing.dfr,
    "jtt": unlabelled.jtt,
    "afr": unlabelled.afr,
}
