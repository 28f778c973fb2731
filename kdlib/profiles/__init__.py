"""Studies: `profile(name_or_path)` reads `profiles/<name>.toml`, or a file of yours, into a `Profile`, a grid of runs.

A file is flat: `about`, `pairs`, `methods`, `seeds` and a few switches at the top, then the tables `[data]` (name and options
of the data set), `[training]` and `[teacher]` (fields of `recipes.Recipe`, common to every run) and `[debias]` (each debiaser
with its list of λ, [] where it has no strength). Nothing of a study is written in Python."""

import dataclasses
from pathlib import Path

from kdlib import files, names, paths
from kdlib.profiles.reading import data_settings_of, read
from kdlib.profiles.study import Profile

__all__ = ["Profile", "built_in", "data_settings", "profile", "profile_file", "profile_name", "read"]


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
            paths.check_checkout(f"profile {text!r}")
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


def data_settings(name_or_path) -> dict:
    """Return the fields of `Run` that a study's table [data] sets. Raises ValueError as `profile` does; loads no torch."""
    return data_settings_of(files.Toml(profile_file(name_or_path)))


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
