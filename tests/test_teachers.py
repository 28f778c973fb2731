"""Class means and the bank of teacher outputs."""

import json

import numpy as np
import pytest
import torch

from kdlib import models, teachers
from kdlib.augment import Images, number_of_views

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 3, 8, 8), dtype=np.uint8)


def test_class_means_equal_an_explicit_loop_in_any_order():
    generator = torch.Generator().manual_seed(0)
    embeddings, labels = torch.randn(50, 4, generator=generator), torch.arange(50) % 3
    means = teachers.class_means(embeddings, labels, 3)
    for label in range(3):
        rows = [embeddings[i] for i in range(50) if labels[i] == label]
        torch.testing.assert_close(means[label], sum(rows) / len(rows))
    order = torch.randperm(50, generator=generator)
    assert torch.equal(teachers.class_means(embeddings[order], labels[order], 3), means)


def test_class_means_refuse_what_has_no_mean():
    embeddings = torch.randn(4, 2)
    with pytest.raises(ValueError, match="class 2"):
        teachers.class_means(embeddings, torch.tensor([0, 1, 0, 1]), 3)
    with pytest.raises(ValueError, match="0 … 1"):
        teachers.class_means(embeddings, torch.tensor([0, 1, 0, 2]), 2)
    with pytest.raises(ValueError, match="labels"):
        teachers.class_means(embeddings, torch.tensor([0, 1]), 2)


def test_means_in_the_published_form(tmp_path):
    means = torch.randn(3, 5)
    teachers.write_means(tmp_path / "means.json", means)
    assert list(json.loads((tmp_path / "means.json").read_text())) == ["0", "1", "2"]
    assert torch.equal(teachers.read_means(tmp_path / "means.json", num_classes=3, dim=5), means)
    with pytest.raises(ValueError, match=r"\(3, 5\)"):
        teachers.read_means(tmp_path / "means.json", num_classes=3, dim=6)
    (tmp_path / "other.json").write_text('{"a": 1}')
    with pytest.raises(ValueError, match="class means"):
        teachers.read_means(tmp_path / "other.json", num_classes=3, dim=5)


def test_means_are_compared_by_direction_and_norm():
    means = torch.tensor([[3.0, 4.0], [1.0, 0.0]])
    assert teachers.compare_means(means, 2 * means) == pytest.approx(
        {"least_cosine": 1.0, "mean_cosine": 1.0, "norm_ratio": 0.5}
    )
    turned = torch.tensor([[3.0, 4.0], [0.0, 1.0]])
    assert teachers.compare_means(means, turned)["least_cosine"] == pytest.approx(0)
    with pytest.raises(ValueError, match="cannot be compared"):
        teachers.compare_means(means, means[:1])


@pytest.fixture
def bank_and_images():
    torch.manual_seed(0)
    images = Images(PIXELS, (0.5,) * 3, (0.25,) * 3, padding=1, flip=True)
    return teachers.TeacherBank(models.build_model("convnet_8", 3), images, number_of_views(1, True)), images


def test_bank_equals_the_plain_teacher_whoever_asked_first(bank_and_images):
    bank, images = bank_and_images
    generator = torch.Generator().manual_seed(1)
    for size in (5, 12, 7, 2, 12, 12, 3):
        index = torch.randperm(12, generator=generator)[:size]
        view = torch.randint(18, (12,), generator=generator)[:size]
        inputs = images.views(index, view)
        with torch.no_grad():
            plain = bank.teacher(inputs)
        kept = bank.output(index, view, inputs)
        torch.testing.assert_close(kept.logits, plain.logits, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(kept.embedding, plain.embedding, rtol=1e-6, atol=1e-6)
    assert bank.used == bank.forwards < 53


def test_a_second_pass_costs_no_forward(bank_and_images):
    bank, images = bank_and_images
    index, view = torch.arange(12), torch.arange(12)
    first = bank.output(index, view, images.views(index, view))
    bank.teacher = None
    again = bank.output(index.flip(0), view.flip(0), None)
    assert torch.equal(again.logits.flip(0), first.logits)


def test_without_room_the_bank_is_the_plain_forward(bank_and_images):
    full, images = bank_and_images
    lines = []
    bank = teachers.TeacherBank(full.teacher, images, 18, budget=10, log=lines.append)
    index, view = torch.arange(12), torch.arange(12)
    inputs = images.views(index, view)
    for _ in range(2):
        assert torch.equal(bank.output(index, view, inputs).logits, full.output(index, view, inputs).logits)
    assert (bank.forwards, bank.used > bank.capacity, len(lines)) == (24, True, 1)


def test_a_full_bank_still_serves_what_it_has(bank_and_images):
    full, images = bank_and_images
    row = 4 * (3 + full.teacher.embedding_dim)
    bank = teachers.TeacherBank(full.teacher, images, 18, budget=6 * row, log=lambda line: None)
    index, view = torch.arange(12), torch.zeros(12, dtype=torch.int64)
    for part in (index[:6], index):
        inputs = images.views(part, view[part])
        ours, plain = bank.output(part, view[part], inputs), full.output(part, view[part], inputs)
        torch.testing.assert_close(ours.embedding, plain.embedding, rtol=1e-6, atol=1e-6)
    assert bank.forwards == 12
