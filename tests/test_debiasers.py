"""What each debiaser computes: values by slow loops and by hand, gradients by finite differences, limiting cases."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_debias import BATCH, GROUP, LABELS, build

from kdlib import debias, losses, models, runs
from kdlib.bias.skew import skew_amplification
from kdlib.debias import adversaries, balancing, groups, matching, priors
from kdlib.models import Output

UNKNOWN = torch.full((8,), -1)
LOGITS = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1], [0, 1], [1, 0], [1, 0], [0, 1]])


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


# ---- groups


def test_membership_is_whole_fractional_or_none():
    group, share = torch.tensor([0, 1, -1, 1, -1]), torch.tensor([0.25, 1.0, float("nan"), float("nan"), 0.5])
    assert groups.membership(group, None, 3).tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 0], [0, 1, 0], [0, 0, 0]]
    assert groups.membership(group, share, 2).tolist() == [[0.75, 0.25], [0, 1], [0, 0], [0, 1], [0.5, 0.5]]


def test_cell_means_are_weighted_means():
    generator = torch.Generator().manual_seed(0)
    labels, share = torch.randint(3, (30,), generator=generator), torch.rand(30, generator=generator)
    values, member = torch.rand(30, generator=generator), torch.stack([1 - share, share], 1)
    mean, count = groups.cell_means(values, labels, member, 4)
    for k in range(4):
        for g in range(2):
            inside = labels == k
            total = member[inside, g].sum()
            assert count[k, g].item() == pytest.approx(total.item())
            expected = (member[inside, g] * values[inside]).sum() / total if inside.any() else torch.zeros(())
            assert mean[k, g].item() == pytest.approx(expected.item(), abs=1e-6)


def test_batch_disparity_masks_empty_cells_and_unknown_groups():
    disparity, valid = groups.batch_disparity(LOGITS, BATCH, 3)
    assert disparity.tolist() == pytest.approx([2 / 3, 1 - 1 / 3, 0])
    assert valid.tolist() == [True, True, False]
    hidden = BATCH._replace(group=torch.where(torch.arange(8) == 7, -1, GROUP))
    disparity, valid = groups.batch_disparity(LOGITS, hidden, 3)
    assert valid.tolist() == [True, False, False]
    assert disparity[1] == 0


def test_a_perfect_classifier_has_no_batch_disparity_whatever_cells_are_empty():
    logits = torch.eye(2)[LABELS]
    for group in (GROUP, torch.ones(8, dtype=torch.int64), UNKNOWN):
        assert groups.batch_disparity(logits, debias.Batch(LABELS, group), 2)[0].abs().max() == 0


def test_cell_weights_balance_the_groups_within_a_class():
    weights = debias.cell_weights(LABELS, GROUP, 2)
    for label in (0, 1):
        sums = [weights[(label == LABELS) & (g == GROUP)].sum().item() for g in (0, 1)]
        assert sums == pytest.approx([2, 2])
    assert debias.cell_weights(LABELS, UNKNOWN, 2).tolist() == [1] * 8
    torch.testing.assert_close(build("reweight").weights(None, BATCH), weights)
    share = torch.where(GROUP == 1, 0.9, 0.2)
    member = groups.membership(GROUP, share, 2)
    weights = groups.balance(groups.cell_counts(LABELS, member, 2))[LABELS]
    for label in (0, 1):
        assert (member * weights)[label == LABELS].sum(0).tolist() == pytest.approx([2, 2])
    assert groups.balance(torch.tensor([[10.0, 0], [4, 1]]))[[0, 1, 1], [0, 0, 1]].tolist() == pytest.approx(
        [1, 0.625, 2.5]
    )


# ---- critics


def test_critic_learns_the_disparity_and_its_term_reaches_the_student():
    torch.manual_seed(0)
    part = build("critic", 3.0)
    fixed = torch.tensor([[4.0, 0], [4, 0], [4, 0], [0, 4], [0, 4], [0, 4], [0, 4], [4, 0]])
    target, _ = groups.batch_disparity(fixed, BATCH, 2)
    assert target.tolist() == [1, -1]
    for _ in range(300):
        logits = fixed.clone().requires_grad_()
        terms = part.terms(Output(logits, None), BATCH, {"ce": torch.tensor(0.5)})
    assert part.module(fixed).mean(0).tolist() == pytest.approx([1, -1], abs=0.1), (
        "it has a sign, and one output per class"
    )
    terms["critic"].backward()
    assert logits.grad.abs().sum(1).min() > 0, "every sample of the batch is seen, not only the first"
    assert terms["critic"].item() == pytest.approx(3 * 0.5 * (1 - 0.05 + 0.01), rel=0.1)


def test_the_critic_leaves_out_classes_of_one_group():
    torch.manual_seed(0)
    part = build("critic", 3.0, group=torch.tensor([1, 1, 1, 0, 0, 0, 0, 0]))
    with torch.no_grad():
        part.module[2].bias[1] = 5.0  # sees a large disparity in class 1, which has one group
    logits = torch.randn(8, 2).requires_grad_()
    batch = BATCH._replace(group=torch.full((8,), -1))  # so the critic learns nothing
    term = part.terms(Output(logits, None), batch, {"ce": torch.tensor(1.0)})["critic"]
    excess = part.module(logits).mean(0)[0].abs() - 0.05 + 0.01
    assert term.item() == pytest.approx(3 * F.softplus(20 * excess).item() / 20, rel=1e-5)
    assert part.report().keys() == {"critic_error"}
    assert part.report() == {}, "means since the last report"


@pytest.mark.parametrize("name", ["critic", "critic_faithful"])
def test_critics_gradient_by_finite_differences(name):
    torch.manual_seed(0)
    part = build(name, 3.0)
    part.module.double()
    part.optimizer.param_groups[0]["lr"] = 0.0  # the same critic at every evaluation
    ce = torch.tensor(1.0)

    def term(values):
        return part.terms(Output(values, None), BATCH, {"ce": ce})["critic"]

    logits = torch.randn(8, 2).double().requires_grad_()
    term(logits).backward()
    assert_gradient(term, logits.detach(), logits.grad)


def test_the_faithful_critic_keeps_the_earlier_mistakes():
    torch.manual_seed(0)
    part, ce = build("critic_faithful", 5.0), torch.tensor(0.25)
    one_sided = debias.Batch(LABELS, torch.tensor([1, 1, 1, 1, 0, 0, 0, 1]))
    right = torch.eye(2)[LABELS] * 4
    for _ in range(500):
        terms = part.terms(Output(right, None), one_sided, {"ce": ce})
    # class 0 has nobody in group 0, which counts as recall 0: a perfect classifier "has" disparity (1 − 0 + 1 − 1)/2
    assert part.module(right).mean().item() == pytest.approx(0.5, abs=0.02)
    seen = part.module(right)[0, 0].item()
    assert (ce + terms["critic"]).item() == pytest.approx(max(1, 5 * (seen - 0.05 + 0.01) + 1) * 0.25, rel=1e-4)
    for _ in range(500):  # disparities of 2/3 and −2/3 cancel, and a negative mean cannot be had
        part.terms(Output(torch.cat([LOGITS[:4], LOGITS[:4].flip(1)]), None), BATCH, {"ce": ce})
    assert part.module(LOGITS).min() >= 0
    logits = LOGITS.clone().requires_grad_()
    part.terms(Output(logits, None), BATCH, {"ce": ce})["critic"].backward()
    assert logits.grad[1:].abs().max() == 0, "one sample decides for the batch"


def test_the_faithful_critics_factor_is_never_below_one():
    part = build("critic_faithful", 5.0)
    with torch.no_grad():
        part.module[2].bias.fill_(-20.0)  # it sees no disparity
    assert part.terms(Output(LOGITS, None), BATCH, {"ce": torch.tensor(1.0)})["critic"].item() == 0


# ---- adversaries


def adversarial_loss(part, logits, conditional, batch):
    """The adversary's cross-entropy by loops, each group of a class (of all) weighing the same."""
    total, weight = 0.0, 0.0
    for i, (label, group) in enumerate(zip(batch.labels.tolist(), batch.group.tolist(), strict=True)):
        if group < 0:
            continue
        there = batch.labels == label if conditional else torch.ones(8, dtype=torch.bool)
        w = there.sum() / (2 * (there & (group == GROUP)).sum())
        row = torch.cat([logits[i].softmax(0), F.one_hot(batch.labels[i], 2)]) if conditional else logits[i].softmax(0)
        total += w * -F.log_softmax(part.module(row.to(logits.dtype)), dim=0)[group]
        weight += w
    return total / weight


@pytest.mark.parametrize(("name", "conditional"), [("adversary", False), ("adversary_conditional", True)])
def test_the_adversarys_gradient_is_reversed(name, conditional):
    """By finite differences: the student's gradient is −λ times that of what the adversary lowers."""
    torch.manual_seed(0)
    part = build(name, 2.0)
    part.module.double()
    group = torch.where(torch.arange(8) == 3, -1, GROUP)
    batch = debias.Batch(LABELS, group)
    logits = torch.randn(8, 2).double().requires_grad_()
    term = part.terms(Output(logits, None), batch, {})["adversary"]
    expected = adversarial_loss(part, logits, conditional, batch)
    torch.testing.assert_close(term, expected)
    own = torch.autograd.grad(expected, list(part.module.parameters()), retain_graph=True)
    part.optimizer.param_groups[0]["lr"] = 0.0
    part.backward(term, [logits])
    assert_gradient(
        lambda values: -2 * adversarial_loss(part, values, conditional, batch), logits.detach(), logits.grad
    )
    for parameter, gradient in zip(part.module.parameters(), own, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


@pytest.mark.parametrize("name", ["adversary", "adversary_embedding", "adversary_conditional", "projection"])
def test_an_adversary_learns_the_group_and_reports_how_well(name):
    torch.manual_seed(0)
    part = build(name, 1.0)
    told = torch.stack([GROUP * 4.0, torch.zeros(8)], 1)
    for _ in range(100):
        output = Output(told.clone().requires_grad_(), F.pad(told, (0, 2)).requires_grad_())
        terms = part.terms(output, BATCH, {})
        part.backward(sum(terms.values()) + output.logits.sum() + output.embedding.sum(), [*output])
        report = part.report()
    assert report["adversary_accuracy"] == pytest.approx(1)
    hidden = Output(torch.zeros(8, 2, requires_grad=True), torch.ones(8, 4, requires_grad=True))
    part.terms(hidden, BATCH, {})
    assert part.report()["adversary_accuracy"] == pytest.approx(0.5), "balanced accuracy, where nothing is to be seen"


def test_the_embeddings_adversary_reads_the_embedding_alone():
    part = build("adversary_embedding", 1.0)
    logits, embedding = torch.randn(8, 2, requires_grad=True), torch.randn(8, 4, requires_grad=True)
    part.terms(Output(logits, embedding), BATCH, {})["adversary"].backward()
    assert logits.grad is None
    assert embedding.grad.abs().max() > 0


def test_projection_of_a_matrix():
    """Frobenius: sums over all entries of a matrix, not row by row."""
    torch.manual_seed(0)
    gradient, against = torch.randn(3, 4).double(), torch.randn(3, 4).double()
    inner = sum(gradient[i, j] * against[i, j] for i in range(3) for j in range(4))
    square = sum(against[i, j] ** 2 for i in range(3) for j in range(4))
    expected = [
        [gradient[i, j] - inner / square * against[i, j] - 0.5 * against[i, j] for j in range(4)] for i in range(3)
    ]
    result = adversaries.project(gradient, against, 0.5)
    torch.testing.assert_close(result, torch.tensor(expected).double())
    assert (adversaries.project(gradient, against, 0) * against).sum().item() == pytest.approx(0, abs=1e-12)
    assert torch.equal(adversaries.project(gradient, torch.zeros(3, 4).double(), 1.0), gradient)
    row_by_row = gradient - (gradient * against).sum(1, keepdim=True) / square * against
    assert not torch.allclose(row_by_row, adversaries.project(gradient, against, 0))


def test_a_projected_step_does_not_help_the_adversary():
    """By finite differences: at small λ the adversary's loss is flat along the student's step; along the plain gradient it is
    not; with λ it rises."""
    torch.manual_seed(0)
    inputs, weight = torch.randn(8, 3).double(), torch.randn(3, 2).double().requires_grad_()
    target = torch.randint(2, (8,))
    gradients = {}
    for lam in (1e-9, 2.0):
        torch.manual_seed(1)
        part = build("projection", lam)
        part.module.double()
        part.optimizer.param_groups[0]["lr"] = 0.0
        weight.grad = None
        logits = inputs @ weight
        assert part.terms(Output(logits, None), BATCH, {}) == {}
        part.backward(F.cross_entropy(logits, target), [weight])
        gradients[lam] = weight.grad.clone()

        def against(values, part=part):
            return adversarial_loss(part, inputs @ values, True, BATCH)

    plain = torch.autograd.grad(F.cross_entropy(inputs @ weight, target), weight)[0]
    direction = {"plain": plain, **gradients}
    along = {}
    for name, step in direction.items():
        at, by = weight.detach(), 1e-4 * step / step.norm()
        along[name] = (against(at + by) - against(at - by)).detach().item() / 2e-4 * step.norm().item()
    square = torch.autograd.grad(against(weight), weight)[0].square().sum().item()
    assert abs(along["plain"]) > 10 * square
    assert along[1e-9] == pytest.approx(0, abs=1e-3 * square)
    assert along[2.0] == pytest.approx(-2 * square, rel=1e-3), (
        "a step against this gradient raises the adversary's loss"
    )


# ---- agreement of groups


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
    for _ in range(3000):
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


# ---- heads, weights, sampling


def test_group_heads_train_their_own_group_and_decide_together():
    head = build("domain_independent").head
    embedding = torch.randn(8, 4)
    own = head.of_group(embedding, GROUP)
    both = torch.stack([head.of_group(embedding, torch.full((8,), g)) for g in (0, 1)])
    assert torch.equal(own, torch.stack([both[g, i] for i, g in enumerate(GROUP.tolist())]))
    torch.testing.assert_close(head(embedding), both.mean(0))
    torch.testing.assert_close(head.of_group(embedding, UNKNOWN), both.mean(0))
    share = torch.linspace(0, 1, 8)
    mixed = (1 - share)[:, None] * both[0] + share[:, None] * both[1]
    torch.testing.assert_close(head.of_group(embedding, UNKNOWN, share), mixed)
    torch.testing.assert_close(head.of_group(embedding, UNKNOWN, share * float("nan")), both.mean(0))
    own[GROUP == 1].sum().backward()
    gradient = head.heads.weight.grad.view(2, 2, 4)
    assert gradient[0].abs().max() == 0
    assert gradient[1].abs().min() > 0


def test_resampling_shows_each_cell_of_a_class_equally_often():
    labels, group = LABELS.repeat(500), GROUP.repeat(500)
    part = build("resample", labels=labels, group=group)
    order = part.order(seed=0, epoch=1)
    assert len(order) == len(labels)
    cells = torch.bincount(labels[order] * 2 + group[order])
    assert cells.tolist() == pytest.approx([1000] * 4, rel=0.1)
    assert torch.equal(order, part.order(seed=0, epoch=1))
    assert not torch.equal(order, part.order(seed=0, epoch=2))


def test_group_dro_by_hand():
    part = build("group_dro", 0.5)
    each = F.cross_entropy(LOGITS, LABELS, reduction="none")
    cells = [(label == LABELS) & (g == GROUP) for label in (0, 1) for g in (0, 1)]
    loss = torch.stack([each[cell].mean() for cell in cells])
    q = torch.exp(0.5 * loss) / torch.exp(0.5 * loss).sum()
    weights = part.weights(Output(LOGITS, None), BATCH)
    assert (weights * each).mean().item() == pytest.approx((q * loss).sum().item(), rel=1e-5)
    torch.testing.assert_close(part.module.q.flatten(), q)
    only = debias.Batch(LABELS, torch.where((LABELS == 1) & (GROUP == 1), -1, GROUP))
    weights = part.weights(Output(LOGITS, None), only)
    raised = q * torch.exp(0.5 * torch.where(torch.arange(4) == 3, 0, loss))
    torch.testing.assert_close(part.module.q.flatten(), raised / raised.sum())
    assert weights[7] == 1, "an unknown group has weight 1"
    assert weights[:7].mean().item() == pytest.approx(1), "the cells of the batch share the whole loss"
    assert part.report()["largest_q"] == part.module.q.max().item()


def test_group_dro_with_a_large_step_stays_a_distribution():
    part = build("group_dro", 1e4)
    for _ in range(3):
        assert part.weights(Output(50 * LOGITS, None), BATCH).isfinite().all()
    assert part.module.q.sum().item() == pytest.approx(1)


def test_group_dro_draws_its_batches_uniformly_over_cells():
    labels, group = torch.cat([LABELS.repeat(500), torch.zeros(2000, dtype=torch.int64)]), GROUP.repeat(500)
    group = torch.cat([group, torch.full((2000,), -1)])
    order = build("group_dro", labels=labels, group=group).order(seed=0, epoch=1)
    cells = torch.bincount(labels[order] * 3 + group[order] + 1, minlength=6).tolist()
    assert cells == pytest.approx([2000, 1000, 1000, 0, 1000, 1000], rel=0.1)


def test_mimicked_classes_have_the_target_classs_groups():
    cells = torch.tensor([[90.0, 10], [20, 80], [50, 50], [7, 0]])
    kept = balancing.mimicked(cells)
    smooth = cells + 0.5
    for c in range(4):
        assert torch.equal(kept[c, c], torch.ones(2)), "all of its own class"
        assert kept[c].amax(1).tolist() == pytest.approx([1] * 4), "as much as can be had"
        for y in range(4):
            left = kept[c, y] * smooth[y]
            torch.testing.assert_close(left / left.sum(), smooth[c] / smooth[c].sum())


def test_bias_mimickings_backbone_learns_from_its_binary_classifiers_alone():
    part = build("bias_mimicking")
    embedding = torch.randn(8, 4, requires_grad=True)
    output = part.select(Output(None, embedding), BATCH)
    torch.testing.assert_close(output.logits, part.head(embedding))
    assert output.embedding is embedding
    output.logits.sum().backward()
    assert embedding.grad is None
    assert part.head.weight.grad.abs().max() > 0
    kept = balancing.mimicked(groups.cell_counts(LABELS, groups.membership(GROUP, None, 2), 2))
    total, weight, scores = 0.0, 0.0, part.module(embedding)
    for i in range(8):
        for c in range(2):
            w = kept[c, LABELS[i], GROUP[i]]
            total += w * F.binary_cross_entropy_with_logits(scores[i, c], (LABELS[i] == c).float())
            weight += w
    term = part.terms(output, BATCH, {})["binary"]
    torch.testing.assert_close(term, total / weight)
    term.backward()
    assert embedding.grad.abs().max() > 0
    assert part.terms(output, BATCH._replace(group=UNKNOWN), {})["binary"] == 0


def test_a_fitted_head_is_the_logistic_regression():
    from sklearn.linear_model import LogisticRegression

    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    embedding = torch.randn(60, 5, generator=generator) * torch.tensor([1, 10, 0.1, 1, 1]) + F.one_hot(labels, 5)
    weights = torch.rand(60, generator=generator)
    head = balancing.fitted_head(embedding, labels, weights, 3, 0.5)
    standard = ((embedding - embedding.mean(0)) / embedding.std(0)).double().numpy()
    model = LogisticRegression(C=0.5 * 60 / weights.sum().item(), tol=1e-8, max_iter=5000)
    model.fit(standard, labels.numpy(), weights.double().numpy())
    ours = head(embedding).softmax(1).detach().numpy()
    np.testing.assert_allclose(ours, model.predict_proba(standard), atol=1e-3)
    two = balancing.fitted_head(embedding, labels, weights * (labels < 2), 4, 0.5)  # classes without weight, or samples
    assert set(two(embedding).argmax(1).tolist()) <= {0, 1}


def test_dfr_learns_from_half_of_validation_in_which_cells_weigh_the_same():
    part = build("dfr")
    generator = torch.Generator().manual_seed(0)
    labels, group = torch.arange(200) % 2, torch.randint(2, (200,), generator=generator)
    group[:7], group[7:9] = 1, -1
    embedding = torch.randn(200, 4, generator=generator)
    embedding[:, 0] += 2 * labels
    head, used = part.finish(None, embedding, labels, group, None)
    assert 98 <= used.sum() <= 102
    again, same = part.finish(None, torch.where(used[:, None], embedding, 1e6), labels, group, None)
    assert torch.equal(used, same)
    assert torch.equal(head.weight, again.weight), "the other half changes nothing"
    assert (head(embedding).argmax(1) == labels)[~used].float().mean() > 0.7


def test_what_dfr_learned_from_is_no_longer_validation(tiny):
    run = runs.Run(debias="dfr", epochs=1, student="convnet_4", teacher="convnet_8")
    record, arrays = runs.run(run, log=list), runs.predictions(run)
    used = torch.from_numpy(balancing.stratified_cut(tiny.val.labels, tiny.val.group, 0.5, 0)[0])
    left = np.setdiff1d(np.arange(60), used)
    np.testing.assert_array_equal(arrays["val_labels"], tiny.val.labels[left])
    np.testing.assert_array_equal(arrays["val_group"], tiny.val.group[left])
    assert record["data"]["val"] == len(left)
    assert record["metrics"]["val"]["accuracy"] == pytest.approx(
        (arrays["val_logits"].argmax(1) == arrays["val_labels"]).mean()
    )
    assert len(arrays["test_labels"]) == 100
    plain = runs.Run(epochs=1, student="convnet_4", teacher="convnet_8")
    runs.run(plain, log=list)
    one, other = runs.load_model(run).state_dict(), runs.load_model(plain).state_dict()
    differ = {name for name in one if not torch.equal(one[name], other[name])}
    assert differ == {"fc.weight", "fc.bias"}, "the backbone is plain distillation's"


def test_a_debiased_network_reloads_with_its_heads(tiny):
    run = runs.Run(debias="domain_independent", epochs=1, student="convnet_4", teacher="convnet_8")
    runs.run(run, log=list)
    assert isinstance(models.get_head(runs.load_model(run)), debias.GroupHeads)


# ---- priors


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
        output = part.select(Output(table[x, group], None), debias.Batch(labels, group))
        value = (probability * F.cross_entropy(output.logits, labels, reduction="none")).sum()
        value.backward()
        return value

    optimizer.step(loss)
    learned, expected = table.detach().softmax(2), (likelihood / likelihood.sum(0)).T
    for g in (0, 1):
        torch.testing.assert_close(learned[:, g], expected, rtol=0.02, atol=0.01)


def balanced(lam, says, labels, group, **options):
    """The balanced teacher's parts, from a teacher that says `says` (N, K + 3) on the training split."""
    classes = says.shape[1] - 3
    cells = groups.cell_counts(labels, groups.membership(group, None, 2), classes)
    setting = dict(labels=labels, group=group, share=None, cells=cells, num_classes=classes, num_groups=2, device="cpu")
    teacher = debias.Teacher(3, lambda: Output(*says.split([classes, 3], dim=1)))
    return priors.balanced_teacher(setting, lam, teacher, **options)


def a_teacher(count=400):
    """Logits and embeddings of a teacher that follows a group which follows the class; labels and group."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 2
    group = (torch.rand(count, generator=generator) < torch.where(labels == 1, 0.9, 0.1)).long()
    says = torch.randn(count, 5, generator=generator) + 2 * F.one_hot(labels, 5) + 1.5 * F.one_hot(group, 5)
    return says, labels, group


def test_group_deviation_is_a_difference_of_means():
    says, labels, group = a_teacher(40)
    group[labels == 0] = 0  # a cell without pictures
    member = groups.membership(group, None, 2)
    cells = groups.cell_counts(labels, member, 3)
    deviation = priors.group_deviation(says, labels, member, cells)
    for k in range(3):
        means = [says[(k == labels) & (g == group)].mean(0) for g in (0, 1)]
        if k == 1:
            torch.testing.assert_close(deviation[1, 0], (means[0] - means[1]) / 2)
            torch.testing.assert_close(deviation[1, 1], (means[1] - means[0]) / 2)
        else:
            assert deviation[k].abs().max() < 1e-6, "nothing to compare with"


def test_group_conditional_means_of_the_balanced_teacher_agree():
    says, labels, group = a_teacher()
    batch = debias.Batch(labels, group)
    part = balanced(1.0, says, labels, group, prior_weight=0.0)
    output = part["teacher"](Output(says[:, :2], says[:, 2:]), batch)
    for values in output:
        for k in (0, 1):
            means = [values[(k == labels) & (g == group)].mean(0) for g in (0, 1)]
            torch.testing.assert_close(*means)
    before = [says[(labels == 0) & (g == group), :2].mean(0) for g in (0, 1)]
    assert (before[0] - before[1]).abs().max() > 1


def test_the_balanced_teachers_correction_by_hand():
    says, labels, group = a_teacher(60)
    cells = groups.cell_counts(labels, groups.membership(group, None, 2), 2)
    a = priors.log_prior(cells)
    for weight, lam in ((10.0, 1.0), (10.0, 0.5), (1e12, 1.0)):
        part = balanced(lam, says, labels, group, prior_weight=weight)
        output = part["teacher"](Output(says[:, :2], says[:, 2:]), debias.Batch(labels, group))
        for i in range(0, 60, 7):
            y, g, n = labels[i], group[i], cells[labels[i]].min()
            means = [says[(y == labels) & (h == group)].mean(0) for h in (0, 1)]
            own = means[g] - (means[0] + means[1]) / 2
            shift = a.mean(1) + (n * own[:2] + weight * (a[:, g] - a.mean(1))) / (n + weight)
            torch.testing.assert_close(output.logits[i], says[i, :2] - lam * shift)
            torch.testing.assert_close(output.embedding[i], says[i, 2:] - lam * n / (n + weight) * own[2:])
    bayes = output.logits - says[:, :2]  # of the heaviest prior
    torch.testing.assert_close(bayes, -a.T[group], rtol=1e-4, atol=1e-4)


def test_the_balanced_teacher_leaves_unknown_groups_and_missing_embeddings_alone():
    says, labels, group = a_teacher()
    part = balanced(1.0, says, labels, group)
    theirs = Output(says[:, :2], None)
    output = part["teacher"](theirs, debias.Batch(labels, torch.full_like(group, -1)))
    assert torch.equal(output.logits, theirs.logits)
    assert output.embedding is None
    half = part["teacher"](theirs, debias.Batch(labels, group, torch.full((400,), 0.5))).logits
    sides = [part["teacher"](theirs, debias.Batch(labels, torch.full_like(group, g))).logits for g in (0, 1)]
    torch.testing.assert_close(half, (sides[0] + sides[1]) / 2)
    setting = dict(labels=labels, group=group, num_groups=2, share=None)
    assert torch.equal(part["order"](0, 1), balancing.resample(setting)["order"](0, 1))


# ---- the literature's amplification


def test_skew_amplification_by_hand():
    group = np.repeat([0, 1], 8)
    predicted = np.array([0, 0, 0, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 1, 1])  # class 0: 3 and 6, class 1: 5 and 2
    assert skew_amplification(predicted, group) == pytest.approx((6 / 9 + 5 / 7) / 2 - 0.5)
    assert skew_amplification(np.tile(np.arange(8), 2), group) == 0, "blind to the group"
    assert skew_amplification(group, group, num_classes=5) == 0.5, "nothing but the group; classes never predicted"
    assert skew_amplification(torch.tensor([0, 0, 1, 0, 1, 1]), torch.tensor([0, 0, 0, 1, 1, 1])) == pytest.approx(
        1 / 6
    )
    unknown = np.append(predicted, [0, 0, 1]), np.append(group, [-1, -1, -1])
    assert skew_amplification(*unknown) == skew_amplification(predicted, group)
    three = skew_amplification(np.array([0, 1, 2] * 3), np.repeat([0, 1, 2], 3))
    assert three == pytest.approx(0)


@pytest.mark.parametrize("group", [np.array([0, 0, 1]), np.zeros(3, int), np.array([0, 1])])
def test_skew_amplification_needs_groups_that_show_the_same(group):
    with pytest.raises(ValueError, match="group"):
        skew_amplification(np.array([0, 1, 1]), group)
