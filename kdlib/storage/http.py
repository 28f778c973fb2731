"""Downloads over HTTP and HTTPS that resume where they broke off."""

import contextlib
import functools
import hashlib
import http.client
import re
import socket
import ssl
import urllib.error
import urllib.request
from pathlib import Path

from kdlib.storage.transfers import TRANSIENT, Trouble, transfer


def download(url, path, *, sha256=None, attempts=5, backoff=1.0, timeout=60.0, log=print) -> Path:
    """Download `url` to `path`, resuming what an earlier call left in `<path>.part`.

    A file that exists is not downloaded again. The query of the address, which may be signed, is never shown or stored.

    Parameters
    ----------
    url : str
        http or https, without a user or password.
    path : path-like
    sha256 : str, optional
        Hexadecimal, of the whole file.
    attempts : int
        How many in a row may bring nothing new.
    backoff : float
        Seconds before the second attempt, doubled before each further one.
    timeout : float
        Seconds without an answer.
    log : callable
        Receives lines of progress.

    Returns
    -------
    Path

    Raises
    ------
    OSError
        If the file cannot be downloaded; the message says where to put it by hand.
    ValueError
        If its SHA-256 differs, or the address is not as above.
    """
    address = _without_query(url)
    # Two queries are two files: a digest tells them apart in the note.
    identity = address if address == url else f"{address} {hashlib.sha256(url.encode()).hexdigest()}"
    open_at = functools.partial(_open, url, timeout)
    options = {"sha256": sha256, "attempts": attempts, "backoff": backoff, "log": log}
    return transfer(open_at, address, Path(path), identity=identity, **options)


def _without_query(url) -> str:
    """Scheme, host and path of a web address; a ValueError for other addresses does not repeat them."""
    if not (match := re.fullmatch(r"(https?://[^/@?#\s]+)(/[^?#]*)?([?#].*)?", url, re.IGNORECASE | re.DOTALL)):
        raise ValueError(
            "cannot download this: the address must begin with http:// or https://, without a user or password"
        )
    if not re.fullmatch(r"https?://(\[[^]]*\]|[^:]*)(:\d*)?", match[1], re.IGNORECASE):
        raise ValueError("cannot download this: the port in the address is not a number")
    return match[1] + (match[2] or "")


@contextlib.contextmanager
def _open(url, timeout, start, known):
    """The source of `transfers` for a web address."""
    # urllib's errors can hold the address with its signed query, so a failure must not be linked to them.
    headers, trouble = {"User-Agent": "kdlib"}, None
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": known["tag"]}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout) as answer:
            yield (*_extent(answer, start, known), answer)
    except urllib.error.HTTPError as error:
        error.close()
        remedy = "restart" if error.code == 416 else "resume" if error.code in TRANSIENT else "stop"
        trouble = Trouble(
            f"the server answered {error.code} {http.client.responses.get(error.code, '')}".rstrip(), remedy
        )
    except urllib.error.URLError as error:
        transient = isinstance(error.reason, (ConnectionError, TimeoutError, socket.gaierror))
        trouble = Trouble(f"no connection ({error.reason})", "resume" if transient else "stop")
    except (http.client.InvalidURL, UnicodeError):
        trouble = Trouble("the address is not valid", "stop")
    except (http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError) as error:
        trouble = Trouble(f"the connection broke ({type(error).__name__})", "resume")
    if trouble:
        raise trouble


def _extent(answer, start, known):
    """(first byte sent, size of the whole file, tag of this version of it)."""
    tag = answer.headers.get("ETag", "")
    if not tag or tag.startswith("W/"):  # a weak tag does not promise equal bytes
        tag = answer.headers.get("Last-Modified")
    if answer.status != 206:
        length = answer.headers.get("Content-Length")
        return 0, int(length) if length else None, tag
    span = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", answer.headers.get("Content-Range", ""))
    first, total = map(int, span.groups()) if span else (None, None)
    # Some servers follow Range and ignore If-Range.
    if not known or first != start or tag not in (None, known["tag"]) or known["total"] not in (None, total):
        raise Trouble("the file changed since the download began", "restart")
    return first, total, known["tag"]
