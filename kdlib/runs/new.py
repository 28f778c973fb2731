"""A study of your own pictures, from a look at them: `new` writes its profile, a .toml file that `make all` takes."""

import copy
import json
import math
import os
import re
import tempfile
from pathlib import Path

from kdlib import data, files, paths, profiles
from kdlib.bias import resolution
from kdlib.data import options
from kdlib.runs import checks, timing
from kdlib.runs.given import is_given
from kdlib.runs.settings import as_run

# (teacher, student): least and largest picture, fewest training pictures, learning rate; the first that the time allows
PAIRS = {
    ("resnet34", "resnet18"): (112, math.inf, 5000, 0.05),
    ("resnet56", "resnet20"): (8, 40, 20000, 0.1),
    ("resnet20", "resnet8"): (8, 112, 3000, 0.2),
    ("convnet_64", "convnet_16"): (32, math.inf, 500, 0.2),
    ("convnet_32", "convnet_8"): (8, math.inf, 0, 0.2),
}
STEPS = (300, 1500)  # of a network's training: the least that are worth a study, and as many as it needs
EPOCHS = (5, 15)  # the same in epochs, where those are more
TINY = ("convnet_8", "convnet_4")  # in the smoke size
RESERVED = ("published", "bench", "other")  # folders of reports/ that are no study's


def new(
    file, base, name, given, *, teacher=None, teacher_weights=None, student=None, minutes=20.0, overwrite=False, log=print
) -> Path:  # fmt: skip
    """Write the profile of a study of the data set `name`, after a look at it, and return its path.

    Networks fit the size and number of the pictures, and epochs fit the time, by a short timing of a training step on this
    machine; what is too long is left out. Methods, seeds and debiasers are those of another study.

    Parameters
    ----------
    file : str or Path
        Where it goes, as mine.toml. It is replaced only with `overwrite`.
    base : str
        The study that it starts from: a name in `profiles/`, or a path.
    name : str
        Of the data set.
    given : dict
        {option of the data set: text}; a path or table may also start at the working folder.
    teacher, student : str, optional
        Networks, in place of those that fit.
    teacher_weights : str, optional
        A file with the teacher's weights; it, a function's network and arrays of outputs are taken as they are.
    minutes : float
        For all training.
    log : callable
        Takes a line: the profile in short, what its test split can resolve, how long it takes.

    Raises
    ------
    ValueError
        For a file that is there or cannot have that name, and where `checks.checked` would.
    OSError
        If there are no data.
    """
    file = _checked_file(file, overwrite)
    if not 0 < minutes < math.inf:
        raise ValueError(f"minutes is the time for all training, more than 0; got {minutes:g}")
    content = copy.deepcopy(files.Toml(profiles.profile_file(base)).content)
    given = {option: _from_here(option, text) for option, text in given.items()}
    text = data.option_text(name, options.spell(given, dict.fromkeys(given, ...)))
    settings = {"data": name, "data_options": text}
    blank = checks.look(settings)  # before torch is loaded, and images are decoded
    content["data"] = {"name": name, **data.parse_options(name, text)}
    _fit_groups(content, blank, log)
    _take_teacher(content, teacher, teacher_weights, log)
    plans = _plans(content, blank, teacher, student)
    for plan in plans:
        checks.checked(_study(plan).grid())
    dataset = data.load(name, **data.parse_options(name, text))
    plan, seconds, enough = _within(plans, dataset, settings, minutes, log)
    _finish(plan, dataset, math.ceil(seconds / 60))
    with files.replacing(file) as temporary:
        temporary.write_text(_text(plan, file.name, base), encoding="utf-8")
        _study(plan)  # as it will be read
    _tell(file, plan, dataset, seconds, enough, log)
    return file


def _tell(file, plan, dataset, seconds, enough, log):
    from kdlib.runs.table import pairs_of

    splits = ", ".join(f"{len(split)} {part}" for part, split in dataset.splits.items())
    log(
        f"{os.path.relpath(file)}: {len(_runs(plan))} runs of {plan['pairs'][0]}; {len(dataset.classes)} classes, "
        f"{len(dataset.groups)} groups; images of {dataset.train.images.shape[-1]} pixels: {splits}"
    )
    cells = data.class_by_group(dataset.test, dataset, merged=True)
    in_words = resolution.in_words(cells, paired=pairs_of(dataset.test) is not None)
    log(in_words.replace("**", "") if dataset.groups else "No groups, so no bias is measured.")
    epochs = plan["training"]["epochs"]
    log(f"Training takes about {math.ceil(seconds / 60)} min ({epochs} epochs), and the notebooks some more.")
    if epochs < enough:
        longer = math.ceil(seconds / 60 * enough / epochs)
        log(f"{epochs} epochs teach little: --minutes {longer} allows {enough}, a smaller size or fewer methods more.")
    log(f"Next: make all PROFILE={os.path.relpath(file)}")


def _checked_file(file, overwrite):
    file = Path(file).expanduser().absolute()
    if not re.fullmatch(r"[\w-][\w.-]*\.toml", file.name):
        raise ValueError(f"a profile is a .toml file, its name of letters, digits, _ and -; got {file.name!r}")
    if file.stem in (*profiles.built_in(), *RESERVED):
        raise ValueError(f"{file.stem} is a study or folder of this project: give the profile another name")
    report = paths.reports_folder() / file.stem
    for taken in (file, report):
        if taken.exists() and not overwrite:
            what = "" if taken == file else ", the report of another profile of that name,"
            raise ValueError(f"{taken}{what} is there already: take another name, or add --overwrite")
    return file


def _from_here(option, text):
    """A path as the data folder knows it: one that is only in the working folder becomes absolute."""
    path = Path(text).expanduser()
    if option in ("path", "table") and not (paths.data_folder() / path).exists() and path.exists():
        return str(path.absolute())
    return text


def _fit_groups(content, dataset, log):
    """Leave out the debiasers that these groups do not allow, and say why."""
    strengths, teacher = content.setdefault("debias", {}), content.setdefault("teacher", {})
    for name in dict.fromkeys((*strengths, teacher.get("debias", "none"))):
        try:
            checks.check_debiaser(name, dataset)
        except ValueError as error:
            log(f"left out: {error}")
            strengths.pop(name, None)
            content.pop("controls", None)
            if teacher.get("debias") == name:
                del teacher["debias"]


def _take_teacher(content, teacher, weights, log):
    """Let a study take a teacher as it is: it has no recipe, and cannot be debiased."""
    if weights and not teacher:
        raise ValueError(f"{weights} are the weights of which network? Name it with --teacher")
    if not teacher or not is_given(teacher, weights or "none"):
        return
    content["teacher"] = {"weights": weights} if weights else {}
    content["controls"] = [control for control in content.get("controls", ()) if control.startswith("none")]
    log(f"{teacher} is taken as it is: it is evaluated, not trained, and what a debiased teacher does is left out")


def _plans(content, dataset, teacher, student):
    """Contents of profiles, from the largest networks and the whole study to the smallest, one λ and two seeds."""
    for name in ("ablated", "published", "small_lr"):  # they belong to the networks and data of the other study
        content.pop(name, None)
    training, size, count = content["training"], dataset.train.images.shape[-1], len(dataset.train)
    for name in ("device", "precision"):
        training.pop(name, None)
    training["epochs"] = 1
    training["batch_size"] = min(training["batch_size"], max(16, 2 ** int(math.log2(count / 12 + 1))))
    pairs = {
        pair: rate
        for pair, (least, most, fewest, rate) in PAIRS.items()
        if least <= size <= most and count >= fewest and not paths.smoke()
    } or {TINY: 0.1}
    as_it_is = is_given(teacher or "", content["teacher"].get("weights", "none"))
    own = {training.get("weights"), content["teacher"].get("weights")} - {None, "none"}
    if own and not as_it_is:  # a recipe of these networks
        pairs = {tuple(content["pairs"][0].split("->")): training["lr"]}
    if teacher or student:
        pairs = {(teacher or pair[0], student or pair[1]): rate for pair, rate in pairs.items()}
    one = {name: strengths[len(strengths) // 2 :][:1] for name, strengths in content["debias"].items()}
    plans = []
    for change in ({}, {"debias": one}, {"debias": one, "seeds": content["seeds"][:2]}):
        for (of_teacher, of_student), rate in pairs.items():
            plan = copy.deepcopy(content | change) | {"pairs": [f"{of_teacher}->{of_student}"]}
            plan["training"]["lr"] = rate
            plan["teacher"] = plan["teacher"] | ({} if own or as_it_is else {"lr": rate})
            plans.append(plan)
    return plans


def _kinds(plan, settings):
    """The teacher, the student alone and a distilled student of a plan, as runs."""
    teacher, student = plan["pairs"][0].split("->")
    weights = plan["teacher"].get("weights", "none")
    common = settings | {"batch_size": plan["training"]["batch_size"]}
    kinds = {"student": teacher, "weights": weights if is_given(teacher, weights) else "none"}, {"student": student}
    distilled = {"student": student, "method": "ckd", "teacher": teacher, "teacher_weights": weights}
    return [as_run(common | {"method": "scratch"} | kind) for kind in (*kinds, distilled)]


def _within(plans, dataset, settings, minutes, log):
    """(the first plan that the time allows, its seconds, the least epochs worth a study); epochs go into the plan."""
    steps = math.ceil(len(dataset.train) / plans[0]["training"]["batch_size"])
    least, most = (min(100, max(epochs, math.ceil(each / steps))) for epochs, each in zip(EPOCHS, STEPS, strict=True))
    timed = {}
    for plan in plans:
        pair = plan["pairs"][0]
        if paths.smoke():
            return plan, 60, 1
        if pair not in timed:
            timed[pair] = timing.time_steps(_kinds(plan, settings), dataset)
            kinds = zip(("teacher", "student", "distilled student"), timed[pair][:3], strict=True)
            rates = ", ".join(
                f"{name} {1 / seconds:.0f}" for name, seconds in kinds if seconds
            )  # none of a given teacher
            log(f"{pair}: images a second on one core: {rates}")
        start, epoch = timing.cost(_runs(plan), pair.partition("->")[0], dataset, timed[pair])
        epochs = min(most, int((60 * minutes - start) / epoch))
        if epochs >= least:
            break
    plan["training"]["epochs"] = max(1, epochs)
    return plan, start + epoch * max(1, epochs), least


def _runs(plan):
    """The runs that a plan trains."""
    study = _study(plan)
    return list(dict.fromkeys(as_run(run).resolved() for run in study.grid() + study.extras()))


def _study(plan):
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "plan.toml"
        file.write_text(_text(plan, file.name, "a plan"), encoding="utf-8")
        return profiles.profile(file)


def _finish(plan, dataset, minutes):
    """Add to a plan what follows from its epochs, and what it is about."""
    epochs, names_of = plan["training"]["epochs"], []
    plan["training"] |= {"test_every": epochs, "ramp": max(1, round(epochs / 5))}
    if not is_given(plan["pairs"][0].partition("->")[0], plan["teacher"].get("weights", "none")):
        plan["teacher"]["epochs"] = epochs
    for names in (dataset.classes, dataset.groups):
        names_of.append(", ".join(names[:6]) + (", …" if len(names) > 6 else ""))
    plan["about"] = f"{plan['data']['name']}: {names_of[0]}" + (f"; groups {names_of[1]}" if dataset.groups else "")
    plan["about"] += f"; {minutes} min on {os.cpu_count()} cores"


COMMENTS = {
    "pairs": "teacher->student, as large as pictures, their number and the time allow",
    "seeds": "trainings of each kind: their spread gives the intervals",
    "epochs": "as many as the time allows",
    "lr": "the highest of the schedule",
    "test_every": "the test split is read once, at the end",
    "ramp": "epochs in which KD++ and CTKD warm up",
    "debias": "teacher debiased or not × student debiased or not",
    "[debias]": "λ to try; [] for a debiaser without a strength",
}


def _text(plan, name, base):
    """The profile as TOML, with comments."""
    lines = [
        f"# Written by `python -m kdlib new`, from {base}; change what you like.",
        f"# Command: make all PROFILE={name}",
        "",
    ]
    plan = {"about": "", **plan}  # first
    tables = {"": {key: value for key, value in plan.items() if not isinstance(value, dict)}}
    tables |= {f"[{key}]": value for key, value in plan.items() if isinstance(value, dict) and value}
    for title, table in tables.items():
        if title:
            lines += ["", title + (f"  # {COMMENTS[title]}" if title in COMMENTS else "")]
        for key, value in table.items():
            comment = f"  # {COMMENTS[key]}" if key in COMMENTS and title != "[debias]" else ""
            lines.append(f"{key} = {json.dumps(value, ensure_ascii=False)}{comment}")
    return "\n".join(lines) + "\n"
