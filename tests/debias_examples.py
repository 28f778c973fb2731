"""A batch of eight samples, two classes in two groups, and what tests of debiasers do with it."""

import numpy as np
import pytest
import torch

from kdlib import debias
from kdlib.models import Output

LABELS = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
GROUP = torch.tensor([1, 1, 1, 0, 0, 0, 0, 1])
BATCH = debias.Batch(LABELS, GROUP)
UNKNOWN = torch.full((8,), -1)
LOGITS = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1], [0, 1], [1, 0], [1, 0], [0, 1]])


def build(
    name, lam=None, labels=LABELS, group=GROUP, dim=4, share=None, num_groups=2, classes=2, teacher_dim=4, epochs=None
):
    """A debiaser as a run would build it, with a teacher of random outputs."""
    lam = lam if lam is not None else float(debias.has_strength(name))
    outputs = torch.randn(len(labels), classes + teacher_dim, generator=torch.Generator().manual_seed(5))
    outputs = Output(*outputs.split([classes, teacher_dim], dim=1))
    held_out = debias.Batch(labels, group, share, outputs)
    with torch.random.fork_rng():
        last_layer = torch.nn.Linear(teacher_dim, classes)
    teacher = debias.Teacher(teacher_dim, lambda: outputs, last_layer, lambda: held_out)
    return debias.build_debiaser(
        name, lam=lam, labels=labels, group=group, share=share, num_classes=classes, num_groups=num_groups,
        embedding_dim=dim, teacher=teacher, epochs=epochs,
    )  # fmt: skip


def slope(function, values, index, step=1e-3):
    """The derivative of function(values) by values[index], from both sides."""
    moved = torch.zeros_like(values)
    moved[index] = step
    return (function(values + moved) - function(values - moved)).detach().item() / (2 * step)


def assert_gradient(function, values, gradient, rel=0.02):
    scale = gradient.abs().max().item()
    assert scale > 0
    for index in np.ndindex(*values.shape):
        assert gradient[index].item() == pytest.approx(slope(function, values, index), rel=rel, abs=rel * scale)
