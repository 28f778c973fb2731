"""Files from elsewhere: downloads that resume, and appear whole or not at all. (`unpack` is from `archives`.)

Where a file comes from is one context manager, as `_http`: given where to start and what is known of the object, it
yields `(first, total, tag, body)`, and raises `_Failed`. The rest is the same for every source."""

import contextlib
import functools
import http.client
import json
import os
import re
import socket
import ssl
import time
import urllib.error
import urllib.request
from pathlib import Path

from kdlib import paths
from kdlib.archives import unpack

__all__ = ["download", "unpack"]

CHUNK = 1 << 18  # bytes read at a time
LINE_SECONDS = 10  # between two lines of progress
PASSING = (408, 429, 500, 502, 503, 504)  # answers of a server that may be well again in a moment


class _Failed(Exception):
    """A transfer broke off: why, and what to do: "resume", "restart" or "stop"."""

    def __init__(self, reason, remedy):
        super().__init__(reason)
        self.remedy = remedy


def download(url, path, *, sha256=None, attempts=5, backoff=1.0, timeout=60.0, log=print) -> Path:
    """Download `url` (http or https) to `path`, resuming what an earlier call left in `<path>.part`; return `path`.

    sha256: hexadecimal, of the whole file; attempts: how many in a row may bring nothing new; backoff: seconds before the
    second, doubled before each further one; timeout: seconds without an answer. A file that is there is not downloaded.
    Raises OSError, which says how to do it by hand, where the file cannot be had, and ValueError where its SHA-256 is
    another, or the address is of another kind."""
    if not url.lower().startswith(("http://", "https://")):
        raise ValueError(f"cannot download {url!r}: the address must begin with http:// or https://")
    return _download(functools.partial(_http, url, timeout), url, Path(path), sha256, attempts, backoff, log)


def _download(open_at, source, path, sha256, attempts, backoff, log):
    paths.make_folder(path.parent)
    part, note = path.with_name(f"{path.name}.part"), path.with_name(f".{path.name}.part.json")
    with paths.only_process(path.with_name(f".{path.name}.lock")):
        if path.exists():
            _check_sha256(path, sha256, f"{path}, which was there already,")
            log(f"{path} is there already; remove it to download it again")
            return path
        failures, furthest = 0, 0
        while failure := _transfer(open_at, source, part, note, log):
            size = part.stat().st_size if part.exists() else 0
            failures = 1 if size > furthest else failures + 1
            furthest = max(furthest, size)
            if failure.remedy == "restart":
                part.unlink(missing_ok=True)
            if failure.remedy == "stop" or failures >= attempts:
                raise OSError(
                    f"could not download {source}: {failure}. If you can get the file another way, put it at {path}"
                ) from failure
            log(f"{path.name}: {failure}; trying again")
            time.sleep(backoff * 2 ** (failures - 1))
        try:
            _check_sha256(part, sha256, source)
        except ValueError:
            part.unlink()
            raise
        os.replace(part, path)
        note.unlink(missing_ok=True)
    return path


def _transfer(open_at, source, part, note, log):
    """Bring `part` to its full size, on from where it is if the object is still the same; None, or the `_Failed`.

    `note` remembers which object the part is of, so that no file is ever a mixture of two."""
    known = _read_note(note, source)
    size = part.stat().st_size if known and part.exists() else 0
    if size and size == known["total"]:
        return None
    try:
        with open_at(size, known) as (first, total, tag, body):
            if first == 0:
                part.unlink(missing_ok=True)
                paths.write_json(note, {"source": source, "tag": tag, "total": total})
            with _progress(part.stem, first, total, log) as advance, part.open("ab") as file:
                while block := body.read(CHUNK):
                    with paths.writing(part):
                        file.write(block)
                    advance(len(block))
    except _Failed as failure:
        return failure
    size = part.stat().st_size
    if total is None or size == total:
        return None
    return _Failed(f"got {size} of {total} bytes", "resume" if size < total else "restart")


def _read_note(note, source):
    """What is known of the object that the part is of, or None where it cannot be resumed."""
    try:
        known = json.loads(note.read_text())
        return known if known["source"] == source and known["tag"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


@contextlib.contextmanager
def _http(url, timeout, start, known):
    """The answer to a request for the bytes from `start` on; `first` is 0 where the server sends the whole object."""
    headers = {"User-Agent": "kdlib"}
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": known["tag"]}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout) as answer:
            yield (*_http_extent(answer, start, known), answer)
    except urllib.error.HTTPError as error:
        error.close()
        remedy = "restart" if error.code == 416 else "resume" if error.code in PASSING else "stop"
        raise _Failed(f"the server answered {error.code} {error.reason}", remedy) from error
    except urllib.error.URLError as error:
        passing = isinstance(error.reason, (ConnectionError, TimeoutError, socket.gaierror))
        raise _Failed(f"no connection ({error.reason})", "resume" if passing else "stop") from error
    except http.client.InvalidURL as error:
        raise _Failed(f"no such address ({error})", "stop") from error
    except (http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError) as error:
        raise _Failed(f"the connection broke ({type(error).__name__})", "resume") from error


def _http_extent(answer, start, known):
    """(first, total, tag): the first byte that the server sends, the object's size, and what tells it from others."""
    tag = answer.headers.get("ETag", "")
    if not tag or tag.startswith("W/"):  # a weak tag does not promise equal bytes
        tag = answer.headers.get("Last-Modified")
    if answer.status != 206:
        length = answer.headers.get("Content-Length")
        return 0, int(length) if length else None, tag
    span = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", answer.headers.get("Content-Range", ""))
    first, total = map(int, span.groups()) if span else (None, None)
    # Some servers heed Range and ignore If-Range.
    if not known or first != start or tag not in (None, known["tag"]) or known["total"] not in (None, total):
        raise _Failed("the file changed since the download began", "restart")
    return first, total, known["tag"]


def _check_sha256(file, expected, what):
    if expected and (found := paths.sha256(file)) != expected.lower():
        raise ValueError(f"{what} is damaged or another file: its SHA-256 is {found}, not {expected.lower()}")


@contextlib.contextmanager
def _progress(name, size, total, log):
    """A function to be told of the bytes that came: a bar where a person watches, else a line now and then."""
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
