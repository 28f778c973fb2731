"""Teachers of one's own: a checkpoint, a function that returns a network, a network of timm, and arrays of outputs."""

import itertools
import re
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from kdlib import data, debias, models, profiles, runs
from kdlib.__main__ import main
from kdlib.runs import checks, given, networks, timing

MODULE = """
from types import SimpleNamespace

import torch
from torch import nn


class Bright(nn.Module):
    '''Tells jobs by how bright a picture is, of pixels in [0, 1].'''

    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

    def __init__(self, classes=2, scaled=1.0):
        super().__init__()
        torch.manual_seed(5)
        self.first, self.last, self.scaled = nn.Linear(3, 4), nn.Linear(4, classes), scaled
        with torch.no_grad():
            self.first.weight.fill_(1.0), self.first.bias.fill_(-1.0)
            self.last.weight.copy_(torch.arange(classes)[:, None] * 2.0 - 1), self.last.bias.fill_(0.5)

    def forward(self, images):
        return self.scaled * self.last(self.first(images.mean((2, 3))))


class Wrapped(Bright):
    def forward(self, images):
        return SimpleNamespace(logits=super().forward(images))


def network():
    return Bright()


def wrapped():
    return Wrapped()


def scaled():
    return Bright(scaled=2.0)


def three():
    return Bright(3)


def blind():
    found = Bright()
    found.last.weight.data.zero_()
    return found


def fails():
    raise RuntimeError("no such file of weights")


def number():
    return 3
"""
OPTIONS = "path=faces, table=people.csv, label=job, group=gender, split=none, size=16"
SMALL = {
    "data": "table",
    "data_options": OPTIONS,
    "student": "convnet_4",
    "epochs": 1,
    "batch_size": 16,
    "device": "cpu",
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A data folder with 120 pictures of two jobs, one brighter than the other; a module of teachers in the working folder."""
    monkeypatch.setenv("KDLIB_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "faces").mkdir(parents=True)
    frame = pd.DataFrame(list(itertools.product(("nurse", "pilot"), "fm")) * 30, columns=["job", "gender"])
    frame.insert(0, "file", [f"{number}.png" for number in range(len(frame))])
    for number, row in frame.iterrows():
        bright = 200 if row.job == "pilot" else 60
        Image.new("RGB", (16, 16), (bright, bright, number)).save(tmp_path / "data" / "faces" / row.file)
    frame.to_csv(tmp_path / "data" / "people.csv", index=False)
    (tmp_path / "mine.py").write_text(MODULE)
    for cache in (checks._look, models.returned, given._digest):
        cache.cache_clear()
    yield tmp_path
    sys.modules.pop("mine", None)


def dataset():
    return data.load("table", **data.parse_options("table", OPTIONS))


def distilled(teacher, method="ckd", **more):
    return SMALL | {"teacher": teacher, "method": method} | more


def test_a_function_is_a_teacher_that_is_evaluated(place):
    record = runs.run(distilled("mine:network", "kdpp", debias="balanced_teacher", lam=1.0), log=list)
    teacher = runs.stored_record(record["teacher_key"])
    assert teacher["metrics"]["val"]["accuracy"] == teacher["metrics"]["test"]["accuracy"] == 1.0
    assert runs.history(teacher["settings"])["epoch"].tolist() == [0]
    loaded = runs.load_model(teacher["settings"])
    sys.path.insert(0, str(place))
    import mine

    pixels = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    means, stds = (torch.tensor(part).view(1, 3, 1, 1) for part in (dataset().mean, dataset().std))
    output = loaded((pixels - means) / stds)
    torch.testing.assert_close(output.logits, mine.network()(pixels))
    torch.testing.assert_close(output.embedding, mine.network().first(pixels.mean((2, 3))))
    torch.testing.assert_close(models.get_head(loaded)(output.embedding), output.logits)
    sys.path.remove(str(place))


def test_one_teacher_serves_all_seeds_and_its_weights_are_in_the_key(place):
    keys = [runs.as_run(distilled("mine:network", seed=seed)).teacher_run().key for seed in (0, 1)]
    assert keys[0] == keys[1]
    one = runs.as_run(distilled("mine:network")).key
    (place / "mine.py").write_text(MODULE.replace("fill_(-1.0)", "fill_(-1.1)"))
    sys.modules.pop("mine")
    for cache in (models.returned, given._digest, runs.settings._key):
        cache.cache_clear()
    assert runs.as_run(distilled("mine:network")).key != one


@pytest.mark.parametrize(("name", "width"), [("wrapped", 4), ("scaled", 0), ("network#last", 4)])
def test_the_embedding_is_what_the_last_linear_reads_if_it_gives_the_logits(place, name, width):
    network = models.from_function(f"mine:{name}", 2, 16, (0.5,) * 3, (0.25,) * 3)
    output = network(torch.zeros(3, 3, 16, 16))
    assert output.logits.shape == (3, 2)
    assert output.embedding.shape == (3, width)
    assert network.embedding_dim == width


@pytest.mark.parametrize("command", ["run", "python"])
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"teacher": "mine:three"}, r"mine:three gives \(3,\) for an image; the data have 2 classes"),
        ({"teacher": "mine:scaled", "method": "kdpp"}, "method kdpp reads the teacher's embedding, and mine:scaled has none"),
        ({"teacher": "mine:scaled", "method": "rkd"}, "method rkd reads the teacher's embedding"),
        ({"teacher": "mine:scaled", "debias": "mfd", "lam": 1.0}, "debiaser mfd reads the teacher's embedding"),
        ({"teacher": "mine:netwrk"}, "mine has no function 'netwrk'; it has network, wrapped, scaled, three"),
        ({"teacher": "mein:network"}, "there is no module 'mein'"),
        ({"teacher": "mine:fails"}, r"mine:fails\(\) failed: RuntimeError: no such file of weights"),
        ({"teacher": "mine:number"}, r"mine:number\(\) returns a int, not a network"),
        ({"teacher": "mine:network#first"}, "the logits are not what 'first' gives"),
        ({"teacher": "mine:network#middle"}, "no Linear 'middle' is used; those used are first, last"),
        ({"teacher": "mine:network", "teacher_debias": "resample"}, "mine:network is taken as it is, so it cannot be debiased"),
        ({"teacher": "outputs.npz"}, "there is no file .*outputs.npz"),
        ({"teacher": "convnet_8", "teacher_weights": "teacher.pt"}, "weights are none, imagenet, published, or a file: .*er.p"),
        ({"teacher": "convnet_8", "teacher_weights": "imagnet"}, "weights are none, imagenet, published, or a file: .*imagnet"),
        ({"student": "mine:network", "teacher": "convnet_8"}, "mine:network is taken as it is: use method scratch"),
        ({"teacher": "timm/resnet18O"}, "timm has no network 'resnet18O'"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_said_before_training(place, settings, words, command, capsys, monkeypatch):
    monkeypatch.setattr("kdlib.runs.training.train", lambda *_, **__: pytest.fail("training began"))
    if command == "python":
        with pytest.raises((ValueError, OSError), match=words):
            runs.run(distilled("convnet_8") | settings, log=list)
        return
    flags = [text for name, value in (distilled("convnet_8") | settings).items() for text in
             (f"--{name.replace('_', '-')}", str(value))]  # fmt: skip
    assert main(["run", *flags]) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.search(words, said), said


def test_a_teacher_no_better_than_a_constant_is_refused(place):
    with pytest.raises(
        ValueError, match=r"mine:blind is right for 50.0% of the validation images, a constant answer for 50.0%"
    ):
        runs.run(distilled("mine:blind"), log=list)


def test_a_checkpoint_of_a_named_network(place):
    torch.manual_seed(1)
    network = models.build_model("convnet_4", 2)
    weights = {f"student.{key}": value for key, value in network.state_dict().items()}
    torch.save({"state_dict": weights, "state_dict_ema": weights, "epoch": 3}, place / "both.pt")
    save_file(
        {f"net.{key}": value.contiguous() for key, value in network.state_dict().items()}, place / "alone.safetensors"
    )
    with pytest.raises(
        ValueError, match=r"2 sets of weights, state_dict, state_dict_ema: say which, as both.pt#state_dict"
    ):
        runs.run(distilled("convnet_4", teacher_weights="both.pt"), log=list)
    for file in ("both.pt#state_dict_ema", "alone.safetensors"):
        run = runs.as_run(distilled("convnet_4", teacher_weights=file)).teacher_run()
        built = networks.build_network("convnet_4", dataset(), run.weights)
        for key, value in network.state_dict().items():
            assert torch.equal(built.state_dict()[key], value), key
    key, moved = run.key, place / "data" / "elsewhere.safetensors"
    (place / "alone.safetensors").rename(moved)
    runs.settings.check_network.cache_clear()
    assert runs.as_run(distilled("convnet_4", teacher_weights="elsewhere.safetensors")).teacher_run().key == key, (
        "its content"
    )


CHECKPOINTS = {
    "counters": (lambda w: w | {"n_averaged": torch.tensor(3), "features.total_ops": torch.zeros(1)}, None),
    "prefix": (lambda w: {f"net.model.{key}": value for key, value in w.items()}, None),
    "complex": (lambda w: w | {"fc.bias": w["fc.bias"].to(torch.complex64)}, "fc.bias is complex"),
    "nan": (lambda w: w | {"fc.bias": w["fc.bias"] * torch.nan}, "fc.bias holds NaN or infinite numbers"),
    "two": (lambda w: {"model": w, "model_ema": w}, "2 sets of weights, model, model_ema"),
    "one beside others": (lambda w: {"weights": w, "optimizer": {"state": {}, "lr": 0.1}}, None),
}


@pytest.mark.parametrize("case", CHECKPOINTS)
def test_traps_of_checkpoints(case, tmp_path):
    torch.manual_seed(0)
    network = models.build_model("resnet8", 3)
    made, words = CHECKPOINTS[case]
    torch.save(made(network.state_dict()), tmp_path / "teacher.pt")
    other = models.build_model("resnet8", 3)
    if words:
        with pytest.raises(ValueError, match=words):
            models.load_checkpoint(other, tmp_path / "teacher.pt")
        return
    models.load_checkpoint(other, tmp_path / "teacher.pt")
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in network.state_dict().items())


def test_a_set_of_weights_that_is_not_there_is_named(tmp_path):
    torch.save({"model": models.build_model("resnet8", 3).state_dict()}, tmp_path / "teacher.pt")
    with pytest.raises(ValueError, match="holds no state dict 'ema'; it holds model"):
        models.load_checkpoint(models.build_model("resnet8", 3), tmp_path / "teacher.pt", "ema")


def test_the_network_of_timm_is_timms(tmp_path):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    theirs = timm.create_model("resnet10t", num_classes=3).eval()
    ours = models.build_model("timm/resnet10t", 3).eval()
    torch.save(theirs.state_dict(), tmp_path / "timm.pt")
    models.load_checkpoint(ours, tmp_path / "timm.pt")
    images = torch.randn(2, 3, 64, 64)
    output = ours(images)
    torch.testing.assert_close(output.logits, theirs(images))
    torch.testing.assert_close(output.embedding, theirs.forward_head(theirs.forward_features(images), pre_logits=True))
    assert models.imagenet_file("timm/resnet10t").startswith("resnet10t.")


def write_outputs(place, shuffled=True, embedding=True, **changes):
    table = pd.read_csv(place / "data" / "people.csv")
    order = np.random.default_rng(0).permutation(len(table)) if shuffled else np.arange(len(table))
    right = (table.job == "pilot").to_numpy()[order].astype(int)
    arrays = {
        "files": table.file.to_numpy(str)[order],
        "logits": (np.eye(2)[right] * 4 + order[:, None] / 1e3).astype(np.float32),
    }
    arrays |= {"embedding": np.stack([order, right, 1 - right], 1).astype(np.float32)} if embedding else {}
    np.savez(place / "outputs.npz", **arrays | changes)
    return arrays


def test_outputs_are_aligned_by_file(place):
    arrays = write_outputs(place, classes=np.array(["nurse", "pilot"]))
    record = runs.run(distilled("outputs.npz", "kdpp", debias="balanced_teacher", lam=1.0), log=list)
    teacher = runs.stored_record(record["teacher_key"])
    assert teacher["metrics"]["test"]["accuracy"] == 1.0
    test, rows = dataset().test, {name: row for row, name in enumerate(arrays["files"])}
    assert (
        runs.predictions(teacher["settings"])["test_logits"] == arrays["logits"][[rows[n] for n in test.names]]
    ).all()
    bank = networks.teacher_bank(runs.as_run(distilled("outputs.npz")).teacher_run())
    (batch,) = bank.batches([torch.tensor([3, 0])], torch.tensor([1, 5]))
    chosen = [rows[dataset().train.names[number]] for number in (3, 0)]
    assert (batch.logits.numpy() == arrays["logits"][chosen]).all()
    assert (batch.embedding.numpy() == arrays["embedding"][chosen]).all()
    assert torch.equal(
        runs.load_model(teacher["settings"]).of("test").logits,
        torch.from_numpy(arrays["logits"][[rows[n] for n in test.names]]),
    )


def test_columns_of_logits_follow_the_names_of_classes(place):
    arrays = write_outputs(place)
    plain = given.outputs("outputs.npz", dataset())["val_logits"]
    np.savez(
        place / "outputs.npz", **arrays | {"logits": arrays["logits"][:, ::-1], "classes": np.array(["pilot", "nurse"])}
    )
    assert torch.equal(given.outputs("outputs.npz", dataset())["val_logits"], plain)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"logits": np.zeros((120, 3))}, "has logits of 3 classes; the data have 2: nurse, pilot"),
        ({"logits": np.zeros((119, 2))}, r"logits must have a row for each of the 120 files; its shape is \(119, 2\)"),
        ({"logits": np.full((120, 2), np.nan)}, "logits holds NaN"),
        ({"files": np.array(["0.png"] * 120)}, "names 119 images twice"),
        (
            {"files": np.array([f"{number}.jpg" for number in range(120)])},
            r"lacks \d+ of the \d+ images of train, as '\d+.png'",
        ),
        ({"classes": np.array(["cat", "dog"])}, "has the classes cat, dog; the data have nurse, pilot"),
    ],
)
def test_outputs_that_do_not_fit_are_refused(place, changes, words):
    write_outputs(place, **changes)
    with pytest.raises(ValueError, match=words):
        runs.run(distilled("outputs.npz"), log=list)


def test_outputs_without_embeddings_teach_by_logits_alone(place):
    write_outputs(place, embedding=False)
    with pytest.raises(ValueError, match=r"method kdpp reads the teacher's embedding, and .*outputs\.npz has none"):
        runs.run(distilled("outputs.npz", "kdpp"), log=list)
    assert runs.run(distilled("outputs.npz"), log=list)["metrics"]["test"]["accuracy"] >= 0
    (place / "other.npz").write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"other\.npz is no \.npz file of arrays"):
        runs.run(distilled("other.npz"), log=list)


def test_debiasers_that_read_the_teachers_embedding_are_listed():
    sizes = {
        "labels": torch.tensor([0, 1, 0, 1]),
        "group": torch.tensor([0, 1, 1, 0]),
        "num_classes": 2,
        "num_groups": 2,
    }
    output = models.Output(torch.zeros(4, 2), torch.zeros(4, 3))
    batch = debias.Batch(sizes["labels"], sizes["group"], None, output)
    teacher = debias.Teacher(3, lambda: output, nn.Linear(3, 2), lambda: batch)
    found = set()
    for name in debias.DEBIASERS:
        strength = {"lam": 1.0} if debias.has_strength(name) else {}
        given_teacher = {"teacher": teacher} if debias.needs_teacher(name) else {}
        built = debias.build_debiaser(name, embedding_dim=3, epochs=2, **sizes, **strength, **given_teacher)
        found |= {name} if built is not None and built.needs_embedding else set()
    assert found == set(debias.READ_EMBEDDING)


def test_new_writes_a_study_with_a_teacher_of_ones_own(place, monkeypatch, capsys):
    monkeypatch.setattr(timing, "time_steps", lambda runs, data: timing.Times(0.0, 1e-5, 1e-5, 0, 0))
    options = ["--path", "faces", "--table", "people.csv", "--label", "job", "--group", "gender", "--size", "16"]
    assert main(["new", "mine.toml", *options, "--teacher", "mine:network"]) == 0
    study = profiles.profile("mine.toml")
    assert study.pairs[0][0] == "mine:network"
    assert "taken as it is" in capsys.readouterr().out
    kinds = {(run["debias"], run.get("teacher_debias", "none")) for run in study.grid()}
    assert {teacher for _, teacher in kinds} == {"none"}
    assert ("balanced_teacher", "none") in kinds
    assert len({runs.as_run(run).key for run in study.teachers()}) == 1
    assert main(["new", "two.toml", *options, "--teacher-weights", "x.pt"]) == 1
    assert "Name it with --teacher" in capsys.readouterr().err
