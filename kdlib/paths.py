"""Where things are: anchored at the repository, never at the working directory, unless kdlib is installed without it.

Data, runs and reports can be moved with `KDLIB_DATA`, `KDLIB_RUNS` and `KDLIB_REPORTS`."""

import os
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
# profiles, notebooks and published results are no part of the package
CHECKOUT = (PACKAGE.parent / "profiles").is_dir()
ROOT = PACKAGE.parent if CHECKOUT else Path.cwd()


def check_checkout(what):
    """Raise ValueError, for `what` needs files of the repository, where kdlib is installed without it."""
    if not CHECKOUT:
        raise ValueError(
            f"{what} is part of the project's repository, and kdlib is installed without it: use a checkout"
        )


def data_folder() -> Path:
    """Return the folder of prepared data sets and downloads."""
    return _folder("KDLIB_DATA", "data")


def runs_folder() -> Path:
    """Return the folder of the run store: one folder per run, named by its key."""
    return _folder("KDLIB_RUNS", "runs")


def reports_folder() -> Path:
    """Return the folder of executed notebooks, figures, tables and `index.html`."""
    return _folder("KDLIB_REPORTS", "reports")


def _folder(setting, default):
    """The folder that a setting names: `~` is the home folder, a relative one lies in the project, whoever asks from where."""
    return ROOT / Path(os.environ.get(setting) or default).expanduser()


def smoke() -> bool:
    """Return whether `KDLIB_SMOKE` asks for runs just large enough to show that everything works."""
    return os.environ.get("KDLIB_SMOKE", "") not in ("", "0")


def interactive() -> bool:
    """Return whether a person watches: in a terminal, or in a notebook that is not run headlessly."""
    return sys.stdout.isatty() or ("ipykernel" in sys.modules and not os.environ.get("KDLIB_HEADLESS"))
