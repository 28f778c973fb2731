"""Where things are: anchored at the repository, never at the working directory.

Data, runs and reports can be moved with `KDLIB_DATA`, `KDLIB_RUNS` and `KDLIB_REPORTS`."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def data_folder() -> Path:
    """Prepared data sets and downloads."""
    return Path(os.environ.get("KDLIB_DATA") or ROOT / "data")


def runs_folder() -> Path:
    """The run store: one folder per run, named by its key."""
    return Path(os.environ.get("KDLIB_RUNS") or ROOT / "runs")


def reports_folder() -> Path:
    """Executed notebooks, figures, tables, `index.html`."""
    return Path(os.environ.get("KDLIB_REPORTS") or ROOT / "reports")


def smoke() -> bool:
    """True when `KDLIB_SMOKE` asks for runs just large enough to show that everything works."""
    return os.environ.get("KDLIB_SMOKE", "") not in ("", "0")


def interactive() -> bool:
    """Whether a person watches: a terminal, or a notebook that is not run headlessly."""
    return sys.stdout.isatty() or ("ipykernel" in sys.modules and not os.environ.get("KDLIB_HEADLESS"))
