"""Critics and adversaries: what they learn, and their gradients by finite differences."""

import pytest
import torch
import torch.nn.functional as F
from debias_examples import BATCH, GROUP, LABELS, LOGITS, assert_gradient, build

from kdlib import debias
from kdlib.debias import adversaries, groups
from kdlib.models import Output


def test_critic_learns_the_disparity_and_its_term_reaches_the_student():
    torch.manual_seed(0)
    part = build("critic", 3.0)
    fixed = torch.tensor([[4.0, 0], [4, 0], [4, 0], [0, 4], [0, 4], [0, 4], [0, 4], [4, 0]])
    target, _ = groups.batch_disparity(fixed, BATCH, 2)
    assert target.tolist() == [1, -1]
    part.optimizer.param_groups[0]["lr"] = 0.005
    for _ in range(60):
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
    part.optimizer.param_groups[0]["lr"] = 0.01
    one_sided = debias.Batch(LABELS, torch.tensor([1, 1, 1, 1, 0, 0, 0, 1]))
    right = torch.eye(2)[LABELS] * 4
    for _ in range(100):
        terms = part.terms(Output(right, None), one_sided, {"ce": ce})
    # class 0 has nobody in group 0, which counts as recall 0: a perfect classifier "has" disparity (1 − 0 + 1 − 1)/2
    assert part.module(right).mean().item() == pytest.approx(0.5, abs=0.02)
    seen = part.module(right)[0, 0].item()
    assert (ce + terms["critic"]).item() == pytest.approx(max(1, 5 * (seen - 0.05 + 0.01) + 1) * 0.25, rel=1e-4)
    for _ in range(50):  # disparities of 2/3 and −2/3 cancel, and a negative mean cannot be had
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
    for _ in range(40):
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
