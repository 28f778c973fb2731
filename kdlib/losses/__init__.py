"""Distillation losses: pure functions of tensors, those of logits in `logits` and those of embeddings in `embeddings`.

A loss is a scalar, the mean over the batch. It is computed in float32 or better with autocast off, because half precision
ruins relations and temperatures. The teacher's side gets no gradient. N is the batch size, K the number of classes, d the
width of an embedding; `weights` (N,), where a loss takes them, multiply each sample's loss before the mean."""

from kdlib.losses.embeddings import (
    angles,
    group_mmd_loss,
    nd_loss,
    relative_distances,
    rkd_angle_loss,
    rkd_distance_loss,
)
from kdlib.losses.logits import cross_entropy, dist_loss, dkd_loss, kd_loss, standardized_kd_loss
from kdlib.losses.tensors import at_least_float32, one_hot, reverse_gradient

__all__ = ["angles", "at_least_float32", "cross_entropy", "dist_loss", "dkd_loss", "group_mmd_loss", "kd_loss", "nd_loss",
           "one_hot", "relative_distances", "reverse_gradient", "rkd_angle_loss", "rkd_distance_loss",
           "standardized_kd_loss"]  # fmt: skip
