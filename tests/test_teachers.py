"""Class means and the bank of teacher outputs."""

import json

import numpy as np
import pytest
import torch

from kdlib import models, teachers
from kdlib.data.augment import Images, number_of_views

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


def images_and_teacher():
    torch.manual_seed(0)
    return Images(PIXELS, (0.5,) * 3, (0.25,) * 3, padding=1, flip=True), models.build_model("convnet_8", 3)


def bank(**options):
    images, teacher = images_and_teacher()
    return teachers.TeacherBank(teacher, images, number_of_views(1, True), log=lambda line: None, **options)


def epochs(count, sizes=(5, 4, 3)):
    """`count` epochs of 12 images in some order, each under some view: (pieces, views of the images one after another)."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        order = torch.randperm(12, generator=generator)
        yield order.split(sizes), torch.randint(18, (12,), generator=generator)


def joined(outputs):
    return torch.cat([output.logits for output in outputs]), torch.cat([output.embedding for output in outputs])


@pytest.mark.parametrize(
    ("dtype", "precision", "rounding"),
    [(torch.float32, "float32", 1e-6), (torch.float16, "float32", 2**-11), (torch.float32, "bfloat16", 2**-8)],
)
def test_bank_equals_the_plain_teacher_in_any_order(dtype, precision, rounding):
    kept, (images, teacher) = bank(dtype=dtype, precision=precision), images_and_teacher()
    requested = set()
    for pieces, view in [*epochs(6), *epochs(8)]:  # the first six come again
        for piece, shown, output in zip(pieces, view.split((5, 4, 3)), kept.batches(pieces, view), strict=True):
            with torch.no_grad(), models.in_precision(precision, "cpu"):
                plain = teacher.eval()(images.views(piece, shown))
            for ours, expected in zip(output, plain, strict=True):
                scale = expected.float().abs().max().item() if precision == "bfloat16" else 0
                torch.testing.assert_close(ours, expected.float(), rtol=rounding, atol=max(1e-6, rounding * scale))
        requested |= set(zip(torch.cat(pieces).tolist(), view.tolist(), strict=True))
    assert kept.forwards == kept.shelves["logits"].used == len(requested) < 96


def test_a_bank_computes_in_its_precision():
    (pieces, view), *_ = epochs(1)
    full, half = (joined(bank(precision=precision).batches(pieces, view)) for precision in ("float32", "bfloat16"))
    for one, other in zip(full, half, strict=True):
        assert not torch.equal(one, other)
        assert (one - other).abs().max() < 2**-6 * one.abs().max()


def test_a_second_pass_costs_no_forward():
    kept = bank()
    (pieces, view), *_ = epochs(1)
    first = joined(kept.batches(pieces, view))
    kept.teacher = None
    for one, other in zip(first, joined(kept.batches(pieces, view)), strict=True):
        assert torch.equal(one, other)


def test_no_bit_depends_on_batches_on_earlier_requests_or_on_memory():
    expected = [joined(bank().batches(pieces, view)) for pieces, view in epochs(5)]
    row = 4 * (3 + 32)
    for kept, sizes in (
        (bank(), (5, 4, 3)),
        (bank(), (2, 10)),
        (bank(budget=0), (12,)),
        (bank(budget=17 * row), (6, 6)),
    ):
        for (pieces, view), parts in zip(epochs(5, sizes), expected, strict=True):
            for one, other in zip(joined(kept.batches(pieces, view)), parts, strict=True):
                assert torch.equal(one, other)


def test_an_image_drawn_twice_is_computed_once():
    kept, view = bank(), torch.zeros(6, dtype=torch.int64)
    outputs = kept.batches([torch.tensor([3, 7, 3]), torch.tensor([7, 7, 1])], view)
    assert kept.forwards == 3
    assert torch.equal(outputs[0].logits[0], outputs[0].logits[2])
    assert torch.equal(outputs[0].logits[1], outputs[1].logits[1])
    single = joined(bank().batches([torch.tensor([1])], view[:1]))
    assert torch.equal(outputs[1].embedding[2], single[1][0])


def test_an_image_drawn_twice_may_come_under_two_views():
    kept, (images, teacher) = bank(), images_and_teacher()
    piece, view = torch.tensor([3, 3, 5]), torch.tensor([0, 17, 4])
    (output,) = kept.batches([piece], view)
    assert kept.forwards == 3
    with torch.no_grad():
        plain = teacher.eval()(images.views(piece, view)).logits
    torch.testing.assert_close(output.logits, plain, rtol=1e-6, atol=1e-6)
    assert not torch.allclose(plain[0], plain[1])


@pytest.mark.parametrize("budget", [0, 10 * 4 * 35])
def test_outputs_that_do_not_fit_are_recomputed_and_logged_once(budget):
    lines, kept = [], bank(budget=budget)
    kept.log = lines.append
    (pieces, view), *_ = epochs(1)
    for _ in range(3):
        kept.batches(pieces, view)
    held = kept.shelves["embedding"].used
    assert held <= 10
    assert kept.forwards == 12 + 2 * (12 - held)
    assert len(lines) == 1
    assert f"{kept.shelves['logits'].used} outputs fill its memory" in lines[0]


def test_host_memory_takes_what_the_device_cannot():
    kept = bank(budget=7 * 4 * 35, spill=1 << 20)
    (pieces, view), *_ = epochs(1)
    first = joined(kept.batches(pieces, view))
    assert [len(block) for block in kept.shelves["logits"].blocks] == [12]
    assert [len(block) for block in kept.shelves["embedding"].blocks] == [6, 6]
    kept.teacher = None
    assert torch.equal(joined(kept.batches(pieces, view))[1], first[1])


def test_embeddings_are_kept_only_for_those_who_need_them():
    kept = bank()
    (pieces, view), *_ = epochs(1)
    outputs = kept.batches(pieces, view, embedding=False)
    assert outputs[0].embedding is None
    assert (kept.shelves["embedding"].used, kept.forwards) == (0, 12)
    assert torch.equal(joined(kept.batches(pieces, view))[1], joined(bank().batches(pieces, view))[1])
    assert (kept.shelves["logits"].used, kept.shelves["embedding"].used, kept.forwards) == (12, 12, 24)
    kept.teacher = None
    kept.batches(pieces, view, embedding=False)


def test_what_half_precision_cannot_hold_is_kept_in_float32():
    kept = bank(dtype=torch.float16)
    with torch.no_grad():
        kept.teacher.fc.bias += 1e5
    (pieces, view), *_ = epochs(1)
    kept.batches(pieces, view)
    assert kept.shelves["logits"].blocks[0].dtype == torch.float32
    assert kept.shelves["embedding"].blocks[0].dtype == torch.float16
    assert kept.batches(pieces, view)[0].logits.isfinite().all()
