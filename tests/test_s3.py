"""Objects on S3: whole, resumed, checked; settings, and errors without credentials; a second server."""

import hashlib
import http.client
import http.server
import itertools
import json
import logging
import os
import re
import shutil
import subprocess
import traceback
import urllib.request
import warnings

import botocore.exceptions
import pytest
from s3_examples import (
    CUT_OR_STALLED,
    KEY,
    NEW,
    OLD,
    SECRET,
    Proxy,
    admin,
    asked,
    assert_clean,
    denied,
    failure,
    get,
    serving,
    visible,
)

from kdlib import paths, storage
from kdlib.storage import advice, s3, transfers

pytest_plugins = ["s3_examples"]

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


def test_a_profile_is_taken_from_the_file(store, env, target, tmp_path, monkeypatch):
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "credentials").write_text(
        f"[default]\naws_access_key_id=AKIAWRONG\naws_secret_access_key=wrong\n"
        f"[mine]\naws_access_key_id={KEY}\naws_secret_access_key={SECRET}\n"
    )
    rest = {name: value for name, value in store.settings.items() if name not in sum(s3.KEYS, ())}
    env(**rest, AWS_PROFILE="mine")
    store.place(OLD)
    get(target)
    assert f"Credential={KEY}/" in asked(store, header="Authorization")[0]
    env(**store.settings, AWS_PROFILE="default")
    assert storage.exists("file"), "a key in the same file goes first"
    env(**rest, AWS_PROFILE="nope")
    assert "AWS_PROFILE names a profile that is not in" in failure(get, target.with_name("other"), kind=ValueError)


def test_another_store_gets_no_checksum_headers_unless_told(store, env, tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(OLD)
    storage.put(tmp_path / "file", "plain")
    sent = [{name.lower() for name in headers} for command, headers in store.requests if command == "PUT"]
    assert sent
    assert not any(name.startswith(("x-amz-checksum", "x-amz-sdk-checksum")) for headers in sent for name in headers)
    store.requests.clear()
    env(**store.settings, AWS_REQUEST_CHECKSUM_CALCULATION="WHEN_SUPPORTED")
    storage.put(tmp_path / "file", "told")
    sent = [{name.lower() for name in headers} for command, headers in store.requests if command == "PUT"]
    assert any("checksum" in name for headers in sent for name in headers)


@pytest.mark.parametrize(("status", "code"), [(400, "InvalidRequest"), (501, "NotImplemented"), (400, "SomethingOdd")])
def test_a_store_that_rejects_checksums_is_named(status, code):
    error = botocore.exceptions.ClientError(
        {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "PutObject"
    )
    assert "AWS_REQUEST_CHECKSUM_CALCULATION=when_required" in str(s3._trouble(error))


@pytest.mark.parametrize("kind", ["UnauthorizedSSOTokenError", "SSOTokenLoadError"])
def test_a_sign_in_that_has_expired_says_how_to_sign_in(kind):
    def fails():
        raise getattr(botocore.exceptions, kind)(error_msg="x", profile_name="y")

    with pytest.raises(transfers.Trouble, match="run aws sso login"):
        s3.ask(fails)


def test_who_pays_is_a_setting(store, env, target):
    store.place(OLD)
    get(target)
    assert set(asked(store, header="x-amz-request-payer")) == {None}
    store.requests.clear()
    env(**store.settings, KDLIB_S3_REQUESTER_PAYS=1)
    get(target.with_name("again"))
    assert set(asked(store, header="x-amz-request-payer")) == {"requester"}
    assert set(asked(store, "HEAD", "x-amz-request-payer")) == {"requester"}
    env(**store.settings, KDLIB_S3_REQUESTER_PAYS="maybe")
    assert "KDLIB_S3_REQUESTER_PAYS must be 1 or 0" in failure(get, target.with_name("other"), kind=ValueError)
    assert "KDLIB_S3_REQUESTER_PAYS=1" in advice.ADVICE["403"]


def test_settings_that_others_can_read_are_warned_of_once(store, env, target, tmp_path):
    s3._warn_if_readable.cache_clear()
    file = tmp_path / "settings" / ".env"
    file.chmod(0o644)
    with pytest.warns(UserWarning, match="others can read it: chmod 600") as caught:
        s3.connect(), s3.connect()
    assert len(caught) == 1
    assert_clean(str(caught[0].message))
    s3._warn_if_readable.cache_clear()
    file.chmod(0o600)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        s3.connect()
    file.write_bytes(b"AWS_ACCESS_KEY=\xff\xfe")
    assert ".env is not text in UTF-8" in failure(get, target, kind=ValueError)


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
