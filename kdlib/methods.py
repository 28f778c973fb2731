"""A distillation method: which losses, with which weights, on what schedule.

`build_method(name, …)` returns a Method whose `terms(student, teacher, labels, epoch, weights=None)` gives a dict of
named, already weighted loss terms; the training loop sums them and knows nothing of any method. `student` and `teacher`
are Outputs (logits, embedding); epochs count from 1; `weights` (N,) or None multiplies each sample's cross-entropy and
logit-distillation loss (relations between samples, and norm and direction, have no sample of their own to weigh).

To add a method: one loss in `losses.py`, one builder here, one entry in METHODS."""

import functools
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from kdlib import losses
from kdlib.names import unknown_name


@dataclass(frozen=True)
class Method:
    """`terms` as the module says; `needs_embedding`: whether they read the teacher's embedding: where not, it is None;
    `module` holds the method's own parameters, which train with the student's; `report()` gives figures to log that are not
    losses."""

    terms: Callable
    needs_teacher: bool = True
    needs_embedding: bool = True
    module: nn.Module | None = None
    report: Callable = dict


def build_method(name, *, student_dim=None, teacher_dim=None, class_means=None, num_classes=None, **options) -> Method:
    """The method `name` with its published settings, or with `options` in their place (see each builder).

    student_dim, teacher_dim: widths of the embeddings; class_means: (classes, teacher_dim) tensor, or a function that returns
    it, for KD++; num_classes: for instance-wise CTKD.
    Raises ValueError for an unknown name or option."""
    if name not in METHODS:
        raise unknown_name(name, METHODS, "method")
    known = method_options(name)
    for option in options:
        if option not in known:
            raise unknown_name(option, sorted(known), f"option of method {name}:")
    context = dict(student_dim=student_dim, teacher_dim=teacher_dim, class_means=class_means, num_classes=num_classes)
    return METHODS[name](context, **options)


def needs_embedding(name) -> bool:
    """Return whether the method reads the teacher's embedding."""
    context = {"student_dim": 2, "teacher_dim": 2, "num_classes": 2, "class_means": torch.zeros(2, 2)}
    return METHODS[name](context).needs_embedding


def method_options(name) -> dict:
    """The options of a method and their published values."""
    parameters = inspect.signature(METHODS[name]).parameters
    return {option: parameter.default for option, parameter in parameters.items() if option != "context"}


def curriculum_weight(epoch, *, loops=10) -> float:
    """CTKD's λ: ½(1 − cos(π·min(epoch, loops)/loops)), from .0245 at epoch 1 to 1 from epoch `loops` (Li et al. 2023)."""
    return 0.5 * (1 - math.cos(math.pi * min(epoch, loops) / loops))


def warm_up(epoch, epochs) -> float:
    """min(1, e / epochs) with e counted from 0, so 0 in the first epoch; 1 where there is no warm-up."""
    return min(1.0, (epoch - 1) / epochs) if epochs else 1.0


class CurriculumTemperature(nn.Module):
    """CTKD's global temperature t_start + t_range · σ(θ), θ₀ = 1 (Li et al. 2023, eq. 6).

    `forward(weight)` returns it as a scalar tensor; θ gets its gradient reversed and scaled by `weight`, so the step that
    lowers the loss for the student raises it for θ."""

    def __init__(self, t_start=1.0, t_range=20.0):
        super().__init__()
        if not (t_start > 0 and t_range > 0):
            raise ValueError(f"t_start and t_range must be positive, got {t_start} and {t_range}")
        self.t_start, self.t_range = t_start, t_range
        self.theta = nn.Parameter(torch.ones(()))

    def forward(self, weight):
        return self.t_start + self.t_range * torch.sigmoid(losses.reverse_gradient(self.theta, weight))


class InstanceTemperature(nn.Module):
    """CTKD's instance-wise temperature (Li et al. 2023, §3.3): t_start + t_range · σ(MLP(teacher's and student's logits)).

    `forward(student_logits, teacher_logits, weight)` -> (N, 1); logits (N, K), read without gradient, so the temperature
    trains the MLP alone; the MLP's gradient is reversed and scaled by `weight`, as the global temperature's is."""

    def __init__(self, num_classes, hidden=128, t_start=1.0, t_range=20.0):
        super().__init__()
        self.t_start, self.t_range = t_start, t_range
        self.layers = nn.Sequential(nn.Linear(2 * num_classes, hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def forward(self, student_logits, teacher_logits, weight):
        with torch.autocast(student_logits.device.type, enabled=False):
            logits = torch.cat([teacher_logits, student_logits], dim=1).detach().float()
            score = losses.reverse_gradient(self.layers(logits), weight)
            return self.t_start + self.t_range * torch.sigmoid(score)


def scratch(context):
    """The student alone (and every teacher): cross-entropy."""

    def terms(student, teacher, labels, epoch, weights=None):
        return {"ce": losses.cross_entropy(student.logits, labels, weights=weights)}

    return Method(terms, needs_teacher=False, needs_embedding=False)


def ckd(context, *, ce=0.1, kd=0.9, temperature=4.0):
    """Classic distillation (Hinton et al. 2015)."""

    def terms(student, teacher, labels, epoch, weights=None):
        divergence = losses.kd_loss(student.logits, teacher.logits, temperature=temperature, weights=weights)
        return {"ce": ce * losses.cross_entropy(student.logits, labels, weights=weights), "kd": kd * divergence}

    return Method(terms, needs_embedding=False)


def rkd(context, *, ce=1.0, distance=25.0, angle=50.0, kd=0.0, temperature=4.0, normalize=False):
    """Relational distillation (Park et al. 2019) as the benchmarks weigh it, on the raw embeddings, with no distillation
    term. Its author's recipe, `rkd_author`, takes embeddings of length one and adds 16 · KL at T = 4.

    `kd` multiplies T² · KL, as in every method here: the author's 16 · KL at T = 4 is kd = 1."""

    def terms(student, teacher, labels, epoch, weights=None):
        embeddings = student.embedding, teacher.embedding
        if normalize:
            embeddings = tuple(F.normalize(losses.at_least_float32(embedding), dim=1) for embedding in embeddings)
        named = {
            "ce": ce * losses.cross_entropy(student.logits, labels, weights=weights),
            "distance": distance * losses.rkd_distance_loss(*embeddings),
            "angle": angle * losses.rkd_angle_loss(*embeddings),
        }
        if kd:
            divergence = losses.kd_loss(student.logits, teacher.logits, temperature=temperature, weights=weights)
            named["kd"] = kd * divergence
        return named

    return Method(terms)


def ctkd(context, *, ce=0.1, kd=0.9, loops=10):
    """Curriculum temperature (Li et al. 2023), global: one temperature that ascends the loss the student descends."""
    module = CurriculumTemperature()

    def terms(student, teacher, labels, epoch, weights=None):
        temperature = module(curriculum_weight(epoch, loops=loops))
        divergence = losses.kd_loss(student.logits, teacher.logits, temperature=temperature, weights=weights)
        return {"ce": ce * losses.cross_entropy(student.logits, labels, weights=weights), "kd": kd * divergence}

    return Method(terms, needs_embedding=False, module=module, report=lambda: {"temperature": module(0.0).item()})


def ctkd_instance(context, *, ce=0.1, kd=0.9, loops=10):
    """Curriculum temperature (Li et al. 2023), instance-wise: an MLP reads both logits and gives each sample its own."""
    if context["num_classes"] is None:
        raise ValueError("instance-wise CTKD needs num_classes, the width of the logits that its MLP reads")
    module, last = InstanceTemperature(context["num_classes"]), {}

    def terms(student, teacher, labels, epoch, weights=None):
        temperature = module(student.logits, teacher.logits, curriculum_weight(epoch, loops=loops))
        last["temperature"] = temperature.detach()
        divergence = losses.kd_loss(student.logits, teacher.logits, temperature=temperature, weights=weights)
        return {"ce": ce * losses.cross_entropy(student.logits, labels, weights=weights), "kd": kd * divergence}

    def report():
        return {"temperature": last["temperature"].mean().item(), "temperature_std": last["temperature"].std().item()}

    return Method(terms, needs_embedding=False, module=module, report=report)


def kdpp(context, *, ce=1.0, kd=1.0, nd=2.0, temperature=4.0, warmup=20):
    """KD++ (Wang et al. 2023): CKD plus the norm-and-direction term, which reads the teacher's class means. The
    distillation term warms up over `warmup` epochs; norm and direction does not."""
    means = _class_means(context)
    project = _projector(context)

    def terms(student, teacher, labels, epoch, weights=None):
        divergence = losses.kd_loss(student.logits, teacher.logits, temperature=temperature, weights=weights)
        return {
            "ce": ce * losses.cross_entropy(student.logits, labels, weights=weights),
            "kd": kd * warm_up(epoch, warmup) * divergence,
            "nd": nd * losses.nd_loss(project(student.embedding), teacher.embedding, means, labels),
        }

    return Method(terms, module=_trained(project))


def dkd(context, *, ce=1.0, alpha=1.0, beta=8.0, temperature=4.0, warmup=20):
    """Decoupled distillation (Zhao et al. 2022), the control. It warms up as min(1, epoch / 20) with epochs from 1, as its
    code does; KD++, and DKD within it, count from 0."""
    return _decoupled(ce, alpha, beta, temperature, lambda epoch: min(1.0, epoch / warmup) if warmup else 1.0)


def _decoupled(ce, alpha, beta, temperature, ramp):
    def terms(student, teacher, labels, epoch, weights=None):
        divergence = losses.dkd_loss(
            student.logits, teacher.logits, labels, alpha=alpha, beta=beta, temperature=temperature, weights=weights
        )
        return {
            "ce": ce * losses.cross_entropy(student.logits, labels, weights=weights),
            "dkd": ramp(epoch) * divergence,
        }

    return Method(terms, needs_embedding=False)


def dkdpp(context, *, ce=1.0, nd=2.0, alpha=1.0, beta=8.0, temperature=4.0, warmup=20):
    """KD++'s norm-and-direction term added to DKD (Wang et al. 2023)."""
    means = _class_means(context)
    project = _projector(context)
    base = _decoupled(ce, alpha, beta, temperature, lambda epoch: warm_up(epoch, warmup))

    def terms(student, teacher, labels, epoch, weights=None):
        embedding = project(student.embedding)
        direction = losses.nd_loss(embedding, teacher.embedding, means, labels)
        return base.terms(student, teacher, labels, epoch, weights=weights) | {"nd": nd * direction}

    return Method(terms, module=_trained(project))


def _class_means(context):
    """Return the teacher's class means. Raises ValueError unless they are as wide as its embedding."""
    teacher_dim, class_means = context["teacher_dim"], context["class_means"]
    if callable(class_means):
        class_means = class_means()
    if class_means is None or class_means.shape[1] != teacher_dim:
        shape = None if class_means is None else tuple(class_means.shape)
        raise ValueError(f"KD++ needs the teacher's class means, (classes, {teacher_dim}); got {shape}")
    return class_means


def _projector(context):
    """Return what the norm-and-direction term sees of the student's embedding: itself, or BatchNorm, Dropout and Linear of it
    where the widths differ."""
    student_dim, teacher_dim = context["student_dim"], context["teacher_dim"]
    if student_dim == teacher_dim:
        return nn.Identity()
    return nn.Sequential(nn.BatchNorm1d(student_dim), nn.Dropout(0.5), nn.Linear(student_dim, teacher_dim))


def _trained(module):
    return module if any(True for _ in module.parameters()) else None


METHODS = {
    "scratch": scratch,
    "ckd": ckd,
    "rkd": rkd,
    "rkd_author": functools.partial(rkd, kd=1.0, normalize=True),
    "ctkd": ctkd,
    "ctkd_instance": ctkd_instance,
    "kdpp": kdpp,
    "dkd": dkd,
    "dkdpp": dkdpp,
}
