"""Distillation losses: pure functions of tensors. Each returns a scalar, the mean over the batch, and is computed in at
least float32 with autocast off: half precision ruins relations and temperatures. The teacher's side gets no gradient.

Where `weights` (N,) is taken, it multiplies each sample's loss before the mean."""

import torch
import torch.nn.functional as F

_ANGLE_ENTRIES = 1 << 22  # angles held at a time: batches up to 161 images in one piece


def at_least_float32(tensor):
    """The tensor, as float32 where it is half precision."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _full_precision(*tensors):
    return tuple(at_least_float32(tensor) for tensor in tensors)


def _without_autocast(loss):
    def run(student, teacher, *args, **kwargs):
        with torch.autocast(student.device.type, enabled=False):
            return loss(*_full_precision(student, teacher.detach()), *args, **kwargs)

    run.__name__, run.__qualname__, run.__doc__, run.__wrapped__ = loss.__name__, loss.__qualname__, loss.__doc__, loss
    return run


def _same_shape(student, teacher, what):
    if student.shape != teacher.shape or student.dim() != 2:
        raise ValueError(
            f"student and teacher {what} must be (N, K) and alike, got {tuple(student.shape)} and {tuple(teacher.shape)}"
        )


def _same_batch(student, teacher):
    if student.dim() != 2 or teacher.dim() != 2 or len(student) != len(teacher):
        raise ValueError(
            "student and teacher embedding must be (N, d_student) and (N, d_teacher), "
            f"got {tuple(student.shape)} and {tuple(teacher.shape)}"
        )


def one_hot(labels, num_classes):
    """float32 (N, num_classes) of int64 labels (N,); a row of zeros for −1. torch's own checks the range, for which a step
    would wait."""
    return (labels[:, None] == torch.arange(num_classes, device=labels.device)).float()


def _weighted_mean(per_sample, weights):
    return per_sample.mean() if weights is None else (per_sample * weights).mean()


def cross_entropy(logits, labels, *, weights=None):
    """−log softmax(logits)[label]; logits (N, K), labels int64 (N,)."""
    with torch.autocast(logits.device.type, enabled=False):
        (logits,) = _full_precision(logits)
        if weights is None:
            return F.cross_entropy(logits, labels)
        return _weighted_mean(F.cross_entropy(logits, labels, reduction="none"), weights)


@_without_autocast
def kd_loss(student_logits, teacher_logits, *, temperature, weights=None):
    """T² · KL(softmax(teacher / T) ‖ softmax(student / T)) (Hinton et al. 2015, §2.1); logits (N, K).

    `temperature`: a positive number, or a tensor that broadcasts against (N, 1), through which gradients flow (CTKD).
    Raises ValueError for shapes that differ and for a temperature that is not positive."""
    _same_shape(student_logits, teacher_logits, "logits")
    if not torch.is_tensor(temperature) and not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    student = F.log_softmax(student_logits / temperature, dim=1)
    teacher = F.log_softmax(teacher_logits / temperature, dim=1)
    divergence = F.kl_div(student, teacher, reduction="none", log_target=True).sum(1, keepdim=True)
    return _weighted_mean((temperature**2 * divergence).squeeze(1), weights)


@_without_autocast
def rkd_distance_loss(student_embedding, teacher_embedding):
    """Smooth L1 between the matrices of pairwise distances, each divided by the mean of its positive entries
    (Park et al. 2019, eq. 4–6), over all N² pairs; embeddings (N, d), whose widths may differ.

    The student's mean is differentiated through. A batch of one, or of equal embeddings, has no relations: zero."""
    _same_batch(student_embedding, teacher_embedding)
    return F.smooth_l1_loss(relative_distances(student_embedding), relative_distances(teacher_embedding))


def relative_distances(embedding):
    """(N, N): Euclidean distances divided by the mean of the positive ones."""
    distances = torch.cdist(embedding, embedding, compute_mode="donot_use_mm_for_euclid_dist")
    mean = distances.sum() / (distances > 0).sum().clamp(min=1)
    return distances / mean.clamp(min=torch.finfo(mean.dtype).tiny)


@_without_autocast
def rkd_angle_loss(student_embedding, teacher_embedding):
    """Smooth L1 between the cosines of the angle at j in each triplet (i, j, k) (Park et al. 2019, eq. 7–8), over all
    N³ triplets; embeddings (N, d), whose widths may differ. Large batches go in pieces that are recomputed backward."""
    _same_batch(student_embedding, teacher_embedding)
    count = len(student_embedding)
    step = max(1, _ANGLE_ENTRIES // count**2)
    if step >= count:
        return _angle_sum(student_embedding, teacher_embedding, 0, count) / count**3
    pieces = [
        torch.utils.checkpoint.checkpoint(
            _angle_sum, student_embedding, teacher_embedding, j, min(j + step, count), use_reentrant=False
        )
        for j in range(0, count, step)
    ]
    return torch.stack(pieces).sum() / count**3


def _angle_sum(student, teacher, start, stop):
    return F.smooth_l1_loss(angles(student, start, stop), angles(teacher, start, stop), reduction="sum")


def angles(embedding, start=0, stop=None):
    """(stop − start, N, N): cosine of the angle at j = start … stop − 1 between the directions to i and to k; zero where
    either has no direction."""
    difference = embedding[None] - embedding[start:stop, None]
    norm = torch.linalg.vector_norm(difference, dim=2, keepdim=True)
    # 1/∞ where two embeddings coincide: no direction, and no infinite gradient
    unit = difference * norm.masked_fill(norm == 0, float("inf")).reciprocal()
    return unit @ unit.transpose(1, 2)


@_without_autocast
def nd_loss(student_embedding, teacher_embedding, class_means, labels):
    """KD++'s norm-and-direction term (Wang et al. 2023): mean of 1 − ⟨s, ê⟩ / max(‖s‖, ‖t‖), with ê the unit class mean.

    student_embedding, teacher_embedding (N, d); class_means (K, d), the teacher's per class; labels int64 (N,).
    In [0, 2]. Raises ValueError for widths or lengths that differ."""
    _same_shape(student_embedding, teacher_embedding, "embedding")
    if class_means.dim() != 2 or class_means.shape[1] != student_embedding.shape[1]:
        raise ValueError(
            f"class means must be (classes, {student_embedding.shape[1]}), as wide as the embedding; "
            f"got {tuple(class_means.shape)}"
        )
    if len(labels) != len(student_embedding):
        raise ValueError(f"{len(student_embedding)} embeddings but {len(labels)} labels")
    direction = F.normalize(class_means.to(student_embedding.dtype), dim=1)[labels]
    norms = torch.stack([student_embedding.norm(dim=1), teacher_embedding.norm(dim=1)])
    larger = norms.amax(0).clamp(min=torch.finfo(norms.dtype).tiny)
    return (1 - (student_embedding * direction).sum(1) / larger).mean()


@_without_autocast
def dkd_loss(student_logits, teacher_logits, labels, *, alpha, beta, temperature, weights=None):
    """α · TCKD + β · NCKD, times T² (Zhao et al. 2022, eq. 7): KL between target / not-target probabilities, and KL among
    the classes that are not the target. logits (N, K), labels int64 (N,). With K = 2 the second is zero."""
    _same_shape(student_logits, teacher_logits, "logits")
    student_target, student_others = _decouple(student_logits / temperature, labels)
    teacher_target, teacher_others = _decouple(teacher_logits / temperature, labels)
    target = F.kl_div(student_target, teacher_target, reduction="none", log_target=True).sum(1)
    others = F.kl_div(student_others, teacher_others, reduction="none", log_target=True).sum(1)
    return _weighted_mean(temperature**2 * (alpha * target + beta * others), weights)


def _decouple(logits, labels):
    """Log-probabilities (N, 2) of target and not-target, and (N, K − 1) among the others."""
    columns = torch.arange(logits.shape[1] - 1, device=logits.device).expand(len(logits), -1)
    others = logits.gather(1, columns + (columns >= labels[:, None]))
    binary = torch.cat([logits.gather(1, labels[:, None]), others.logsumexp(1, keepdim=True)], dim=1)
    return F.log_softmax(binary, dim=1), F.log_softmax(others, dim=1)


@_without_autocast
def group_mmd_loss(student_embedding, teacher_embedding, labels, member, num_classes):
    """Σ over classes k and groups g of MMD²(teacher's embeddings of class k, student's of class k in group g), half of it (MFD,
    Jung et al. 2021): the student's distribution in each group is drawn to one target that knows no group.

    student_embedding, teacher_embedding (N, d); labels int64 (N,); member (N, G): how much a sample is in each group. RBF
    kernel exp(−‖a − b‖²/2σ²), σ² the batch's mean squared distance between the two networks' embeddings, as constant; means
    over all pairs of a cell, each sample with itself included. Empty cells count as 0."""
    _same_shape(student_embedding, teacher_embedding, "embedding")
    both = torch.cat([student_embedding, teacher_embedding])
    square = both.square().sum(1)
    distance = (square[:, None] + square - 2 * both @ both.T).clamp(min=0)
    count = len(labels)
    kernel = torch.exp(-distance / (2 * distance[:count, count:].mean().detach()).clamp(min=1e-12))
    in_class = one_hot(labels, num_classes).to(member.dtype)
    cell = (in_class[:, :, None] * member[:, None]).flatten(1)  # (N, K·G)
    there = cell.sum(0) > 0
    of_student, of_teacher = (part / torch.where(part.sum(0) > 0, part.sum(0), 1) for part in (cell, in_class))
    of_teacher = of_teacher.repeat_interleave(member.shape[1], dim=1)
    # the mean of one minus the mean of the other in the kernel's space; its squared norm
    difference = torch.cat([of_student, -of_teacher])
    return torch.where(there, ((kernel @ difference) * difference).sum(0), 0).sum() / 2


class _ReverseGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values, scale):
        ctx.scale = scale
        return values.view_as(values)

    @staticmethod
    def backward(ctx, gradient):
        return -ctx.scale * gradient, None


def reverse_gradient(values, scale=1.0):
    """`values` unchanged; their gradient times −scale (Ganin & Lempitsky 2015). What descends the loss behind this
    ascends it before."""
    return _ReverseGradient.apply(values, scale)
