"""What makes a sweep cheap changes no result: teacher outputs are computed once; precision is chosen and logged once."""

import numpy as np
import pytest
import torch

from kdlib import evaluate, models, paths, runs, sweep
from kdlib.data.augment import Images
from kdlib.methods import METHODS, build_method, needs_embedding
from kdlib.models import Output
from kdlib.runs import machine, networks, settings, training

SMALL = {"student": "convnet_4", "teacher": "convnet_8", "epochs": 2, "device": "cpu"}


def test_only_the_first_of_sixteen_runs_pays_for_the_teacher(tiny, monkeypatch):
    kinds = [{"method": method} for method in METHODS if method != "scratch"]
    kinds += [{"method": "kdpp", "method_options": "nd=1"}, {"method": "ckd", "debias": "critic", "lam": 1.0}]
    kinds += [{"method": "ckd", "temperature": 1.0 + number} for number in range(16 - len(kinds))]
    todo = [runs.Run(**SMALL | {"epochs": 1}, **kind).resolved() for kind in kinds]
    assert len(todo) == 16
    forwards, original = [], training._train

    def train(run, *more):
        record = original(run, *more)
        if run.method != "scratch":
            forwards.append(networks._bank(run.teacher_run(), paths.runs_folder()).forwards)
        return record

    monkeypatch.setattr(training, "_train", train)
    sweep.sweep(todo, workers=1, log=lambda line: None)
    assert len(forwards) == 16
    assert forwards[0] == forwards[-1] <= 120


def test_methods_say_whether_they_read_the_teachers_embedding():
    means = torch.ones(3, 5)
    output = Output(torch.randn(6, 3), torch.randn(6, 4))
    for name in set(METHODS) - {"scratch"}:
        method = build_method(name, student_dim=4, teacher_dim=5, class_means=means, num_classes=3)
        assert method.needs_embedding == needs_embedding(name)
        blind = Output(torch.randn(6, 3), None)
        if method.needs_embedding:
            with pytest.raises(AttributeError):
                method.terms(output, blind, torch.arange(6) % 3, 1)
        else:
            method.terms(output, blind, torch.arange(6) % 3, 1)


@pytest.mark.parametrize(
    ("has_it", "data", "expected"),
    [
        (True, "cifar100", "bfloat16"),
        (False, "cifar100", "float32"),
        (True, "digits_s", "float32"),
    ],
)
def test_precision_is_chosen_and_logged(has_it, data, expected, monkeypatch):
    monkeypatch.setattr(machine, "cpu_has_bfloat16", lambda: has_it)
    run = runs.Run(data=data, student="resnet8", device="cpu")
    assert settings.precision_line(run).startswith(f"precision {expected}: ")
    assert run.resolved().precision == run.teacher_run().precision == expected
    requested = runs.Run(data=data, student="resnet8", device="cpu", precision="float32")
    assert (settings.precision_line(requested), requested.resolved().precision) == ("", "float32")


def test_a_bfloat16_run_evaluates_its_epochs_in_bfloat16_and_its_result_in_float32(tiny, monkeypatch):
    calls, original = [], evaluate.predict

    def predict(model, images, **options):
        calls.append((len(images), options.get("precision", "float32")))
        return original(model, images, **options)

    run = runs.Run(**SMALL, precision="bfloat16").resolved()
    runs.run(run.teacher_run(), log=list)
    monkeypatch.setattr(evaluate, "predict", predict)
    record = runs.run(run, log=list)
    epochs, results = [(60, "bfloat16"), (100, "bfloat16")] * 2, [(60, "float32"), (100, "float32")]
    assert calls == epochs + results
    assert networks._bank(run.teacher_run(), paths.runs_folder()).precision == "bfloat16"
    with torch.no_grad():
        plain = runs.load_model(run)(runs.on_device(run, "test").plain(0, 100)).logits
    np.testing.assert_allclose(runs.predictions(run)["test_logits"], plain, rtol=1e-4, atol=1e-5)
    assert record["metrics"]["test_accuracy_best_epoch"] >= record["metrics"]["test"]["accuracy"]


def test_predictions_in_bfloat16_are_those_of_the_network_under_autocast(digits):
    torch.manual_seed(0)
    model = models.build_model("convnet_8", 10).eval()
    images = Images(digits.test.images[:64], digits.mean, digits.std)
    half, exact = evaluate.predict(model, images, precision="bfloat16"), evaluate.predict(model, images)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        plain = model(images.plain(0, 64))
    for name in Output._fields:
        assert getattr(half, name).dtype == torch.float32
        assert torch.equal(getattr(half, name), getattr(plain, name).float())
        assert not torch.equal(getattr(half, name), getattr(exact, name))


def test_a_run_and_a_sweep_log_their_precision_once(tiny):
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
