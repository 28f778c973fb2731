"""What the tests of S3 share: a real server process (moto), a second one (s3rver), and a proxy with faults between.

`npm install --global s3rver` installs the second one."""

import contextlib
import functools
import http.client
import http.server
import os
import random
import re
import shutil
import subprocess
import sys
import threading
import time
import traceback
import types

import boto3
import botocore.session
import pytest
from botocore.config import Config

from kdlib import storage

OLD, NEW = (random.Random(seed).randbytes(700_000) for seed in (1, 2))
KEY, SECRET = "AKIAONLYFORTHETESTS7", "sEcReT/oNlY+fOr/ThE+tEsTs/0123456789abcd"
CUT_OR_STALLED = pytest.mark.parametrize(
    "fault", [{"cut": 600_000}, {"cut": 600_000, "stall": 0.8}], ids=["cut", "slow"]
)


def wait_for(process, log, pattern):
    """What the server process prints about where it listens."""
    for _ in range(600):
        if found := re.search(pattern, log.read_text()):
            return found[1]
        assert process.poll() is None, log.read_text()
        time.sleep(0.1)
    raise AssertionError(log.read_text())


@contextlib.contextmanager
def server_process(command, folder, pattern):
    log = folder / "log"
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, cwd=folder)
    try:
        yield f"http://127.0.0.1:{wait_for(process, log, pattern)}"
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="module")
def moto(tmp_path_factory):
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    with server_process(command, tmp_path_factory.mktemp("moto"), r"Running on http://127\.0\.0\.1:(\d+)") as address:
        yield address


@pytest.fixture(scope="module")
def s3rver(tmp_path_factory):
    program = shutil.which("s3rver")
    if not program:
        pytest.skip("s3rver is not installed (npm install --global s3rver)")
    folder = tmp_path_factory.mktemp("s3rver")
    command = [program, "--port", "0", "--address", "127.0.0.1", "--directory", str(folder / "objects")]
    with server_process(command, folder, r"listening on 127\.0\.0\.1:(\d+)") as address:
        yield address


class Proxy(http.server.BaseHTTPRequestHandler):
    """Passes requests on to the store at `server.state.target`. Each request of the kind that the next of `faults`, a dict,
    names as `method` (default GET) takes it: `do`: call that first; `status` (and `code`, `message`): answer with that alone;
    `cut`: send that many bytes of the body and hang up, after `stall` seconds; `flip`: change the body's first byte;
    `drop`: leave out that header of the request."""

    protocol_version = "HTTP/1.1"

    def handle_any(self):
        state, fault = self.server.state, {}
        state.requests.append((self.command, self.headers))
        state.paths.append((self.command, self.path))
        if state.faults and state.faults[0].get("method", "GET") == self.command:
            fault = state.faults.pop(0)
        fault.get("do", lambda: None)()
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if "status" in fault:
            code, message = fault.get("code", "Any"), fault.get("message", "any")
            self.answer(fault["status"], [], f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode())
            return
        connection = http.client.HTTPConnection(state.target.removeprefix("http://"))
        headers = {name: value for name, value in self.headers.items() if name not in (fault.get("drop"), "Expect")}
        connection.request(self.command, self.path, body, headers)
        got = connection.getresponse()
        content = got.read()
        connection.close()
        if fault.get("flip"):
            content = bytes([content[0] ^ 1]) + content[1:]
        kept = [item for item in got.getheaders() if item[0].lower() not in ("connection", "date", "server")]
        self.answer(got.status, kept, content, fault.get("cut"), fault.get("stall", 0))

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_any

    def answer(self, status, headers, content, cut=None, stall=0):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        if not any(name.lower() == "content-length" for name, _ in headers):
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            self.wfile.write(content[:cut] if self.command != "HEAD" else b"")
            time.sleep(stall)
        self.close_connection = self.close_connection or cut is not None

    def log_message(self, *arguments):
        pass


@contextlib.contextmanager
def serving(handler, **state):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.state = types.SimpleNamespace(url=f"http://127.0.0.1:{server.server_port}", **state)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server.state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


LOADER = functools.cache(botocore.session.create_loader)  # boto3's descriptions of services, read once for all clients


@pytest.fixture
def env(tmp_path, monkeypatch):
    """Write `.env`; of the tests' own settings there are none."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "KDLIB_S3")):
            monkeypatch.delenv(name)
    monkeypatch.setattr(botocore.session, "create_loader", LOADER)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("KDLIB_ENV", str(tmp_path / "settings" / ".env"))

    def write(**settings):
        (tmp_path / "settings").mkdir(exist_ok=True)
        (tmp_path / "settings" / ".env").write_text("".join(f"{name}={value}\n" for name, value in settings.items()))

    return write


def admin(address, key=KEY, secret=SECRET, service="s3"):
    options = {"endpoint_url": address, "aws_access_key_id": key, "aws_secret_access_key": secret}
    return boto3.client(service, region_name="us-east-1", config=Config(s3={"addressing_style": "path"}), **options)


@pytest.fixture(scope="module")
def direct(moto):
    client = admin(moto)
    client.create_bucket(Bucket="study")
    return client


@pytest.fixture
def store(moto, direct, env):
    """The bucket `study` behind the proxy, empty, and settings that lead there; faults to come, requests that were made."""
    for entry in direct.list_objects_v2(Bucket="study").get("Contents", []):
        direct.delete_object(Bucket="study", Key=entry["Key"])
    with serving(Proxy, target=moto, faults=[], requests=[], paths=[]) as state:
        state.settings = {
            "AWS_ACCESS_KEY": KEY,
            "AWS_SECRET_KEY": SECRET,
            "KDLIB_S3_BUCKET": "study",
            "KDLIB_S3_PREFIX": "some/prefix/",
            "AWS_ENDPOINT_URL_S3": state.url,
        }
        env(**state.settings)
        state.direct = direct
        state.place = lambda content, name="file", **options: direct.put_object(
            Bucket="study", Key=f"some/prefix/{name}", Body=content, **options
        )
        yield state


@pytest.fixture
def target(tmp_path):
    return tmp_path / "down" / "file"


def get(target, name="file", **options):
    lines = []
    options = {"backoff": 0.001, "attempts": 3, "timeout": 20, "log": lines.append} | options
    assert storage.get(name, target, **options) == target
    return lines


def asked(state, method="GET", header="Range"):
    return [headers.get(header) for command, headers in state.requests if command == method]


def visible(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def assert_clean(text, *secrets):
    for secret in (KEY, SECRET, *secrets):
        assert secret not in text


def failure(call, *arguments, kind=OSError, secrets=(), **named):
    """The message of what the call raises, after a search for credentials in all that hangs on it, variables included."""
    with pytest.raises(kind) as caught:
        call(*arguments, **named)
    errors = [caught.value]
    for error in errors:
        errors += [other for other in (error.__cause__, error.__context__) if other and other not in errors]
        assert_clean(repr(error) + str(error) + repr(error.args) + repr(vars(error)), *secrets)
        told = traceback.TracebackException.from_exception(error, capture_locals=True)
        told.stack = traceback.StackSummary.from_list(frame for frame in told.stack if frame.filename != __file__)
        assert_clean("".join(told.format(chain=False)), *secrets)
        assert not type(error).__module__.startswith(("botocore", "boto3"))
    return str(caught.value)


def denied(times):
    """Faults: what a key that may not list is answered about absent objects, to HEAD and to the GET that asks why."""
    return [{"method": each, "status": 403, "code": "AccessDenied"} for each in ("HEAD", "GET") * times]
