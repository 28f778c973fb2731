"""Losses of logits."""

import math

import torch
import torch.nn.functional as F

from kdlib.losses.tensors import at_least_float32, check_same_shape, check_temperature, in_full_precision, weighted_mean


def cross_entropy(logits, labels, *, weights=None):
    """Return the cross-entropy of logits and labels.

    Parameters
    ----------
    logits : Tensor, (N, K)
    labels : int64 Tensor, (N,)
    weights : Tensor, (N,), optional

    Returns
    -------
    Tensor, scalar

    Notes
    -----
    −log softmax(logits)[label], mean over the batch.
    """
    with torch.autocast(logits.device.type, enabled=False):
        logits = at_least_float32(logits)
        if weights is None:
            return F.cross_entropy(logits, labels)
        return weighted_mean(F.cross_entropy(logits, labels, reduction="none"), weights)


@in_full_precision
def kd_loss(student_logits, teacher_logits, *, temperature, weights=None):
    """Return the classic distillation loss: the divergence of softened probabilities.

    Parameters
    ----------
    student_logits, teacher_logits : Tensor, (N, K)
    temperature : float or Tensor
        Positive. A tensor broadcasts against (N, 1), and gradients flow through it (CTKD).
    weights : Tensor, (N,), optional

    Returns
    -------
    Tensor, scalar

    Raises
    ------
    ValueError
        For shapes that differ, or a temperature that is not positive.

    Notes
    -----
    T² · KL(softmax(teacher / T) ‖ softmax(student / T)), mean over the batch.

    References
    ----------
    Hinton, Vinyals & Dean, "Distilling the Knowledge in a Neural Network", 2015, §2.1.

    Examples
    --------
    >>> teacher = torch.tensor([[2.0, 1.0, 0.0], [0.0, 0.0, 4.0]])
    >>> student = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]])
    >>> print(f"{kd_loss(student, teacher, temperature=4):.5f}")
    1.45015
    """
    check_same_shape(student_logits, teacher_logits, "logits")
    check_temperature(temperature)
    student = F.log_softmax(student_logits / temperature, dim=1)
    teacher = F.log_softmax(teacher_logits / temperature, dim=1)
    divergence = F.kl_div(student, teacher, reduction="none", log_target=True).sum(1, keepdim=True)
    return weighted_mean((temperature**2 * divergence).squeeze(1), weights)


@in_full_precision
def standardized_kd_loss(student_logits, teacher_logits, *, temperature, weights=None):
    """Return the classic distillation loss of logits that are standardised first.

    The student matches the teacher's relations between logits, whatever their scale and shift.

    Parameters
    ----------
    student_logits, teacher_logits, temperature, weights
        As in `kd_loss`.

    Returns
    -------
    Tensor, scalar

    Raises
    ------
    ValueError
        For shapes that differ, or a temperature that is not positive.

    Notes
    -----
    kd_loss(Z(student), Z(teacher)) with Z(z) = (z − mean z) / sd z over the K logits of a sample. As in the authors' code, sd
    divides by K − 1. A row of equal logits gives zeros and gets no gradient.

    References
    ----------
    Sun et al., "Logit Standardization in Knowledge Distillation", CVPR 2024.

    Examples
    --------
    >>> teacher = torch.tensor([[2.0, 1.0, 0.0], [0.0, 0.0, 4.0]])
    >>> print(f"{abs(standardized_kd_loss(3 * teacher + 5, teacher, temperature=2)):.5f}")
    0.00000
    """
    check_same_shape(student_logits, teacher_logits, "logits")
    logits = (_standardized(student_logits), _standardized(teacher_logits))
    return kd_loss(*logits, temperature=temperature, weights=weights)


@in_full_precision
def dkd_loss(student_logits, teacher_logits, labels, *, alpha, beta, temperature, weights=None):
    """Return the decoupled distillation loss: one divergence for the target, one among the other classes.

    Parameters
    ----------
    student_logits, teacher_logits : Tensor, (N, K)
    labels : int64 Tensor, (N,)
    alpha, beta : float
        Weights of the two divergences.
    temperature : float
    weights : Tensor, (N,), optional

    Returns
    -------
    Tensor, scalar

    Raises
    ------
    ValueError
        For shapes that differ, or a temperature that is not positive.

    Notes
    -----
    T² · (α · TCKD + β · NCKD). TCKD is the KL divergence between the probabilities of target and not-target, NCKD that among
    the classes that are not the target, all softened by T. With K = 2, NCKD is zero.

    References
    ----------
    Zhao et al., "Decoupled Knowledge Distillation", CVPR 2022, eq. 7.

    Examples
    --------
    >>> teacher = torch.tensor([[2.0, 1.0, 0.0], [0.0, 0.0, 4.0]])
    >>> student = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]])
    >>> print(f"{dkd_loss(student, teacher, torch.tensor([0, 2]), alpha=1, beta=8, temperature=4):.5f}")
    2.38254
    """
    check_same_shape(student_logits, teacher_logits, "logits")
    check_temperature(temperature)
    student_target, student_others = _decouple(student_logits / temperature, labels)
    teacher_target, teacher_others = _decouple(teacher_logits / temperature, labels)
    target = F.kl_div(student_target, teacher_target, reduction="none", log_target=True).sum(1)
    others = F.kl_div(student_others, teacher_others, reduction="none", log_target=True).sum(1)
    return weighted_mean(temperature**2 * (alpha * target + beta * others), weights)


@in_full_precision
def dist_loss(student_logits, teacher_logits, *, beta, gamma, temperature, weights=None):
    """Return the DIST loss: one minus the correlations of softened probabilities, by sample and by class.

    Parameters
    ----------
    student_logits, teacher_logits : Tensor, (N, K)
    beta, gamma : float
        Weights of the relations between classes (within a sample) and between samples (within a class).
    temperature : float
    weights : Tensor, (N,), optional
        Factors of the samples in the first term; the second has no samples to weigh.

    Returns
    -------
    Tensor, scalar

    Raises
    ------
    ValueError
        For shapes that differ, or a temperature that is not positive.

    Notes
    -----
    T² · (β · mean_i (1 − ρ(p_i·, q_i·)) + γ · mean_k (1 − ρ(p_·k, q_·k))), with ρ Pearson's correlation, p = softmax(teacher /
    T) and q = softmax(student / T). A constant row or column, as in a batch of one, has ρ = 0 and gets no gradient.

    References
    ----------
    Huang et al., "Knowledge Distillation from A Stronger Teacher", NeurIPS 2022.

    Examples
    --------
    >>> teacher = torch.tensor([[2.0, 1.0, 0.0], [0.0, 0.0, 4.0]])
    >>> print(f"{abs(dist_loss(teacher + 5, teacher, beta=2, gamma=2, temperature=4)):.3f}")
    0.000
    """
    check_same_shape(student_logits, teacher_logits, "logits")
    check_temperature(temperature)
    student = F.softmax(student_logits / temperature, dim=1)
    teacher = F.softmax(teacher_logits / temperature, dim=1)
    by_sample = weighted_mean(1 - _correlation(student, teacher), weights)
    by_class = (1 - _correlation(student.T, teacher.T)).mean()
    return temperature**2 * (beta * by_sample + gamma * by_class)


def _correlation(student, teacher):
    """Pearson's correlation of each row; 0 where one of the two is constant."""
    student, student_norm, student_flat = _centred(student)
    teacher, teacher_norm, teacher_flat = _centred(teacher)
    norm = (student_norm * teacher_norm).masked_fill(student_flat | teacher_flat, float("inf"))
    return (student * teacher).sum(1) / (norm.squeeze(1) + 1e-8)  # as published: rows near zero count less


def _standardized(logits):
    """Rows with mean 0 and standard deviation 1; zeros for a constant row."""
    centred, norm, flat = _centred(logits)
    return math.sqrt(logits.shape[1] - 1) * centred / norm.masked_fill(flat, float("inf"))


def _centred(rows):
    """Rows minus their means, their norms (N, 1), and whether a row is constant up to rounding, so has no direction."""
    centred = rows - rows.mean(1, keepdim=True)
    norm = torch.linalg.vector_norm(centred, dim=1, keepdim=True)
    rounding = 10 * torch.finfo(rows.dtype).eps * torch.linalg.vector_norm(rows.detach(), dim=1, keepdim=True)
    return centred, norm, norm <= rounding


def _decouple(logits, labels):
    """Log-probabilities (N, 2) of target and not-target, and (N, K − 1) among the others."""
    columns = torch.arange(logits.shape[1] - 1, device=logits.device).expand(len(logits), -1)
    others = logits.gather(1, columns + (columns >= labels[:, None]))
    binary = torch.cat([logits.gather(1, labels[:, None]), others.logsumexp(1, keepdim=True)], dim=1)
    return F.log_softmax(binary, dim=1), F.log_softmax(others, dim=1)
