"""The contract of debiasers, for all of them: λ = 0, every method, unknown and fractional groups, empty groups, resumption."""

import functools
import itertools
import shutil

import numpy as np
import pytest
import torch
from debias_examples import BATCH, GROUP, LABELS, build

from kdlib import debias, evaluate, methods, models, runs, teachers
from kdlib.data.augment import Images, number_of_views
from kdlib.models import Output
from kdlib.runs import networks
from kdlib.train import train

ALL = [name for name in debias.DEBIASERS if name != "none"]
STRONG = [name for name in ALL if debias.has_strength(name)]
BUILDERS = [name for name in ALL if not isinstance(debias.DEBIASERS[name], functools.partial)]
SMALL = {"epochs": 1, "student": "convnet_4", "teacher": "convnet_8"}

GENERATOR = np.random.default_rng(0)
TRAIN_LABELS = torch.from_numpy(np.tile([0, 1, 2], 16))
TRAIN_GROUP = torch.from_numpy(GENERATOR.integers(0, 2, 48))
IMAGES = Images(GENERATOR.integers(0, 256, (48, 3, 8, 8), dtype=np.uint8), (0.5,) * 3, (0.25,) * 3, padding=1)


@functools.cache
def bank():
    torch.manual_seed(9)
    return teachers.TeacherBank(models.build_model("convnet_8", 3), IMAGES, number_of_views(1, False))


def go(
    name, method="ckd", lam=None, epochs=1, group=TRAIN_GROUP, share=None, num_groups=2, refit_group=None, **options
):
    """A short training with a debiaser, its refit included: the model and its history."""
    torch.manual_seed(0)
    model, teacher_dim = models.build_model("convnet_4", 3), bank().teacher.embedding_dim
    torch.manual_seed(1)
    dims = {"student_dim": model.embedding_dim, "teacher_dim": teacher_dim, "class_means": torch.ones(3, teacher_dim)}
    built = methods.build_method(method, **dims, num_classes=3)
    part = name and build(
        name, lam, TRAIN_LABELS, group, model.embedding_dim, share, num_groups, 3, teacher_dim, epochs
    )
    if part and part.head:
        models.set_head(model, part.head)
    settings = {"epochs": epochs, "batch_size": 24, "lr": 0.05, "seed": 3, "bank": bank(), "log": lambda line: None}
    history = train(model, IMAGES, TRAIN_LABELS, group, built, debiaser=part, share=share, **settings | options)
    if part and part.finish:
        with torch.no_grad():
            embedding = model(IMAGES.plain(0, 48)).embedding
        refit_group = group if refit_group is None else refit_group
        models.set_head(model, part.finish(models.get_head(model), embedding, TRAIN_LABELS, refit_group, share)[0])
    return model, history


@functools.cache
def plain(method="ckd", epochs=2):
    return go(None, method, epochs=epochs)


def same(one, other):
    one, other = one.state_dict(), other.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def without_seconds(rows):
    return [row | {"seconds": 0} for row in rows]


def finite(model):
    return all(values.isfinite().all() for values in model.state_dict().values())


def test_without_strength_there_is_no_debiaser():
    assert all(build(name, lam=0.0) is None for name in STRONG)
    model, history = go("critic", lam=0.0, epochs=2)
    assert same(model, plain()[0])
    assert without_seconds(history) == without_seconds(plain()[1])


def test_without_strength_a_run_is_plain_distillation_bit_for_bit(tiny):
    plain_run = runs.Run(**SMALL)
    runs.run(plain_run, log=list)
    for name in STRONG:
        debiased = runs.Run(**SMALL, debias=name, lam=0.0)
        runs.run(debiased, log=list)
        assert plain_run.key != debiased.key
        assert (runs.predictions(plain_run)["test_logits"] == runs.predictions(debiased)["test_logits"]).all()
        assert same(runs.load_model(plain_run), runs.load_model(debiased))


@pytest.mark.parametrize("name", [name for name in ALL if name not in STRONG])
def test_a_debiaser_without_strength_takes_no_lambda(name):
    with pytest.raises(ValueError, match="no strength"):
        build(name, lam=1.0)


@pytest.mark.parametrize("name", ALL)
def test_any_method_combines_with_any_debiaser(name):
    for method in methods.METHODS:
        if method == "scratch" and debias.needs_teacher(name):
            continue
        model, _ = go(name, method, epochs=2)
        assert finite(model)
        # these two change the teacher's logits alone, and RKD as published reads none
        unchanged = method == "rkd" and name in ("ltkd", "teachers_pet")
        assert same(model, plain(method)[0]) == unchanged, f"{name} under {method}"


def test_a_run_with_any_debiaser_is_recorded_and_reloads(tiny):
    for name in ALL:
        lam = float(debias.has_strength(name))
        run = runs.Run(method="ckd" if debias.needs_teacher(name) else "scratch", debias=name, lam=lam, **SMALL)
        record = runs.run(run, log=list)
        assert 0 <= record["metrics"]["test"]["accuracy"] <= 1
        logits = evaluate.predict(runs.load_model(run), runs.on_device(run, "test")).logits.numpy()
        np.testing.assert_array_equal(logits, runs.predictions(run)["test_logits"], err_msg=name)
        halved = name in ("dfr", "afr")
        assert len(runs.predictions(run)["val_labels"]) == 60 or halved, name


def test_a_teacher_can_be_debiased(tiny):
    """With and without a strength; its students are told apart from those of the plain teacher."""
    logits = {}
    for name, lam in (("none", 0.0), ("logit_adjustment", 1.0), ("reweight", 0.0), ("resample", 0.0), ("jtt", 5.0)):
        run = runs.Run(teacher_debias=name, teacher_lam=lam, **SMALL | {"epochs": 2})
        runs.run(run, log=list)
        teacher = run.teacher_run()
        assert (teacher.method, teacher.debias, teacher.lam) == ("scratch", name, lam)
        logits[name] = [runs.predictions(settings)["test_logits"] for settings in (teacher, run)]
    for first, second in itertools.combinations(logits, 2):
        for one, other in zip(logits[first], logits[second], strict=True):
            assert not np.array_equal(one, other), f"{first} and {second}"


@pytest.mark.parametrize("name", ["jtt", "afr"])
def test_what_reads_no_groups_needs_none(name):
    assert not debias.needs_groups(name)
    unknown = torch.full_like(TRAIN_GROUP, -1)
    assert same(go(name, epochs=2, group=unknown)[0], go(name, epochs=2)[0])
    assert all(debias.needs_groups(other) for other in ALL if other not in ("jtt", "afr"))


@pytest.mark.parametrize("name", [name for name in ALL if debias.needs_teacher(name)])
def test_what_needs_a_teacher_is_refused_without_one(name):
    lam = float(debias.has_strength(name))
    for settings in ({"method": "scratch", "debias": name, "lam": lam}, {"teacher_debias": name, "teacher_lam": lam}):
        with pytest.raises(ValueError, match="trained alone has none"):
            runs.Run(**settings)
    with pytest.raises(ValueError, match="trained alone has none"):
        debias.build_debiaser(
            name, lam=lam, labels=LABELS, group=GROUP, num_classes=2, num_groups=2, embedding_dim=4, teacher=None
        )


@pytest.mark.parametrize("name", BUILDERS)
def test_a_resumed_run_equals_an_uninterrupted_one(name, tmp_path):
    class Killed(Exception):
        pass

    def kill_after_two(line):
        if line.startswith("epoch   2"):
            raise Killed

    options = {"epochs": 3, "checkpoint": tmp_path / "checkpoint.pt", "checkpoint_seconds": 0}
    with pytest.raises(Killed):  # the log line comes before the checkpoint: epoch 2 is lost, epoch 1 is not
        go(name, **options, log=kill_after_two)
    lines = []
    resumed, rows = go(name, **options, log=lines.append)
    assert lines[0] == "resuming after epoch 1"
    whole, expected = go(name, epochs=3)
    assert same(resumed, whole)
    assert without_seconds(rows) == without_seconds(expected)


@pytest.mark.parametrize("name", BUILDERS)
def test_unknown_and_missing_groups_in_a_batch_stay_finite(name):
    group = TRAIN_GROUP.clone()
    group[::3] = -1
    model, history = go(name, group=group)
    assert np.isfinite([row["kd"] for row in history]).all()
    group[:40] = -1  # whole batches of unknown groups, and a class that is never in one
    group[40:] = torch.tensor([0, 1, 1, 0, 0, 1, 1, 0])
    model, history = go(name, group=group, epochs=2, refit_group=TRAIN_GROUP)
    assert finite(model)
    part = build(name)
    for other in (torch.ones(8, dtype=torch.int64), torch.full((8,), -1)):
        embedding, logits = torch.randn(8, 4, requires_grad=True), torch.randn(8, 2, requires_grad=True)
        batch = debias.Batch(LABELS, other, teacher=Output(torch.randn(8, 2), torch.randn(8, 4)))
        output = Output(logits, embedding)
        output = part.select(output, batch) if part.select else output
        weights = part.weights(output, batch) if part.weights else torch.ones(8)
        loss = (weights * torch.nn.functional.cross_entropy(output.logits, LABELS, reduction="none")).mean()
        terms = {"ce": loss} | (part.terms(output, batch, {"ce": loss}) if part.terms else {})
        if part.backward:
            part.backward(sum(terms.values()), [logits, embedding])
        else:
            sum(terms.values()).backward()
        assert all(term.isfinite() for term in terms.values())
        for leaf in (logits, embedding):
            assert leaf.grad is None or leaf.grad.isfinite().all()


@pytest.mark.parametrize("name", BUILDERS)
def test_shares_of_zero_and_one_are_groups(name):
    model, _ = go(name)
    other, _ = go(name, share=TRAIN_GROUP.float())
    for one, two in zip(model.state_dict().values(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in BUILDERS if name not in ("dfr", "jtt", "afr")])
def test_shares_in_between_count(name):
    share = torch.where(TRAIN_GROUP == 1, 0.8, 0.3)
    share[::5] = float("nan")
    share[1::5] = 0.5
    group = torch.where(share.isnan() | (share == 0.5), -1, TRAIN_GROUP)
    model, _ = go(name, group=group, share=share)
    assert finite(model)
    assert not same(model, go(name, group=group)[0])
    rounded = torch.where(share == 0.5, share, share.round())
    assert not same(model, go(name, group=group, share=rounded)[0])


def test_more_than_two_groups():
    group = torch.from_numpy(np.tile([0, 1, 2, 3], 12))
    for name in ALL:
        if name.startswith("critic"):
            with pytest.raises(ValueError, match="two groups"):
                go(name, group=group, num_groups=4)
        else:
            model, _ = go(name, group=group, num_groups=4)
            assert finite(model)


def test_half_precision_leaves_the_debiasers_float32():
    """Under autocast a debiaser sees float32, and its terms are float32 of the same values."""
    for name in ALL:
        part = build(name)
        for key in ("terms", "weights"):
            if getattr(part, key) is None:
                continue
            torch.manual_seed(0)
            output = Output(torch.randn(8, 2).bfloat16(), torch.randn(8, 4).bfloat16())
            batch = BATCH._replace(teacher=Output(torch.randn(8, 2), torch.randn(8, 4)))
            rest = ({"ce": torch.tensor(1.0)},) if key == "terms" else ()
            with torch.autocast("cpu", torch.bfloat16):
                got = getattr(part, key)(output, batch, *rest)
            for value in got.values() if key == "terms" else [got]:
                assert value.dtype == torch.float32, name


def test_unknown_names_and_bad_strengths_are_refused():
    with pytest.raises(ValueError, match="critic"):
        build("critics", 1.0)
    for lam in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="λ"):
            build("critic", lam)
    with pytest.raises(ValueError, match="two known groups"):
        build("domain_independent", group=torch.where(GROUP == 1, 1, -1))
    with pytest.raises(ValueError, match="a class with images of two groups"):
        build("reweight", group=LABELS)


def test_every_debiaser_says_what_it_does():
    told = {name: debias.about(name) for name in debias.DEBIASERS}
    assert told["adversary_embedding"].startswith("As `adversary`, with reads = embedding: ")
    assert not any("---" in text for text in told.values()), "sections are for programmers"
    assert len(set(told.values())) == len(told)
    assert not any("partial(" in text for text in told.values())


@pytest.mark.parametrize(("method", "name"), [("ckd", "adversary"), ("ckd", "domain_independent"), ("kdpp", "none")])
def test_a_run_does_not_depend_on_what_its_process_did_before(method, name, tiny):
    """What method and debiaser draw at random is the same whether the teacher's bank was at hand or had to be made."""
    lam = float(debias.has_strength(name))
    run = runs.Run(method=method, debias=name, lam=lam, **SMALL)
    runs.run(run, log=list)  # makes bank and class means
    first = runs.predictions(run)["test_logits"]
    for forget in (lambda: None, networks._bank.cache_clear):
        forget()
        shutil.rmtree(run.folder)
        runs.run(run, log=list)
        np.testing.assert_array_equal(runs.predictions(run)["test_logits"], first)
