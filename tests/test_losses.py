"""Losses against the published implementations' values and gradients, slow loops, limiting cases and worked numbers."""

import doctest
import math
import statistics
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from kdlib import evaluate, losses, methods, teachers, train
from kdlib.models import Output

ORACLE = {
    key: torch.from_numpy(np.asarray(value))
    for key, value in np.load(Path(__file__).parent / "oracles" / "losses.npz").items()
}
LABELS = ORACLE["labels"]


def student(name):
    return ORACLE[f"student_{name}"].clone().requires_grad_()


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-12)


CASES = {
    "kd_T1": ("logits", lambda s, t: losses.kd_loss(s, t, temperature=1)),
    "kd_T4": ("logits", lambda s, t: losses.kd_loss(s, t, temperature=4)),
    "rkd_distance": ("embedding", losses.rkd_distance_loss),
    "rkd_angle": ("embedding", losses.rkd_angle_loss),
    "nd": ("embedding", lambda s, t: losses.nd_loss(s, t, ORACLE["class_means"], LABELS)),
    "dkd_a1_b8_T4": ("logits", lambda s, t: losses.dkd_loss(s, t, LABELS, alpha=1, beta=8, temperature=4)),
    "dkd_a1_b2_T4": ("logits", lambda s, t: losses.dkd_loss(s, t, LABELS, alpha=1, beta=2, temperature=4)),
}


@pytest.mark.parametrize("name", CASES)
def test_value_and_gradient_of_the_published_implementation(name):
    kind, loss = CASES[name]
    inputs = student(kind)
    value = loss(inputs, ORACLE[f"teacher_{kind}"])
    value.backward()
    close(value.detach(), ORACLE[f"{name}_loss"])
    close(inputs.grad, ORACLE[f"{name}_grad"])


def test_rkd_benchmark_weights():
    output = Output(student("logits"), student("embedding"))
    teacher = Output(ORACLE["teacher_logits"], ORACLE["teacher_embedding"])
    terms = methods.build_method("rkd").terms(output, teacher, LABELS, 1)
    close((terms["distance"] + terms["angle"]).detach(), ORACLE["rkd_mdistiller_25_50_loss"])


@pytest.mark.parametrize("row", range(4))
def test_ctkd_value_reversed_temperature_gradient_and_student_gradient(row):
    epoch = int(ORACLE["ctkd_epochs"][row])
    temperature = methods.CurriculumTemperature().double()
    inputs = student("logits")
    tau = temperature(methods.curriculum_weight(epoch))
    value = losses.kd_loss(inputs, ORACLE["teacher_logits"], temperature=tau)
    value.backward()
    close(value.detach(), ORACLE["ctkd_loss"][row])
    close(temperature.theta.grad, ORACLE["ctkd_theta_grad"][row])
    close(inputs.grad, ORACLE["ctkd_student_grad"][row])


def test_ctkd_curriculum():
    weights = torch.tensor([methods.curriculum_weight(epoch) for epoch in range(1, 16)], dtype=torch.float64)
    close(weights, -ORACLE["ctkd_lambda_epochs_1_to_15"])
    assert weights[0] == pytest.approx(0.0245, abs=5e-5)
    assert weights[4] == pytest.approx(0.5)
    assert weights[9] == weights[14] == 1


def test_the_range_of_ctkds_temperature():
    for t_start, t_range in ((1.0, 20.0), (0.5, 0.5)):
        temperature = methods.CurriculumTemperature(t_start, t_range)(1.0).item()
        assert temperature == pytest.approx(t_start + t_range / (1 + math.exp(-1)))
    for t_start, t_range in ((0.0, 20.0), (1.0, 0.0), (1.0, -1.0)):
        with pytest.raises(ValueError, match="positive"):
            methods.CurriculumTemperature(t_start, t_range)


def test_ctkd_one_small_step_on_the_temperature_raises_the_loss():
    temperature = methods.CurriculumTemperature().double()
    assert temperature(1.0).item() == pytest.approx(15.6211716, abs=1e-6)
    optimizer = torch.optim.SGD(temperature.parameters(), lr=0.1)

    def loss():
        return losses.kd_loss(ORACLE["student_logits"], ORACLE["teacher_logits"], temperature=temperature(1.0))

    before = loss()
    before.backward()
    optimizer.step()
    assert loss() > before


TEACHER_LOGITS = torch.tensor([[2.0, 1, 0], [0, 0, 4]], dtype=torch.float64)
STUDENT_LOGITS = torch.tensor([[1.0, 1, 1], [1, 0, 0]], dtype=torch.float64)


@pytest.mark.parametrize(("temperature", "value"), [(1, 0.8113346614), (4, 1.4501548125), (20, 1.3766935196)])
def test_kd_worked_numbers(temperature, value):
    assert losses.kd_loss(STUDENT_LOGITS, TEACHER_LOGITS, temperature=temperature).item() == pytest.approx(value)


def test_ckd_worked_total_and_gradient():
    logits = STUDENT_LOGITS.clone().requires_grad_()
    terms = methods.build_method("ckd").terms(
        Output(logits, None), Output(TEACHER_LOGITS, None), torch.tensor([0, 2]), epoch=1
    )
    assert sum(terms.values()).item() == pytest.approx(1.4376421814)
    (gradient,) = torch.autograd.grad(terms["kd"] / 0.9, logits)
    close(gradient, 4 / 2 * (F.softmax(logits / 4, 1) - F.softmax(TEACHER_LOGITS / 4, 1)).detach())
    close(gradient.sum(1), torch.zeros(2, dtype=torch.float64))


def test_kd_equals_an_explicit_loop_and_ignores_shifts():
    total = 0.0
    for s, t in zip(ORACLE["student_logits"].tolist(), ORACLE["teacher_logits"].tolist(), strict=True):
        exp_s, exp_t = [math.exp(v / 3) for v in s], [math.exp(v / 3) for v in t]
        for a, b in zip(exp_s, exp_t, strict=True):
            total += 9 * b / sum(exp_t) * (math.log(b / sum(exp_t)) - math.log(a / sum(exp_s)))
    value = losses.kd_loss(ORACLE["student_logits"], ORACLE["teacher_logits"], temperature=3)
    assert value.item() == pytest.approx(total / len(LABELS), rel=1e-12)
    shifted = losses.kd_loss(ORACLE["student_logits"] + 5, ORACLE["teacher_logits"] - 7, temperature=3)
    close(shifted, value)


def test_sample_weights_multiply_each_samples_loss():
    s, t = ORACLE["student_logits"], ORACLE["teacher_logits"]
    weights = torch.arange(16, dtype=torch.float64)
    for loss in (
        lambda s, t, y, w: losses.kd_loss(s, t, temperature=4, weights=w),
        lambda s, t, y, w: losses.cross_entropy(s, y, weights=w),
        lambda s, t, y, w: losses.dkd_loss(s, t, y, alpha=1, beta=8, temperature=4, weights=w),
        lambda s, t, y, w: losses.dist_loss(s, t, beta=1, gamma=0, temperature=4, weights=w),
        lambda s, t, y, w: losses.standardized_kd_loss(s, t, temperature=4, weights=w),
    ):
        each = torch.stack([loss(s[i : i + 1], t[i : i + 1], LABELS[i : i + 1], None) for i in range(16)])
        close(loss(s, t, LABELS, weights), (each * weights).mean())
        close(loss(s, t, LABELS, torch.ones(16)), loss(s, t, LABELS, None))


def test_rkd_worked_numbers():
    teacher = torch.tensor([[0.0, 0], [3, 0], [0, 4]], dtype=torch.float64)
    equilateral = torch.tensor([[0, 0], [1, 0], [0.5, math.sqrt(0.75)]], dtype=torch.float64)
    distance, angle = losses.rkd_distance_loss(equilateral, teacher), losses.rkd_angle_loss(equilateral, teacher)
    assert distance.item() == pytest.approx(1 / 72)
    assert angle.item() == pytest.approx(0.35 / 27)
    assert (25 * distance + 50 * angle).item() == pytest.approx(0.9953703704)


@pytest.mark.parametrize("loss", [losses.rkd_distance_loss, losses.rkd_angle_loss])
def test_rkd_sees_relations_only(loss):
    s, t = ORACLE["student_embedding"], ORACLE["teacher_embedding"]
    value = loss(s, t)
    rotation = torch.linalg.qr(torch.randn(12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))[0]
    torch.testing.assert_close(loss(3 * s @ rotation + 2, t), value)
    torch.testing.assert_close(loss(s.flip(0), t.flip(0)), value)
    torch.testing.assert_close(loss(t, t), torch.zeros((), dtype=torch.float64))
    assert value > 0.01


@pytest.mark.parametrize("loss", [losses.rkd_distance_loss, losses.rkd_angle_loss])
@pytest.mark.parametrize("rows", [1, 2, 4])
def test_rkd_stays_finite_for_one_sample_and_for_equal_embeddings(loss, rows):
    inputs = torch.ones(rows, 3, requires_grad=True)
    value = loss(inputs, torch.randn(rows, 5, generator=torch.Generator().manual_seed(0)))
    value.backward()
    assert value.isfinite()
    assert inputs.grad.isfinite().all()
    assert inputs.grad.abs().max() < 10


def test_rkd_angle_in_pieces_is_the_same(monkeypatch):
    whole, pieces = student("embedding"), student("embedding")
    value = losses.rkd_angle_loss(whole, ORACLE["teacher_embedding"])
    value.backward()
    monkeypatch.setattr(losses.embeddings, "_ANGLE_ENTRIES", 3 * 16**2)
    in_pieces = losses.rkd_angle_loss(pieces, ORACLE["teacher_embedding"])
    in_pieces.backward()
    close(in_pieces, value)
    close(pieces.grad, whole.grad)


def test_nd_worked_numbers_and_orthogonal_gradient():
    means, label = torch.tensor([[2.0, 0.0]]), torch.tensor([0])
    inputs = torch.tensor([[3.0, 4.0]], requires_grad=True)
    assert losses.nd_loss(inputs, torch.tensor([[10.0, 0]]), means, label).item() == pytest.approx(0.7)
    value = losses.nd_loss(inputs, torch.tensor([[1.0, 0]]), means, label)
    assert value.item() == pytest.approx(0.4)
    value.backward()
    assert (inputs.grad * inputs).sum().item() == pytest.approx(0, abs=1e-7)
    assert losses.nd_loss(-means, means, means, label).item() == pytest.approx(2)


def test_dkd_worked_numbers_and_its_identity_with_kd():
    labels = torch.tensor([0, 2])

    def dkd(alpha, beta, s=STUDENT_LOGITS, t=TEACHER_LOGITS, y=labels):
        return losses.dkd_loss(s, t, y, alpha=alpha, beta=beta, temperature=4).item()

    assert dkd(1, 0) == pytest.approx(1.3877142558)
    assert dkd(0, 1) == pytest.approx(0.1243530018)
    assert dkd(1, 8) == pytest.approx(2.3825382700)
    for i in range(2):  # per sample: KD = TCKD + (1 − p_teacher[y]) · NCKD
        rows = STUDENT_LOGITS[i : i + 1], TEACHER_LOGITS[i : i + 1], labels[i : i + 1]
        others = 1 - F.softmax(rows[1] / 4, 1)[0, labels[i]].item()
        kd = losses.kd_loss(rows[0], rows[1], temperature=4).item()
        assert kd == pytest.approx(dkd(1, 0, *rows) + others * dkd(0, 1, *rows))


OF_LOGITS = {
    "dist": lambda s, t, **rest: losses.dist_loss(s, t, beta=2.0, gamma=3.0, temperature=4.0, **rest),
    "standardized": lambda s, t, **rest: losses.standardized_kd_loss(s, t, temperature=2.0, **rest),
}


def softmax(values, temperature):
    exponentials = [math.exp(value / temperature) for value in values]
    return [value / sum(exponentials) for value in exponentials]


def slow_dist(student, teacher):
    student, teacher = ([softmax(row, 4) for row in rows] for rows in (student, teacher))
    by_sample = [1 - statistics.correlation(s, t) for s, t in zip(student, teacher, strict=True)]
    by_class = [1 - statistics.correlation(s, t) for s, t in zip(zip(*student), zip(*teacher), strict=True)]  # noqa: B905
    return 16 * (2 * statistics.mean(by_sample) + 3 * statistics.mean(by_class))


def slow_standardized(student, teacher):
    total = 0.0
    for rows in zip(student, teacher, strict=True):
        q, p = (softmax([(v - statistics.mean(row)) / statistics.stdev(row) for v in row], 2) for row in rows)
        total += 4 * sum(b * math.log(b / a) for a, b in zip(q, p, strict=True))
    return total / len(student)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("name", "slow"), [("dist", slow_dist), ("standardized", slow_standardized)])
def test_dist_and_standardised_distillation_equal_slow_loops(name, slow, dtype):
    s, t = (ORACLE[f"{side}_logits"].to(dtype) for side in ("student", "teacher"))
    with torch.autocast("cpu", torch.bfloat16):
        value = OF_LOGITS[name](s, t)
    assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    rel = 1e-5 if dtype == torch.float64 else 1e-4  # DIST adds 1e-8 to a product of norms, as published
    assert value.item() == pytest.approx(slow(s.tolist(), t.tolist()), rel=rel)


def test_what_dist_and_standardised_distillation_do_not_see():
    s, t = ORACLE["student_logits"], ORACLE["teacher_logits"]
    shift = torch.arange(16.0)[:, None]
    for loss in OF_LOGITS.values():
        assert loss(t + shift, t).item() == pytest.approx(0, abs=1e-3)
        assert loss(s + shift, t - shift).item() == pytest.approx(loss(s, t).item())
    scaled = OF_LOGITS["standardized"](s * (1 + shift), t * 7)
    close(scaled, OF_LOGITS["standardized"](s, t))
    assert OF_LOGITS["dist"](3 * s, t) != OF_LOGITS["dist"](s, t)


def test_gradients_of_dist_and_standardised_distillation():
    for loss in OF_LOGITS.values():
        assert torch.autograd.gradcheck(lambda s, loss=loss: loss(s, ORACLE["teacher_logits"]), student("logits"))


@pytest.mark.parametrize("name", OF_LOGITS)
@pytest.mark.parametrize(("rows", "classes"), [(1, 5), (4, 2), (1, 2), (4, 100)])
@pytest.mark.parametrize("constant", ["student", "teacher", "both", "neither"])
def test_degenerate_batches_stay_finite(name, rows, classes, constant):
    generator = torch.Generator().manual_seed(0)
    logits = {side: torch.randn(rows, classes, generator=generator) for side in ("student", "teacher")}
    for side in logits:
        if constant in (side, "both"):
            logits[side] = torch.full((rows, classes), 0.3)
    inputs = logits["student"].requires_grad_()
    value = OF_LOGITS[name](inputs, logits["teacher"])
    value.backward()
    assert value.isfinite()
    assert inputs.grad.isfinite().all()
    assert inputs.grad.abs().max() < 1000


def test_a_batch_of_one_has_no_relation_between_samples():
    s, t = ORACLE["student_logits"][:1], ORACLE["teacher_logits"][:1]
    assert losses.dist_loss(s, t, beta=0, gamma=1, temperature=4).item() == 16


@pytest.mark.parametrize(
    "module", [losses.logits, losses.embeddings, losses.tensors, methods, evaluate, teachers, train]
)
def test_examples_in_docstrings(module):
    result = doctest.testmod(module)
    assert result.failed == 0
    assert result.attempted > 0


def test_dkd_with_two_classes_and_extreme_logits_is_finite():
    inputs = torch.tensor([[300.0, -300.0], [-300.0, 300.0]], requires_grad=True)
    value = losses.dkd_loss(inputs, -inputs.detach(), torch.tensor([0, 0]), alpha=1, beta=8, temperature=4)
    value.backward()
    assert value.isfinite()
    assert inputs.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["rkd_distance", "rkd_angle", "kd_T4", "nd"])
def test_half_precision_inputs_are_computed_in_float32_also_under_autocast(name, dtype):
    kind, loss = CASES[name]
    s, t = ORACLE[f"student_{kind}"].to(dtype), ORACLE[f"teacher_{kind}"].to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(s, t)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(s.float(), t.float()), rtol=1e-5, atol=1e-6)


def test_teachers_side_gets_no_gradient():
    for name, (kind, loss) in CASES.items():
        teacher = ORACLE[f"teacher_{kind}"].clone().requires_grad_()
        loss(student(kind), teacher).backward()
        assert teacher.grad is None, name
    for name, loss in OF_LOGITS.items():
        teacher = ORACLE["teacher_logits"].clone().requires_grad_()
        loss(student("logits"), teacher).backward()
        assert teacher.grad is None, name


def test_wrong_shapes_and_values_are_refused():
    logits, embedding = ORACLE["student_logits"], ORACLE["student_embedding"]
    with pytest.raises(ValueError, match="alike"):
        losses.kd_loss(logits, logits[:, :5], temperature=4)
    with pytest.raises(ValueError, match="alike"):
        losses.kd_loss(logits.mean(), logits.mean(), temperature=4)  # a 0-dimensional "loss" is how KD was lost before
    with pytest.raises(ValueError, match="positive"):
        losses.kd_loss(logits, logits, temperature=0)
    with pytest.raises(ValueError, match="positive"):
        losses.dist_loss(logits, logits, beta=1, gamma=1, temperature=-1)
    with pytest.raises(ValueError, match="alike"):
        losses.standardized_kd_loss(logits, logits[:, :5], temperature=4)
    with pytest.raises(ValueError, match="class means"):
        losses.nd_loss(embedding, embedding, ORACLE["class_means"][:, :5], LABELS)
    with pytest.raises(ValueError, match="labels"):
        losses.nd_loss(embedding, embedding, ORACLE["class_means"], LABELS[:3])
    with pytest.raises(ValueError, match="embedding"):
        losses.rkd_distance_loss(embedding, embedding[:4])
