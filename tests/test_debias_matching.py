"""Gap penalty, MFD and DeTT: values by slow loops and by hand, gradients by finite differences."""

import numpy as np
import pytest
import torch
from debias_examples import BATCH, GROUP, LABELS, LOGITS, assert_gradient, build

from kdlib import debias, losses
from kdlib.debias import groups, matching
from kdlib.models import Output


def test_gap_penalty_by_hand():
    part = build("gap_penalty", 2.0)
    probability = LOGITS.softmax(1).gather(1, LABELS[:, None]).squeeze(1)
    cell = {(k, g): probability[(k == LABELS) & (g == GROUP)].mean() for k in (0, 1) for g in (0, 1)}
    term = part.terms(Output(LOGITS, None), BATCH, {})["gap"]
    assert term.item() == pytest.approx(2 * sum((cell[k, 1] - cell[k, 0]).item() ** 2 for k in (0, 1)), rel=1e-5)
    only = debias.Batch(LABELS, torch.where(GROUP == 0, -1, GROUP))  # group 0 is missing: its running mean stands in
    term = part.terms(Output(torch.zeros(8, 2), None), only, {})["gap"]
    means = {(k, 1): 0.9 * cell[k, 1] + 0.1 * 0.5 for k in (0, 1)} | {(k, 0): cell[k, 0] for k in (0, 1)}
    assert term.item() == pytest.approx(2 * sum((means[k, 1] - means[k, 0]).item() ** 2 for k in (0, 1)), rel=1e-5)
    never = build("gap_penalty", 2.0).terms(Output(LOGITS, None), only, {})["gap"]
    assert never.item() == 0


def test_gap_penaltys_gradient_by_finite_differences():
    """With the gaps held, the gradient is that of the batch's means, each over the chance that a batch has its cell."""
    part = build("gap_penalty", 2.0)
    logits = torch.randn(8, 2, generator=torch.Generator().manual_seed(0)).double()
    part.module.double()
    chance = {(k, g): 1 - (1 - ((k == LABELS) & (g == GROUP)).sum().item() / 8) ** 8 for k in (0, 1) for g in (0, 1)}

    def mean(values, k, g):
        return values.softmax(1)[(k == LABELS) & (g == GROUP), k].mean()

    gap = [mean(logits, k, 1) - mean(logits, k, 0) for k in (0, 1)]

    def surrogate(values):
        return sum(4 * gap[k] * (mean(values, k, 1) / chance[k, 1] - mean(values, k, 0) / chance[k, 0]) for k in (0, 1))

    leaf = logits.clone().requires_grad_()
    part.terms(Output(leaf, None), BATCH, {})["gap"].backward()
    assert_gradient(surrogate, logits, leaf.grad)


def test_gap_penaltys_gradient_is_that_of_the_whole_split_on_average():
    """A rare cell, which most batches lack, is raised as much as the common one is lowered."""
    generator = np.random.default_rng(0)
    labels, group = torch.zeros(200, dtype=torch.int64), torch.from_numpy((np.arange(200) < 8).astype(int))
    level = torch.tensor([1.0, -1.0])  # logit of class 0, per group
    setting = dict(labels=labels, group=group, share=None, num_classes=2, num_groups=2, device="cpu")
    part = matching.gap_penalty(setting, 1.0)
    module, pulls = part["module"], []
    for _ in range(600):
        module.mean[0], module.seen[0] = level.sigmoid(), True  # as after a long training
        leaf, index = level.clone().requires_grad_(), torch.from_numpy(generator.integers(0, 200, 16))
        logits = torch.stack([leaf[group[index]], torch.zeros(16)], 1)
        part["terms"](Output(logits, None), debias.Batch(labels[index], group[index]), {})["gap"].backward()
        pulls.append(leaf.grad)
    whole = level.clone().requires_grad_()
    (whole[1].sigmoid() - whole[0].sigmoid()).square().backward()
    torch.testing.assert_close(torch.stack(pulls).mean(0), whole.grad, rtol=0.1, atol=0)


def test_gap_penalty_divides_by_no_chance_where_every_share_fills_the_cell():
    share = torch.full((8,), 0.05)
    share[0] = 0.4
    member, logits = groups.membership(GROUP, share, 2), LOGITS.clone().requires_grad_()
    term = build("gap_penalty", 1.0, share=share).terms(Output(logits, None), BATCH._replace(share=share), {})
    (gradient,) = torch.autograd.grad(term["gap"], logits)
    probability = logits.softmax(1).gather(1, LABELS[:, None]).squeeze(1)
    mean, _ = groups.cell_means(probability, LABELS, member, 2)
    (expected,) = torch.autograd.grad((mean[:, 1] - mean[:, 0]).square().sum(), logits)
    torch.testing.assert_close(gradient, expected, rtol=0.01, atol=1e-7)


def slow_mmd(student, teacher, labels, member, classes):
    """Jung et al.'s loss as their loops have it, with weights in place of subsets."""
    between = torch.cdist(teacher, student, compute_mode="donot_use_mm_for_euclid_dist").square()
    sigma, total = between.mean().detach(), 0.0

    def kernel(one, other, w, v):
        distance = ((one[:, None] - other[None]) ** 2).sum(2)
        return (torch.exp(-distance / (2 * sigma)) * w[:, None] * v[None]).sum() / (w.sum() * v.sum())

    for k in range(classes):
        here = labels == k
        for g in range(member.shape[1]):
            w, even = member[here, g], torch.ones(int(here.sum()))
            if w.sum() == 0:
                continue
            total = (
                total + kernel(teacher[here], teacher[here], even, even) + kernel(student[here], student[here], w, w)
            )
            total = total - 2 * kernel(teacher[here], student[here], even, w)
    return total / 2


def test_group_mmd_equals_the_published_loops():
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(12, 5, generator=generator).double().requires_grad_()
    teacher = torch.randn(12, 5, generator=generator).double()
    labels, group = torch.arange(12) % 3, torch.tensor([0, 1, 0, 1, 1, 0, -1, 1, 0, 0, 1, 0])
    for share in (None, torch.rand(12, generator=generator)):
        member = groups.membership(group, share, 2).double()
        fast, slow = (function(student, teacher, labels, member, 4) for function in (losses.group_mmd_loss, slow_mmd))
        torch.testing.assert_close(fast, slow)
        one, other = (torch.autograd.grad(value, student)[0] for value in (fast, slow))
        torch.testing.assert_close(one, other)
    assert losses.group_mmd_loss(student, teacher, labels, torch.zeros(12, 2).double(), 4) == 0
    same = losses.group_mmd_loss(teacher, teacher, labels, torch.ones(12, 1).double(), 4)
    assert same.item() == pytest.approx(0, abs=1e-9)


def test_mfd_widens_the_students_embedding_only_where_it_must():
    batch = BATCH._replace(teacher=Output(torch.randn(8, 2), torch.randn(8, 6)))
    part = build("mfd", 2.0, teacher_dim=6)
    assert [tuple(parameter.shape) for parameter in part.module.parameters()] == [(6, 4), (6,)]
    embedding = torch.randn(8, 4, requires_grad=True)
    term = part.terms(Output(None, embedding), batch, {})["mmd"]
    member = groups.membership(GROUP, None, 2)
    expected = 2 * losses.group_mmd_loss(part.module(embedding), batch.teacher.embedding, LABELS, member, 2)
    torch.testing.assert_close(term, expected)
    term.backward()
    assert embedding.grad.abs().max() > 0
    assert not list(build("mfd", 2.0, teacher_dim=4).module.parameters())


# ---- DeTT


@pytest.mark.parametrize("teacher_dim", [4, 6])
def test_dett_transplants_the_teachers_last_layer_and_weighs_features(teacher_dim):
    part = build("dett", 2.0, group=torch.tensor([1, 1, 1, 0, 0, 0, 0, 1]), teacher_dim=teacher_dim)
    target, embedding = torch.randn(8, teacher_dim), torch.randn(8, 4, requires_grad=True)
    output = Output(part.head(embedding), embedding)
    torch.testing.assert_close(output.logits, part.head.last_layer(part.head.adapt(embedding)))
    assert isinstance(part.head.adapt, torch.nn.Linear) == (teacher_dim == 6)
    term = part.terms(output, BATCH._replace(teacher=Output(None, target)), {})["features"]
    total, adapted = 0.0, part.head.adapt(embedding)
    for i in range(8):
        inside = [(y, g) for y, g in zip(LABELS.tolist(), GROUP.tolist(), strict=True) if y == LABELS[i]]
        weight = len(inside) / (2 * inside.count((LABELS[i].item(), GROUP[i].item())))
        total += 2 * weight * sum((adapted[i, d] - target[i, d]) ** 2 for d in range(teacher_dim)) / teacher_dim / 8
    torch.testing.assert_close(term, total)
    (term + output.logits.square().sum()).backward()
    assert embedding.grad.abs().min() > 0
    assert part.head.last_layer.weight.grad is None, "the teacher's layer is frozen"


def test_dett_is_deployed_as_one_layer_and_leaves_validation_whole():
    part = build("dett", 1.0, teacher_dim=6)
    embedding = torch.randn(8, 4)
    head, used = part.finish(part.head, embedding, LABELS, GROUP, None)
    assert type(head) is torch.nn.Linear
    torch.testing.assert_close(head(embedding), part.head(embedding))
    assert not used.any()


def test_dett_needs_a_last_layer_that_is_linear():
    setting = {"embedding_dim": 4, "num_groups": 2, "device": "cpu", "cells": torch.ones(2, 2)}
    for head in (None, torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.ReLU())):
        with pytest.raises(ValueError, match="'dett' needs"):
            matching.dett(setting, 1.0, debias.Teacher(4, None, head))
    mixed = debias.GroupHeads(4, 2, 2)  # of a teacher with domain-independent heads
    embedding = torch.randn(8, 4)
    torch.testing.assert_close(
        matching.dett(setting, 1.0, debias.Teacher(4, None, mixed))["head"](embedding), mixed(embedding)
    )
