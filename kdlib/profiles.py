"""Studies: `profile(name_or_path)` reads `profiles/<name>.toml`, or a file of yours, into a `Profile`, a grid of runs.

A file is flat: `about`, `pairs`, `methods`, `seeds` and a few switches at the top (`TOP`), then the tables `[data]`
(name and options of the data set), `[training]` and `[teacher]` (fields of `recipes.Recipe`, common to every run) and
`[debias]` (each debiaser with its list of λ, [] where it has no strength). Nothing of a study is written in Python.

A profile's methods return lists of settings (dicts of `Run`'s fields), one per run, for each part of the story."""

import dataclasses
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path

from kdlib import data, files, names, paths, recipes
from kdlib.data import options

# fields of Recipe that the grid sets itself, so that [training] cannot
VARIED = ("data", "data_options", "student", "teacher", "method", "method_options", "debias", "lam", "teacher_debias",
          "teacher_lam", "seed", "skew")  # fmt: skip
PREFIX = "teacher_"
TOP = {
    "about": str, "pairs": [str], "methods": [str], "seeds": [int], "temperatures": [float], "published": [str],
    "ablated": bool, "small_lr": float,
}  # fmt: skip
NEEDED = ("pairs", "methods", "seeds")
TABLES = ("data", "training", "teacher", "debias")


@dataclass(frozen=True)
class Profile:
    """A study. Every list of runs is of the first pair; `of` makes another the first.

    Attributes
    ----------
    name, about : str
    settings : dict
        Fields of `Run`, common to every run. With a `teacher_seed`, one teacher serves all seeds.
    pairs : tuple of (teacher, student)
    methods, seeds : tuple
    debias : dict
        {debiaser of the students: tuple of λ}, (0.0,) for one without a strength.
    teacher_debias : str
        The debiaser of the 2 × 2 of teacher and student.
    published : tuple
        Methods that are also trained as published.
    ablated : bool
        Whether KD++ is taken apart.
    small_lr : float or None
        The learning rate of MobileNet and ShuffleNet students, if they have their own.
    temperatures : tuple
        Temperatures at which methods that soften logits are trained, too.
    """

    name: str
    about: str
    settings: dict
    pairs: tuple
    methods: tuple
    seeds: tuple
    debias: dict = field(default_factory=dict)
    teacher_debias: str = "none"
    published: tuple = ()
    ablated: bool = False
    small_lr: float | None = None
    temperatures: tuple = ()

    def of(self, pair):
        """Return this profile for one of its pairs, as "resnet56->resnet20"; "" is the first."""
        known = {f"{teacher}->{student}": (teacher, student) for teacher, student in self.pairs}
        if pair and pair not in known:
            raise names.unknown_name(pair, known, f"pair of profile {self.name}:")
        return dataclasses.replace(self, pairs=(known[pair] if pair else self.pairs[0],))

    def changed(self, seeds=None, **settings):
        """Return this profile with other seeds, and with `settings` for every run.

        Teachers change too, unless a `teacher_…` setting says otherwise. Methods as published are then left out, as they
        would no longer be."""
        if not seeds and not settings:
            return self
        of_teacher = {PREFIX + name: value for name, value in settings.items() if PREFIX + name in self.settings}
        return dataclasses.replace(
            self,
            settings=self.settings | of_teacher | settings,
            seeds=tuple(seeds or self.seeds),
            published=() if settings else self.published,
            small_lr=None if "lr" in settings else self.small_lr,
        )

    def _each_pair(self):
        return [dataclasses.replace(self, pairs=(pair,)) for pair in self.pairs]

    def _runs(self, **settings):
        teacher, student = self.pairs[0]
        pair = {"teacher": teacher, "student": student}
        return [self.settings | pair | settings | {"seed": seed} for seed in self.seeds]

    def teachers(self, debias="none"):
        """Return the teacher's runs, trained with a debiaser or without: one per seed, or one for all seeds."""
        recipe = {name.removeprefix(PREFIX): value for name, value in self.settings.items() if name.startswith(PREFIX)}
        trained = self._runs(student=self.pairs[0][0], method="scratch", debias=debias, **recipe)
        return trained if "seed" not in recipe else [trained[0] | {"seed": recipe["seed"]}]

    def teacher_kinds(self):
        """Return {name: runs}: the teacher, and the debiased one where there is one."""
        kinds = {"teacher": self.teachers()}
        if self.teacher_debias != "none":
            kinds[f"teacher, {self.teacher_debias.replace('_', '-')}"] = self.teachers(self.teacher_debias)
        return kinds

    def teacher_of(self, position, debias="none"):
        """Return the teacher of the students of the seed at this position: its own, or the one that all share."""
        return self.teachers(debias)[0 if "teacher_seed" in self.settings else position]

    def students(self, method, debias="none", lam=0.0, teacher_debias="none", options_of_method=None, **recipe):
        """Return the student's runs under a method; "scratch" is the student alone, the control with the same budget.

        Parameters
        ----------
        options_of_method : dict, optional
            In place of the weights that were published for the pair.
        **recipe
            Settings in place of the profile's.
        """
        given = recipes.pair_weights(method, *self.pairs[0]) if options_of_method is None else options_of_method
        recipe = {"lr": self._student_lr(), "method_options": _spelled(method, given)} | recipe
        return self._runs(method=method, debias=debias, lam=lam, teacher_debias=teacher_debias, **recipe)

    def _student_lr(self):
        return self.small_lr if self.small_lr and recipes.is_small(self.pairs[0][1]) else self.settings["lr"]

    def as_published(self, method):
        """Return the student's runs under the method's own published recipe."""
        return self.students(method, **recipes.published_recipe(method, *self.pairs[0]))

    def debiased(self, method):
        """Return the method's student under each debiaser, over its λ; those that need a teacher are not for method scratch."""
        from kdlib import debias

        return [
            run
            for name, strengths in self.debias.items()
            if method != "scratch" or not debias.needs_teacher(name)
            for lam in strengths
            for run in self.students(method, name, lam)
        ]

    def two_by_two(self, method):
        """Return the runs of teacher debiased or not × student debiased or not."""
        choices = dict.fromkeys(("none", self.teacher_debias))
        return [
            run for teacher in choices for student in choices for run in self.students(method, student, 0.0, teacher)
        ]

    def tempered(self, method):
        """Return {temperature: runs} of the method's student; empty where method or profile has no temperatures."""
        from kdlib import methods

        known = methods.method_options(method)
        if "temperature" not in known or not known.get("kd", 1.0):
            return {}
        default = known["temperature"]
        return {
            each: self.students(method, temperature=None if each == default else each) for each in self.temperatures
        }

    def ablation(self):
        """Return {name: runs} from CKD to KD++ as published; empty unless the profile is `ablated`.

        It tells what the norm-and-direction term brings from what weights and optimiser bring."""
        if not self.ablated:
            return {}
        weights = recipes.pair_weights("kdpp", *self.pairs[0])
        without = weights | {"nd": 0.0}
        batch = self.settings["batch_size"]
        parts = {
            "nesterov": {"nesterov": True},
            "twice the learning rate": {"lr": 2 * self._student_lr()},
            "twice the batch": {"batch_size": 2 * batch, "teacher_batch_size": batch},
        }
        all_parts = {name: value for part in parts.values() for name, value in part.items()}
        return {
            "CKD": self.students("ckd"),
            "KD++ without its term": self.students("kdpp", options_of_method=without),
            "KD++": self.students("kdpp"),
            **{f"KD++, {name}": self.students("kdpp", **part) for name, part in parts.items()},
            "KD++, all three": self.students("kdpp", **all_parts),
            "KD++ without its term, all three": self.students("kdpp", options_of_method=without, **all_parts),
        }

    def grid(self):
        """Return every run of the study, of every pair, each kind of model under one recipe."""
        if len(self.pairs) > 1:
            return [run for one in self._each_pair() for run in one.grid()]
        controls = ("scratch", *self.methods)
        crossed = self.methods if self.teacher_debias != "none" else ()
        return [
            *self.teachers(),
            *self.teachers(self.teacher_debias),
            *(run for method in controls for run in self.students(method)),
            *(run for method in controls for run in self.debiased(method)),
            *(run for method in crossed for run in self.two_by_two(method)),
        ]

    def extras(self):
        """Return the runs beside the grid: methods as published, the parts of KD++, and other temperatures."""
        if len(self.pairs) > 1:
            return [run for one in self._each_pair() for run in one.extras()]
        return [
            *(run for method in self.published for run in self.as_published(method)),
            *(run for part in self.ablation().values() for run in part),
            *(run for method in self.methods for part in self.tempered(method).values() for run in part),
        ]


def _spelled(method, given):
    if not given:
        return ""
    from kdlib import methods

    return options.spell(given, methods.method_options(method))


def built_in() -> list:
    """Return the names of the studies in `profiles/`."""
    return sorted(file.stem for file in (paths.ROOT / "profiles").glob("*.toml"))


def profile_file(name_or_path) -> Path:
    """Return the file of a study: `profiles/<name>.toml`, or the path given (from the working folder or the project's root).

    Raises
    ------
    ValueError
        For an unknown name, a file that is not there, and one with the name of a built-in study, whose results it would mix
        with its own.
    """
    text = str(name_or_path)
    if not text.endswith(".toml") and "/" not in text:
        if text not in built_in():
            raise names.unknown_name(text, built_in(), "profile")
        return paths.ROOT / "profiles" / f"{text}.toml"
    places = dict.fromkeys((Path(text).expanduser().absolute(), (paths.ROOT / text).absolute()))
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise ValueError(f"no profile {text}: there is no file {' or '.join(map(str, places))}")
    if found.suffix != ".toml":
        raise ValueError(f"a profile is a .toml file; got {found}")
    if found.stem in built_in() and found.resolve() != (paths.ROOT / "profiles" / found.name).resolve():
        raise ValueError(
            f"{found} has the name of a built-in profile, and results go by it: give the file another name"
        )
    return found


def profile_name(name_or_path) -> str:
    """Return the name under which a study's results are kept: the stem of its file."""
    return Path(str(name_or_path)).name.removesuffix(".toml")


def profile(name_or_path, pair="") -> Profile:
    """Return the study `name`, or that of a file, for one of its pairs.

    Parameters
    ----------
    name_or_path : str or Path
        A name in `profiles/`, or a path to a .toml file.
    pair : str
        As "resnet56->resnet20"; "" is the first, "all" every one.

    Returns
    -------
    Profile
        Shrunk to two seeds, one epoch and one λ where KDLIB_SMOKE is set.

    Raises
    ------
    ValueError
        For an unknown profile or pair; with file and line for an unknown key, a value of another type, and names and numbers
        that no run can have.
    """
    study = read(profile_file(name_or_path))
    study = study if pair == "all" else study.of(pair)
    if not paths.smoke():
        return study
    small = study.settings | {"epochs": 1, "teacher_epochs": 1, "test_every": 1}
    debias = {debiaser: strengths[-1:] for debiaser, strengths in study.debias.items()}
    return dataclasses.replace(study, settings=small, debias=debias, seeds=study.seeds[:2])


def read(file) -> Profile:
    """Return the study that a .toml file describes, checked as `profile` says."""
    toml = files.Toml(file)
    top = {name: value for name, value in toml.content.items() if not isinstance(value, dict)}
    for name in toml.content:
        known = TABLES if isinstance(toml.content[name], dict) else TOP
        if name not in known:
            raise toml.error(str(names.unknown_name(name, known, "table" if known is TABLES else "key")), key=name)
    top = {name: toml.typed(value, TOP[name], name) for name, value in top.items()}
    for name in NEEDED:
        if not top.get(name):
            raise toml.error(f"{name} is missing or empty")
    pairs = tuple(_pair(text, toml) for text in top.pop("pairs"))
    training, teacher = _training(toml), _teacher(toml)
    debiased = teacher.pop("teacher_debias", "none")
    _check_methods(toml, (*top["methods"], *top.get("published", ())))
    for needed in ("lr", "batch_size"):
        if needed not in training:
            raise toml.error(f"{needed} is missing", "training")
    lists = {name: tuple(value) if isinstance(value, list) else value for name, value in top.items()}
    lists = {"about": ""} | lists | {"pairs": pairs, "debias": _debias(toml, debiased), "teacher_debias": debiased}
    return Profile(name=file.stem, settings=_data(toml) | training | teacher, **lists)


def _pair(text, toml):
    teacher, arrow, student = (part.strip() for part in text.partition("->"))
    if not (arrow and teacher and student):
        raise toml.error(f'a pair is written "teacher->student"; got {text!r}', key="pairs")
    return teacher, student


def _data(toml):
    """[data]: the name of a data set, its skew, and its other options as a run's `data_options`."""
    given = dict(toml.content.get("data", {}))
    name = given.pop("name", None)
    if name not in data.SOURCES:
        raise toml.error(str(names.unknown_name(name, data.SOURCES, "data set")), "data", "name")
    settings, defaults = {"data": name}, data.defaults(name)
    if "skew" in given and "skew" in defaults:
        settings["skew"] = toml.typed(given.pop("skew"), float, "skew", "data")
    for option in given:
        if option not in defaults:
            raise toml.error(str(names.unknown_name(option, defaults, f"option of data set {name}:")), "data", option)
    try:  # once as text, so that an option is spelled as on the command line
        plain = {option: tuple(value) if isinstance(value, list) else value for option, value in given.items()}
        text = data.option_text(name, options.spell(plain, dict.fromkeys(plain, ...)))
    except ValueError as error:
        raise toml.error(str(error), "data") from error
    return settings | ({"data_options": text} if text else {})


def _training(toml):
    return _recipe(toml, "training", "", [n for n in _fields() if n not in VARIED and not n.startswith(PREFIX)])


def _teacher(toml):
    known = [name.removeprefix(PREFIX) for name in _fields() if name.startswith(PREFIX) and name != "teacher_lam"]
    return _recipe(toml, "teacher", PREFIX, known)


def _recipe(toml, table, prefix, known):
    settings = {}
    for name, value in toml.content.get(table, {}).items():
        if name not in known:
            raise toml.error(str(names.unknown_name(name, known, f"setting in [{table}]:")), table, name)
        settings[prefix + name] = toml.typed(value, _fields()[prefix + name], name, table)
    return settings


def _fields():
    """{field of Recipe: its type, None apart}."""
    hints = typing.get_type_hints(recipes.Recipe)
    return {
        name: typing.get_args(hint)[0] if isinstance(hint, types.UnionType) else hint for name, hint in hints.items()
    }


def _check_methods(toml, given):
    from kdlib import methods

    for name in given:
        if name not in methods.METHODS:
            raise toml.error(str(names.unknown_name(name, methods.METHODS, "method")), key=name)


def _debias(toml, of_teacher):
    """[debias]: {debiaser: λ}, each λ one that the debiaser takes; and the teacher's debiaser, checked."""
    from kdlib import debias

    table = toml.content.get("debias", {})
    if of_teacher not in debias.DEBIASERS or debias.has_strength(of_teacher):
        raise toml.error(f"the teacher's debiaser is used without λ, so it must be one that has none; got {of_teacher!r}",
                         "teacher", "debias")  # fmt: skip
    grid = {}
    for name, strengths in table.items():
        strengths = tuple(toml.typed(strengths, [float], name, "debias"))
        try:
            debias.check(name, 0.0)
            for lam in strengths:
                debias.check(name, lam)
        except ValueError as error:
            raise toml.error(str(error), "debias", name) from error
        if debias.has_strength(name) != bool(strengths):
            right = "needs a list of λ, as [1, 10]" if not strengths else "has no strength: write []"
            raise toml.error(f"debiaser {name} {right}", "debias", name)
        grid[name] = strengths or (0.0,)
    return grid
