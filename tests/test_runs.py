"""Runs and their store: checked settings, keys, atomic records, nothing trained twice, resumption after a kill."""

import dataclasses
import hashlib
import json
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

from kdlib import data, paths, runs
from kdlib.runs import settings, training
from kdlib.runs.settings import Run
from kdlib.runs.training import run
from kdlib.sweep import sweep

SMALL = {"student": "convnet_4", "teacher": "convnet_8", "epochs": 2}


def test_a_finished_run_leaves_what_the_store_promises(tiny):
    record = run(Run(**SMALL), log=list)
    folder = paths.runs_folder() / record["key"]
    names = {"record.json", "history.csv", "model.safetensors", "predictions.npz"}
    assert names <= {file.name for file in folder.iterdir()}
    assert not list(folder.glob("*partial*"))
    assert not (folder / "checkpoint.pt").exists()
    assert json.loads((folder / "record.json").read_text()) == record
    assert {"key", "settings", "seed", "metrics", "cost", "versions", "commit", "device", "seconds"} <= set(record)
    for split in ("val", "test"):
        assert {"accuracy", "precision", "recall", "f1", "mad", "mad_floor"} <= set(record["metrics"][split])
    assert {"parameters", "macs", "bytes", "latency_ms"} <= set(record["cost"])
    assert "inflation" in record["metrics"]["vs_teacher"]
    assert record["settings"]["threads"] == 1


def test_metrics_come_from_the_predictions(tiny):
    from kdlib import bias

    record = run(Run(**SMALL), log=list)
    arrays = runs.predictions(Run(**SMALL))
    predicted = arrays["test_logits"].argmax(1)
    assert record["metrics"]["test"]["accuracy"] == pytest.approx((predicted == arrays["test_labels"]).mean())
    mad = bias.mean_absolute_disparity(arrays["test_labels"], predicted, arrays["test_group"], num_classes=10)
    assert record["metrics"]["test"]["mad"] == pytest.approx(mad)


def test_nothing_is_trained_twice(tiny, monkeypatch):
    record = run(Run(**SMALL), log=list)
    monkeypatch.setattr(training, "train", None)
    assert run(Run(**SMALL), log=list) == record
    assert run(dataclasses.asdict(Run(**SMALL)), log=list) == record


def test_one_seed_gives_the_same_bits_in_another_store(tiny, tmp_path, monkeypatch):
    first = run(Run(**SMALL, method="kdpp"), log=list)
    one = runs.predictions(Run(**SMALL, method="kdpp"))
    monkeypatch.setenv("KDLIB_RUNS", str(tmp_path / "other"))
    torch.manual_seed(123)  # what a caller draws does not matter, and is not disturbed
    expected = torch.rand(1, generator=torch.Generator().manual_seed(123))
    second = run(Run(**SMALL, method="kdpp"), log=list)
    assert torch.equal(torch.rand(1), expected)
    other = runs.predictions(Run(**SMALL, method="kdpp"))
    assert all(np.array_equal(one[name], other[name]) for name in one)
    assert first["key"] == second["key"]


def test_methods_of_one_seed_start_alike_and_see_the_same_batches(tiny, monkeypatch):
    seen = {}
    original = training.train

    def spy(model, images, labels, group, method, **options):
        weights = torch.cat([parameter.flatten().clone() for parameter in model.parameters()])
        seen.setdefault("weights", []).append(weights.detach())
        return original(model, images, labels, group, method, **options)

    monkeypatch.setattr(training, "train", spy)
    for method in ("scratch", "ckd", "kdpp"):
        run(Run(**SMALL, method=method), log=list)
    students = [weights for weights in seen["weights"] if len(weights) < 3000]
    assert len(students) == 3
    assert torch.equal(students[0], students[1])
    assert torch.equal(students[0], students[2])


def test_the_key_changes_with_all_that_changes_the_result(tiny):
    base = Run(**SMALL)
    changes = {
        "student": "convnet_5", "teacher": "convnet_6", "method": "rkd", "teacher_debias": "domain_independent", "seed": 1,
        "epochs": 3, "batch_size": 32, "lr": 0.01, "precision": "bfloat16", "schedule": "step", "momentum": 0.8, "threads": 2,
        "weight_decay": 0.0, "nesterov": True, "ramp": 2, "temperature": 2.0, "teacher_seed": 5, "teacher_epochs": 1,
        "teacher_lr": 0.01, "teacher_batch_size": 32, "teacher_schedule": "constant", "method_options": "kd=2",
        "optimizer": "adam", "data_options": "skew=0.9",
    }  # fmt: skip
    keys = {dataclasses.replace(base, **{name: value}).key for name, value in changes.items()} | {base.key}
    assert len(keys) == len(changes) + 1
    assert dataclasses.replace(base, debias="critic", lam=1.0).key not in keys
    assert dataclasses.replace(base, method="scratch").key == Run(student="convnet_4", epochs=2, method="scratch").key


def test_fields_added_later_leave_old_keys_as_they_were(tiny):
    old = dataclasses.asdict(Run(**SMALL, method="scratch").resolved())
    added = {name: old.pop(name) for name in settings.ADDED if name in old}
    assert added == {"data_options": "", "optimizer": "sgd", "method_options": ""}
    old |= dict.fromkeys(("ce", "kd", "nd", "beta"))  # the method's weights were fields once
    content = {"results": settings.RESULTS, "settings": old, "data": data.load("digits_s").fingerprint, "teacher": None}
    expected = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
    assert Run(**SMALL, method="scratch").key == expected
    assert set(old) == {
        "data", "student", "teacher", "method", "debias", "lam", "teacher_debias", "teacher_lam", "seed", "epochs",
        "batch_size", "lr", "precision", "device", "threads", "schedule", "momentum", "weight_decay", "nesterov",
        "test_every", "skew", "ramp", "temperature", "ce", "kd", "nd", "beta", "teacher_seed", "teacher_epochs",
        "teacher_lr", "teacher_batch_size", "teacher_schedule", "weights", "teacher_weights",
    }, "a new field belongs in ADDED, or every key changes"  # fmt: skip


def test_the_data_are_looked_at_once_for_all_keys_and_never_trained_on_under_an_older_name(tiny, monkeypatch):
    looks = []
    monkeypatch.setattr(data, "load", lambda name, **options: looks.append(name) or tiny)
    assert len({Run(**SMALL, seed=seed).key for seed in range(5)}) == 5
    assert looks == ["digits_s"]
    changed = dataclasses.replace(tiny, fingerprint="another")
    monkeypatch.setattr(data, "load", lambda name, **options: changed)
    with pytest.raises(ValueError, match="digits_s has changed"):
        run(Run(**SMALL, method="scratch"), log=list)
    assert not list(paths.runs_folder().rglob("record.json"))


def test_options_of_the_data_are_one_setting_however_they_are_spelt(digits):
    spellings = "skew=0.9, size=12", "size = 12,skew=.90", "seed=0, skew=0.9, size=12"
    keys = {Run(**SMALL, data_options=text).key for text in spellings}
    assert keys == {Run(**SMALL, data_options="size=12, skew=0.9").key}
    assert Run(**SMALL, data_options="skew=0.95").key == Run(**SMALL).key, "that is its default"
    record = run(Run(**SMALL | {"epochs": 1}, data_options="size=12,skew=.9", method="scratch"), log=list)
    assert record["settings"]["data_options"] == "size=12, skew=0.9"
    assert record["data"]["fingerprint"] == data.load("digits_s", size=12, skew=0.9).fingerprint
    assert runs.on_device(record["settings"], "test").pixels.shape[-1] == 12
    assert Run(**SMALL, data_options="size=12").teacher_run().data_options == "size=12"


def test_training_starts_from_imagenet_weights_or_says_where_to_put_them(tiny, tmp_path, monkeypatch):
    import torchvision

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr(
        torch.hub, "download_url_to_file", lambda *_, **__: (_ for _ in ()).throw(OSError("no network"))
    )
    chosen = Run(student="shufflenet_v2_x0_5", weights="imagenet", method="scratch", epochs=1)
    folder = tmp_path / "hub" / "hub" / "checkpoints"
    file = "shufflenetv2_x0.5-f707e7126e.pth"
    for go in (lambda: run(chosen, log=list), lambda: sweep([chosen], log=list)):
        with pytest.raises(RuntimeError, match="no network") as caught:
            go()
        assert file in str(caught.value)
        assert str(folder) in str(caught.value)
        assert "--weights none" in str(caught.value)
    torch.manual_seed(77)
    net = torchvision.models.shufflenet_v2_x0_5()
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(net.state_dict(), folder / file)
    seen, original = [], training.train

    def spy(model, *arguments, **options):
        seen.append(model.backbone.conv1[0].weight.detach().clone())
        return original(model, *arguments, **options)

    monkeypatch.setattr(training, "train", spy)
    run(chosen, log=list)
    assert torch.equal(seen[0], net.conv1[0].weight), "the weights of the file"
    trained = runs.load_model(chosen)
    assert trained.head.out_features == 10, "a head of its own"
    assert not torch.equal(trained.backbone.conv1[0].weight, seen[0]), "trained on"
    assert dataclasses.replace(chosen, weights="none").key != chosen.key
    assert (
        Run(student=chosen.student, teacher=chosen.student, teacher_weights="imagenet").teacher_run().weights
        == "imagenet"
    )


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"data": "digit_s"}, "digits_s"),
        ({"method": "ckdd"}, "ckd"),
        ({"student": "resnet21"}, "resnet20"),
        ({"teacher": "resnt20"}, "resnet20"),
        ({"debias": "critics"}, "critic"),
        ({"debias": "critic", "lam": -1.0}, "λ"),
        ({"lam": 1.0}, "takes no λ"),
        ({"debias": "domain_independent", "lam": 1.0}, "takes no λ"),
        ({"epochs": 0}, "epochs"),
        ({"batch_size": 1}, "batch_size"),
        ({"lr": 0.0}, "lr"),
        ({"momentum": 1.0}, "momentum must be 0 or more, and less than 1; got 1.0"),
        ({"momentum": -0.1}, "momentum must be"),
        ({"momentum": float("nan")}, "momentum must be"),
        ({"weight_decay": -1e-4}, "weight_decay must be 0 or more"),
        ({"weight_decay": float("inf")}, "weight_decay must be 0 or more"),
        ({"threads": 10**6}, "threads must be at most"),
        ({"seed": -1}, "seed"),
        ({"precision": "float8"}, "float32"),
        ({"schedule": "onecycle"}, "one_cycle"),
        ({"lamda": 1.0}, "lam"),
        ({"method": "ckd", "method_options": "nd=1"}, "unknown option of method ckd: 'nd'.*ce, kd, temperature"),
        ({"method": "ckd", "method_options": "temperature=2", "temperature": 4.0}, "temperature is given twice"),
        ({"method": "kdpp", "method_options": "warmup=2", "ramp": 4}, "warmup is given twice"),
        ({"method": "scratch", "method_options": "kd=2"}, "method scratch"),
        ({"method_options": "kd=much"}, "kd of method ckd cannot be 'much'"),
        ({"method": "ctkd", "temperature": 4.0}, "method ctkd takes no temperature"),
        ({"method_options": "kd=-1"}, "kd of method ckd must be 0 or more"),
        ({"method_options": "kd=nan"}, "kd of method ckd must be 0 or more"),
        ({"kd": 1.0}, "method_options"),
        ({"teacher_schedule": "cosine"}, "one_cycle"),
        ({"weights": "imagenet"}, "convnet_8 cannot start from ImageNet weights"),
        ({"teacher_weights": "imagenet", "teacher": "vgg13"}, "torchvision/vgg13"),
        ({"weights": "imagnet"}, "imagenet"),
        ({"optimizer": "adamw"}, "adam"),
        ({"optimizer": "adam", "nesterov": True}, "nesterov is for the optimizer sgd"),
        ({"data_options": "scew=0.9"}, "skew"),
        ({"data": "utkface", "data_options": "label: race"}, "option=value"),
        ({"data_options": "skew=much"}, "skew of data set digits_s cannot be 'much'"),
        ({"data_options": "skew=0.9, skew=0.8"}, "given twice"),
        ({"data_options": "skew=0.9", "skew": 0.9}, "given twice"),
        ({"method": "ckd", "weights": "published"}, "method scratch"),
        ({"teacher_weights": "published", "teacher_debias": "domain_independent"}, "cannot be debiased"),
    ],
)
def test_wrong_settings_are_refused_before_anything_runs(wrong, words):
    with pytest.raises(ValueError, match=words):
        runs.as_run(wrong)


def test_a_record_that_cannot_be_read_is_named(tiny):
    record = run(Run(**SMALL, method="scratch"), log=list)
    file = paths.runs_folder() / record["key"] / "record.json"
    file.write_text(file.read_text()[:100])
    with pytest.raises(ValueError, match=record["key"]):
        run(Run(**SMALL, method="scratch"))


def test_a_store_that_cannot_be_written_is_named(tiny, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KDLIB_RUNS", str(tmp_path / "file"))
    with pytest.raises(OSError, match="KDLIB_RUNS"):
        run(Run(**SMALL, method="scratch"))


COMMAND = [sys.executable, "-m", "kdlib", "run", "--student", "convnet_4", "--method", "scratch", "--epochs", "30"]


def test_a_killed_process_resumes_where_it_was_and_gives_the_same_bits(shared_data, digits, tmp_path, monkeypatch):
    monkeypatch.setenv("KDLIB_CHECKPOINT_SECONDS", "0")
    process = subprocess.Popen(COMMAND, cwd=paths.ROOT, stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if line.startswith("epoch   5/"):
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    settings = Run(student="convnet_4", method="scratch", epochs=30)
    folder = settings.folder
    assert (folder / "checkpoint.pt").exists()
    assert not (folder / "record.json").exists()
    finished = subprocess.run(COMMAND, cwd=paths.ROOT, capture_output=True, text=True, check=True)
    resumed = [line for line in finished.stdout.splitlines() if line.startswith("resuming after epoch")]
    assert int(resumed[0].split()[-1]) >= 4
    record = json.loads(finished.stdout.splitlines()[-1])
    assert record == runs.stored(settings)
    interrupted = runs.predictions(settings)
    monkeypatch.setenv("KDLIB_RUNS", str(tmp_path / "whole"))
    run(settings, log=list)
    whole = runs.predictions(settings)
    assert np.array_equal(whole["test_logits"], interrupted["test_logits"])


def test_two_processes_that_want_one_run_train_it_once(shared_data, digits):
    command = [*COMMAND[:-1], "8"]
    processes = [
        subprocess.Popen(command, cwd=paths.ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [process.communicate()[0].splitlines() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert outputs[0][-1] == outputs[1][-1]
    trained = [sum(line.startswith("epoch ") for line in output) for output in outputs]
    assert sorted(trained) == [0, 8]
