"""Losses of embeddings: relations between samples, norm and direction, and distributions by group."""

import torch
import torch.nn.functional as F

from kdlib.losses.tensors import check_same_batch, check_same_shape, in_full_precision, one_hot

_ANGLE_ENTRIES = 1 << 22  # angles held at a time: batches of up to 161 images in one piece


@in_full_precision
def rkd_distance_loss(student_embedding, teacher_embedding):
    """Return RKD's distance loss: the smooth L1 distance of relative pairwise distances.

    Parameters
    ----------
    student_embedding, teacher_embedding : Tensor, (N, d)
        The two widths may differ.

    Returns
    -------
    Tensor, scalar

    Raises
    ------
    ValueError
        For numbers of samples that differ.

    Notes
    -----
    Mean over all N² pairs of smooth_l1(‖s_i − s_j‖ / μ_s, ‖t_i − t_j‖ / μ_t), where μ is the mean of the positive distances;
    gradients flow through μ_s. A batch of one, or of equal embeddings, has no relations: the loss is zero.

    References
    ----------
    Park et al., "Relational Knowledge Distillation", CVPR 2019, eq. 4–6.

    Examples
    --------
    >>> teacher = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
    >>> equilateral = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, 0.75**0.5]])
    >>> print(f"{rkd_distance_loss(equilateral, teacher):.5f} {1 / 72:.5f}")
    0.01389 0.01389
    """
    check_same_batch(student_embedding, teacher_embedding)
    return F.smooth_l1_loss(relative_distances(student_embedding), relative_distances(teacher_embedding))


def relative_distances(embedding):
    """Return (N, N): the Euclidean distances between rows of (N, d), divided by the mean of the positive ones."""
    distances = torch.cdist(embedding, embedding, compute_mode="donot_use_mm_for_euclid_dist")
    mean = distances.sum() / (distances > 0).sum().clamp(min=1)
    return distances / mean.clamp(min=torch.finfo(mean.dtype).tiny)


@in_full_precision
def rkd_angle_loss(student_embedding, teacher_embedding):
    """Return RKD's angle loss: the smooth L1 distance of the cosines of angles in triplets.

    Parameters
    ----------
    student_embedding, teacher_embedding : Tensor, (N, d)
        The two widths may differ.

    Returns
    -------
    Tensor, scalar

    Raises
    ------
    ValueError
        For numbers of samples that differ.

    Notes
    -----
    Mean over all N³ triplets (i, j, k) of smooth_l1(cos of the student's angle at j, cos of the teacher's). Large batches are
    cut into pieces, which are recomputed in the backward pass.

    References
    ----------
    Park et al., "Relational Knowledge Distillation", CVPR 2019, eq. 7–8.

    Examples
    --------
    >>> teacher = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
    >>> equilateral = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, 0.75**0.5]])
    >>> print(f"{rkd_angle_loss(equilateral, teacher):.5f} {0.35 / 27:.5f}")
    0.01296 0.01296
    """
    check_same_batch(student_embedding, teacher_embedding)
    count = len(student_embedding)
    step = max(1, _ANGLE_ENTRIES // count**2)
    if step >= count:
        return _angle_sum(student_embedding, teacher_embedding, 0, count) / count**3
    pieces = [
        torch.utils.checkpoint.checkpoint(
            _angle_sum, student_embedding, teacher_embedding, start, min(start + step, count), use_reentrant=False
        )
        for start in range(0, count, step)
    ]
    return torch.stack(pieces).sum() / count**3


def _angle_sum(student, teacher, start, stop):
    return F.smooth_l1_loss(angles(student, start, stop), angles(teacher, start, stop), reduction="sum")


def angles(embedding, start=0, stop=None):
    """Return (stop − start, N, N): the cosine of the angle at each of the rows `start` to `stop` between the directions to
    two others, for (N, d); zero where there is no direction."""
    difference = embedding[None] - embedding[start:stop, None]
    norm = torch.linalg.vector_norm(difference, dim=2, keepdim=True)
    # 1/∞ where two embeddings coincide: no direction, and no infinite gradient
    unit = difference * norm.masked_fill(norm == 0, float("inf")).reciprocal()
    return unit @ unit.transpose(1, 2)


@in_full_precision
def nd_loss(student_embedding, teacher_embedding, class_means, labels):
    """Return KD++'s norm-and-direction loss: long embeddings that point to the class mean.

    Parameters
    ----------
    student_embedding, teacher_embedding : Tensor, (N, d)
    class_means : Tensor, (K, d)
        The teacher's mean embedding of each class.
    labels : int64 Tensor, (N,)

    Returns
    -------
    Tensor, scalar

    Raises
    ------
    ValueError
        For widths or numbers of samples that differ.

    Notes
    -----
    mean_i (1 − ⟨s_i, ê⟩ / max(‖s_i‖, ‖t_i‖)), where ê is the class mean at length one. Between 0 and 2.

    References
    ----------
    Wang et al., "Improving Knowledge Distillation via Regularizing Feature Norm and Direction", 2023.

    Examples
    --------
    >>> student, means, label = torch.tensor([[3.0, 4.0]]), torch.tensor([[2.0, 0.0]]), torch.tensor([0])
    >>> print(f"{nd_loss(student, torch.tensor([[10.0, 0.0]]), means, label):.2f}")
    0.70
    """
    check_same_shape(student_embedding, teacher_embedding, "embedding")
    width = student_embedding.shape[1]
    if class_means.dim() != 2 or class_means.shape[1] != width:
        shape = tuple(class_means.shape)
        raise ValueError(f"class means must be (classes, {width}), as wide as the embedding; got {shape}")
    if len(labels) != len(student_embedding):
        raise ValueError(f"{len(student_embedding)} embeddings but {len(labels)} labels")
    direction = F.normalize(class_means.to(student_embedding.dtype), dim=1)[labels]
    norms = torch.stack([student_embedding.norm(dim=1), teacher_embedding.norm(dim=1)])
    larger = norms.amax(0).clamp(min=torch.finfo(norms.dtype).tiny)
    return (1 - (student_embedding * direction).sum(1) / larger).mean()


@in_full_precision
def group_mmd_loss(student_embedding, teacher_embedding, labels, member, num_classes):
    """Return MFD's loss: the distance of the student's distribution in each group to one target that knows no group.

    Parameters
    ----------
    student_embedding, teacher_embedding : Tensor, (N, d)
    labels : int64 Tensor, (N,)
    member : Tensor, (N, G)
        How much a sample belongs to each group.
    num_classes : int

    Returns
    -------
    Tensor, scalar

    Raises
    ------
    ValueError
        For shapes that differ.

    Notes
    -----
    ½ Σ_k Σ_g MMD²(teacher's embeddings of class k, student's of class k in group g), with the kernel exp(−‖a − b‖² / 2σ²). σ²
    is the batch's mean squared distance between the two networks' embeddings, taken as constant. Means are over all pairs of
    a cell, each sample with itself included. Empty cells count as 0.

    References
    ----------
    Jung et al., "Fair Feature Distillation for Visual Recognition", CVPR 2021.
    """
    check_same_shape(student_embedding, teacher_embedding, "embedding")
    both = torch.cat([student_embedding, teacher_embedding])
    square = both.square().sum(1)
    distance = (square[:, None] + square - 2 * both @ both.T).clamp(min=0)
    count = len(labels)
    kernel = torch.exp(-distance / (2 * distance[:count, count:].mean().detach()).clamp(min=1e-12))
    in_class = one_hot(labels, num_classes).to(member.dtype)
    cell = (in_class[:, :, None] * member[:, None]).flatten(1)  # (N, K·G)
    student_share, teacher_share = _shares(cell), _shares(in_class).repeat_interleave(member.shape[1], dim=1)
    # the mean of one minus the mean of the other in the kernel's space; its squared norm
    difference = torch.cat([student_share, -teacher_share])
    return torch.where(cell.sum(0) > 0, ((kernel @ difference) * difference).sum(0), 0).sum() / 2


def _shares(columns):
    """Columns divided by their sums; empty ones stay zero."""
    total = columns.sum(0)
    return columns / torch.where(total > 0, total, 1)
