"""Writing files whole or not at all; locks between processes; checksums; TOML whose errors name the line."""

import contextlib
import errno
import fcntl
import glob
import hashlib
import json
import os
import re
import tempfile
import tomllib
from pathlib import Path

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS}  # why a file could not be written to its end
SEAL = "content_sha256"  # the entry of a JSON file that holds the SHA-256 of the others


def make_folder(folder) -> Path:
    """Create `folder` and its parents, and return it. Raises OSError, which says what to do, where no file can be written."""
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

    A reader sees the old file or the new one, never a part. `suffix` is for writers that insist on a file extension. Where
    the disk is full, the OSError names `path`."""
    path = Path(path)
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial{suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise OSError(f"cannot write {path}: {os.strerror(error.errno)}") from error
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def writing(path):
    """Make the errors of writing to `path` (a full disk, say) name the file."""
    try:
        yield
    except OSError as error:
        raise OSError(f"cannot write {path}: {error.strerror or error}") from error


@contextlib.contextmanager
def only_process(path):
    """Hold the lock `path`, waiting for another process that holds it. The system frees it when its holder dies."""
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def only_writer(folder, name=""):
    """Hold the lock of all who write the files of `folder`, or those called `name`; remove what killed writers left."""
    folder = make_folder(folder)
    with only_process(folder / (f".{name}.lock" if name else "lock")):
        for leftover in folder.glob(f".{glob.escape(name)}.*.partial*" if name else ".*.partial*"):
            leftover.unlink(missing_ok=True)
        yield


def write_json(path, value):
    """Write `value` as indented JSON, whole or not at all. NaN and infinity become null: JSON has neither."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(plain(value), indent=2, allow_nan=False) + "\n")


def read_json(path) -> dict:
    """Return the object in a JSON file; where it was written sealed, once it was compared with its seal.

    Raises
    ------
    OSError
        Where it cannot be read.
    ValueError
        Where it holds no JSON object, or another one than was written.
    """
    try:
        value = json.loads(Path(path).read_bytes())
    except RecursionError:
        raise ValueError("its brackets are nested too deep") from None
    if not isinstance(value, dict):
        raise ValueError(f"it holds a {type(value).__name__}, not an object")
    if SEAL in value and value[SEAL] != _seal(value):
        raise ValueError("it was changed after it was written: its content does not match its SHA-256")
    return value


def write_sealed(path, value) -> dict:
    """Write a dict as `write_json` does, with the SHA-256 of its content, which `read_json` checks; return it as it is read."""
    value = plain(value)
    value[SEAL] = _seal(value)
    write_json(path, value)
    return value


def _seal(value):
    content = json.dumps({name: item for name, item in value.items() if name != SEAL}, sort_keys=True)
    return hashlib.sha256(content.encode(errors="surrogatepass")).hexdigest()


def plain(value):
    """Return `value` with plain Python numbers and lists, and None for NaN and infinity."""
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
    """Return the SHA-256 of a file, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Toml:
    """A TOML file: its `content`, and errors that say file, line and key."""

    def __init__(self, path):
        self.path, self.text = Path(path), Path(path).read_text()
        try:
            self.content = tomllib.loads(self.text)
        except tomllib.TOMLDecodeError as error:  # its message names the line
            raise ValueError(f"{self.path}: {error}") from error

    def line(self, table="", key="") -> int:
        """Return the number of the line of a key in a table, or of its first mention; 1 where there is none."""
        inside, mention = "", 1
        for number, text in enumerate(self.text.splitlines(), 1):
            if header := re.match(r"\s*\[+([^\]]+)\]", text):
                inside = header[1].strip()
                if inside == (key or table):
                    mention = number
            if key and inside == table and re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*=", text):
                return number
            if key and mention == 1 and key in text:
                mention = number
        return mention

    def error(self, problem, table="", key="") -> ValueError:
        """Return the error for a key of a table."""
        return ValueError(f"{self.path}, line {self.line(table, key)}: {problem}")

    def typed(self, value, kind, key, table=""):
        """Return `value` as `kind`: str, int, float (whole numbers count), bool, or [kind] for a list."""
        if isinstance(kind, list):
            if not isinstance(value, list):
                raise self.error(f"{key} must be a list, as {_EXAMPLES[kind[0]]}; got {value!r}", table, key)
            return [self.typed(item, kind[0], key, table) for item in value]
        if kind is float and type(value) is int:
            return float(value)
        if type(value) is not kind:
            raise self.error(f"{key} must be {_KINDS[kind]}; got {value!r}", table, key)
        return value


_KINDS = {str: "a text in quotes", int: "a whole number", float: "a number", bool: "true or false"}
_EXAMPLES = {str: '["a", "b"]', int: "[0, 1]", float: "[1, 2.5]"}
