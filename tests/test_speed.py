"""What makes a sweep cheap changes nothing: the teacher is paid for once, precision is decided once and said."""

import numpy as np
import pytest
import torch

from kdlib import evaluate, machine, models, runs, settings, sweep
from kdlib.augment import Images
from kdlib.methods import LOGITS_ALONE, METHODS, build_method
from kdlib.models import Output

SMALL = {"student": "convnet_4", "teacher": "convnet_8", "epochs": 2, "device": "cpu"}


def test_only_the_first_of_sixteen_runs_pays_for_the_teacher(tiny, monkeypatch):
    kinds = [{"method": method} for method in METHODS if method != "scratch"]
    kinds += [{"method": "ckd", "temperature": 1.0 + number} for number in range(6)]
    kinds += [{"method": "kdpp", "nd": 1.0}, {"method": "ckd", "debias": "critic", "lam": 1.0}]
    todo = [runs.Run(**SMALL, **kind).resolved() for kind in kinds]
    assert len(todo) == 16
    asked, original = [], runs._train

    def train(this, log, checkpoint_seconds):
        record = original(this, log, checkpoint_seconds)
        if this.method != "scratch":
            asked.append(runs._bank(this.teacher_run(), sweep.paths.runs_folder()).forwards)
        return record

    monkeypatch.setattr(runs, "_train", train)
    sweep.sweep(todo, workers=1, log=lambda line: None)
    assert len(asked) == 16
    assert asked[0] == asked[-1] <= 2 * 120


def test_methods_say_whether_they_read_the_teachers_embedding():
    means = torch.ones(3, 5)
    output = Output(torch.randn(6, 3), torch.randn(6, 4))
    for name in set(METHODS) - {"scratch"}:
        method = build_method(name, student_dim=4, teacher_dim=5, class_means=means, num_classes=3)
        assert method.needs_embedding == (name not in LOGITS_ALONE)
        blind = Output(torch.randn(6, 3), None)
        if method.needs_embedding:
            with pytest.raises(AttributeError):
                method.terms(output, blind, torch.arange(6) % 3, 1)
        else:
            method.terms(output, blind, torch.arange(6) % 3, 1)


@pytest.mark.parametrize(
    ("has_it", "data", "expected"),
    [
        (True, "cifar100", "bfloat16: this CPU has"),
        (False, "cifar100", "float32: this CPU has no"),
        (True, "digits_s", "float32: on a CPU bfloat16 is known to pay"),
    ],
)
def test_precision_is_decided_and_said(has_it, data, expected, monkeypatch):
    monkeypatch.setattr(machine, "cpu_has_bfloat16", lambda: has_it)
    run = runs.Run(data=data, student="resnet8", device="cpu")
    assert settings.precision_line(run).startswith(f"precision {expected}")
    assert run.resolved().precision == run.teacher_run().precision == expected.split(":")[0]
    asked = runs.Run(data=data, student="resnet8", device="cpu", precision="float32")
    assert (settings.precision_line(asked), asked.resolved().precision) == ("", "float32")


def test_a_run_and_a_sweep_say_their_precision_once(tiny):
    lines = []
    first, *others = [runs.Run(**SMALL, method=method) for method in ("scratch", "ckd", "rkd")]
    runs.run(first, log=lines.append)
    sweep.sweep(others, workers=1, log=lines.append)
    assert [line.startswith("precision float32") for line in lines].count(True) == 2
    lines.clear()
    runs.run(first, log=lines.append)
    sweep.sweep([first, *others], log=lines.append)
    assert not lines


def test_predictions_do_not_depend_on_the_neighbours_in_a_batch():
    """The last images of a split, which fill no batch, are predicted as they are in the middle of another."""
    pixels = np.random.default_rng(0).integers(0, 256, (133, 3, 8, 8), dtype=np.uint8)
    torch.manual_seed(0)
    model = models.build_model("convnet_8", 3)
    whole = evaluate.predict(model, Images(pixels, (0.5,) * 3, (0.25,) * 3))
    for first, last in ((0, 1), (0, 67), (100, 133), (130, 133)):
        part = evaluate.predict(model, Images(pixels[first:last], (0.5,) * 3, (0.25,) * 3))
        assert torch.equal(part.logits, whole.logits[first:last])
        assert torch.equal(part.embedding, whole.embedding[first:last])
