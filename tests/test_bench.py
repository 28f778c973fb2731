"""The benchmark: the plain loop computes the same loss as ours; rows, figure and page hold the results."""

import json

import numpy as np
import pytest
import torch

from benchmarks import plot, setting, speed, sweeps
from benchmarks.plain import PlainLoop
from benchmarks.sides import Ours, Plain
from kdlib import methods, models
from kdlib.report import index

PAIR = "convnet_8->convnet_4"


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setitem(setting.PAIRS, PAIR, (8, 1, 10, 16, 16, "digits_s"))


class SameProcess:
    """Stands in for a side's own process."""

    def __init__(self, side):
        self.side = side

    def ask(self, name, *arguments):
        return getattr(self.side, name)(*arguments)


class FixedTime:
    """A side whose steps take a known time."""

    def __init__(self, milliseconds):
        self.answers = {"prepare": None, "ours_ms": milliseconds}

    def ask(self, name, *arguments):
        return self.answers[name]


@pytest.mark.parametrize("method", setting.METHODS)
def test_the_plain_loops_loss_is_ours(method):
    torch.manual_seed(0)
    student, teacher = models.build_model("convnet_8", 3), models.build_model("convnet_8", 3)
    plain = PlainLoop(student, teacher, method, iter(()), num_classes=3, lr=0.1, device="cpu")
    images, labels = torch.randn(12, 3, 8, 8), torch.arange(12) % 3
    with torch.no_grad():
        outputs = student.eval()(images), teacher(images)
        means = torch.tensor([plain.means[str(label)] for label in range(3)])
        options = {"warmup": 0} if method == "kdpp" else {}
        ours = methods.build_method(method, student_dim=32, teacher_dim=32, class_means=means, num_classes=3, **options)
        expected = sum(ours.terms(*outputs, labels, epoch=5).values())
        torch.testing.assert_close(plain._loss(*outputs, labels), expected, rtol=1e-4, atol=1e-5)


def test_a_row_the_scaling_the_figure_and_the_page(tmp_path, monkeypatch):
    monkeypatch.setattr(speed.time, "sleep", lambda seconds: None)
    plain, ours = Plain(setting.Setup(PAIR, "cpu", 2)), Ours(setting.Setup(PAIR, "cpu", 2))
    several = [FixedTime(10.0), FixedTime(20.0)]
    row = speed.measure(SameProcess(plain), SameProcess(ours), several, PAIR, "kdpp", segments=1)
    assert {"pair", "method", "plain_ms", "ours_ms", "ratio", "limit_ms", "plain_mb", "ours_mb", "images"} <= set(row)
    assert row["ratio"] == pytest.approx(row["plain_ms"] / row["ours_ms"])
    assert row["at_once"] == 2
    assert row["at_once_ms"] == 7.5, "15 ms for a step of both"
    assert row["at_once_ratio"] == pytest.approx(row["plain_ms"] / 7.5)
    assert set(row["plain_parts_ms"]) == {"data", "teacher", "student", "optimiser", "reading"}
    assert sum(row["ours_parts_ms"][part] for part in ("data", "teacher", "student", "optimiser")) == pytest.approx(
        row["ours_ms"]
    )
    assert all(np.isfinite(value) for value in plain.loop.read.values())

    results = speed.conditions("cpu", 1) | {"steps": 2, "segments": 1, "rows": [row]}
    results["scaling"] = sweeps.scaling(PAIR, "cpu", 2)
    counts = [(runs["runs"], runs["teacher_forwards"], runs["of_the_last_run"]) for runs in results["scaling"]["runs"]]
    assert counts == [(1, 32, 32), (4, 32, 0), (16, 32, 0)]
    json.dumps(results)
    plot.save(results, tmp_path / "bench" / "cpu")
    assert [one["image"] for one in index._speed(tmp_path)] == ["bench/cpu.png"]
