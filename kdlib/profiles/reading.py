"""Reads a study's .toml file, and says with file and line what is wrong in it."""

import types
import typing

from kdlib import data, files, names, recipes
from kdlib.data import options
from kdlib.profiles.study import TEACHER, Profile

# fields of Recipe that the grid sets itself, so that [training] cannot
VARIED = ("data", "data_options", "student", "teacher", "method", "method_options", "debias", "lam", "teacher_debias",
          "teacher_lam", "seed", "skew")  # fmt: skip
TOP = {
    "about": str, "pairs": [str], "methods": [str], "seeds": [int], "temperatures": [float], "published": [str],
    "ablated": bool, "small_lr": float, "controls": [str],
}  # fmt: skip
NEEDED = ("pairs", "methods", "seeds")
TABLES = ("data", "training", "teacher", "debias")


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
    pairs = tuple(_arrow(text, "teacher->student", "pairs", toml) for text in top.pop("pairs"))
    controls = tuple(_control(text, toml) for text in top.pop("controls", ()))
    training, teacher = _training(toml), _teacher(toml)
    debiased = teacher.pop("teacher_debias", "none")
    _check_methods(toml, (*top["methods"], *top.get("published", ())))
    for needed in ("lr", "batch_size"):
        if needed not in training:
            raise toml.error(f"{needed} is missing", "training")
    lists = {name: tuple(value) if isinstance(value, list) else value for name, value in top.items()}
    lists = {"about": ""} | lists | {"pairs": pairs, "controls": controls}
    lists |= {"debias": _debias(toml, debiased), "teacher_debias": debiased}
    return Profile(name=file.stem, settings=data_settings_of(toml) | training | teacher, **lists)


def _arrow(text, form, key, toml):
    left, arrow, right = (side.strip() for side in text.partition("->"))
    if not (arrow and left and right):
        raise toml.error(f'{key} are written "{form}"; got {text!r}', key=key)
    return left, right


def _control(text, toml):
    """ "logit_adjustment 1 -> resample": the debiaser of the teacher and that of the student, each with its λ."""
    from kdlib import debias

    control = {}
    form = "teacher's debiaser λ -> student's debiaser λ"
    for prefix, side in zip((TEACHER, ""), _arrow(text, form, "controls", toml), strict=True):
        name, _, lam = side.partition(" ")
        try:
            control |= {f"{prefix}debias": name, f"{prefix}lam": float(lam or 0)}
            debias.check(name, float(lam or 0), distilled=not prefix)
        except ValueError as error:
            raise toml.error(f"control {text!r}: {error}", key="controls") from error
        if debias.has_strength(name) and not lam:
            raise toml.error(f"control {text!r}: debiaser {name} needs a λ", key="controls")
    return control


def data_settings_of(toml) -> dict:
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
    return _recipe(toml, "training", "", [n for n in _fields() if n not in VARIED and not n.startswith(TEACHER)])


def _teacher(toml):
    known = [name.removeprefix(TEACHER) for name in _fields() if name.startswith(TEACHER) and name != "teacher_lam"]
    return _recipe(toml, "teacher", TEACHER, known)


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
