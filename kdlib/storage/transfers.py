"""Downloads that resume, and that appear whole or not at all, from any source.

A source is a context manager `open_at(start, known)`: given the first byte wanted and what is known of the file, it yields
`(first, total, tag, body)`, where `first` is 0 if the whole file is sent, and raises `Trouble`."""

import contextlib
import json
import os
import time

from kdlib import files, paths

CHUNK = 1 << 18  # bytes read at a time
LINE_SECONDS = 10  # between two lines of progress
TRANSIENT = (408, 429, 500, 502, 503, 504)  # HTTP statuses that may pass


class Trouble(OSError):
    """A failed request: the reason, the `remedy` ("resume", "restart" or "stop") and the server's `code` for it."""

    def __init__(self, reason, remedy, code=""):
        super().__init__(reason)
        self.remedy, self.code = remedy, code


def transfer(open_at, address, path, *, sha256, attempts, backoff, log, check=None, identity=None):
    """Download to `path` through `<path>.part`, unless `path` exists, and return it.

    Parameters
    ----------
    open_at : callable
        The source, as above.
    address : str
        The source in messages; `identity` tells it from others in the note beside the part (default: the address).
    check : callable, optional
        check(file, tag, address) raises ValueError if the file is damaged.
    sha256, attempts, backoff, log
        As in `http.download`.
    """
    identity = identity or address
    files.make_folder(path.parent)
    part, note = path.with_name(f"{path.name}.part"), path.with_name(f".{path.name}.part.json")
    with files.only_process(path.with_name(f".{path.name}.lock")):
        if path.exists():
            _check_sha256(path, sha256, f"{path} (already there)")
            log(f"{path} is there already; remove it to download it again")
            return path
        failures, furthest = 0, 0
        while trouble := _attempt(open_at, identity, part, note, log):
            size = part.stat().st_size if part.exists() else 0
            failures = 1 if size > furthest else failures + 1
            furthest = max(furthest, size)
            if trouble.remedy == "restart":
                part.unlink(missing_ok=True)
            if trouble.remedy == "stop" or failures >= attempts:
                raise OSError(
                    f"could not download {address}: {trouble}. If you can get the file another way, put it at {path}"
                ) from trouble
            log(f"{path.name}: {trouble}; trying again")
            time.sleep(backoff * 2 ** (failures - 1))
        try:
            _check_sha256(part, sha256, address)
            if check:
                check(part, _read_note(note, identity)["tag"], address)
        except ValueError:
            part.unlink()
            raise
        os.replace(part, path)
        note.unlink(missing_ok=True)
    return path


def _attempt(open_at, identity, part, note, log):
    """Download what is missing of `part`; return None, or the `Trouble`.

    `note` records which file the part belongs to, so that two versions are never mixed."""
    known = _read_note(note, identity)
    size = part.stat().st_size if known and part.exists() else 0
    if size and size == known["total"]:
        return None
    try:
        with open_at(size, known) as (first, total, tag, body):
            if first == 0:
                part.unlink(missing_ok=True)
                files.write_json(note, {"source": identity, "tag": tag, "total": total})
            with progress(part.stem, first, total, log) as advance, part.open("ab") as file:
                while block := body.read(CHUNK):
                    with files.writing(part):
                        file.write(block)
                    advance(len(block))
    except Trouble as trouble:
        return trouble
    size = part.stat().st_size
    if total is None or size == total:
        return None
    return Trouble(f"got {size} of {total} bytes", "resume" if size < total else "restart")


def _read_note(note, identity):
    """What is known of the file that the part belongs to; None if it cannot be resumed."""
    try:
        known = json.loads(note.read_text())
        return known if known["source"] == identity and known["tag"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _check_sha256(file, expected, name):
    if expected and (actual := files.sha256(file)) != expected.lower():
        raise ValueError(f"{name} is damaged or another file: its SHA-256 is {actual}, not {expected.lower()}")


@contextlib.contextmanager
def progress(name, size, total, log):
    """Yield a function that counts bytes: a bar in an interactive session, otherwise a line now and then."""
    if log is print and paths.interactive():
        from tqdm.auto import tqdm

        with tqdm(total=total, initial=size, unit="B", unit_scale=True, desc=name) as bar:
            yield bar.update
        return
    last = time.monotonic()

    def advance(count):
        nonlocal size, last
        size += count
        if time.monotonic() - last >= LINE_SECONDS:
            last = time.monotonic()
            log(f"{name}: {size / 1e6:.1f}" + (f" of {total / 1e6:.1f}" if total else "") + " MB")

    yield advance
