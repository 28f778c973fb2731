"""Where things are: anchored at the repository, never at the working directory. Data, runs and reports can be moved by
`KDLIB_DATA`, `KDLIB_RUNS` and `KDLIB_REPORTS`. Also the one way in which this project writes a file: whole or not at all."""

import contextlib
import fcntl
import hashlib
import json
import os
import sys
import tempfile
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


def make_folder(folder) -> Path:
    """Create `folder` (and parents) and check that files can be written in it; OSError names the way out if not."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(
            f"cannot write in {folder}: {error.strerror or error}. Free it, or point "
            "KDLIB_DATA, KDLIB_RUNS or KDLIB_REPORTS to a folder that can be written."
        ) from error
    return folder


@contextlib.contextmanager
def replacing(path, suffix=""):
    """Yield a temporary path beside `path`; rename it to `path` when the block ends well, remove it when it does not.

    A reader sees the old file or the new one, never a part. `suffix` is for writers that insist on a file extension."""
    path = Path(path)
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial{suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def writing(path):
    """Around writes to `path`: the system's error, as of a full disk, then says which file it met."""
    try:
        yield
    except OSError as error:
        raise OSError(f"cannot write {path}: {error.strerror or error}") from error


@contextlib.contextmanager
def only_process(path):
    """Hold the lock `path`; wait while another process holds it. The system frees it when its holder dies."""
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def write_json(path, value):
    """Write `value` as indented JSON, atomically. NaN and infinity become null: JSON has neither."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(plain(value), indent=2, allow_nan=False) + "\n")


def plain(value):
    """`value` with numpy and torch numbers as Python's, non-finite numbers as None, tuples as lists."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float) and not (float("-inf") < value < float("inf")):
        return None
    return value


def sha256(path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def near(name, known, what) -> ValueError:
    """The error for an unknown `name`: what it should have been, the likeliest first."""
    import difflib

    known = [str(item) for item in known]
    guess = difflib.get_close_matches(str(name), known, n=1)
    hint = f" Did you mean {guess[0]!r}?" if guess else ""
    return ValueError(f"unknown {what} {name!r}.{hint} Known: {', '.join(known)}")
