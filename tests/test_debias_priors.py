"""Logit adjustment and the teachers that are corrected: values by hand, and limiting cases."""

import functools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from debias_examples import BATCH, GROUP, LOGITS, UNKNOWN, build

from kdlib import debias, losses
from kdlib.debias import balancing, groups, priors
from kdlib.models import Output


def test_the_prior_by_hand():
    prior = priors.log_prior(torch.tensor([[95.0, 5], [0, 9]]))
    np.testing.assert_allclose(prior.exp(), [[95.5 / 101, 5.5 / 101], [0.5 / 10, 9.5 / 10]], rtol=1e-6)
    part = build("logit_adjustment", 2.0)
    table = 2 * priors.log_prior(torch.tensor([[1.0, 3], [3, 1]]))  # class × group of LABELS and GROUP
    moved = part.select(Output(LOGITS, None), BATCH).logits - LOGITS
    torch.testing.assert_close(moved, table.T[GROUP])
    assert torch.equal(part.select(Output(LOGITS, None), BATCH._replace(group=UNKNOWN)).logits, LOGITS)
    share = torch.full((8,), 0.25)
    moved = part.select(Output(LOGITS, None), BATCH._replace(share=share)).logits - LOGITS
    torch.testing.assert_close(moved, (0.75 * table[:, 0] + 0.25 * table[:, 1]).expand(8, 2))


def test_logit_adjustment_leaves_distillation_as_it_was():
    teacher = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
    part = build("logit_adjustment", 1.0)
    sides = part.select(Output(teacher, None), BATCH), part.teacher(Output(teacher, None), BATCH)
    assert losses.kd_loss(*(side.logits for side in sides), temperature=4.0).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", ["logit_adjustment", "ltkd"])
def test_half_precision_moves_student_and_teacher_by_the_same_amount(name):
    labels, group = (
        torch.arange(2).repeat_interleave(1000),
        torch.tensor([0, 1, 0, 1]).repeat_interleave(torch.tensor([999, 1, 1, 999])),
    )
    logits = torch.randn(2000, 2, generator=torch.Generator().manual_seed(0))
    part, output = build(name, 1.0, labels=labels, group=group), Output(logits, None)
    batch = debias.Batch(labels, group, torch.linspace(0, 1, 2000))
    for given in (batch, batch._replace(share=None)):
        outside = (part.select or part.teacher)(output, given).logits
        with torch.autocast("cpu", torch.bfloat16):
            within = [move(output, given).logits for move in (part.select, part.teacher) if move]
        assert all(torch.equal(each, outside) for each in within)
        assert all(each.dtype == torch.float32 for each in within)


def test_group_deviation_does_not_depend_on_the_order_of_images():
    generator = torch.Generator().manual_seed(0)
    values = 1e4 + torch.randn(20_000, 3, generator=generator)
    labels, group = (torch.randint(0, 2, (20_000,), generator=generator) for _ in range(2))
    member = torch.nn.functional.one_hot(group, 2).float()
    cells = torch.stack([torch.bincount(labels[group == g], minlength=2) for g in (0, 1)], 1).float()
    order = torch.randperm(20_000, generator=generator)
    deviation = priors.group_deviation(values, labels, member, cells)
    assert torch.equal(deviation, priors.group_deviation(values[order], labels[order], member[order], cells))
    exact = [[values[(labels == k) & (group == g)].double().mean(0) for g in (0, 1)] for k in (0, 1)]
    exact = torch.stack([torch.stack(row) for row in exact])
    torch.testing.assert_close(deviation, (exact - exact.mean(1, keepdim=True)).float(), rtol=1e-5, atol=1e-7)


def test_what_logit_adjustment_learns_from_skewed_labels_is_the_posterior_without_the_group():
    """Exact expectations over a discrete x whose distribution knows the class alone: at λ = 1 the logits, fitted through the
    cross-entropy to a 95/5 skew, are log p(x | k) up to a constant; without it they lean to the group's own class."""
    generator = torch.Generator().manual_seed(0)
    likelihood = torch.rand(2, 6, generator=generator).double()
    likelihood /= likelihood.sum(1, keepdim=True)  # p(x | k)
    skew = torch.tensor([[0.95, 0.05], [0.05, 0.95]]).double()  # P(g | k)
    labels, x, group = (index.flatten() for index in torch.meshgrid(*map(torch.arange, (2, 6, 2)), indexing="ij"))
    probability = likelihood[labels, x] * skew[labels, group] / 2
    split = torch.tensor([0, 1, 0, 1]).repeat_interleave(torch.tensor([950, 50, 50, 950]))
    part = build("logit_adjustment", 1.0, labels=torch.arange(2).repeat_interleave(1000), group=split)
    # x may show the group too, as a picture's colour does: one row of logits for each x and group
    table = torch.zeros(6, 2, 2).double().requires_grad_()
    optimizer = torch.optim.LBFGS([table], max_iter=300, line_search_fn="strong_wolfe", tolerance_grad=1e-9)

    def loss():
        optimizer.zero_grad()
        shown = part.select(Output(table[x, group], None), debias.Batch(labels, group))
        value = (probability * F.cross_entropy(shown.logits, labels, reduction="none")).sum()
        value.backward()
        return value

    optimizer.step(loss)
    learned, expected = table.detach().softmax(2), (likelihood / likelihood.sum(0)).T
    for g in (0, 1):
        torch.testing.assert_close(learned[:, g], expected, rtol=0.02, atol=0.01)


def corrected(builder, lam, outputs, labels, group, **options):
    """A builder's parts for a teacher with `outputs` (N, K + 3), logits and embedding, on training and validation split."""
    classes = outputs.shape[1] - 3
    cells = groups.cell_counts(labels, groups.membership(group, None, 2), classes)
    setting = dict(labels=labels, group=group, share=None, cells=cells, num_classes=classes, num_groups=2, device="cpu")
    output = Output(*outputs.split([classes, 3], dim=1))
    teacher = debias.Teacher(3, lambda: output, held_out=lambda: debias.Batch(labels, group, teacher=output))
    return builder(setting, lam, teacher, **options)


balanced = functools.partial(corrected, priors.balanced_teacher)


def a_teacher(count=400):
    """Logits and embeddings of a teacher that follows a group which follows the class; labels and group."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 2
    group = (torch.rand(count, generator=generator) < torch.where(labels == 1, 0.9, 0.1)).long()
    outputs = torch.randn(count, 5, generator=generator) + 2 * F.one_hot(labels, 5) + 1.5 * F.one_hot(group, 5)
    return outputs, labels, group


def test_group_deviation_is_a_difference_of_means():
    outputs, labels, group = a_teacher(40)
    group[labels == 0] = 0  # a cell without pictures
    member = groups.membership(group, None, 2)
    cells = groups.cell_counts(labels, member, 3)
    deviation = priors.group_deviation(outputs, labels, member, cells)
    for k in range(3):
        means = [outputs[(k == labels) & (g == group)].mean(0) for g in (0, 1)]
        if k == 1:
            torch.testing.assert_close(deviation[1, 0], (means[0] - means[1]) / 2)
            torch.testing.assert_close(deviation[1, 1], (means[1] - means[0]) / 2)
        else:
            assert deviation[k].abs().max() < 1e-6, "nothing to compare with"


def test_group_conditional_means_of_the_balanced_teacher_agree():
    outputs, labels, group = a_teacher()
    batch = debias.Batch(labels, group)
    part = balanced(1.0, outputs, labels, group, prior_weight=0.0)
    shown = part["teacher"](Output(outputs[:, :2], outputs[:, 2:]), batch)
    for values in shown:
        for k in (0, 1):
            means = [values[(k == labels) & (g == group)].mean(0) for g in (0, 1)]
            torch.testing.assert_close(*means)
    before = [outputs[(labels == 0) & (g == group), :2].mean(0) for g in (0, 1)]
    assert (before[0] - before[1]).abs().max() > 1


def test_the_balanced_teachers_correction_by_hand():
    outputs, labels, group = a_teacher(60)
    cells = groups.cell_counts(labels, groups.membership(group, None, 2), 2)
    a = priors.log_prior(cells)
    for weight, lam in ((10.0, 1.0), (10.0, 0.5), (1e12, 1.0)):
        part = balanced(lam, outputs, labels, group, prior_weight=weight)
        shown = part["teacher"](Output(outputs[:, :2], outputs[:, 2:]), debias.Batch(labels, group))
        for i in range(0, 60, 7):
            y, g, n = labels[i], group[i], cells[labels[i]].min()
            means = [outputs[(y == labels) & (h == group)].mean(0) for h in (0, 1)]
            own = means[g] - (means[0] + means[1]) / 2
            shift = a.mean(1) + (n * own[:2] + weight * (a[:, g] - a.mean(1))) / (n + weight)
            torch.testing.assert_close(shown.logits[i], outputs[i, :2] - lam * shift)
            torch.testing.assert_close(shown.embedding[i], outputs[i, 2:] - lam * n / (n + weight) * own[2:])
    bayes = shown.logits - outputs[:, :2]  # of the heaviest prior
    torch.testing.assert_close(bayes, -a.T[group], rtol=1e-4, atol=1e-4)


def test_the_balanced_teacher_leaves_unknown_groups_and_missing_embeddings_alone():
    outputs, labels, group = a_teacher()
    part = balanced(1.0, outputs, labels, group)
    theirs = Output(outputs[:, :2], None)
    shown = part["teacher"](theirs, debias.Batch(labels, torch.full_like(group, -1)))
    assert torch.equal(shown.logits, theirs.logits)
    assert shown.embedding is None
    half = part["teacher"](theirs, debias.Batch(labels, group, torch.full((400,), 0.5))).logits
    sides = [part["teacher"](theirs, debias.Batch(labels, torch.full_like(group, g))).logits for g in (0, 1)]
    torch.testing.assert_close(half, (sides[0] + sides[1]) / 2)
    setting = dict(labels=labels, group=group, num_groups=2, share=None)
    assert torch.equal(part["order"](0, 1), balancing.resample(setting)["order"](0, 1))


@pytest.mark.parametrize(("name", "options"), [
    ("balanced_teacher_measured", {"prior_weight": 0.0}),
    ("balanced_teacher_prior", {"prior_weight": 1e12}),
    ("balanced_teacher_unsampled", {}),
])  # fmt: skip
def test_controls_of_the_balanced_teacher(name, options):
    outputs, labels, group = a_teacher()
    theirs, batch = Output(outputs[:, :2], outputs[:, 2:]), debias.Batch(labels, group)
    control = corrected(debias.DEBIASERS[name], 1.0, outputs, labels, group)
    usual = balanced(1.0, outputs, labels, group)
    for one, other in zip(
        control["teacher"](theirs, batch), balanced(1.0, outputs, labels, group, **options)["teacher"](theirs, batch),
        strict=True,
    ):  # fmt: skip
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    same_outputs = torch.equal(control["teacher"](theirs, batch).logits, usual["teacher"](theirs, batch).logits)
    assert same_outputs == (name == "balanced_teacher_unsampled")
    assert ("order" in control) == (name != "balanced_teacher_unsampled")
    assert debias.has_strength(name)


def test_nothing_is_measured_in_an_empty_cell():
    outputs, labels, group = a_teacher(40)
    group[labels == 0] = 0
    part = corrected(debias.DEBIASERS["balanced_teacher_measured"], 1.0, outputs, labels, group)
    shown = part["teacher"](Output(outputs[:, :2], None), debias.Batch(labels, group)).logits
    cells = groups.cell_counts(labels, groups.membership(group, None, 2), 2)
    shared = priors.log_prior(cells).mean(1)
    torch.testing.assert_close(shown[labels == 0], outputs[labels == 0, :2] - shared)


# ---- LTKD


def test_ltkd_by_a_slow_loop():
    """The mean mass of each group's common classes, against those classes' share of the split."""
    generator = torch.Generator().manual_seed(0)
    labels, group = torch.arange(60) % 3, torch.randint(2, (60,), generator=generator)
    group[labels == 0], group[labels == 1] = 0, 1
    outputs = torch.randn(60, 6, generator=generator) + 2 * F.one_hot(labels, 6)
    logits = outputs[:, :3]
    part = corrected(priors.ltkd, 0.5, outputs, labels, group)
    shown = part["teacher"](Output(logits, None), debias.Batch(labels, group)).logits
    probability = logits.softmax(1)
    for i in range(60):
        inside = group == group[i]
        common = [((labels == k) & inside).sum() / inside.sum() > (labels == k).sum() / 60 for k in range(3)]
        assert 0 < sum(common) < 3
        for k in range(3):
            members = [j for j in range(3) if common[j] == common[k]]
            mass = probability[inside][:, members].sum(1).mean()
            expected = sum((labels == j).sum() / 60 for j in members)
            torch.testing.assert_close(shown[i, k], logits[i, k] - 0.5 * (mass / expected).log())


def test_ltkd_leaves_a_balanced_split_and_unknown_groups_alone():
    labels, group = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
    logits = torch.tensor([[2.0, -1], [3, 0], [-2, 1], [0, 1]])
    outputs = torch.cat([logits, torch.zeros(4, 3)], 1)
    part = corrected(priors.ltkd, 1.0, outputs, labels, group)
    torch.testing.assert_close(part["teacher"](Output(logits, None), debias.Batch(labels, group)).logits, logits)
    skewed = corrected(priors.ltkd, 1.0, outputs, torch.tensor([0, 0, 0, 1]), torch.tensor([0, 0, 1, 1]))
    unknown = debias.Batch(labels, torch.full((4,), -1))
    assert torch.equal(skewed["teacher"](Output(logits, None), unknown).logits, logits)
    known = debias.Batch(labels, group)
    assert not torch.equal(skewed["teacher"](Output(logits, None), known).logits, logits)


# ---- Teacher's pet


def test_reliability_is_the_mean_margin_of_a_cell():
    probability = torch.tensor([[0.7, 0.2, 0.1], [0.5, 0.4, 0.1], [0.6, 0.3, 0.1], [0.1, 0.6, 0.3]])
    labels, group = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 0])
    held_out = debias.Batch(labels, group, teacher=Output(probability.log(), None))
    found = priors.reliability(held_out, 3, 2)
    expected = [[0.5, 0.1], [0.0, 0.0], [0.15, 0.15]]  # class 1 lacks group 1, class 2 is absent
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-6, rtol=1e-5)


def test_a_softened_teacher_mixes_distillation_and_labels():
    """At temperature 1 the gradient is α · that of the distillation loss + (1 − α) · that of the cross-entropy."""
    outputs, labels, group = a_teacher(40)
    logits, batch = outputs[:, :2], debias.Batch(labels, group)
    part = corrected(priors.teachers_pet, 0.5, outputs, labels, group)
    shown = part["teacher"](Output(logits, None), batch).logits
    table = priors.reliability(batch._replace(teacher=Output(logits, None)), 2, 2).clamp(min=0.01) ** 0.5
    alpha = table[labels, group]
    assert alpha.min() < 0.9 < alpha.max() + 0.2
    mixed = alpha[:, None] * logits.softmax(1) + (1 - alpha[:, None]) * F.one_hot(labels, 2)
    torch.testing.assert_close(shown.softmax(1), mixed)
    student = torch.randn(40, 2, generator=torch.Generator().manual_seed(1)).requires_grad_()
    loss = losses.kd_loss(student, shown, temperature=1.0)
    parts = losses.kd_loss(student, logits, temperature=1.0, weights=alpha)
    parts = parts + losses.cross_entropy(student, labels, weights=1 - alpha)
    gradients = (torch.autograd.grad(value, student)[0] for value in (loss, parts))
    torch.testing.assert_close(*gradients)


def test_a_reliable_teacher_and_an_unknown_group_are_not_softened():
    labels, group = torch.tensor([0, 1]), torch.tensor([0, 1])
    outputs = torch.tensor([[90.0, -90, 0, 0, 0], [-90, 90, 0, 0, 0]])
    part = corrected(priors.teachers_pet, 1.0, outputs, labels, group)
    logits = torch.tensor([[1.0, 0], [0.5, 0]])
    shown = part["teacher"](Output(logits, None), debias.Batch(labels, group)).logits
    torch.testing.assert_close(shown.softmax(1), logits.softmax(1))
    soft = corrected(priors.teachers_pet, 1.0, outputs / 90, labels, group)
    unknown = debias.Batch(labels, torch.full((2,), -1))
    torch.testing.assert_close(soft["teacher"](Output(logits, None), unknown).logits.softmax(1), logits.softmax(1))
    known = soft["teacher"](Output(logits, None), debias.Batch(labels, group)).logits.softmax(1)
    assert known[0, 0] > logits.softmax(1)[0, 0], "drawn to the label"
    assert known[1, 1] > logits.softmax(1)[1, 1]


def test_teachers_pet_needs_validation_outputs():
    with pytest.raises(ValueError, match="'teachers_pet' needs"):
        priors.teachers_pet({}, 1.0, debias.Teacher(3, None))
