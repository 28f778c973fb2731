"""A distillation method: which losses, with which weights, on what schedule.

To add one: a loss in `losses`, a builder here, an entry in METHODS. A builder takes the `setting` of a run (student_dim,
teacher_dim, num_classes, class_means) and the method's options with their published values, and returns a Method."""

import functools
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from kdlib import losses
from kdlib.names import unknown_name


@dataclass(frozen=True)
class Method:
    """What the training loop knows of a method.

    Parameters
    ----------
    terms : callable
        terms(student, teacher, labels, epoch, weights=None) -> dict of named, already weighted loss terms, which the loop
        sums. student, teacher: Output (logits, embedding); epoch counts from 1; weights (N,) or None multiply each sample's
        cross-entropy and logit distillation. Relations between samples, and norm and direction, are not weighted.
    needs_teacher : bool
    needs_embedding : bool
        Whether the terms read the teacher's embedding; it is None otherwise.
    module : nn.Module, optional
        The method's own parameters, trained with the student's.
    report : callable
        report() -> dict of figures to log that are not losses.
    """

    terms: Callable
    needs_teacher: bool = True
    needs_embedding: bool = True
    module: nn.Module | None = None
    report: Callable = dict


def build_method(name, *, student_dim=None, teacher_dim=None, class_means=None, num_classes=None, **options) -> Method:
    """Return a method with its published options, or with those given.

    Parameters
    ----------
    name : str
        One of METHODS.
    student_dim, teacher_dim : int, optional
        Widths of the embeddings.
    class_means : Tensor (K, teacher_dim), or function that returns it, optional
        The teacher's mean embedding of each class, for KD++ and DKD++.
    num_classes : int, optional
        For instance-wise CTKD.
    **options
        See `method_options`.

    Raises
    ------
    ValueError
        For an unknown name or option, and where the method needs what is not given.
    """
    if name not in METHODS:
        raise unknown_name(name, METHODS, "method")
    known = sorted(method_options(name))
    for option in sorted(options.keys() - known):
        raise unknown_name(option, known, f"option of method {name}:")
    setting = dict(student_dim=student_dim, teacher_dim=teacher_dim, class_means=class_means, num_classes=num_classes)
    return METHODS[name](setting, **options)


def needs_embedding(name) -> bool:
    """Return whether a method reads the teacher's embedding."""
    sizes = dict(student_dim=2, teacher_dim=2, num_classes=2, class_means=torch.zeros(2, 2))
    return build_method(name, **sizes).needs_embedding


def method_options(name) -> dict:
    """Return the options of a method, {name: published value}.

    Examples
    --------
    >>> method_options("ckd")
    {'ce': 0.1, 'kd': 0.9, 'temperature': 4.0}
    """
    parameters = inspect.signature(METHODS[name]).parameters
    return {option: parameter.default for option, parameter in parameters.items() if option != "setting"}


def curriculum_weight(epoch, *, loops=10) -> float:
    """Return CTKD's λ: ½(1 − cos(π · min(epoch, loops) / loops)), with epochs from 1 (Li et al. 2023).

    Examples
    --------
    >>> [round(curriculum_weight(epoch), 4) for epoch in (1, 5, 10, 240)]
    [0.0245, 0.5, 1.0, 1.0]
    """
    return 0.5 * (1 - math.cos(math.pi * min(epoch, loops) / loops))


def warm_up(epoch, epochs) -> float:
    """Return min(1, (epoch − 1) / epochs), so 0 in the first epoch; 1 if `epochs` is 0."""
    return min(1.0, (epoch - 1) / epochs) if epochs else 1.0


class CurriculumTemperature(nn.Module):
    """CTKD's global temperature t_start + t_range · σ(θ), with θ = 1 at the start (Li et al. 2023, eq. 6).

    `forward(weight)` returns a scalar tensor. The gradient of θ is reversed and multiplied by `weight`, so the step that lowers
    the student's loss raises it in θ. Raises ValueError unless both numbers are positive."""

    def __init__(self, t_start=1.0, t_range=20.0):
        super().__init__()
        if not (t_start > 0 and t_range > 0):
            raise ValueError(f"t_start and t_range must be positive, got {t_start} and {t_range}")
        self.t_start, self.t_range = t_start, t_range
        self.theta = nn.Parameter(torch.ones(()))

    def forward(self, weight):
        return self.t_start + self.t_range * torch.sigmoid(losses.reverse_gradient(self.theta, weight))


class InstanceTemperature(nn.Module):
    """CTKD's instance-wise temperature t_start + t_range · σ(MLP(teacher's and student's logits)) (Li et al. 2023, §3.3).

    `forward(student_logits, teacher_logits, weight)` takes logits (N, K) and returns (N, 1). It reads the logits without
    gradient, so it trains the MLP alone, whose gradient is reversed and multiplied by `weight`."""

    def __init__(self, num_classes, hidden=128, t_start=1.0, t_range=20.0):
        super().__init__()
        self.t_start, self.t_range = t_start, t_range
        self.layers = nn.Sequential(nn.Linear(2 * num_classes, hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def forward(self, student_logits, teacher_logits, weight):
        with torch.autocast(student_logits.device.type, enabled=False):
            logits = torch.cat([teacher_logits, student_logits], dim=1).detach().float()
            score = losses.reverse_gradient(self.layers(logits), weight)
            return self.t_start + self.t_range * torch.sigmoid(score)


def scratch(setting):
    """The student alone, and every teacher: cross-entropy."""

    def terms(student, teacher, labels, epoch, weights=None):
        return {"ce": losses.cross_entropy(student.logits, labels, weights=weights)}

    return Method(terms, needs_teacher=False, needs_embedding=False)


def ckd(setting, *, ce=0.1, kd=0.9, temperature=4.0):
    """Classic distillation (Hinton et al. 2015), weighted as in the CRD benchmark (Tian et al. 2020)."""
    return _of_logits("kd", losses.kd_loss, ce, kd, temperature=temperature)


def logit_standardization(setting, *, ce=0.1, kd=9.0, temperature=2.0):
    """Classic distillation of standardised logits (Sun et al. 2024), with the weights and temperature of its authors' code."""
    return _of_logits("kd", losses.standardized_kd_loss, ce, kd, temperature=temperature)


def dist(setting, *, ce=1.0, beta=2.0, gamma=2.0, temperature=4.0):
    """DIST (Huang et al. 2022), with the weights and temperature of its authors' code for CIFAR-100."""
    return _of_logits("dist", losses.dist_loss, ce, 1.0, beta=beta, gamma=gamma, temperature=temperature)


def rkd(setting, *, ce=1.0, distance=25.0, angle=50.0, kd=0.0, temperature=4.0, normalize=False):
    """Relational distillation (Park et al. 2019) as benchmarks weigh it: raw embeddings, no logit distillation.

    The author's recipe, `rkd_author`, takes embeddings of length one and adds 16 · KL at T = 4. `kd` multiplies T² · KL, as in
    every method here, so that is kd = 1."""

    def terms(student, teacher, labels, epoch, weights=None):
        embeddings = student.embedding, teacher.embedding
        if normalize:
            embeddings = [nn.functional.normalize(losses.at_least_float32(one), dim=1) for one in embeddings]
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


def ctkd(setting, *, ce=0.1, kd=0.9, loops=10):
    """Curriculum temperature (Li et al. 2023), global: one temperature that ascends the loss the student descends."""
    module = CurriculumTemperature()

    def terms(student, teacher, labels, epoch, weights=None):
        temperature = module(curriculum_weight(epoch, loops=loops))
        return ckd(setting, ce=ce, kd=kd, temperature=temperature).terms(student, teacher, labels, epoch, weights)

    return Method(terms, needs_embedding=False, module=module, report=lambda: {"temperature": module(0.0).item()})


def ctkd_instance(setting, *, ce=0.1, kd=0.9, loops=10):
    """Curriculum temperature (Li et al. 2023), instance-wise: an MLP reads both logits and gives each sample its own."""
    if setting["num_classes"] is None:
        raise ValueError("instance-wise CTKD needs num_classes, the width of the logits that its MLP reads")
    module, last = InstanceTemperature(setting["num_classes"]), {}

    def terms(student, teacher, labels, epoch, weights=None):
        temperature = module(student.logits, teacher.logits, curriculum_weight(epoch, loops=loops))
        last["temperature"] = temperature.detach()
        return ckd(setting, ce=ce, kd=kd, temperature=temperature).terms(student, teacher, labels, epoch, weights)

    def report():
        return {"temperature": last["temperature"].mean().item(), "temperature_std": last["temperature"].std().item()}

    return Method(terms, needs_embedding=False, module=module, report=report)


def kdpp(setting, *, ce=1.0, kd=1.0, nd=2.0, temperature=4.0, warmup=20):
    """KD++ (Wang et al. 2023): distillation that warms up over `warmup` epochs, plus norm and direction from the start."""
    base = _of_logits("kd", losses.kd_loss, ce, kd, lambda epoch: warm_up(epoch, warmup), temperature=temperature)
    return _with_norm_and_direction(setting, base, nd)


def dkd(setting, *, ce=1.0, alpha=1.0, beta=8.0, temperature=4.0, warmup=20):
    """Decoupled distillation (Zhao et al. 2022), the control.

    It warms up as min(1, epoch / 20) with epochs from 1, as its code does; KD++, and DKD within it, count from 0."""

    def terms(student, teacher, labels, epoch, weights=None):
        loss = functools.partial(losses.dkd_loss, labels=labels, alpha=alpha, beta=beta, temperature=temperature)
        ramp = min(1.0, epoch / warmup) if warmup else 1.0
        return _of_logits("dkd", loss, ce, ramp).terms(student, teacher, labels, epoch, weights)

    return Method(terms, needs_embedding=False)


def dkdpp(setting, *, ce=1.0, nd=2.0, alpha=1.0, beta=8.0, temperature=4.0, warmup=20):
    """DKD with KD++'s norm and direction (Wang et al. 2023)."""
    decoupled = dkd(setting, ce=ce, alpha=alpha, beta=beta, temperature=temperature, warmup=warmup)

    def terms(student, teacher, labels, epoch, weights=None):
        return decoupled.terms(student, teacher, labels, epoch - 1, weights)

    return _with_norm_and_direction(setting, Method(terms), nd)


def _of_logits(name, loss, ce, weight, ramp=lambda epoch: 1.0, **options):
    """Return the Method with two terms: ce · cross-entropy, and weight · ramp(epoch) · a loss of both networks' logits."""

    def terms(student, teacher, labels, epoch, weights=None):
        value = loss(student.logits, teacher.logits, weights=weights, **options)
        entropy = losses.cross_entropy(student.logits, labels, weights=weights)
        return {"ce": ce * entropy, name: weight * ramp(epoch) * value}

    return Method(terms, needs_embedding=False)


def _with_norm_and_direction(setting, base, weight):
    """Return the Method with the terms of `base` and KD++'s norm and direction."""
    means, project = _class_means(setting), _projector(setting)

    def terms(student, teacher, labels, epoch, weights=None):
        direction = losses.nd_loss(project(student.embedding), teacher.embedding, means, labels)
        return base.terms(student, teacher, labels, epoch, weights) | {"nd": weight * direction}

    return Method(terms, module=project if any(True for _ in project.parameters()) else None)


def _class_means(setting):
    """Return the teacher's class means. Raises ValueError unless they are as wide as its embedding."""
    teacher_dim, class_means = setting["teacher_dim"], setting["class_means"]
    class_means = class_means() if callable(class_means) else class_means
    if class_means is None or class_means.shape[1] != teacher_dim:
        shape = None if class_means is None else tuple(class_means.shape)
        raise ValueError(f"KD++ needs the teacher's class means, (classes, {teacher_dim}); got {shape}")
    return class_means


def _projector(setting):
    """Return what gives the student's embedding the teacher's width: BatchNorm, Dropout, Linear; the identity if it has it."""
    student_dim, teacher_dim = setting["student_dim"], setting["teacher_dim"]
    if student_dim == teacher_dim:
        return nn.Identity()
    return nn.Sequential(nn.BatchNorm1d(student_dim), nn.Dropout(0.5), nn.Linear(student_dim, teacher_dim))


METHODS: dict[str, Callable[..., Method]] = {
    "scratch": scratch,
    "ckd": ckd,
    "rkd": rkd,
    "rkd_author": functools.partial(rkd, kd=1.0, normalize=True),
    "ctkd": ctkd,
    "ctkd_instance": ctkd_instance,
    "kdpp": kdpp,
    "dkd": dkd,
    "dkdpp": dkdpp,
    "dist": dist,
    "logit_standardization": logit_standardization,
}
