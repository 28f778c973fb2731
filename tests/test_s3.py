"""S3: a real server process (moto), alone and behind a proxy with faults; a second server, s3rver, where it is installed.

`npm install --global s3rver` installs the second one."""

import contextlib
import functools
import hashlib
import http.client
import http.server
import io
import itertools
import json
import logging
import os
import random
import re
import shutil
import subprocess
import sys
import tarfile
import threading
import time
import traceback
import types
import urllib.request
import zipfile

import boto3
import botocore.session
import pytest
from botocore.config import Config

from kdlib import paths, runs, storage
from kdlib.__main__ import main
from kdlib.runs import training
from kdlib.storage import s3, transfers, wider

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


# --- objects ---


def test_a_file_goes_and_comes_back(store, target, tmp_path):
    (tmp_path / "up").write_bytes(OLD)
    assert not storage.exists("file")
    where = storage.put(tmp_path / "up", "file", log=list)
    assert where == f"s3://study/some/prefix/file at {store.url}"
    assert storage.exists("file")
    assert not storage.exists("fil")
    assert not storage.exists("file", prefix="")
    assert storage.exists("some/prefix/file", prefix="")
    get(target)
    assert target.read_bytes() == OLD
    assert asked(store)[-1] == "bytes=0-"
    assert (
        asked(store, header="If-Match")[-1] == store.direct.head_object(Bucket="study", Key="some/prefix/file")["ETag"]
    )
    assert set(asked(store, header="x-amz-checksum-mode")) == {None}  # some stores send the whole object's with a part
    assert sorted(path.name for path in target.parent.iterdir()) == [".file.lock", "file"]
    before = len(store.requests)
    assert "is there already" in get(target)[0]
    assert len(store.requests) == before


def test_what_is_there_already_is_not_uploaded_again(store, tmp_path):
    (tmp_path / "up").write_bytes(OLD)
    storage.put(tmp_path / "up", "file", log=list)
    lines = []
    storage.put(tmp_path / "up", "file", log=lines.append)
    assert "is there already" in lines[0]
    assert len(asked(store, "PUT")) == 1
    (tmp_path / "up").write_bytes(NEW)
    storage.put(tmp_path / "up", "file", log=list)
    assert store.direct.get_object(Bucket="study", Key="some/prefix/file")["Body"].read() == NEW


def test_an_upload_in_parts(store, target, tmp_path):
    content = OLD * 16
    (tmp_path / "up").write_bytes(content)
    storage.put(tmp_path / "up", "big", part_size=5 << 20, log=list)
    head = store.direct.head_object(Bucket="study", Key="some/prefix/big")
    assert head["ETag"].endswith('-3"')
    get(target, "big")
    assert target.read_bytes() == content


@pytest.mark.parametrize("content", [b"", b"x"])
def test_small_objects(store, target, tmp_path, content):
    (tmp_path / "up").write_bytes(content)
    storage.put(tmp_path / "up", "file", log=list)
    get(target)
    assert target.read_bytes() == content


def test_an_upload_that_arrives_damaged_is_refused(store, tmp_path):
    (tmp_path / "up").write_bytes(OLD)
    left = {s3.OUR_SHA256: hashlib.sha256(OLD).hexdigest()}
    store.faults = [{"method": "PUT"}, {"method": "HEAD", "do": lambda: store.place(NEW, Metadata=left)}]
    said = failure(storage.put, tmp_path / "up", "file", log=list, kind=ValueError)
    assert re.search("uploaded as s3://study/some/prefix/file .* is damaged", said)
    store.direct.delete_object(Bucket="study", Key="some/prefix/file")
    store.faults = [{"method": "PUT"}, {"method": "HEAD", "do": lambda: store.place(OLD[:-1])}]
    said = failure(storage.put, tmp_path / "up", "file", log=list, kind=ValueError)
    assert "has 699999 bytes" in said


def test_a_file_that_changes_while_it_is_uploaded_is_refused(store, tmp_path):
    (tmp_path / "up").write_bytes(OLD)
    store.faults = [{"method": "PUT", "do": lambda: (tmp_path / "up").write_bytes(NEW)}]
    said = failure(storage.put, tmp_path / "up", "file", log=list, kind=ValueError)
    assert re.search("up changed while it was uploaded as s3://study/some/prefix/file", said)


def denied(times):
    """Faults: what a key that may not list is answered about absent objects, to HEAD and to the GET that asks why."""
    return [{"method": each, "status": 403, "code": "AccessDenied"} for each in ("HEAD", "GET") * times]


def test_a_key_that_may_not_list_can_upload(store, tmp_path):
    (tmp_path / "up").write_bytes(OLD)
    store.faults = denied(1)
    storage.put(tmp_path / "up", "file", log=list)
    assert store.faults == []
    assert store.direct.get_object(Bucket="study", Key="some/prefix/file")["Body"].read() == OLD


def test_trouble_while_uploading_passes(store, tmp_path):
    (tmp_path / "up").write_bytes(OLD)
    store.faults = [{"method": "PUT", "status": 503}, {"method": "PUT", "status": 500}]
    storage.put(tmp_path / "up", "file", log=list)
    assert len(asked(store, "PUT")) == 3
    store.faults = [{"method": "PUT", "status": 503}]
    (tmp_path / "up").write_bytes(NEW)
    said = failure(storage.put, tmp_path / "up", "file", attempts=1, log=list)
    assert "could not upload to s3://study/some/prefix/file" in said
    assert "503" in said
    assert failure(storage.put, tmp_path / "absent", "file", kind=FileNotFoundError)


# --- faults ---


@CUT_OR_STALLED
def test_a_connection_that_breaks_or_stalls_resumes_where_it_was(store, target, fault):
    store.place(OLD)
    store.faults = [fault]
    lines = get(target, timeout=0.3 if "stall" in fault else 20)
    assert target.read_bytes() == OLD
    first, second = asked(store)
    assert first == "bytes=0-"
    assert 600_000 - transfers.CHUNK <= int(second.removeprefix("bytes=").removesuffix("-")) <= 600_000
    assert len(lines) == 1
    assert "trying again" in lines[0]
    assert ("ReadTimeout" in lines[0]) == ("stall" in fault)


def test_a_later_call_resumes(store, target):
    store.place(OLD)
    store.faults = [{"cut": 600_000}]
    assert "could not download s3://study/some/prefix/file" in failure(get, target, attempts=1)
    assert visible(target.parent) == ["file.part"]
    store.requests.clear()
    get(target)
    (resumed,) = asked(store)
    assert 600_000 - transfers.CHUNK <= int(resumed.removeprefix("bytes=").removesuffix("-")) <= 600_000
    assert target.read_bytes() == OLD


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_trouble_of_the_store_passes(store, target, method):
    store.place(OLD)
    store.faults = [{"method": method, "status": 500}, {"method": method, "status": 503}]
    lines = get(target)
    assert target.read_bytes() == OLD
    assert ["500" in lines[0], "503" in lines[1], len(lines)] == [True, True, 2]


def test_lasting_trouble_ends(store, target):
    store.place(OLD)
    store.faults = [{"status": 503, "code": "SlowDown"} for _ in range(9)]
    assert "503" in failure(get, target)
    assert len(asked(store)) == 3
    assert not target.exists()


def test_a_truncated_object_never_gets_its_name(store, target):
    store.place(OLD)
    store.faults = [{"cut": 600_000}, *({"cut": 0} for _ in range(9))]
    said = failure(get, target)
    assert "s3://study/some/prefix/file" in said
    assert f"put it at {target}" in said
    assert visible(target.parent) == ["file.part"]


@pytest.mark.parametrize("honest", [True, False])
@pytest.mark.parametrize("content", [NEW, NEW[:500_000], NEW[:300_000], NEW + b"more"])
def test_an_object_that_changes_while_it_is_downloaded_is_never_mixed(store, target, content, honest):
    store.place(OLD)
    change = {"do": lambda: store.place(content)} | ({} if honest else {"drop": "If-Match"})
    store.faults = [{"cut": 600_000}, change]
    lines = get(target)
    assert target.read_bytes() == content
    assert "changed" in lines[1]


def test_an_object_that_changed_before_resuming_starts_over(store, target):
    store.place(OLD)
    store.faults = [{"cut": 600_000}]
    failure(get, target, attempts=1)
    store.place(NEW)
    store.requests.clear()
    get(target)
    assert target.read_bytes() == NEW
    assert asked(store)[0] == "bytes=0-"


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (200, "check AWS_ENDPOINT_URL_S3"),
        (302, "check AWS_ENDPOINT_URL_S3"),
        (400, "answered 400"),
        (500, "answered 500"),
    ],
)
def test_what_is_no_store_is_named(store, env, target, status, words):
    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b"<html><p>hello<br>" * (self.command == "GET"))

        do_HEAD = do_GET

        def log_message(self, *arguments):
            pass

    with serving(Page) as page:
        env(**store.settings | {"AWS_ENDPOINT_URL_S3": page.url})
        assert words in failure(get, target)


def test_no_server_is_one_sentence(store, env, target):
    with serving(Proxy) as gone:
        pass
    env(**store.settings | {"AWS_ENDPOINT_URL_S3": gone.url})
    said = failure(get, target, attempts=2)
    assert gone.url in said
    assert "no connection" in said


# --- checksums ---


def damaged(store, target, **options):
    store.faults = [{"flip": True}]
    said = failure(get, target, kind=ValueError, **options)
    assert "s3://study/some/prefix/file" in said
    assert visible(target.parent) == []
    return re.search(r"its ([\w-]+) is", said)[1]


def test_damage_is_found_by_what_put_left(store, target, tmp_path):
    (tmp_path / "up").write_bytes(OLD)
    storage.put(tmp_path / "up", "file", log=list)
    assert damaged(store, target) == "sha256"


@pytest.mark.parametrize(
    ("options", "algorithm"),
    [({}, "md5"), ({"ChecksumAlgorithm": "SHA256"}, "sha256"), ({"ServerSideEncryption": "aws:kms"}, "crc32")],
)
def test_damage_is_found_by_what_the_store_has(store, target, options, algorithm):
    store.place(OLD, **options)
    assert damaged(store, target) == algorithm
    get(target)
    assert target.read_bytes() == OLD


@pytest.mark.parametrize("uneven", [False, True])
def test_damage_is_found_in_what_others_uploaded_in_parts(store, target, uneven):
    names = {"Bucket": "study", "Key": "some/prefix/file"}
    upload = store.direct.create_multipart_upload(**names)["UploadId"]
    content = OLD * 16
    cuts = [0, (5 << 20) + 1000 * uneven, (10 << 20) + 1000 * uneven, len(content)]
    parts = []
    for number, (first, end) in enumerate(itertools.pairwise(cuts), 1):
        tag = store.direct.upload_part(**names, UploadId=upload, PartNumber=number, Body=content[first:end])["ETag"]
        parts.append({"PartNumber": number, "ETag": tag})
    store.direct.complete_multipart_upload(**names, UploadId=upload, MultipartUpload={"Parts": parts})
    if not uneven:  # the tag of uneven parts cannot be recomputed
        assert damaged(store, target) == "md5"
    get(target)
    assert target.read_bytes() == content


def test_the_callers_checksum_decides_too(store, target):
    store.place(OLD)
    right, wrong = (hashlib.sha256(content).hexdigest() for content in (OLD, NEW))
    assert wrong in failure(get, target, sha256=wrong, kind=ValueError)
    assert visible(target.parent) == []
    get(target, sha256=right)


# --- settings and credentials ---


@pytest.mark.parametrize("names", s3.KEYS)
@pytest.mark.parametrize("where", ["environment", "file"])
def test_both_spellings_of_the_key(store, env, target, monkeypatch, names, where):
    rest = {name: value for name, value in store.settings.items() if name not in sum(s3.KEYS, ())}
    pair = dict(zip(names, (KEY, SECRET), strict=True))
    before = dict(os.environ)
    if where == "file":
        env(**rest, **pair, AWS_SESSION_TOKEN="the-token")
    else:
        env(**rest, AWS_ACCESS_KEY="AKIAANOTHER", AWS_SECRET_KEY="other")
        for name, value in pair.items():
            monkeypatch.setenv(name, value)
        before |= pair
    store.place(OLD)
    get(target)
    assert f"Credential={KEY}/" in asked(store, header="Authorization")[0]
    assert asked(store, header="X-Amz-Security-Token")[0] == ("the-token" if where == "file" else None)
    assert dict(os.environ) == before


def test_the_environment_goes_before_the_file_and_arguments_before_both(store, env, monkeypatch):
    env(**store.settings | {"KDLIB_S3_BUCKET": "of-the-file", "KDLIB_S3_PREFIX": ""})
    assert s3.connect().where("x") == f"s3://of-the-file/x at {store.url}"
    monkeypatch.setenv("KDLIB_S3_BUCKET", "of-the-environment")
    assert s3.connect().bucket == "of-the-environment"
    assert s3.connect("argument", "/a/b/").where("x") == f"s3://argument/a/b/x at {store.url}"
    assert "AKIA" not in repr(s3.connect())


def test_without_a_file_boto3_looks_where_it_always_does(store, target, monkeypatch, tmp_path):
    shutil.rmtree(tmp_path / "settings")
    monkeypatch.setenv("KDLIB_S3_BUCKET", "study")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", store.url)
    store.place(OLD, "../../file")
    said = failure(get, target)
    assert "no key was found" in said
    assert "KDLIB_S3_UNSIGNED=1" in said
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "credentials").write_text(
        f"[default]\naws_access_key_id={KEY}\naws_secret_access_key={SECRET}\n"
    )
    assert not storage.exists("file")
    assert f"Credential={KEY}/" in asked(store, "HEAD", "Authorization")[-1]


def test_a_public_bucket_is_read_without_a_key(store, env, target):
    store.place(OLD, ACL="public-read")
    store.place(OLD, "private")
    env(**store.settings, KDLIB_S3_UNSIGNED=1)
    get(target)
    assert "may not do this" in failure(get, target.with_name("other"), "private")
    assert set(asked(store, header="Authorization")) == {None}
    for no in ("0", "false", "No"):
        env(**store.settings, KDLIB_S3_UNSIGNED=no)
        assert storage.exists("file")
        assert asked(store, "HEAD", "Authorization")[-1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"KDLIB_S3_BUCKET": ""}, "set KDLIB_S3_BUCKET in .env"),
        ({"AWS_SECRET_KEY": ""}, "AWS_ACCESS_KEY and AWS_SECRET_KEY belong together"),
        ({"AWS_ENDPOINT_URL_S3": f"http://{KEY}:{SECRET}@127.0.0.1"}, "AWS_ENDPOINT_URL_S3 must be an address"),
        ({"AWS_ENDPOINT_URL_S3": "localhost:9000"}, "AWS_ENDPOINT_URL_S3 must be an address"),
        ({"AWS_ENDPOINT_URL_S3": f"http://127.0.0.1?{SECRET}"}, "AWS_ENDPOINT_URL_S3 must be an address"),
        ({"KDLIB_S3_UNSIGNED": "maybe"}, "KDLIB_S3_UNSIGNED must be 1 or 0"),
    ],
)
def test_wrong_settings_are_named(store, env, target, change, words):
    env(**store.settings | change)
    assert words in failure(get, target, kind=ValueError)
    assert store.requests == []


def test_settings_of_botos_own_files_are_checked_too(store, env, target, tmp_path, monkeypatch):
    (tmp_path / ".aws").mkdir()
    env(**store.settings | {"AWS_ENDPOINT_URL_S3": ""})
    for address in (
        f"http://{KEY}:{SECRET}@127.0.0.1",
        f"http://127.0.0.1/?key={SECRET}",
        f"http://127.0.0.1 {SECRET}",
    ):
        (tmp_path / ".aws" / "config").write_text(f"[default]\nendpoint_url={address}\n")
        assert "~/.aws/config" in failure(get, target, kind=ValueError)
    monkeypatch.setenv("AWS_PROFILE", "nope")
    assert "AWS_PROFILE names a profile that is not in" in failure(get, target, kind=ValueError)
    assert store.requests == []


def test_regions_and_addresses(store, env):
    env(**store.settings)
    assert s3.connect().client.meta.region_name == "us-east-1"
    env(**store.settings | {"AWS_DEFAULT_REGION": "eu-west-3", "AWS_ENDPOINT_URL_S3": ""})
    assert s3.connect().client.meta.endpoint_url == "https://s3.eu-west-3.amazonaws.com"


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (403, "InvalidAccessKeyId", "set AWS_ACCESS_KEY and AWS_SECRET_KEY in .env"),
        (403, "SignatureDoesNotMatch", "set AWS_ACCESS_KEY and AWS_SECRET_KEY in .env"),
        (403, "AccessDenied", "may not do this"),
        (400, "ExpiredToken", "AWS_SESSION_TOKEN"),
        (403, "RequestTimeTooSkewed", "clock"),
        (400, "AuthorizationHeaderMalformed", "AWS_DEFAULT_REGION"),
        (400, "InvalidArgument", "InvalidArgument"),
        (400, KEY, "400"),
    ],
)
def test_a_refusal_says_what_to_set_and_repeats_nothing_of_the_answer(store, target, status, code, words):
    message = f"{KEY}{SECRET}</Message><AWSAccessKeyId>{KEY}</AWSAccessKeyId><Message>"
    refusal = {"status": status, "code": code, "message": message}
    for call, method in [
        (lambda: get(target), "HEAD"),
        (lambda: storage.exists("file"), "HEAD"),
        (lambda: storage.put(__file__, "file", log=list), "PUT"),
        (lambda: storage.get_folder("folder", target, log=list), "GET"),
    ]:
        store.faults = [refusal | {"method": method}]
        if method == "HEAD":
            store.faults.append(refusal)
        store.requests.clear()
        said = failure(call)
        assert words in said
        assert "s3://study/some/prefix/f" in said
        assert store.url in said
        assert store.faults == []
    assert not target.exists()


def test_a_missing_bucket_and_a_missing_object(store, env, target):
    said = failure(get, target, "absent")
    assert "s3://study/some/prefix/absent" in said
    assert "no such object" in said
    assert len(store.requests) == 2
    for call in (get, lambda target, bucket: storage.exists("file", bucket=bucket)):
        said = failure(call, target, bucket="no-such-bucket")
        assert "s3://no-such-bucket/some/prefix/file" in said
        assert "KDLIB_S3_BUCKET" in said
    assert "KDLIB_S3_BUCKET" in failure(storage.put, __file__, "file", bucket="no-such-bucket")
    assert "KDLIB_S3_BUCKET" in failure(get, target, bucket="not a bucket")
    assert not target.exists()


@pytest.fixture
def guarded(moto, store):
    """A user who may do anything, as (key's id, secret), on a server that from now on checks every signature."""
    people = admin(moto, service="iam")
    people.create_user(UserName="someone")
    allowed = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
    people.put_user_policy(UserName="someone", PolicyName="all", PolicyDocument=json.dumps(allowed))
    pair = people.create_access_key(UserName="someone")["AccessKey"]
    store.place(OLD)

    def checks_after(requests):
        url = f"{moto}/moto-api/reset-auth"
        urllib.request.urlopen(
            urllib.request.Request(url, str(requests).encode(), {"Content-Type": "text/plain"})
        ).close()

    checks_after(0)
    yield pair["AccessKeyId"], pair["SecretAccessKey"]
    checks_after("inf")
    people.delete_access_key(UserName="someone", AccessKeyId=pair["AccessKeyId"])
    people.delete_user_policy(UserName="someone", PolicyName="all")
    people.delete_user(UserName="someone")


def test_a_server_that_checks_signatures(store, env, target, guarded):
    key, secret = guarded
    for pair in [(KEY, SECRET), (key, SECRET)]:
        env(**store.settings | dict(zip(("AWS_ACCESS_KEY", "AWS_SECRET_KEY"), pair, strict=True)))
        said = failure(get, target, secrets=guarded)
        assert "the store refuses the key: set AWS_ACCESS_KEY and AWS_SECRET_KEY in .env" in said
        assert not target.exists()
    env(**store.settings | {"AWS_ACCESS_KEY": key, "AWS_SECRET_KEY": secret})
    get(target)
    assert target.read_bytes() == OLD


def test_logs_at_the_level_debug_hold_no_credential(store, target, caplog):
    store.place(OLD)
    with caplog.at_level(logging.DEBUG):
        get(target)
        failure(get, target.with_name("other"), "absent")
    assert caplog.records
    assert_clean(caplog.text)


def test_a_notebook_and_its_failure_hold_no_credential(store, tmp_path, monkeypatch):
    import nbformat

    from kdlib.report.pages import execute

    monkeypatch.delenv("KDLIB_HEADLESS", raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY", KEY)
    monkeypatch.setenv("AWS_SECRET_KEY", SECRET)
    store.place(OLD)
    verbose = (
        "get_ipython().run_line_magic('xmode', 'Verbose')\nfrom kdlib import storage\nfrom kdlib.storage import s3"
    )
    code = [
        verbose,
        f"storage.get('file', {str(tmp_path / 'one')!r}), s3.connect()",
        f"storage.get('absent', {str(tmp_path / 'two')!r})",
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}

    cells = [nbformat.v4.new_code_cell(text) for text in code]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), tmp_path / "book.ipynb")
    with pytest.raises(RuntimeError, match="no such object") as caught:
        execute(tmp_path / "book.ipynb", tmp_path / "out" / "book.ipynb", {})
    assert_clean("".join(traceback.format_exception(caught.value)))
    (written,) = (tmp_path / "out").rglob("*.ipynb")
    assert (tmp_path / "one").read_bytes() == OLD
    assert "Store(bucket='study'" in written.read_text()
    assert "no such object" in written.read_text()
    assert_clean(written.read_text())


def test_git_ignores_the_settings_and_keeps_their_example():
    example = (paths.ROOT / ".env.example").read_text()
    named = dict(line.split("=", 1) for line in example.splitlines() if line and line[0] != "#")
    assert {"AWS_ACCESS_KEY", "AWS_SECRET_KEY", "KDLIB_S3_BUCKET", "KDLIB_S3_PREFIX", "AWS_ENDPOINT_URL_S3"} <= set(
        named
    )
    assert {name for name, value in named.items() if value} == {"AWS_DEFAULT_REGION"}, "no value of anybody's"
    ignored = {
        name: git("check-ignore", "--quiet", name).returncode == 0 for name in (".env", ".env.mine", ".env.example")
    }
    assert ignored == {".env": True, ".env.mine": True, ".env.example": False}
    assert git("ls-files", ".env*").stdout.split() == [".env.example"]


def git(*arguments):
    return subprocess.run(["git", *arguments], cwd=paths.ROOT, capture_output=True, text=True)


# --- folders of runs, and reports ---


def test_a_run_is_put_and_got_and_holds_no_credential(store, tiny, tmp_path, monkeypatch):
    for name, value in store.settings.items():
        monkeypatch.setenv(name, value)
    settings = runs.Run(student="convnet_4", method="scratch", epochs=1)
    record = runs.run(settings, log=list)
    folder = paths.runs_folder() / record["key"]
    (folder / ".hidden.lock").touch()
    (folder / "deep").mkdir()
    (folder / "deep" / "picture.png").write_bytes(OLD)
    (folder / "zebra.png").write_bytes(NEW)
    storage.put_folder(folder, f"runs/{record['key']}", log=list)
    assert puts(store)[-1] == f"/study/some/prefix/runs/{record['key']}/record.json"
    got = storage.get_folder(f"runs/{record['key']}", tmp_path / "other", log=list)
    assert got[-1] == tmp_path / "other" / "record.json"
    names = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    assert {path.relative_to(tmp_path / "other") for path in got} == names - {
        (folder / ".hidden.lock").relative_to(folder)
    }
    for path in got:
        content = path.read_bytes()
        assert content == (folder / path.relative_to(tmp_path / "other")).read_bytes()
        assert KEY.encode() not in content
        assert SECRET.encode() not in content
    before = len(puts(store))
    storage.put_folder(folder, f"runs/{record['key']}", log=list)
    assert len(puts(store)) == before
    monkeypatch.setenv("KDLIB_RUNS", str(tmp_path / "elsewhere"))
    storage.get_folder(f"runs/{record['key']}", paths.runs_folder() / record["key"], log=list)
    monkeypatch.setattr(training, "train", None)
    assert runs.run(settings, log=list) == record


def test_a_folder_is_never_a_mixture_of_two_versions(store, tmp_path):
    folder, lines = tmp_path / "run", []
    for name in ("a.csv", "b.csv", "record.json"):
        store.place(f"new {name}", f"runs/x/{name}")
    storage.get_folder("runs/x", folder, log=list)
    (folder / "a.csv").write_text("new")  # half-written
    store.faults = [{"status": 403, "code": "AccessDenied"}] * 9
    store.faults[:0] = [{"method": "GET"}, {"method": "HEAD"}, {"method": "HEAD"}, {"method": "HEAD"}]
    with pytest.raises(OSError, match="may not do this"):
        storage.get_folder("runs/x", folder, log=list)
    assert not {"a.csv", "record.json"} & set(visible(folder)), "no record while something is missing"
    store.faults = []
    storage.get_folder("runs/x", folder, log=list)
    assert [(folder / name).read_text() for name in visible(folder)] == ["new a.csv", "new b.csv", "new record.json"]
    (folder / "b.csv").write_text("old b.csv")  # of the same length
    storage.get_folder("runs/x", folder, log=lines.append)
    assert (folder / "b.csv").read_text() == "new b.csv"
    assert sum("fetching it again" in line for line in lines) == 1


def puts(store):
    return [path for command, path in store.paths if command == "PUT"]


def test_folders_that_cannot_be_had(store, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no files"):
        storage.put_folder(tmp_path / "empty", "runs/x")
    (tmp_path / "odd").mkdir()
    for name in ("a", "odd \udcff"):
        (tmp_path / "odd" / name).touch()
    with pytest.raises(ValueError, match=r"odd holds 'odd \\udcff', whose name is not UTF-8"):
        storage.put_folder(tmp_path / "odd", "runs/x")
    assert puts(store) == []
    with pytest.raises(FileNotFoundError, match=r"s3://study/some/prefix/runs/x .* holds no objects"):
        storage.get_folder("runs/x", tmp_path / "down")
    for folder, name in [("x", "a\\..\\..\\b"), ("y", "a/../../b"), ("z", "/b")]:
        store.place(OLD, f"runs/{folder}/fine")
        store.place(OLD, f"runs/{folder}/{name}")
        with pytest.raises(ValueError, match="not within its folder"):
            storage.get_folder(f"runs/{folder}", tmp_path / "down")
    assert not (tmp_path / "down").exists()


# --- fetch wider ---

ANNOTATIONS = {name: json.dumps({"images": [], "is": name}).encode() for name in wider.ANNOTATIONS}
PICTURES = {f"{split}/3--Riot/{i}.jpg": OLD[i : i + 5000] for split in ("train", "val", "test") for i in range(3)}


def images_archive(folder="Image/"):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in PICTURES.items():
            info = tarfile.TarInfo(folder + name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def annotations_zip(names=tuple(ANNOTATIONS)):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        for name in names:
            file.writestr(f"wider_attribute_annotation/{name}", ANNOTATIONS[name])
    return packed.getvalue()


@pytest.fixture
def wider_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("KDLIB_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("KDLIB_HEADLESS", "1")  # a plugin of pytest's loads ipykernel, which looks like a notebook
    return tmp_path / "data" / "wider"


def assert_in_place(folder):
    image = folder / "Image"
    assert {path.relative_to(image).as_posix(): path.read_bytes() for path in image.rglob("*.jpg")} == PICTURES
    assert {name: (folder / name).read_bytes() for name in ANNOTATIONS} == ANNOTATIONS
    assert not list(folder.glob(".*unpacked"))


def test_fetch_wider_from_end_to_end(store, wider_folder, capsys):
    store.place(images_archive(), wider.IMAGES)
    for name, content in ANNOTATIONS.items():
        store.place(content, name)
    assert main(["fetch", "wider"]) == 0
    out, err = capsys.readouterr()
    assert_in_place(wider_folder)
    assert [f"{split}: 3 images" in out for split in ("train", "val", "test")] == [True] * 3
    assert all(name in out.splitlines()[-1] for name in ANNOTATIONS)
    assert_clean(out + err)
    for path in wider_folder.rglob("*.json"):
        assert_clean(path.read_text())


@pytest.mark.parametrize("top", ["Image/", "", "wider/"])
def test_fetch_wider_with_an_archive_of_annotations(store, wider_folder, capsys, top):
    store.place(images_archive(top), f"sets/{wider.IMAGES}")
    store.place(annotations_zip(), f"sets/{wider.ARCHIVES[0]}")
    assert main(["fetch", "wider", "--bucket", "study", "--prefix", "some/prefix/sets"]) == 0
    assert_in_place(wider_folder)
    store.requests.clear()
    capsys.readouterr()
    assert main(["fetch", "wider"]) == 0
    assert "is there already" in capsys.readouterr().out
    assert store.requests == []


def test_fetch_wider_with_a_key_that_may_not_list(store, wider_folder, capsys):
    store.place(images_archive(), wider.IMAGES)
    store.faults = [{"method": "HEAD"}, {"method": "GET"}, *denied(3)]
    assert main(["fetch", "wider"]) == 1
    said = capsys.readouterr().err
    assert "may not do this" in said
    assert wider.ANNOTATIONS[0] in said
    assert store.faults == []
    store.place(annotations_zip(), wider.ARCHIVES[0])
    store.faults = denied(1)
    assert main(["fetch", "wider"]) == 0
    assert_in_place(wider_folder)


def test_fetch_wider_goes_on_where_it_was_killed(store, wider_folder, monkeypatch):
    store.place(images_archive(), wider.IMAGES)
    store.place(annotations_zip(), wider.ARCHIVES[0])
    replace = os.replace

    def killed(source, destination):
        if destination == wider_folder / "Image":
            raise KeyboardInterrupt
        replace(source, destination)

    left = wider_folder / f".{wider.IMAGES}.unpacked"
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            main(["fetch", "wider"])
    assert not (wider_folder / "Image").exists()
    (left / "of a killed process").mkdir(parents=True)
    assert main(["fetch", "wider"]) == 0
    assert_in_place(wider_folder)
    assert len(asked(store)) == 3  # each archive once, and to be told that there is no annotation file by itself


def test_fetch_wider_without_settings_leaves_no_folder(wider_folder, env, capsys):
    env()
    assert main(["fetch", "wider"]) == 1
    assert "set KDLIB_S3_BUCKET" in capsys.readouterr().err
    assert not wider_folder.exists()


def test_fetch_wider_takes_what_was_put_there_by_hand(wider_folder, env):
    wider_folder.mkdir(parents=True)
    (wider_folder / wider.IMAGES).write_bytes(images_archive())
    (wider_folder / wider.ARCHIVES[0]).write_bytes(annotations_zip())
    env(KDLIB_S3_BUCKET="study", KDLIB_S3_UNSIGNED=1, AWS_ENDPOINT_URL_S3="http://127.0.0.1:9")
    assert main(["fetch", "wider"]) == 0
    assert_in_place(wider_folder)


def test_fetch_wider_in_trouble_says_one_sentence(store, env, wider_folder, capsys):
    def said(*arguments):
        assert main(["fetch", *arguments]) == 1
        text = capsys.readouterr().err
        assert len(text.splitlines()) == 1
        return text

    assert "Did you mean 'wider'" in said("widr")
    assert f"s3://study/some/prefix/{wider.IMAGES} at {store.url}" in said("wider")
    store.place(images_archive().replace(b"", b"")[:-200], wider.IMAGES)
    assert "truncated" in said("wider")
    (wider_folder / wider.IMAGES).unlink()
    store.place(annotations_zip(), wider.IMAGES)
    assert "no folder Image/train" in said("wider")
    (wider_folder / wider.IMAGES).unlink()
    store.place(images_archive(), wider.IMAGES)
    assert "has neither wider_attribute_trainval.json nor" in said("wider")
    store.place(annotations_zip(wider.ANNOTATIONS[:1]), wider.ARCHIVES[1])
    assert f"holds no {wider.ANNOTATIONS[1]}" in said("wider")
    env()
    (wider_folder / wider.ARCHIVES[1]).unlink()
    assert "set KDLIB_S3_BUCKET" in said("wider")


def test_the_command_tells_no_credential_when_the_key_is_wrong(store, wider_folder, capsys, monkeypatch):
    refusal = {"status": 403, "code": "InvalidAccessKeyId", "message": f"{KEY} {SECRET}"}
    store.faults = [refusal | {"method": "HEAD"}, refusal]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    assert main(["fetch", "wider"]) == 1
    out, err = capsys.readouterr()
    assert "the store refuses the key" in err
    assert len(err.splitlines()) == 1
    assert_clean(out + err)


# --- memory ---


class Files(http.server.BaseHTTPRequestHandler):
    """The files of the folder `server.state.folder` as objects, whatever precedes their names; read in pieces, never whole."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        if path := self.found():
            self.head(200, path.stat().st_size)

    def do_GET(self):
        if not (path := self.found()):
            return
        size = path.stat().st_size
        first, last = (int(number or size - 1) for number in self.headers["Range"].removeprefix("bytes=").split("-"))
        self.head(206, last + 1 - first, f"bytes {first}-{last}/{size}")
        with path.open("rb") as file:
            file.seek(first)
            for start in range(first, last + 1, 1 << 20):
                self.wfile.write(file.read(min(1 << 20, last + 1 - start)))

    def found(self):
        path = self.server.state.folder / self.path.rpartition("/")[2].partition("?")[0]
        if path.exists():
            return path
        self.send_response(404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def head(self, status, length, span=None):
        self.send_response(status)
        self.send_header("ETag", '"no-digest"')
        self.send_header("Content-Length", str(length))
        if span:
            self.send_header("Content-Range", span)
        self.end_headers()

    def log_message(self, *arguments):
        pass


def memory_of_fetch(size, tmp_path, env):
    """The most memory, in bytes, that a process took for `fetch wider` of an archive of `size` bytes, stored uncompressed."""
    (tmp_path / "objects").mkdir()
    for name, content in ANNOTATIONS.items():
        (tmp_path / "objects" / name).write_bytes(content)
    with tarfile.open(tmp_path / "objects" / wider.IMAGES, "w:gz", compresslevel=0) as tar:
        for number in range(4):
            info = tarfile.TarInfo(f"Image/train/3--Riot/{number}.jpg")
            info.size = size // 4
            with open("/dev/zero", "rb") as zeros:
                tar.addfile(info, zeros)
    code = (  # VmHWM, since ru_maxrss would begin with what the parent process had
        "import re; from kdlib import storage; storage.fetch_wider(log=list);"
        "print(re.search(r'VmHWM:\\s+(\\d+) kB', open('/proc/self/status').read())[1])"
    )
    with serving(Files, folder=tmp_path / "objects") as state:
        env(KDLIB_S3_BUCKET="study", KDLIB_S3_UNSIGNED=1, AWS_ENDPOINT_URL_S3=state.url)
        done = subprocess.run([sys.executable, "-c", code], cwd=paths.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    got = sum(file.stat().st_size for file in (paths.data_folder() / "wider" / "Image").rglob("*.jpg"))
    shutil.rmtree(tmp_path / "objects")
    shutil.rmtree(paths.data_folder())
    assert got == size
    return int(done.stdout) * 1024


@pytest.mark.skipif(
    not os.path.exists("/proc/self/status"), reason="the system does not tell a process's most memory here"
)
def test_memory_does_not_grow_with_the_archive(env, wider_folder, tmp_path):
    """320 MiB come in parts, are checked and unpacked; 4 GiB took 77 MiB, as 64 MiB did."""
    assert memory_of_fetch(320 << 20, tmp_path, env) < 300 << 20


# --- a second server ---


def test_another_server_understands_it_all(s3rver, env, target, tmp_path):
    admin(s3rver, "S3RVER", "S3RVER").create_bucket(Bucket="study")
    content = OLD * 16
    (tmp_path / "up").write_bytes(content)
    with serving(Proxy, target=s3rver, faults=[], requests=[], paths=[]) as state:
        settings = {"KDLIB_S3_BUCKET": "study", "KDLIB_S3_PREFIX": "some/prefix", "AWS_ENDPOINT_URL_S3": state.url}
        env(**settings, AWS_ACCESS_KEY="S3RVER", AWS_SECRET_KEY="S3RVER")
        assert not storage.exists("file")
        storage.put(tmp_path / "up", "file", part_size=5 << 20, log=list)
        (tmp_path / "up").write_bytes(OLD)
        storage.put(tmp_path / "up", "folder/deep/small", log=list)
        state.faults = [{"cut": 1_000_000}, {"status": 503}]
        get(target)
        assert target.read_bytes() == content
        state.faults = [{"cut": 1_000_000}, {"do": lambda: storage.put(tmp_path / "up", "file", log=list)}]
        target.unlink()
        get(target)
        assert target.read_bytes() == OLD
        storage.get_folder("folder", tmp_path / "folder", log=list)
        assert (tmp_path / "folder" / "deep" / "small").read_bytes() == OLD
        assert "no such bucket" in failure(get, target.with_name("x"), bucket="absent")
        env(**settings, AWS_ACCESS_KEY=KEY, AWS_SECRET_KEY=SECRET)
        assert "the store refuses the key" in failure(get, target.with_name("x"))
