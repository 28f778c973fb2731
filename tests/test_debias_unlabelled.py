"""JTT and AFR: which samples they find and weigh, by slow loops."""

import pytest
import torch
import torch.nn.functional as F
from debias_examples import GROUP, LABELS, build
from scipy.optimize import minimize

from kdlib import debias
from kdlib.models import Output


def epoch_of(part, labels, predicted, epoch, batch_size=30):
    """Show a debiaser one epoch in which the network predicts `predicted` (N,); returns the order."""
    order = part.order(seed=0, epoch=epoch)
    for rows in order.split(batch_size):
        logits = F.one_hot(predicted[rows], 2).float()
        assert part.terms(Output(logits, None), debias.Batch(labels[rows], GROUP[:1]), {}) == {}
    return order


def test_jtt_draws_the_errors_of_its_first_stage_more_often():
    labels = torch.arange(1000) % 2
    early, late = labels.clone(), labels.clone()
    early[100:200] = 1 - early[100:200]
    late[:50] = 1 - late[:50]
    part = build("jtt", 9.0, labels=labels, group=torch.full_like(labels, -1), epochs=4)
    for epoch, predicted in ((1, early), (2, late)):
        order = epoch_of(part, labels, predicted, epoch)
        assert sorted(order.tolist()) == list(range(1000)), "the first stage shows every sample once"
    assert part.module.wrong.nonzero().squeeze(1).tolist() == list(range(50)), (
        "the errors of the last epoch of the stage"
    )
    assert part.report()["errors"] == pytest.approx(0.05)
    counts = sum(torch.bincount(epoch_of(part, labels, labels, epoch), minlength=1000) for epoch in range(3, 11))
    assert counts[:50].float().mean() / counts[50:].float().mean() == pytest.approx(10, rel=0.1)
    assert counts.sum() == 8000
    assert part.module.wrong.sum() == 50, "later epochs change nothing"
    assert torch.equal(part.order(seed=0, epoch=5), part.order(seed=0, epoch=5))


@pytest.mark.parametrize(("epochs", "stage"), [(None, 1), (1, 1), (3, 2), (12, 6)])
def test_jtts_first_stage_is_half_of_the_epochs(epochs, stage):
    labels = torch.arange(8) % 2
    part = build("jtt", 1e6, labels=labels, epochs=epochs)
    for epoch in range(1, stage + 1):
        order = epoch_of(part, labels, torch.where(torch.arange(8) == 3, 1 - labels, labels), epoch)
        assert len(set(order.tolist())) == 8
    assert set(part.order(seed=0, epoch=stage + 1).tolist()) == {3}, "all but the error have no chance"


def test_afr_by_a_slow_loop_and_another_optimiser():
    """On the half of validation that it uses: exp(−λ p) over the class's size, and a pull to the old layer."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([0, 0, 0, 1, 1] * 8)
    embedding = torch.randn(40, 3, generator=generator) + labels[:, None]
    head = torch.nn.Linear(3, 2)
    fitted, used = build("afr", 4.0).finish(head, embedding, labels, torch.full_like(labels, -1), None)
    assert [used[labels == label].sum().item() for label in (0, 1)] == [12, 8]
    rows = used.nonzero().squeeze(1).tolist()
    weights = []
    for i in rows:
        certainty = head(embedding[i]).softmax(0)[labels[i]].item()
        weights.append(torch.exp(torch.tensor(-4.0 * certainty)) / sum(labels[j] == labels[i] for j in rows))
    weights = torch.stack(weights) / sum(weights)
    start = torch.cat([head.weight.flatten(), head.bias]).detach().double()

    def loss(values):
        values = torch.tensor(values)
        logits = embedding[rows].double() @ values[:6].view(2, 3).T + values[6:]
        error = F.cross_entropy(logits, labels[rows], reduction="none")
        return ((weights * error).sum() + 0.2 * (values - start).square().sum()).item()

    expected = minimize(loss, start.numpy(), method="BFGS", options={"gtol": 1e-7}).x
    got = torch.cat([fitted.weight.flatten(), fitted.bias]).detach()
    torch.testing.assert_close(got.double(), torch.tensor(expected), atol=1e-4, rtol=1e-3)


def test_afr_attends_to_what_the_network_gets_wrong():
    """A layer that reads a shortcut is turned towards the feature that holds for the samples without it."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(400) % 2
    sign = 2.0 * labels - 1
    shortcut = torch.where(torch.rand(400, generator=generator) < 0.9, sign, -sign)
    embedding = torch.stack([shortcut, sign + 0.5 * torch.randn(400, generator=generator)], 1)
    head = torch.nn.Linear(2, 2)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[-1.0, -0.25], [1.0, 0.25]]))
        head.bias.zero_()
    against = (shortcut != sign).nonzero().squeeze(1)
    accuracy = []
    for lam in (1e-9, 10.0):
        fitted, _ = build("afr", lam).finish(head, embedding, labels, labels, None)
        accuracy.append((fitted(embedding).argmax(1) == labels)[against].float().mean().item())
    assert accuracy[0] < 0.3 < 0.8 < accuracy[1]
    curved = torch.nn.Sequential(head, torch.nn.ReLU())
    with pytest.raises(ValueError, match="'afr' needs a last layer that is linear"):
        build("afr", 1.0).finish(curved, torch.randn(8, 2), LABELS, GROUP, None)
