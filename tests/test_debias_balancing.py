"""Heads per group, weights, sampling and refits: values by slow loops and by hand."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from debias_examples import BATCH, GROUP, LABELS, LOGITS, UNKNOWN, build

from kdlib import debias, models, runs
from kdlib.debias import balancing, groups, heads
from kdlib.models import Output


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


def test_draws_stay_as_they_were():
    """Stored runs depend on them."""
    assert balancing.draw(torch.tensor([1.0, 2, 3, 4]), seed=0, epoch=1).tolist() == [3, 1, 3, 1]
    assert balancing.draw(torch.ones(8), seed=3, epoch=2).tolist() == [6, 1, 4, 6, 5, 2, 3, 5]


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
    head = heads.fitted_head(embedding, labels, weights, 3, 0.5)
    standard = ((embedding - embedding.mean(0)) / embedding.std(0)).double().numpy()
    model = LogisticRegression(C=0.5 * 60 / weights.sum().item(), tol=1e-8, max_iter=5000)
    model.fit(standard, labels.numpy(), weights.double().numpy())
    ours = head(embedding).softmax(1).detach().numpy()
    np.testing.assert_allclose(ours, model.predict_proba(standard), atol=1e-3)
    two = heads.fitted_head(embedding, labels, weights * (labels < 2), 4, 0.5)  # classes without weight, or samples
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


def test_dfr_weighs_its_cells_equally():
    labels, group = torch.arange(200) % 2, (torch.arange(200) % 20 < 3).long()
    embedding = torch.randn(200, 4, generator=torch.Generator().manual_seed(0)) + labels[:, None]
    fitted, used = build("dfr").finish(None, embedding, labels, group, None)
    cells = torch.bincount(labels[used] * 2 + group[used])
    assert len(set(cells.tolist())) > 1
    weights = 1 / cells[labels[used] * 2 + group[used]].float()
    expected = heads.fitted_head(embedding[used], labels[used], weights, 2, 1.0)
    torch.testing.assert_close(fitted.weight, expected.weight)


def test_dfr_needs_validation_images_of_known_groups():
    with pytest.raises(ValueError, match="'dfr' needs"):
        build("dfr").finish(None, torch.randn(8, 4), LABELS, torch.full((8,), -1), None)


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
