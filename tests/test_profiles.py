"""The study's settings: published recipes, one teacher for all methods, and grids whose parts can be compared."""

import dataclasses

import pytest

from kdlib import debias, methods, models, profiles, recipes
from kdlib.runs.training import as_run


@pytest.mark.parametrize(
    ("method", "pair", "expected"),
    [
        ("ckd", ("resnet56", "resnet20"), dict(epochs=240, batch_size=64, lr=0.05, schedule="step", nesterov=False)),
        ("ckd", ("ResNet50", "MobileNetV2"), dict(epochs=240, batch_size=64, lr=0.01)),
        ("rkd", ("resnet56", "resnet20"), dict(epochs=240, batch_size=64, lr=0.05)),
        ("rkd_author", ("resnet56", "resnet20"), dict(epochs=200, batch_size=128, lr=0.1, schedule="step_rkd")),
        ("kdpp", ("resnet56", "resnet20"), dict(lr=0.1, batch_size=128, nesterov=True)),
        ("kdpp", ("ResNet50", "MobileNetV2"), dict(lr=0.02)),
    ],
)
def test_published_recipes(method, pair, expected):
    recipe = recipes.published_recipe(method, *pair)
    assert recipe | expected == recipe


@pytest.mark.parametrize(
    ("method", "pair", "expected"),
    [
        ("dkd", ("resnet56", "resnet20"), {"beta": 2.0}),
        ("dkd", ("resnet110", "resnet32"), {"beta": 2.0}),
        ("kdpp", ("resnet56", "resnet20"), {"ce": 1.0, "kd": 1.0, "nd": 2.0}),
        ("kdpp", ("wrn_40_2", "wrn_40_1"), {"ce": 1.0, "kd": 1.0, "nd": 1.5}),
        ("kdpp", ("ResNet50", "MobileNetV2"), {"ce": 1.0, "kd": 3.0, "nd": 0.5}),
        ("kdpp", ("resnet32x4", "ShuffleV1"), {"ce": 1.0, "kd": 2.5, "nd": 1.5}),
        ("kdpp", ("resnet32x4", "ShuffleV2"), {"ce": 1.0, "kd": 4.0, "nd": 0.5}),
        ("dkd", ("vgg13", "vgg8"), {"beta": 6.0}),
        ("dkd", ("resnet32x4", "resnet8x4"), {}),
        ("dkdpp", ("resnet56", "resnet20"), {"alpha": 2.5, "beta": 4.0, "nd": 3.5}),
        ("kdpp", ("resnet32x4", "resnet8x4"), {"ce": 1.0, "kd": 3.5, "nd": 2.0}),
        ("kdpp", ("vgg13", "vgg8"), {}),
        ("ckd", ("resnet56", "resnet20"), {}),
    ],
)
def test_a_pairs_own_weights_are_in_every_recipe(method, pair, expected):
    study = profiles.profile("cifar100", "->".join(pair))
    assert recipes.pair_weights(method, *pair) == expected
    published = methods.method_options(method)
    for settings in (study.students(method)[0], study.as_published(method)[0]):
        given = published | as_run(settings).options()
        assert given == published | expected


@pytest.mark.parametrize("pair", [f"{teacher}->{student}" for teacher, student in recipes.CIFAR_PAIRS])
def test_every_run_of_a_pair_has_one_and_the_same_teacher(pair):
    study = profiles.profile("cifar100", pair)
    chosen = [as_run(run).resolved() for run in study.grid() + study.extras()]
    (teacher,) = {run.teacher_run() for run in chosen} - {None}
    assert teacher in chosen
    assert (teacher.epochs, teacher.lr, teacher.batch_size, teacher.nesterov) == (240, 0.05, 64, False)


def test_small_students_learn_slower_in_the_common_recipe():
    rates = {student: profiles.profile("cifar100", pair).students("ckd")[0]["lr"] for student, pair in (
        ("resnet20", "resnet56->resnet20"), ("ShuffleV2", "resnet32x4->ShuffleV2"), ("MobileNetV2", "ResNet50->MobileNetV2"),
    )}  # fmt: skip
    assert rates == {"resnet20": 0.05, "ShuffleV2": 0.01, "MobileNetV2": 0.01}


def test_the_earlier_studys_pairs_are_there():
    pairs = {("ResNet34", "ResNet18"), ("ResNet50", "ResNet18"), ("resnet56", "resnet20")}
    assert pairs <= set(profiles.profile("cifar100", "all").pairs)


def test_an_unknown_pair_names_the_profiles_own():
    with pytest.raises(ValueError, match="resnet56->resnet20"):
        profiles.profile("cifar100", "resnet56->resnet2")


@pytest.mark.parametrize("name", profiles.built_in())
def test_parts_of_kdpp_differ_in_what_their_names_say(name):
    study = profiles.profile(name)
    parts = {part: as_run(settings[0]).resolved() for part, settings in study.ablation().items()}
    if not study.ablated:
        assert not parts
        return
    plain, bare = parts["KD++"], parts["KD++ without its term"]
    assert plain == as_run(study.students("kdpp")[0]).resolved()
    assert changed(plain, bare) == {"method_options"}
    assert bare.options() == plain.options() | {"nd": 0.0}
    assert changed(plain, parts["KD++, nesterov"]) == {"nesterov"}
    assert changed(plain, parts["KD++, twice the learning rate"]) == {"lr"}
    assert changed(plain, parts["KD++, twice the batch"]) - {"teacher_batch_size"} == {"batch_size"}
    assert changed(plain, parts["KD++, all three"]) - {"teacher_batch_size"} == {"nesterov", "lr", "batch_size"}
    assert changed(parts["KD++, all three"], parts["KD++ without its term, all three"]) == {"method_options"}
    assert len({run.teacher_run() for run in parts.values()}) == 1


def test_twice_the_learning_rate_is_twice_the_students_own():
    study = profiles.profile("cifar100", "resnet32x4->ShuffleV1")
    own, twice = study.students("ckd")[0]["lr"], study.ablation()["KD++, twice the learning rate"][0]["lr"]
    assert (own, twice) == (study.small_lr, 2 * study.small_lr)


@pytest.mark.parametrize("name", ["wider", "faces", "faces_short"])
def test_profiles_of_people_hold_what_the_study_asks_of_them(name):
    study = profiles.profile(name, "all")
    runs = {as_run(settings).resolved() for settings in study.grid() + study.extras()}
    assert {run.method for run in runs} == {"scratch", "ckd", "rkd", "ctkd", "kdpp"}
    asked = {"domain_independent"} if name == "faces_short" else {"critic", "domain_independent"}
    assert asked <= set(study.debias)
    assert len(study.seeds) >= {"wider": 5}.get(name, 3)
    assert {run.teacher_run() for run in runs} - {None} <= runs, "teachers are runs of the grid"
    for run in runs:
        assert (run.data, run.weights) == (("wider", "imagenet") if name == "wider" else ("utkface", "none"))
    if name == "wider":
        teacher, student = (study.teachers()[0], study.students("ckd")[0])
        assert (teacher["student"], student["student"]) == ("efficientnet_b3", "efficientnet_b0")
        assert (teacher["lr"], student["lr"]) == (5e-4, 1e-4)
        assert len(study.debias["critic"]) >= 3


def test_a_changed_profile_changes_students_and_teachers_alike():
    study = profiles.profile("wider").changed(seeds=[7], weights="none", epochs=2)
    (teacher,), (student,) = study.teachers(), study.students("ckd")
    for run in map(as_run, (teacher, student)):
        assert (run.weights, run.epochs, run.seed) == ("none", 2, 7)
    assert as_run(student).resolved().teacher_run() == as_run(teacher).resolved()
    assert (teacher["lr"], student["lr"]) == (5e-4, 1e-4), "what is not named stays"
    apart = profiles.profile("wider").changed(epochs=2, teacher_epochs=3)
    assert [runs[0]["epochs"] for runs in (apart.teachers(), apart.students("ckd"))] == [3, 2]
    small = profiles.profile("cifar100", "resnet32x4->ShuffleV2").changed(lr=0.5)
    assert small.students("ckd")[0]["lr"] == small.teachers()[0]["lr"] == 0.5
    assert small.published == (), "a published recipe with other settings is none"
    assert profiles.profile("quick").changed() == profiles.profile("quick")


def test_other_temperatures_are_for_methods_that_soften_logits():
    study = dataclasses.replace(profiles.profile("quick"), temperatures=(1.0, 4.0))
    assert {each: runs[0]["temperature"] for each, runs in study.tempered("ckd").items()} == {1.0: 1.0, 4.0: None}
    assert as_run(study.tempered("ckd")[4.0][0]).resolved() == as_run(study.students("ckd")[0]).resolved()
    assert study.tempered("rkd") == study.tempered("ctkd") == {}  # RKD as benchmarked has no such term, CTKD learns it
    assert all(run in study.extras() for part in study.tempered("kdpp").values() for run in part)


@pytest.mark.parametrize("name", profiles.built_in())
def test_every_run_of_a_grid_is_one_that_can_be_made(name):
    chosen = [as_run(settings) for settings in profiles.profile(name).grid()]
    alone = {run.debias for run in chosen if run.method == "scratch"}
    assert not any(debias.needs_teacher(name) for name in alone)
    students = {run.debias for run in chosen if run.method != "scratch"}
    assert students == {"none", profiles.profile(name).teacher_debias, *profiles.profile(name).debias}


def test_cifar10s_follows_the_published_protocol_with_students_of_half_the_size_at_most():
    study = profiles.profile("cifar10s", "all")
    for run in map(as_run, study.grid()):
        assert (run.epochs, run.lr, run.batch_size, run.schedule) == (200, 0.1, 128, "step_quarters")
        assert (run.momentum, run.weight_decay, run.nesterov) == (0.9, 5e-4, False)
    sizes = {
        name: sum(p.numel() for p in models.build_model(name, 10).parameters()) for pair in study.pairs for name in pair
    }
    assert all(2 * sizes[student] <= sizes[teacher] == sizes["ResNet18"] for teacher, student in study.pairs)


def changed(one, other):
    return {name for name, value in vars(one).items() if getattr(other, name) != value}


# ---- studies as files

MINE = """
pairs = ["convnet_8->convnet_4"]
methods = ["ckd", "rkd"]
seeds = [0, 1]
controls = ["logit_adjustment 1 -> resample", "domain_independent -> none"]

[data]
name = "digits_s"
fold = 1

[training]
epochs = 3
lr = 1
batch_size = 32

[teacher]
epochs = 4
seed = 0

[debias]
critic = [1, 2.5]
resample = []
"""


def write(folder, text, name="mine.toml"):
    (folder / name).write_text(text)
    return folder / name


def test_a_file_of_ones_own_is_a_study(tmp_path, monkeypatch):
    study = profiles.profile(write(tmp_path, MINE))
    assert (study.name, study.seeds, study.pairs) == ("mine", (0, 1), (("convnet_8", "convnet_4"),))
    assert study.debias == {"critic": (1.0, 2.5), "resample": (0.0,)}
    run = as_run(study.students("ckd")[1])
    assert (run.data_options, run.epochs, run.lr, run.teacher_epochs, run.teacher_seed, run.seed) == (
        "fold=1",
        3,
        1.0,
        4,
        0,
        1,
    )
    assert type(study.settings["lr"]) is float, "a key holds the number as its type writes it"
    monkeypatch.chdir(tmp_path)
    assert profiles.profile("mine.toml") == profiles.profile("./mine.toml") == study
    assert profiles.profile_name("some/where/mine.toml") == profiles.profile_name("mine") == "mine"


def test_controls_combine_a_debiased_teacher_with_a_debiased_student(tmp_path):
    study = profiles.profile(write(tmp_path, MINE))
    kinds = {(run["teacher_debias"], run["teacher_lam"], run["debias"], run["lam"]) for run in study.controlled("rkd")}
    assert kinds == {("logit_adjustment", 1.0, "resample", 0.0), ("domain_independent", 0.0, "none", 0.0)}
    runs = [as_run(settings) for settings in study.grid()]
    assert sum(run.teacher_debias == "logit_adjustment" for run in runs) == 2 * 2, "methods × seeds"


@pytest.mark.parametrize(
    ("before", "after", "line", "words"),
    [
        ("epochs = 3", "epochss = 3", "epochss", "'epochs'"),
        ("epochs = 3", 'epochs = "3"', 'epochs = "3"', "epochs must be a whole number"),
        ("epochs = 3", "epochs = 3.5", "epochs = 3.5", "epochs must be a whole number"),
        ("lr = 1", "lr = true", "lr", "lr must be a number"),
        ("lr = 1\n", "", "[training]", "lr is missing"),
        ("[training]", "[trainings]", "[trainings]", "'training'"),
        ('name = "digits_s"', 'name = "digit_s"', "name", "'digits_s'"),
        ("fold = 1", "folds = 1", "folds", "'fold'"),
        ("fold = 1", 'fold = "one"', "[data]", "fold"),
        ("seed = 0", "seeds = 0", "seeds = 0", "'seed'"),
        ("critic = [1, 2.5]", "critics = [1]", "critics", "'critic'"),
        ("critic = [1, 2.5]", "critic = []", "critic", "critic needs a list of λ"),
        ("critic = [1, 2.5]", "critic = 1", "critic", "critic must be a list"),
        ("critic = [1, 2.5]", "critic = [-1]", "critic", "zero or more"),
        ("resample = []", "resample = [1]", "resample", "resample"),
        ("methods =", "method =", "method", "'methods'"),
        ('["ckd", "rkd"]', '["ckd", "rkdd"]', "methods", "'rkd'"),
        ("convnet_8->convnet_4", "convnet_8", "pairs", "teacher->student"),
        ("-> resample", "-> resampled", "controls", "'resample'"),
        ("logit_adjustment 1 ->", "logit_adjustment ->", "controls", "needs a λ"),
        ("logit_adjustment 1 ->", "balanced_teacher 1 ->", "controls", "balanced_teacher"),
        ("seed = 0", 'seed = 0\ndebias = "critic"', "debias", "has none"),
    ],
)
def test_a_wrong_file_is_refused_with_its_line(tmp_path, before, after, line, words):
    assert before in MINE
    text = MINE.replace(before, after)
    (number,) = [n for n, row in enumerate(text.splitlines(), 1) if row.startswith(line)]
    with pytest.raises(ValueError, match=words) as caught:
        profiles.profile(write(tmp_path, text))
    assert f"mine.toml, line {number}:" in str(caught.value)


@pytest.mark.parametrize(("before", "after", "words"), [
    ("seeds = [0, 1]", "seeds = []", "seeds is missing"), ("epochs = 4", "epochs = [", "mine.toml"),
])  # fmt: skip
def test_a_file_that_is_incomplete_is_refused(tmp_path, before, after, words):
    with pytest.raises(ValueError, match=words):
        profiles.profile(write(tmp_path, MINE.replace(before, after)))


def test_a_profile_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match="'quick'"):
        profiles.profile("quik")
    with pytest.raises(ValueError, match=r"nowhere\.toml"):
        profiles.profile(tmp_path / "nowhere.toml")
    with pytest.raises(ValueError, match="name of a built-in"):
        profiles.profile(write(tmp_path, MINE, "quick.toml"))


@pytest.mark.parametrize("name", profiles.built_in())
def test_a_built_in_study_is_a_short_file_with_a_head(name):
    lines = profiles.profile_file(name).read_text().splitlines()
    head = "\n".join(line for line in lines[:5] if line.startswith("#"))
    assert f"make all PROFILE={name}" in head or name == "quick"
    assert "Time:" in head or "Hardware:" in head
    assert 10 <= sum(bool(line.strip()) for line in lines) <= 55


def test_reading_studies_does_not_need_their_data():
    assert {profiles.profile(name, "all").name for name in profiles.built_in()} == set(profiles.built_in())
